//! TLS for clients: certificates by name, taken over without a restart when their files change.
//!
//! Whoever is in a handshake while the certificates change ends it with those that it began with.

mod secured;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use pingora::protocols::Stream;
use ring::digest;
use rustls::crypto::ring as provider;
use rustls::server::{
    ClientHello, ResolvesServerCert, ServerSessionMemoryCache, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{Error, ServerConfig};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsAcceptor;

use crate::certificate::{Identity, authorities};
use crate::config::Tls;
use crate::metrics::Metrics;
pub(crate) use secured::Secured;

/// How often the files are looked at.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Sessions of TLS 1.2 kept for clients that take no tickets, at most.
const SESSIONS: usize = 1_024;

/// Ends clients' TLS.
pub(crate) struct Terminator {
    /// What the next handshake begins with.
    config: ArcSwap<ServerConfig>,
    /// What the settings and files were when they were last looked at, whether good or not.
    seen: Mutex<Fingerprint>,
    metrics: Arc<Metrics>,
}

impl Terminator {
    /// Reads the files; a fault in them is an error.
    pub(crate) fn new(tls: &Tls, http2: bool, metrics: Arc<Metrics>) -> io::Result<Self> {
        let (seen, files) = Files::read(tls, http2);
        let made = files.and_then(|files| Made::of(tls, http2, &files));
        let made = made.map_err(io::Error::other)?;
        made.tell(tls, &metrics);
        Ok(Self {
            config: ArcSwap::from_pointee(made.config),
            seen: Mutex::new(seen),
            metrics,
        })
    }

    /// Takes over what has changed in settings or files; what is at fault is logged, once, and
    /// nothing changes. Reads files: not for the threads that serve.
    pub(crate) fn follow(&self, tls: &Tls, http2: bool) {
        let mut last = self.seen.lock();
        let (seen, files) = Files::read(tls, http2);
        if *last == seen {
            return;
        }
        *last = seen;
        match files.and_then(|files| Made::of(tls, http2, &files)) {
            Ok(made) => {
                made.tell(tls, &self.metrics);
                self.config.store(Arc::new(made.config));
            }
            Err(fault) => tracing::error!(fault, "certificate_failed"),
        }
    }

    /// The handshake with a client, done by then; `None`: it failed, which is counted.
    pub(crate) async fn accept(&self, stream: Stream, by: Instant) -> Result<Secured, Failure> {
        let acceptor = TlsAcceptor::from(self.config.load_full());
        let secured = match timeout_at(by, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => Ok(Secured::new(stream)),
            Ok(Err(error)) => Err(Failure::of(&error)),
            Err(_) => Err(Failure::Timeout),
        };
        self.metrics
            .handshake(secured.as_ref().err().map(|failure| failure.reason()));
        secured
    }
}

/// Why a handshake failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// It took longer than a head may.
    Timeout,
    /// The client went away.
    Closed,
    /// What came is no TLS.
    NotTls,
    /// No version, cipher or protocol that both sides speak.
    Incompatible,
    /// The client has no certificate, or one that is not believed.
    ClientCertificate,
    /// The client said no, as to edge's certificate.
    Alert,
    /// What else may fail.
    Other,
}

impl Failure {
    fn of(error: &io::Error) -> Self {
        let error = error.get_ref().and_then(|error| error.downcast_ref());
        match error {
            None => Self::Closed,
            Some(Error::InvalidMessage(_) | Error::InappropriateMessage { .. }) => Self::NotTls,
            Some(Error::PeerIncompatible(_) | Error::NoApplicationProtocol) => Self::Incompatible,
            Some(Error::NoCertificatesPresented | Error::InvalidCertificate(_)) => {
                Self::ClientCertificate
            }
            Some(Error::AlertReceived(_)) => Self::Alert,
            Some(_) => Self::Other,
        }
    }

    /// The word in log and metrics.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Closed => "closed",
            Self::NotTls => "not_tls",
            Self::Incompatible => "incompatible",
            Self::ClientCertificate => "client_certificate",
            Self::Alert => "alert",
            Self::Other => "other",
        }
    }
}

/// What files and settings say, short: equal only for what is equal.
#[derive(PartialEq, Eq)]
struct Fingerprint(Vec<u8>);

/// What the files hold.
struct Files {
    /// A chain and its key for each certificate.
    certificates: Vec<(Vec<u8>, Vec<u8>)>,
    client_ca: Option<Vec<u8>>,
}

impl Files {
    fn read(tls: &Tls, http2: bool) -> (Fingerprint, Result<Self, String>) {
        let files = Self::read_all(tls);
        let mut sum = digest::Context::new(&digest::SHA256);
        let mut add = |bytes: &[u8]| {
            sum.update(&bytes.len().to_be_bytes());
            sum.update(bytes);
        };
        add(&[u8::from(http2), u8::from(tls.client_required)]);
        match &files {
            Ok(files) => {
                for (chain, key) in &files.certificates {
                    add(chain);
                    add(key);
                }
                if let Some(authorities) = &files.client_ca {
                    add(b"client");
                    add(authorities);
                }
            }
            Err(fault) => add(fault.as_bytes()),
        }
        (Fingerprint(sum.finish().as_ref().to_vec()), files)
    }

    fn read_all(tls: &Tls) -> Result<Self, String> {
        let read = |path: &Path| {
            fs::read(path).map_err(|error| format!("the file {}: {error}", path.display()))
        };
        let pairs = tls.certificates.iter();
        let pairs = pairs.map(|pair| Ok((read(&pair.cert)?, read(&pair.key)?)));
        Ok(Self {
            certificates: pairs.collect::<Result<_, String>>()?,
            client_ca: tls.client_ca.as_deref().map(read).transpose()?,
        })
    }
}

/// What is made of the files.
struct Made {
    config: ServerConfig,
    identities: Vec<Identity>,
}

impl Made {
    fn of(tls: &Tls, http2: bool, files: &Files) -> Result<Self, String> {
        let identities = tls.certificates.iter().zip(&files.certificates);
        let identities = identities.map(|(paths, (chain, key))| {
            Identity::read(chain, key)
                .map_err(|fault| format!("the certificate {}: {fault}", paths.cert.display()))
        });
        let identities = identities.collect::<Result<Vec<_>, _>>()?;
        let names = Names::of(&identities)?;
        let provider = Arc::new(provider::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(|error| error.to_string())?;
        let builder = match &files.client_ca {
            None => builder.with_no_client_auth(),
            Some(pem) => {
                let path = tls.client_ca.as_deref().unwrap_or(Path::new(""));
                let fault = |fault| format!("client_ca {}: {fault}", path.display());
                let roots = Arc::new(authorities(pem).map_err(fault)?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
                let verifier = match tls.client_required {
                    true => verifier,
                    false => verifier.allow_unauthenticated(),
                };
                let verifier = verifier.build().map_err(|error| fault(error.to_string()))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config = builder.with_cert_resolver(Arc::new(names));
        config.alpn_protocols = match http2 {
            true => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
            false => vec![b"http/1.1".to_vec()],
        };
        // New ones for each configuration: nobody resumes what was agreed under another one, as
        // without the certificate that is asked for now. The tickets' key rotates by itself.
        config.session_storage = ServerSessionMemoryCache::new(SESSIONS);
        config.ticketer = provider::Ticketer::new().map_err(|error| error.to_string())?;
        Ok(Self { config, identities })
    }

    fn tell(&self, tls: &Tls, metrics: &Metrics) {
        let paths: Vec<_> = tls
            .certificates
            .iter()
            .map(|pair| pair.cert.to_string_lossy())
            .collect();
        let ends = paths
            .iter()
            .zip(&self.identities)
            .filter_map(|(path, identity)| Some((path.as_ref(), identity.not_after?.as_secs())));
        metrics.certificates(ends);
        for identity in &self.identities {
            let end = identity.not_after.map(|end| SystemTime::UNIX_EPOCH + end);
            let not_after = end.map(|end| humantime::format_rfc3339_seconds(end).to_string());
            let names = identity.names.join(", ");
            if end.is_some_and(|end| end <= SystemTime::now()) {
                tracing::warn!(names, not_after, "certificate_expired");
            } else {
                tracing::info!(names, not_after, "certificate_loaded");
            }
        }
    }
}

/// The certificates by the names that they hold.
#[derive(Debug)]
struct Names {
    /// In the order of the configuration; `*.example.com` stands for one label.
    by_name: HashMap<String, Vec<Arc<CertifiedKey>>>,
    /// For clients that name no known host.
    default: Arc<CertifiedKey>,
}

impl Names {
    fn of(identities: &[Identity]) -> Result<Self, String> {
        let first = identities.first().ok_or("there is no certificate")?;
        let mut by_name: HashMap<_, Vec<_>> = HashMap::new();
        for identity in identities {
            for name in &identity.names {
                by_name
                    .entry(name.clone())
                    .or_default()
                    .push(identity.key.clone());
            }
        }
        Ok(Self {
            by_name,
            default: first.key.clone(),
        })
    }

    /// The certificates for this host, its own name before the wildcard (RFC 6125 6.4.3).
    fn find(&self, host: &str) -> Option<&[Arc<CertifiedKey>]> {
        let host = host.to_ascii_lowercase();
        let wildcard = || {
            let (_, rest) = host.split_once('.')?;
            self.by_name.get(&format!("*.{rest}"))
        };
        self.by_name.get(&host).or_else(wildcard).map(Vec::as_slice)
    }
}

impl ResolvesServerCert for Names {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let found = hello.server_name().and_then(|host| self.find(host));
        let found = found.unwrap_or_default();
        // Of two certificates for one name, as RSA and ECDSA, the first that the client can check.
        let schemes = hello.signature_schemes();
        let fits = found
            .iter()
            .find(|key| key.key.choose_scheme(schemes).is_some());
        Some(fits.or(found.first()).unwrap_or(&self.default).clone())
    }
}

#[cfg(test)]
mod tests;
