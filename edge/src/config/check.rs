//! What each part alone cannot tell: whether the parts of a configuration fit together.

use std::net::SocketAddr;
use std::ops::Range;

use super::reader::{FILE, Report};
use super::route::Placed;
use super::{Protocol, Route, Upstream};

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

/// An `[auth.NAME]` that no route names protects nothing, though it looks as if it did.
pub(super) fn auths_are_used(
    auths: &[super::auth::Placed],
    routes: &[Placed],
    report: &mut Report<'_>,
) {
    // A route that could not be read might have been the one.
    if routes.iter().any(|(route, _)| route.is_none()) {
        return;
    }
    let used = |place| {
        let mut routes = routes.iter().flat_map(|(route, _)| route);
        routes.any(|route| route.auth.as_ref().is_some_and(|auth| auth.by == place))
    };
    for (place, (auth, span, _)) in auths.iter().enumerate() {
        if !used(place) {
            let message = format!("no route asks for `{}`: it protects nothing", auth.name);
            let help = format!(
                "write `auth = \"{}\"` in a route, or leave it out",
                auth.name
            );
            let mut keys = report.key_of("[[route]]", "auth");
            keys.extend(report.key_of("a route's auth", "by"));
            keys.push((FILE, "route"));
            report.lacks_any(keys, span, message, help);
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

/// A WebSocket begins as HTTP/1.1 (RFC 6455 4.1): peers that speak HTTP/2 alone take none.
pub(super) fn websockets_are_spoken(
    upstreams: &[(Upstream, Range<usize>)],
    routes: &[Placed],
    report: &mut Report<'_>,
) {
    for (route, span) in routes {
        let Some(route) = route.as_ref().filter(|route| route.websocket.is_some()) else {
            continue;
        };
        let upstream = upstreams.get(route.upstream).map(|(upstream, _)| upstream);
        if let Some(upstream) = upstream.filter(|own| own.protocol == Protocol::Http2) {
            let name = &upstream.name;
            report.fault(
                span,
                format!("the upstream `{name}` speaks HTTP/2 alone, which has no WebSockets"),
                "leave out `websocket`, or name an upstream with `protocol = \"http1\"`",
            );
        }
    }
}

/// What a listener is called, where it is, and where the file says so.
pub(super) type Listener = (&'static str, Option<SocketAddr>, Option<Range<usize>>);

/// No two listeners can share one address.
pub(super) fn listeners_differ(listeners: &[Listener], report: &mut Report<'_>) {
    let mut earlier: Vec<&Listener> = Vec::new();
    for listener in listeners {
        let (name, Some(address), span) = listener else {
            continue;
        };
        for (other, at, other_span) in &earlier {
            let Some(at) = at else { continue };
            let everywhere = at.ip().is_unspecified() || address.ip().is_unspecified();
            let same = at.port() == address.port() && (at.ip() == address.ip() || everywhere);
            if same && at.port() != 0 {
                report.fault(
                    &other_span.clone().or(span.clone()).unwrap_or(0..0),
                    format!("{other} and {name} both listen on {at}"),
                    "give one of them another port",
                );
            }
        }
        earlier.push(listener);
    }
}

/// Where all peers are addresses, `[dns]` does nothing.
pub(super) fn names_are_looked_up(
    upstreams: &[(Upstream, Range<usize>)],
    dns: Option<Range<usize>>,
    report: &mut Report<'_>,
) {
    // One without peers is at fault: they might have been names.
    let unread = upstreams
        .iter()
        .any(|(upstream, _)| upstream.peers.is_empty());
    let mut peers = upstreams.iter().flat_map(|(upstream, _)| &upstream.peers);
    let named = peers.any(|peer| peer.name.parse::<SocketAddr>().is_err());
    if let (Some(span), false, false, false) = (dns, unread, named, upstreams.is_empty()) {
        report.fault(
            &span,
            "every peer is an address: nothing is looked up",
            "leave `[dns]` out, or name a peer, as \"users:8080\"",
        );
    }
}
