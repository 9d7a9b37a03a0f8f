//! What the access log is told of an exchange.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};

use http::{StatusCode, header};
use pingora::http::RequestHeader;
use pingora::proxy::Session;

use super::Held;
use super::request::host_and_port;
use crate::access_log::{Closed, Line};
use crate::exchange::CacheState;
use crate::tunnel::End;

pub(super) fn line<'a>(request: &'a RequestHeader, context: &'a Held) -> Line<'a> {
    let (rule, exchange) = (context.rule(), &context.exchange);
    let times = exchange.times();
    let agent = request.headers.get(header::USER_AGENT);
    let asked = rule.filter(|_| exchange.upstream.began.is_some());
    let upstream = asked.map(|rule| &rule.upstream);
    Line {
        time: exchange.time,
        event: "request",
        id: &exchange.id,
        client: exchange.client.address,
        identity: exchange.identity.as_ref().map_or("", |own| clip(&own.name)),
        method: clip(request.method.as_str()),
        host: clip(host_and_port(request).unwrap_or_default()),
        path: clip(request.uri.path()),
        route: rule.map_or("", |rule| &rule.name),
        status: exchange.status,
        reason: exchange.reason(),
        bytes_in: 0,
        bytes_out: 0,
        upstream: upstream.map_or("", |upstream| &upstream.name),
        peer: exchange.upstream.tried.last().copied(),
        tries: exchange.upstream.tried.len(),
        total_ms: times.total,
        upstream_ms: times.upstream,
        gateway_ms: times.gateway,
        encoding: context
            .outlet
            .compressed()
            .map_or("", |done| done.encoding.name()),
        cache: exchange.cache.as_str(),
        cache_reason: exchange.cache_reason,
        user_agent: clip(
            agent
                .and_then(|agent| agent.to_str().ok())
                .unwrap_or_default(),
        ),
        websocket: None,
    }
}

/// A client decides how long these texts are; the log's queue must not grow by them.
fn clip(text: &str) -> &str {
    const LONGEST: usize = 1_024;
    let end = (0..=LONGEST.min(text.len()))
        .rev()
        .find(|&end| text.is_char_boundary(end));
    end.and_then(|end| text.get(..end)).unwrap_or_default()
}

/// What the last line of a WebSocket needs of the request that it began as: copies, for the
/// head itself would keep the whole buffer that it was read into.
pub(super) struct Record {
    method: String,
    host: String,
    path: String,
    id: String,
    client: IpAddr,
    identity: String,
    pub(super) route: String,
    upstream: String,
    peer: Option<SocketAddr>,
}

impl Record {
    pub(super) fn new(session: &Session, context: &Held) -> Self {
        let line = line(session.req_header(), context);
        Self {
            id: line.id.to_owned(),
            client: line.client,
            identity: line.identity.to_owned(),
            route: line.route.to_owned(),
            upstream: line.upstream.to_owned(),
            peer: line.peer,
            method: line.method.to_owned(),
            host: line.host.to_owned(),
            path: line.path.to_owned(),
        }
    }

    pub(super) fn closed(&self, end: End) -> Line<'_> {
        Line {
            time: SystemTime::now(),
            event: "websocket_closed",
            id: &self.id,
            client: self.client,
            identity: &self.identity,
            method: &self.method,
            host: &self.host,
            path: &self.path,
            route: &self.route,
            status: StatusCode::SWITCHING_PROTOCOLS.as_u16(),
            reason: end.ending.reason(),
            bytes_in: end.inward.bytes,
            bytes_out: end.outward.bytes,
            upstream: &self.upstream,
            peer: self.peer,
            tries: 1,
            total_ms: end.lasted,
            upstream_ms: None,
            gateway_ms: Duration::ZERO,
            encoding: "",
            cache: CacheState::Off.as_str(),
            cache_reason: None,
            user_agent: "",
            websocket: Some(Closed {
                code: end.ending.code(),
                by: end.ending.by().as_str(),
                messages_in: end.inward.messages,
                messages_out: end.outward.messages,
            }),
        }
    }
}
