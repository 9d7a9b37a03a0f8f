//! What each part alone cannot tell: whether the parts of a configuration fit together.

use std::net::SocketAddr;
use std::ops::Range;

use super::reader::{FILE, Report};
use super::route::Placed;
use super::{Route, Upstream};

/// More peers than this in one upstream are a fault.
const MOST_PEERS: usize = 1_000;

/// Peers are `host:port`, each once.
pub(super) fn peers(
    peers: Vec<(String, Range<usize>)>,
    span: &Range<usize>,
    report: &mut Report<'_>,
) -> Vec<String> {
    if peers.is_empty() || peers.len() > MOST_PEERS {
        report.fault(
            span,
            format!("{} peers", peers.len()),
            format!("expected 1 to {MOST_PEERS}"),
        );
    }
    let mut seen: Vec<String> = Vec::new();
    for (peer, span) in peers {
        if !is_peer(&peer) {
            report.fault(
                &span,
                format!("`{peer}` is no peer"),
                "expected a host with a port, as \"127.0.0.1:8081\" or \"echo:8080\"",
            );
        } else if seen.contains(&peer) {
            report.fault(
                &span,
                format!("the peer `{peer}` stands here twice"),
                "leave one out",
            );
        }
        seen.push(peer);
    }
    seen
}

fn is_peer(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else {
        return false;
    };
    let good_port =
        port.parse::<u16>().is_ok_and(|port| port > 0) && port.bytes().all(|b| b.is_ascii_digit());
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    let name = !host.is_empty() && host.bytes().all(good);
    good_port && (name || text.parse::<SocketAddr>().is_ok())
}

/// An upstream that no route names is a route forgotten or a name misspelt.
pub(super) fn upstreams_are_used(
    upstreams: &[(Upstream, Range<usize>)],
    routes: &[Placed],
    report: &mut Report<'_>,
) {
    // A route that could not be read might have been the one.
    if routes.iter().any(|(route, _)| route.is_none()) {
        return;
    }
    let used = |place| {
        routes
            .iter()
            .flat_map(|(route, _)| route)
            .any(|route| route.upstream == place)
    };
    for (place, (upstream, span)) in upstreams.iter().enumerate() {
        if !used(place) {
            report.lacks(
                (FILE, "route"),
                span,
                format!("no route uses the upstream `{}`", upstream.name),
                "name it in a route, or leave it out",
            );
        }
    }
}

/// A route behind one that takes all its requests is never reached.
pub(super) fn routes_are_reached(routes: &[Placed], report: &mut Report<'_>) {
    let mut earlier: Vec<&Route> = Vec::new();
    for (route, span) in routes {
        let Some(route) = route else { continue };
        if let Some(wider) = earlier.iter().find(|wider| wider.rule.covers(&route.rule)) {
            let message = format!(
                "this route is never reached: `{}` above takes all its requests",
                wider.name
            );
            report.fault(span, message, "put the narrower route first");
        }
        earlier.push(route);
    }
}

/// Traffic and administration cannot share one address.
pub(super) fn listeners_differ(
    server: SocketAddr,
    admin: SocketAddr,
    span: Option<Range<usize>>,
    report: &mut Report<'_>,
) {
    let everywhere = server.ip().is_unspecified() || admin.ip().is_unspecified();
    let same = server.port() == admin.port() && (server.ip() == admin.ip() || everywhere);
    if same && server.port() != 0 {
        report.fault(
            &span.unwrap_or(0..0),
            format!("[server] and [admin] both listen on {server}"),
            "give one of them another port",
        );
    }
}
