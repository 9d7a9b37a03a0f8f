//! `[upstream.NAME]`: the peers that answer, and how they are found, chosen, watched and spared.

mod peers;
mod spare;
#[cfg(test)]
mod tests;
mod watch;

use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use http::HeaderName;
use toml::Spanned;
use toml::de::DeValue;

use super::forms::{Pem, choice, identity, pem, within};
use super::reader::{Read, Report, Switch, Table, parsed};
use crate::balance::{Balance, HashBy};
use crate::standing::{Eject, Probe};
use crate::{breaker, retry};

/// `[upstream.NAME]`: a named group that answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// Its name.
    pub name: String,
    /// Who answers: addresses, and names that stand for addresses.
    pub peers: Vec<Peer>,
    /// How names are looked up.
    pub resolve: Resolve,
    /// How peers share the requests.
    pub balance: Balance,
    /// A peer that comes or comes back gets its full share only after this time.
    pub slow_start: Option<Duration>,
    /// Whether and how peers are asked whether they are well.
    pub health: Option<Probe>,
    /// When a peer is left out for what its answers say.
    pub eject: Option<Eject>,
    /// How much it is given to do at once.
    pub breaker: breaker::Settings,
    /// How requests are repeated; `None`: never.
    pub retry: Option<retry::Settings>,
    /// What is spoken with its peers.
    pub protocol: Protocol,
    /// TLS to its peers; `None`: in the clear.
    pub tls: Option<UpstreamTls>,
}

/// One entry of `peers`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// `host:port`; with `resolve = "srv"` the name of a service without a port.
    pub name: String,
    /// Its part beside the others', 1 to 1000.
    pub weight: u32,
}

/// How names are looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Resolve {
    /// `A` and `AAAA` records: each address is a peer.
    #[default]
    Dns,
    /// `SRV` records (RFC 2782): each target is a peer, with port and weight.
    Srv,
}

/// What is spoken with peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Protocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2: in the clear from the first byte (RFC 9113 3.3), with TLS by ALPN.
    Http2,
    /// What the peer chooses by ALPN; only with TLS.
    Auto,
}

/// TLS to peers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamTls {
    /// The name that a peer must prove, and that it is asked for (SNI); `None`: its host in `peers`.
    pub name: Option<String>,
    /// Whom to believe (PEM); `None`: the system's authorities.
    pub ca: Option<PathBuf>,
    /// edge's own certificate and its key (PEM).
    pub identity: Option<(PathBuf, PathBuf)>,
    /// `false`: anybody is believed.
    pub verify: bool,
}

/// Peers prove the host of `peers` to the system's authorities.
impl Default for UpstreamTls {
    fn default() -> Self {
        Self {
            name: None,
            ca: None,
            identity: None,
            verify: true,
        }
    }
}

impl Upstream {
    /// An upstream of these peers with every default.
    pub fn of(name: &str, peers: &[&str]) -> Self {
        let peer = |name: &&str| Peer {
            name: (*name).to_owned(),
            weight: 1,
        };
        Self {
            name: name.to_owned(),
            peers: peers.iter().map(peer).collect(),
            resolve: Resolve::Dns,
            balance: Balance::default(),
            slow_start: None,
            health: None,
            eject: Some(Eject {
                failures: 5,
                time: Duration::from_secs(10),
                time_max: Duration::from_secs(300),
                share: 50,
            }),
            breaker: breaker::Settings {
                max_pending: 1_024,
                ..breaker::Settings::default()
            },
            retry: Some(retry::Settings::default()),
            protocol: Protocol::Http1,
            tls: None,
        }
    }
}

pub(super) fn read_upstreams(
    value: Option<&Spanned<DeValue<'_>>>,
    report: &mut Report<'_>,
) -> Vec<(Upstream, Range<usize>)> {
    let mut upstreams = Vec::new();
    let named = value.and_then(|value| value.get_ref().as_table());
    if let (Some(value), None) = (value, named) {
        report.fault(
            &value.span(),
            "expected a table for each upstream",
            "write `[upstream.NAME]`",
        );
    }
    for (name, value) in named.into_iter().flatten() {
        let table = Table::of("[upstream.NAME]", Some(value), report);
        upstreams.push((read_upstream(name.get_ref(), table, report), name.span()));
    }
    upstreams
}

fn read_upstream(name: &str, mut table: Table<'_, '_>, report: &mut Report<'_>) -> Upstream {
    let default = Upstream::of(name, &[]);
    let (peers, resolve) = peers::read_peers(&mut table, report);
    let balance = read_balance(&mut table, report);
    let slow_start = read_slow_start(&mut table, balance.as_ref(), report);
    let (protocol, tls) = read_speech(&mut table, report);
    let upstream = Upstream {
        peers,
        resolve,
        balance: balance.unwrap_or_default(),
        slow_start,
        health: watch::read_health(&mut table, report),
        eject: watch::read_eject(&mut table, default.eject, report),
        breaker: spare::read_breaker(&mut table, default.breaker, report),
        retry: spare::read_retry(&mut table, report),
        protocol,
        tls,
        name: default.name,
    };
    table.finish(report);
    upstream
}

/// `balance` and `hash`; `None` where they could not be read.
fn read_balance(table: &mut Table<'_, '_>, report: &mut Report<'_>) -> Option<Balance> {
    let balance = table.value("balance", report);
    let hash = table.value("hash", report);
    let hashed = hash.and_then(|value| HashBy::read(value, report));
    let word = match balance {
        Some(value) => Some(choice(value, report, &BALANCES)?),
        None => None,
    };
    match (word, hash) {
        (Some(None), None) => {
            let span = balance.map_or(0..0, Spanned::span);
            let message = "`balance = \"hash\"` without what decides";
            let help = "set `hash`, as `hash = \"client\"`";
            table.lacks("hash", &span, message, help, report);
            None
        }
        (Some(None), Some(_)) => hashed.map(Balance::Hash),
        (own, Some(hash)) => {
            let message = "`hash` does nothing without `balance = \"hash\"`";
            let help = "set `balance = \"hash\"`, or leave `hash` out";
            table.lacks("balance", &hash.span(), message, help, report);
            own.flatten()
        }
        (own, None) => own.flatten().or(Some(Balance::default())),
    }
}

/// `None` is the one that needs `hash`.
const BALANCES: [(&str, Option<Balance>); 4] = [
    ("round_robin", Some(Balance::RoundRobin)),
    ("least_connections", Some(Balance::LeastConnections)),
    ("random_two", Some(Balance::RandomTwo)),
    ("hash", None),
];

fn read_slow_start(
    table: &mut Table<'_, '_>,
    balance: Option<&Balance>,
    report: &mut Report<'_>,
) -> Option<Duration> {
    let (time, span) = table.placed::<Switch<Duration>>("slow_start", report)?;
    let time = time.on()?;
    within(time, &(SECOND..=3_600 * SECOND), &span, report);
    if matches!(balance, Some(Balance::Hash(_))) {
        report.fault(
            &span,
            "with `balance = \"hash\"` a peer has its full share at once",
            "leave `slow_start` out",
        );
    }
    Some(time)
}

const SECOND: Duration = Duration::from_secs(1);

/// `protocol` and `tls`.
fn read_speech(
    table: &mut Table<'_, '_>,
    report: &mut Report<'_>,
) -> (Protocol, Option<UpstreamTls>) {
    const PROTOCOLS: [(&str, Protocol); 3] = [
        ("http1", Protocol::Http1),
        ("http2", Protocol::Http2),
        ("auto", Protocol::Auto),
    ];
    let value = table.value("protocol", report);
    let protocol = value
        .and_then(|value| choice(value, report, &PROTOCOLS))
        .unwrap_or_default();
    let own = table.value("tls", report);
    let off = own.is_none_or(|own| own.get_ref().as_bool() == Some(false));
    let tls = own.and_then(|own| read_tls(own, report));
    if let (Protocol::Auto, true, Some(value)) = (protocol, off, value) {
        table.lacks(
            "tls",
            &value.span(),
            "only with TLS a peer can choose",
            "set `tls`, or say \"http1\" or \"http2\"",
            report,
        );
    }
    (protocol, tls)
}

/// `tls = true`, `tls = false`, or a table.
fn read_tls(value: &Spanned<DeValue<'_>>, report: &mut Report<'_>) -> Option<UpstreamTls> {
    if !value.get_ref().is_table() {
        return bool::read(value, report)?.then(UpstreamTls::default);
    }
    let mut table = Table::of("an upstream's tls", Some(value), report);
    let name = table.get::<peers::Name>("name", report);
    let verify = table.or("verify", true, report);
    let mut file = |key, kind, report: &mut Report<'_>| {
        let value = table.value(key, report);
        let path = value.and_then(|value| pem(value, kind, report));
        (path, value.map(Spanned::span))
    };
    let (ca, ca_span) = file("ca", Pem::Authorities, report);
    let (cert, cert_span) = file("cert", Pem::Certificates, report);
    let (key, key_span) = file("key", Pem::Key, report);
    if let (false, Some(span)) = (verify, ca_span) {
        report.fault(
            &span,
            "with `verify = false` anybody is believed",
            "leave out `ca` or `verify`",
        );
    }
    match (cert_span, key_span) {
        (Some(span), None) => table.lacks(
            "key",
            &span,
            "a certificate without its private key",
            "set `key` as well",
            report,
        ),
        (None, Some(span)) => table.lacks(
            "cert",
            &span,
            "a private key without its certificate",
            "set `cert` as well",
            report,
        ),
        _ => {}
    }
    let own = cert.zip(key);
    if let Some((cert, key)) = &own {
        identity(cert, key, table.span(), report);
    }
    table.finish(report);
    Some(UpstreamTls {
        name: name.map(|peers::Name(name)| name),
        ca,
        identity: own,
        verify,
    })
}

impl Read for HashBy {
    fn read(value: &Spanned<DeValue<'_>>, report: &mut Report<'_>) -> Option<Self> {
        let right = "expected \"client\", one field as \"header:X-User\", or one cookie as \
                     \"cookie:session\"";
        parsed(value, report, |text| {
            let by = match text.split_once(':') {
                None => (text == "client").then_some(Self::Client),
                Some(("header", name)) => HeaderName::from_bytes(name.as_bytes())
                    .ok()
                    .map(Self::Header),
                // A cookie's name is a token, as a field's is (RFC 6265 4.1.1).
                Some(("cookie", name)) => HeaderName::from_bytes(name.as_bytes())
                    .ok()
                    .map(|_| Self::Cookie(name.to_owned())),
                Some(_) => None,
            };
            by.ok_or_else(|| right.to_owned())
        })
    }
}
