//! `peers` and `resolve`: who answers, by address or by name.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use toml::Spanned;
use toml::de::DeValue;

use super::{Peer, Resolve};
use crate::config::forms::{choice, number};
use crate::config::reader::{Read, Report, Table, parsed, text};

/// More peers than this in one upstream are a fault.
const MOST_PEERS: usize = 1_000;
/// The largest part of a peer.
const MOST_WEIGHT: u32 = 1_000;

/// One entry of `peers`: `"a:8080"`, or `{ address = "a:8080", weight = 3 }`.
struct Entry {
    name: String,
    span: Range<usize>,
    weight: Option<(u32, Range<usize>)>,
}

impl Read for Entry {
    fn read(value: &Spanned<DeValue<'_>>, report: &mut Report<'_>) -> Option<Self> {
        if !value.get_ref().is_table() {
            return Some(Self {
                name: text(value, report)?.to_owned(),
                span: value.span(),
                weight: None,
            });
        }
        let mut table = Table::of("a peer", Some(value), report);
        let address = table.require::<String>("address", "as `address = \"a:8080\"`", report);
        let weight = number(&mut table, "weight", 1..=MOST_WEIGHT, report);
        table.finish(report);
        let (name, span) = address?;
        Some(Self { name, span, weight })
    }
}

/// Who answers; nobody where that could not be read.
pub(super) fn read_peers(
    table: &mut Table<'_, '_>,
    report: &mut Report<'_>,
) -> (Vec<Peer>, Resolve) {
    const RESOLVES: [(&str, Resolve); 2] = [("dns", Resolve::Dns), ("srv", Resolve::Srv)];
    let right = "as `peers = [\"127.0.0.1:8081\"]`";
    let entries = table.require::<Vec<Entry>>("peers", right, report);
    let said = table.value("resolve", report);
    let resolve = match said {
        Some(value) => choice(value, report, &RESOLVES),
        None => Some(Resolve::Dns),
    };
    let Some((entries, whole)) = entries else {
        return (Vec::new(), resolve.unwrap_or_default());
    };
    if entries.is_empty() || entries.len() > MOST_PEERS {
        report.fault(
            &whole,
            format!("{} peers", entries.len()),
            format!("expected 1 to {MOST_PEERS}"),
        );
    }
    // How they are found is a fault already: of what they should look like nothing is known.
    if let Some(resolve) = resolve {
        for entry in &entries {
            check(entry, resolve, table, report);
        }
    }
    let mut seen = HashSet::new();
    for entry in &entries {
        if !seen.insert(&entry.name) {
            report.fault(
                &entry.span,
                format!("the peer `{}` stands here twice", entry.name),
                "leave one out",
            );
        }
    }
    let peer = |entry: Entry| Peer {
        name: entry.name,
        weight: entry.weight.map_or(1, |(weight, _)| weight),
    };
    let peers = entries.into_iter().map(peer).collect();
    (peers, resolve.unwrap_or_default())
}

fn check(entry: &Entry, resolve: Resolve, table: &Table<'_, '_>, report: &mut Report<'_>) {
    let right = match resolve {
        Resolve::Dns if is_peer(&entry.name) => None,
        Resolve::Dns => Some("expected a host with a port, as \"127.0.0.1:8081\" or \"echo:8080\""),
        Resolve::Srv if is_name(&entry.name) && entry.name.parse::<IpAddr>().is_err() => None,
        Resolve::Srv => {
            Some("expected the name of a service without a port, as \"_http._tcp.users\"")
        }
    };
    if let Some(right) = right {
        let message = format!("`{}` is no peer", entry.name);
        // Without the key it might have been misspelt.
        table.lacks("resolve", &entry.span, message, right, report);
    }
    if let (Resolve::Srv, Some((_, span))) = (resolve, &entry.weight) {
        report.fault(
            span,
            "the records of a service say the weights",
            "leave `weight` out, or set `resolve = \"dns\"`",
        );
    }
}

fn is_peer(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else {
        return false;
    };
    let good_port =
        port.parse::<u16>().is_ok_and(|port| port > 0) && port.bytes().all(|b| b.is_ascii_digit());
    good_port && (is_name(host) || text.parse::<SocketAddr>().is_ok())
}

/// Could it be the name of a host or a service (RFC 1035 2.3.4)?
fn is_name(text: &str) -> bool {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    let label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(good);
    let text = text.strip_suffix('.').unwrap_or(text);
    text.len() <= 253 && text.split('.').all(label)
}

/// A name that a peer can prove: a host's, or an address.
pub(super) struct Name(pub(super) String);

impl Read for Name {
    fn read(value: &Spanned<DeValue<'_>>, report: &mut Report<'_>) -> Option<Self> {
        parsed(value, report, |text| {
            let good = is_name(text) || text.parse::<IpAddr>().is_ok();
            good.then(|| Self(text.to_owned()))
                .ok_or_else(|| "expected a host's name, as \"users.internal\"".to_owned())
        })
    }
}
