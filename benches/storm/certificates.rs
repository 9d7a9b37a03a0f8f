//! Certificates that change while clients connect: every handshake succeeds.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clap::Args;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::TlsConnector;

use crate::child::{Edge, Program, config};
use crate::origin::{Answers, Origin};
use crate::report::{Counts, Report, add, count};
use crate::target::{Failure, PATIENCE, Target, Way};

/// See the module.
#[derive(Args, Debug, Clone)]
pub(crate) struct Certificates {
    #[command(flatten)]
    program: Program,
    /// edge's configuration; it is copied.
    #[arg(long, value_name = "FILE", default_value_os_t = config("certificates.toml"))]
    config: PathBuf,
    /// How many clients connect, one time after the other.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=100))]
    clients: u32,
    /// So many seconds between two certificates.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=60))]
    every: u64,
    /// For how long.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(10..=3_600))]
    seconds: u64,
}

const ADMIN: &str = "http://127.0.0.1:19131";
const UPSTREAM: &str = "127.0.0.1:19132";
const EDGE: &str = "http://127.0.0.1:19133/";
const NAME: &str = "edge.test";
/// edge looks at the files every 5 s; and some time for it.
const SEEN_WITHIN: Duration = Duration::from_millis(6_500);

/// Who signs, and where the files are.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    pub(crate) folder: PathBuf,
}

/// When each certificate was put in place, and when it was first seen.
pub(crate) type Times = Arc<Mutex<HashMap<Vec<u8>, (Instant, Option<Instant>)>>>;

#[derive(Default)]
struct Met {
    handshakes: u64,
    failures: Counts,
}

impl Certificates {
    pub(crate) async fn run(self) -> Report {
        let mut report = Report::default();
        let loaded = self.load(&mut report).await;
        report.done(loaded);
        report
    }

    async fn load(&self, report: &mut Report) -> Result<(), Failure> {
        let authority = Authority::new()?;
        let times = Times::default();
        authority.replace(&times)?;
        let file = authority.folder.join("edge.toml");
        fs::copy(&self.config, &file).map_err(|error| format!("config: {}", error.kind()))?;
        let answers = Answers {
            after: Duration::ZERO,
            size: 16,
            kept: false,
        };
        let _origin = Origin::answering(UPSTREAM, answers)?;
        let edge = Edge::start(&self.program, &file, ADMIN).await?;
        let client = authority.client()?;
        let start = Instant::now();
        let until = start + Duration::from_secs(self.seconds);
        let mut clients: JoinSet<_> = (0..self.clients)
            .map(|_| connect(client.clone(), times.clone(), until))
            .collect();
        let mut next = start;
        while next < until {
            next += Duration::from_secs(self.every);
            sleep_until(next).await;
            authority.replace(&times)?;
        }
        let mut all = Met::default();
        while let Some(met) = clients.join_next().await {
            let met = met.map_err(|_| "broken off")?;
            all.handshakes += met.handshakes;
            add(&mut all.failures, met.failures);
        }
        let took = start.elapsed().as_secs_f64();
        report.row("handshakes", all.handshakes);
        report.number("handshakes a second", all.handshakes as f64 / took);
        report.failures("failed", &all.failures);
        self.tell(&times, report);
        drop(edge);
        Ok(())
    }

    /// How soon new certificates were seen. Some never are: others follow before edge looks.
    fn tell(&self, times: &Times, report: &mut Report) {
        let times = times.lock().unwrap_or_else(PoisonError::into_inner);
        let seen: Vec<_> = times
            .values()
            .filter_map(|(put, seen)| Some(seen.as_ref()?.duration_since(*put)))
            .collect();
        report.row("certificates put in place", times.len());
        report.row("certificates seen", seen.len());
        // Between the first sights of two that follow each other.
        let mut firsts: Vec<_> = times.values().filter_map(|(_, seen)| *seen).collect();
        firsts.sort_unstable();
        let gaps = firsts.windows(2).filter_map(|two| match two {
            [one, other] => Some(other.duration_since(*one)),
            _ => None,
        });
        let gap = gaps.max().map(|gap| gap.as_secs_f64() * 1e3);
        let most = SEEN_WITHIN + Duration::from_secs(self.every - 1);
        report.at_most(
            "longest without a new one ms",
            gap,
            most.as_secs_f64() * 1e3,
        );
        report.times("seen after", seen);
    }
}

impl Authority {
    pub(crate) fn new() -> Result<Self, Failure> {
        let folder = std::env::temp_dir().join(format!("storm-{}", std::process::id()));
        fs::create_dir_all(&folder).map_err(|error| format!("folder: {}", error.kind()))?;
        let wrong = |error: rcgen::Error| format!("authority: {error}");
        let mut params = CertificateParams::new(Vec::new()).map_err(wrong)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().map_err(wrong)?;
        let issuer = CertifiedIssuer::self_signed(params, key).map_err(wrong)?;
        Ok(Self { issuer, folder })
    }

    /// Puts a new certificate and its key in place, one file after the other.
    pub(crate) fn replace(&self, times: &Times) -> Result<(), Failure> {
        let wrong = |error: rcgen::Error| format!("certificate: {error}");
        let params = CertificateParams::new(vec![NAME.to_owned()]).map_err(wrong)?;
        let key = KeyPair::generate().map_err(wrong)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(wrong)?;
        let now = (Instant::now(), None);
        let mut times = times.lock().unwrap_or_else(PoisonError::into_inner);
        times.insert(certificate.der().to_vec(), now);
        drop(times);
        put(&self.folder.join("tls.crt"), &certificate.pem())?;
        put(&self.folder.join("tls.key"), &key.serialize_pem())
    }

    fn client(&self) -> Result<TlsConnector, Failure> {
        let wrong = |error: rustls::Error| format!("client: {error}");
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).map_err(wrong)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(wrong)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut config = config;
        // Each handshake shows the certificate anew.
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Arc::new(config).into())
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Nobody sees half a file.
fn put(file: &Path, text: &str) -> Result<(), Failure> {
    let new = file.with_extension("new");
    let put = fs::write(&new, text).and_then(|()| fs::rename(&new, file));
    put.map_err(|error| format!("certificate: {}", error.kind()))
}

/// Connects again and again, for one request each.
async fn connect(client: TlsConnector, times: Times, until: Instant) -> Met {
    let mut met = Met::default();
    while Instant::now() < until {
        met.handshakes += 1;
        let shown = timeout(PATIENCE, handshake(&client)).await;
        match shown.unwrap_or_else(|_| Err("timeout".to_owned())) {
            Ok(certificate) => {
                let mut times = times.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some((_, seen)) = times.get_mut(certificate.as_ref()) {
                    seen.get_or_insert_with(Instant::now);
                }
            }
            Err(failure) => count(&mut met.failures, failure),
        }
    }
    met
}

/// The certificate that was shown.
async fn handshake(client: &TlsConnector) -> Result<CertificateDer<'static>, Failure> {
    let stream = Way::from(EDGE.parse::<Target>()?).connect().await?;
    let name = ServerName::try_from(NAME).map_err(|_| "no name")?;
    let mut stream = client
        .connect(name, stream)
        .await
        .map_err(|error| format!("handshake: {error}"))?;
    let broken = |error: std::io::Error| format!("request: {}", error.kind());
    let request = format!("GET / HTTP/1.1\r\nhost: {NAME}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(broken)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.map_err(broken)?;
    if !answer.starts_with(b"HTTP/1.1 200") {
        return Err("answered something else".to_owned());
    }
    let shown = stream.get_ref().1.peer_certificates();
    let shown = shown.and_then(<[_]>::first).ok_or("no certificate")?;
    Ok(shown.clone().into_owned())
}
