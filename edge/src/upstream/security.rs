//! Whom edge believes, and who it says it is, when it speaks TLS with peers.

use std::hash::{BuildHasher, Hash, Hasher};
use std::path::Path;
use std::sync::Arc;

use pingora::protocols::tls::CaType;
use pingora::utils::tls::{CertKey, WrappedX509, parse_x509};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::config::UpstreamTls;

/// What the files of an upstream's `tls` held when they were read.
#[derive(Default)]
pub(super) struct Security {
    /// `None`: the system's.
    pub(super) authorities: Option<Arc<CaType>>,
    pub(super) identity: Option<Arc<CertKey>>,
    /// Another one for everything else that they might hold.
    pub(super) number: u64,
}

impl Security {
    /// What cannot be read believes nobody: reading the configuration has told what is wrong.
    pub(super) fn read(upstream: &str, tls: &UpstreamTls) -> Self {
        Self::try_read(tls).unwrap_or_else(|why| {
            tracing::error!(upstream, why, "certificate_failed");
            Self {
                authorities: Some(Arc::new([])),
                ..Self::default()
            }
        })
    }

    fn try_read(tls: &UpstreamTls) -> Result<Self, String> {
        let mut hasher = foldhash::fast::FixedState::default().build_hasher();
        let mut chain = |path: &Path| {
            let chain = certificates(path)?;
            chain.hash(&mut hasher);
            Ok::<_, String>(chain)
        };
        let authorities = match &tls.ca {
            None => None,
            Some(path) => {
                let own = chain(path)?.into_iter();
                Some(own.map(|der| WrappedX509::new(der, parse_x509)).collect())
            }
        };
        let identity = match &tls.identity {
            None => None,
            Some((cert, key)) => {
                let chain = chain(cert)?;
                let key = PrivateKeyDer::from_pem_file(key)
                    .map_err(|error| format!("{}: {error}", key.display()))?;
                Some(Arc::new(CertKey::new(chain, key.secret_der().to_vec())))
            }
        };
        Ok(Self {
            authorities,
            identity,
            number: hasher.finish(),
        })
    }
}

/// The certificates of a file, of which there must be one.
fn certificates(path: &Path) -> Result<Vec<Vec<u8>>, String> {
    let wrong = |why: String| format!("{}: {why}", path.display());
    let read = CertificateDer::pem_file_iter(path).map_err(|error| wrong(error.to_string()))?;
    let read: Result<Vec<_>, _> = read.map(|der| der.map(|der| der.to_vec())).collect();
    let read = read.map_err(|error| wrong(error.to_string()))?;
    match read.is_empty() {
        true => Err(wrong("no certificate".to_owned())),
        false => Ok(read),
    }
}
