//! Certificates and their keys, as PEM texts say them (RFC 7468).
//!
//! Who reads the files decides what becomes of a fault; here they are only understood.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ::ring::digest::{SHA256, digest};
use rustls::RootCertStore;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::sign::CertifiedKey;
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::identity::Certificate;

/// A certificate with its chain and its private key: what one proves to be who one is.
#[derive(Clone)]
pub struct Identity {
    /// The chain, the leaf first, and the key; rustls's own.
    pub key: Arc<CertifiedKey>,
    /// The DNS names that the leaf holds, in lower case; `*.example.com` stands for one label.
    pub names: Vec<String>,
    /// When the leaf expires, counted from 1970.
    pub not_after: Option<Duration>,
}

impl Identity {
    /// Understands a chain and its key. What is wrong is told so that it can follow "the
    /// certificate FILE: ".
    pub fn read(cert_pem: &[u8], key_pem: &[u8]) -> Result<Self, String> {
        let chain = certificates(cert_pem)?;
        let leaf = chain.first().ok_or("no certificate in it")?;
        let (names, not_after) = inspect(leaf)?;
        let key = PrivateKeyDer::from_pem_slice(key_pem)
            .map_err(|error| format!("no private key in its key file ({error})"))?;
        let key = CertifiedKey::from_der(chain, key, &ring::default_provider());
        let key = key.map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => "the key belongs to another certificate".into(),
            error => format!("its key cannot be used ({error})"),
        })?;
        Ok(Self {
            key: Arc::new(key),
            names,
            not_after,
        })
    }
}

impl fmt::Debug for Identity {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("names", &self.names)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

/// What a client's certificate says of its subject; that it may be believed has been found out
/// before.
pub fn shown(der: &[u8]) -> Option<Certificate> {
    let (_, parsed) = X509Certificate::from_der(der).ok()?;
    let names = parsed.subject_alternative_name().ok().flatten();
    let names = names.map(|names| &names.value.general_names[..]);
    let names = names.unwrap_or_default().iter().take(MOST_NAMES);
    let mut certificate = Certificate {
        common_name: parsed
            .subject()
            .iter_common_name()
            .next()
            .and_then(|name| name.as_str().ok().map(str::to_owned)),
        hash: Some(hexadecimal(digest(&SHA256, der).as_ref())),
        ..Certificate::default()
    };
    for name in names {
        match name {
            GeneralName::URI(uri) => certificate.uris.push((*uri).to_owned()),
            GeneralName::DNSName(name) => certificate.dns.push((*name).to_owned()),
            _ => {}
        }
    }
    Some(certificate)
}

/// More names of one certificate are not looked at.
const MOST_NAMES: usize = 64;

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Understands the certificates of authorities: at least one, and all of them.
pub fn authorities(pem: &[u8]) -> Result<RootCertStore, String> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(pem)? {
        let added = store.add(certificate);
        added.map_err(|error| format!("one certificate in it is no authority's ({error})"))?;
    }
    if store.is_empty() {
        return Err("no certificate in it".to_owned());
    }
    Ok(store)
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    certificates.map_err(|error| format!("it is no PEM ({error})"))
}

/// The names that a certificate holds and when it expires.
fn inspect(leaf: &CertificateDer<'_>) -> Result<(Vec<String>, Option<Duration>), String> {
    let leaf = EndEntityCert::try_from(leaf)
        .map_err(|error| format!("its first certificate cannot be read ({error})"))?;
    let names = leaf.valid_dns_names().map(str::to_ascii_lowercase);
    // webpki tells the end of a certificate only to whom it is over for: at the end of all time.
    let end_of_time = UnixTime::since_unix_epoch(Duration::from_secs(u64::MAX));
    let usage = KeyUsage::server_auth();
    let verified = leaf.verify_for_usage(&[], &[], &[], end_of_time, usage, None, None);
    let not_after = match verified {
        Err(webpki::Error::CertExpired { not_after, .. }) => {
            Some(Duration::from_secs(not_after.as_secs()))
        }
        _ => None,
    };
    Ok((names.collect(), not_after))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair};

    fn made(names: &[&str]) -> (String, String) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_after = rcgen::date_time_ymd(2030, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    #[test]
    fn an_identity_knows_its_names_and_its_end() {
        let (certificate, key) = made(&["Api.example.com", "*.example.org", "127.0.0.1"]);
        let identity = Identity::read(certificate.as_bytes(), key.as_bytes()).unwrap();
        assert_eq!(identity.names, ["api.example.com", "*.example.org"]);
        assert_eq!(
            identity.not_after,
            Some(Duration::from_secs(1_893_456_000)),
            "2030-01-01"
        );
        assert_eq!(identity.key.cert.len(), 1);
    }

    #[test]
    fn a_chain_is_kept_whole() {
        let (certificate, key) = made(&["a.test"]);
        let (above, _) = made(&["authority.test"]);
        let chain = format!("{certificate}{above}");
        let identity = Identity::read(chain.as_bytes(), key.as_bytes()).unwrap();
        assert_eq!(identity.key.cert.len(), 2);
        assert_eq!(identity.names, ["a.test"]);
    }

    #[test]
    fn each_fault_is_told_by_what_it_is() {
        let (certificate, key) = made(&["a.test"]);
        let (_, other) = made(&["b.test"]);
        let fault = |certificate: &str, key: &str| {
            Identity::read(certificate.as_bytes(), key.as_bytes()).unwrap_err()
        };
        assert_eq!(fault("", &key), "no certificate in it");
        assert_eq!(
            fault(&certificate, &other),
            "the key belongs to another certificate"
        );
        let no_key = fault(&certificate, "");
        assert!(no_key.starts_with("no private key"), "{no_key}");
        let broken = fault(&certificate.replace("MII", "!!!"), &key);
        assert!(broken.starts_with("it is no PEM"), "{broken}");
        let no_certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let unread = fault(no_certificate, &key);
        assert!(unread.starts_with("its first certificate"), "{unread}");
    }

    #[test]
    fn authorities_are_all_or_none() {
        let (one, _) = made(&["a.test"]);
        let (two, _) = made(&["b.test"]);
        let both = format!("{one}{two}");
        assert_eq!(authorities(both.as_bytes()).unwrap().len(), 2);
        assert_eq!(authorities(b"").unwrap_err(), "no certificate in it");
        let broken = format!("{one}-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
        assert!(authorities(broken.as_bytes()).is_err());
    }

    #[test]
    fn a_key_does_not_show() {
        let (certificate, key) = made(&["a.test"]);
        let identity = Identity::read(certificate.as_bytes(), key.as_bytes()).unwrap();
        assert!(!format!("{identity:?}").contains("key"));
    }
}
