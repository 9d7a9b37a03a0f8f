//! `[tls]`.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::PathBuf;

use toml::Spanned;
use toml::de::DeValue;

use super::forms::{Pem, choice, identity, pem};
use super::reader::{Read, Report, Table};

/// `[tls]`: a listener for clients that encrypt, beside `[server] listen`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// Where these clients connect.
    pub listen: SocketAddr,
    /// The certificates, the first one for clients that name no known host.
    pub certificates: Vec<Certificate>,
    /// Whom to believe about clients' certificates (PEM); `None`: clients are not asked for one.
    pub client_ca: Option<PathBuf>,
    /// Must a client have a certificate?
    pub client_required: bool,
}

/// A certificate for the names that it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// The chain, the leaf first (PEM).
    pub cert: PathBuf,
    /// Its private key (PEM).
    pub key: PathBuf,
}

/// More certificates than this are a fault.
const MOST_CERTIFICATES: usize = 1_000;

/// `[tls]`, and where its listener stands.
pub(super) fn read_tls(
    value: Option<&Spanned<DeValue<'_>>>,
    report: &mut Report<'_>,
) -> Option<(Tls, Range<usize>)> {
    let mut table = Table::of("[tls]", Some(value?), report);
    let listen = table.require::<SocketAddr>("listen", "as `listen = \"0.0.0.0:8443\"`", report);
    let right = "as `certificates = [{ cert = \"tls.crt\", key = \"tls.key\" }]`";
    let certificates =
        table.require::<Vec<(Certificate, Range<usize>)>>("certificates", right, report);
    if let Some((certificates, span)) = &certificates {
        certificates_differ(certificates, span, report);
    }
    let client_ca = table.value("client_ca", report);
    let asked = client_ca.is_some();
    let client_ca = client_ca.and_then(|value| pem(value, Pem::Authorities, report));
    let client = table.value("client", report);
    if let (false, Some(client)) = (asked, client) {
        table.lacks(
            "client_ca",
            &client.span(),
            "without `client_ca` clients are not asked for a certificate",
            "set `client_ca`, or leave `client` out",
            report,
        );
    }
    let required =
        client.and_then(|value| choice(value, report, &[("required", true), ("optional", false)]));
    table.finish(report);
    let (listen, span) = listen?;
    let tls = Tls {
        listen,
        certificates: certificates?.0.into_iter().map(|(own, _)| own).collect(),
        client_required: asked && required.unwrap_or(true),
        client_ca,
    };
    Some((tls, span))
}

fn certificates_differ(
    certificates: &[(Certificate, Range<usize>)],
    span: &Range<usize>,
    report: &mut Report<'_>,
) {
    if certificates.is_empty() || certificates.len() > MOST_CERTIFICATES {
        report.fault(
            span,
            format!("{} certificates", certificates.len()),
            format!("expected 1 to {MOST_CERTIFICATES}"),
        );
    }
    let mut seen = HashSet::new();
    for (certificate, span) in certificates {
        if !seen.insert(&certificate.cert) {
            report.fault(span, "this certificate stands here twice", "leave one out");
        }
    }
}

impl Read for Certificate {
    fn read(value: &Spanned<DeValue<'_>>, report: &mut Report<'_>) -> Option<Self> {
        let mut table = Table::of("a certificate", Some(value), report);
        let mut file = |key, kind, help, report: &mut Report<'_>| {
            let value = table.value(key, report);
            if value.is_none() {
                let span = table.span().clone();
                table.lacks(key, &span, format!("missing key `{key}`"), help, report);
            }
            value.and_then(|value| pem(value, kind, report))
        };
        let cert = file("cert", Pem::Certificates, "as `cert = \"tls.crt\"`", report);
        let key = file("key", Pem::Key, "as `key = \"tls.key\"`", report);
        table.finish(report);
        let (cert, key) = cert.zip(key)?;
        identity(&cert, &key, &value.span(), report);
        Some(Self { cert, key })
    }
}
