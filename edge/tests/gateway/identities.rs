//! Certificates made for a test, and clients that believe in them.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use edge::config::{Certificate, Tls};
use edge::serve::Edge;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::client::WebPkiServerVerifier;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::soon;

/// An authority, and a folder for what it certifies.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: PathBuf,
}

impl Drop for Authority {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl Authority {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::SeqCst);
        let name = format!("edge-identities-{}-{count}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder).unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let issuer = CertifiedIssuer::self_signed(params, key).unwrap();
        let authority = Self { issuer, folder };
        authority.write("ca.pem", authority.issuer.pem());
        authority
    }

    /// The authority's own certificate.
    pub(crate) fn path(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.folder.join(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// Certifies these names, in files of this name.
    pub(crate) fn certify(&self, file: &str, names: &[&str]) -> Certificate {
        let (cert, key) = self.made(names);
        Certificate {
            cert: self.write(&format!("{file}.crt"), cert),
            key: self.write(&format!("{file}.key"), key),
        }
    }

    fn made(&self, names: &[&str]) -> (String, String) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let params = CertificateParams::new(names).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    /// `[tls]` with a certificate for `edge.test`.
    pub(crate) fn tls(&self) -> Tls {
        self.tls_of(vec![self.certify("edge", &["edge.test"])])
    }

    pub(crate) fn tls_of(&self, certificates: Vec<Certificate>) -> Tls {
        Tls {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            certificates,
            client_ca: None,
            client_required: false,
        }
    }

    /// A client that believes this authority and offers these protocols.
    pub(crate) fn client(&self, protocols: &[&str]) -> ClientConfig {
        let builder = self.builder().with_no_client_auth();
        offering(builder, protocols)
    }

    /// The same with a certificate of this authority.
    pub(crate) fn known_client(&self, by: &Self, protocols: &[&str]) -> ClientConfig {
        let (cert, key) = by.made(&["client.test"]);
        let cert = CertificateDer::from_pem_slice(cert.as_bytes()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        let builder = self.builder().with_client_auth_cert(vec![cert], key);
        offering(builder.unwrap(), protocols)
    }

    fn builder(&self) -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone());
        ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_webpki_verifier(verifier.build().unwrap())
    }
}

fn offering(mut config: ClientConfig, protocols: &[&str]) -> ClientConfig {
    let protocols = protocols.iter().map(|name| name.as_bytes().to_vec());
    config.alpn_protocols = protocols.collect();
    config
}

/// Connects to a gateway under this name.
pub(crate) async fn connect(
    edge: &Edge,
    config: &Arc<ClientConfig>,
    name: &str,
) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = soon(TcpStream::connect(edge.tls_address().unwrap())).await?;
    secure(stream, config, name).await
}

pub(crate) async fn secure(
    stream: TcpStream,
    config: &Arc<ClientConfig>,
    name: &str,
) -> std::io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    soon(TlsConnector::from(config.clone()).connect(name, stream)).await
}
