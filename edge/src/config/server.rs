//! `[server]`.

use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use ipnet::IpNet;

use super::at_least_one;
use super::forms::number;
use super::reader::{Report, Switch, Table};
use crate::client::Trust;

/// `[server]`: the traffic's side.
#[derive(Debug, Clone, PartialEq)]
pub struct Server {
    /// Where clients connect.
    pub listen: SocketAddr,
    /// Whom edge believes about the client.
    pub trust: Trust,
    /// How long open requests may take to finish once edge is told to end.
    pub drain: Duration,
    /// How long edge goes on taking new requests after it says "not ready".
    pub drain_delay: Duration,
    /// The most connections open at once.
    pub connections: usize,
    /// The most of them of one client; `None`: as many as there may be.
    pub connections_per_client: Option<usize>,
    /// Is HTTP/2 spoken: by ALPN with TLS, by its preface in the clear (RFC 9113 3.2, 3.3)?
    pub http2: bool,
    /// Streams that a client may have open at once on one connection of HTTP/2.
    pub streams: u32,
    /// Whoever connects from these networks begins with a PROXY protocol header; nobody else may.
    pub proxy_protocol: Vec<IpNet>,
}

/// One client has no more connections open than this, unless the file says otherwise.
const PER_CLIENT: u64 = 1_000;

pub(super) fn read_server(
    mut table: Table<'_, '_>,
    report: &mut Report<'_>,
) -> (Server, Option<Range<usize>>) {
    let listen = table.placed::<SocketAddr>("listen", report);
    let span = listen.as_ref().map(|(_, span)| span.clone());
    let prefix = table.placed::<u64>("ipv6_prefix", report);
    let ipv6_prefix = match &prefix {
        Some((bits, _)) if (1..=128).contains(bits) => u8::try_from(*bits).unwrap_or(64),
        Some((bits, span)) => {
            report.fault(
                span,
                format!("{bits} bits are no IPv6 prefix"),
                "expected 1 to 128",
            );
            64
        }
        None => 64,
    };
    let http2 = table.or("http2", true, report);
    let streams = number(&mut table, "streams", 1..=10_000, report);
    if let (false, Some((_, span))) = (http2, &streams) {
        report.fault(
            span,
            "only HTTP/2 has streams",
            "set `http2 = true`, or leave `streams` out",
        );
    }
    let connections_per_client = table.placed::<Switch<u64>>("connections_per_client", report);
    if let Some((Switch::On(0), span)) = &connections_per_client {
        report.fault(
            span,
            "nobody could connect",
            "expected at least 1, or \"off\"",
        );
    }
    let server = Server {
        listen: listen.map_or(SocketAddr::from(([127, 0, 0, 1], 8080)), |(listen, _)| {
            listen
        }),
        trust: Trust {
            proxies: table.or::<Vec<IpNet>>("trusted_proxies", Vec::new(), report),
            ipv6_prefix,
        },
        drain: table.or("drain", Duration::from_secs(25), report),
        drain_delay: table
            .or("drain_delay", Switch::On(Duration::from_secs(1)), report)
            .on()
            .unwrap_or_default(),
        connections: at_least_one(&mut table, "connections", 20_000, report),
        connections_per_client: connections_per_client
            .map_or(Some(PER_CLIENT), |(most, _)| most.on())
            .and_then(|most| usize::try_from(most).ok()),
        http2,
        streams: streams.map_or(100, |(streams, _)| streams),
        proxy_protocol: table.or("proxy_protocol", Vec::new(), report),
    };
    table.finish(report);
    (server, span)
}
