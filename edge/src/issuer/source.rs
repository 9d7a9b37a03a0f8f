//! Where keys lie, and how they are read from there.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::ring;
use ureq::Agent;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, TlsProvider, parse_pem};

use crate::config::KeySource;
use crate::jwt::{Keys, MOST_JWKS};

/// A fetch may take so long, to its last byte.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) struct Source {
    place: KeySource,
    ca: Option<PathBuf>,
}

impl Source {
    pub(super) fn new(place: &KeySource, ca: Option<&Path>) -> Self {
        Self {
            place: place.clone(),
            ca: ca.map(Path::to_owned),
        }
    }

    /// Must somebody else be asked?
    pub(super) fn is_remote(&self) -> bool {
        matches!(self.place, KeySource::Url(_))
    }

    /// What lies there. Waits for a disk or for a server.
    pub(super) fn read(&self) -> Result<Vec<u8>, String> {
        match &self.place {
            KeySource::Url(url) => self.fetch(url),
            KeySource::File(path) => {
                let about = fs::metadata(path).map_err(|error| error.to_string())?;
                if !about.is_file() || about.len() > MOST_JWKS as u64 {
                    return Err("it is no file of keys".to_owned());
                }
                fs::read(path).map_err(|error| error.to_string())
            }
            secret => Ok(secret.secret()?.unwrap_or_default()),
        }
    }

    /// The keys in it, and why some of them were left out.
    pub(super) fn keys(&self, bytes: &[u8]) -> Result<(Keys, Vec<String>), String> {
        match self.place {
            KeySource::Url(_) | KeySource::File(_) => {
                let json = std::str::from_utf8(bytes).map_err(|_| "it is no text".to_owned())?;
                Keys::of_jwks(json)
            }
            _ => Ok((Keys::of_secret(bytes), Vec::new())),
        }
    }

    /// Nothing is followed elsewhere: keys come from where the configuration says.
    fn fetch(&self, url: &str) -> Result<Vec<u8>, String> {
        let mut agent = Agent::config_builder()
            .timeout_global(Some(PATIENCE))
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .proxy(None)
            .user_agent("edge");
        if url.starts_with("https://") {
            agent = agent.tls_config(self.tls()?);
        }
        let agent = agent.build().new_agent();
        let asked = agent.get(url).header("accept", "application/json").call();
        let mut answer = asked.map_err(|error| error.to_string())?;
        if answer.status() != 200 {
            return Err(format!("it answers {}", answer.status().as_u16()));
        }
        let body = answer.body_mut().with_config().limit(MOST_JWKS as u64);
        body.read_to_vec().map_err(|error| error.to_string())
    }

    fn tls(&self) -> Result<TlsConfig, String> {
        let roots: Vec<Certificate<'static>> = match &self.ca {
            Some(path) => {
                let pem = fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
                let items = parse_pem(&pem).filter_map(Result::ok);
                let certificates = items.filter_map(|item| match item {
                    PemItem::Certificate(certificate) => Some(certificate),
                    _ => None,
                });
                certificates.collect()
            }
            None => {
                let own = rustls_native_certs::load_native_certs();
                let own = own.map_err(|error| format!("the system's authorities: {error}"))?;
                own.iter()
                    .map(|der| Certificate::from_der(der).to_owned())
                    .collect()
            }
        };
        let provider = TlsConfig::builder()
            .provider(TlsProvider::Rustls)
            .unversioned_rustls_crypto_provider(Arc::new(ring::default_provider()));
        Ok(provider
            .root_certs(RootCerts::Specific(Arc::new(roots)))
            .build())
    }
}
