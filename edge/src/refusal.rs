//! Every way in which edge itself says no, in one closed list.
//!
//! One arm gives the status, the reason word (the same in the answer, the access log and the
//! metrics) and the `Proxy-Status` error (RFC 9209). Steps return a [`Refusal`]; only `respond`
//! writes it.

use std::time::Duration;

use http::StatusCode;

/// A no from edge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// No route fits host and path.
    NoRoute,
    /// A route fits but for the method; the methods that would fit, as `Allow` lists them.
    MethodNotAllowed {
        /// The value of the `Allow` field (RFC 9110 10.2.1).
        allow: String,
    },
    /// The head is no valid HTTP/1.1 request.
    BadRequest,
    /// The connection does not begin with a PROXY protocol header, as it must. Nobody reads this
    /// answer.
    BadProxyHeader,
    /// The client speaks HTTP/2 where edge does not (RFC 9110 15.6.6).
    HttpVersion,
    /// The target is no path, or holds a dot segment, which edge and the peer might read
    /// differently.
    BadPath,
    /// No `Host`, or one that is no host (RFC 9112 3.2).
    BadHost,
    /// The client has used what it may.
    ClientLimit {
        /// The status that the configuration chose.
        status: StatusCode,
        /// When one more request fits.
        retry_after: Duration,
    },
    /// All clients together have used what they may.
    GlobalLimit {
        /// The status that the configuration chose.
        status: StatusCode,
        /// When one more request fits.
        retry_after: Duration,
    },
    /// A WebSocket handshake on a route without `websocket`.
    UpgradeNotAllowed,
    /// A WebSocket handshake from a page of another site (RFC 6455 10.2).
    OriginNotAllowed,
    /// A WebSocket handshake that offers no subprotocol that may be spoken.
    SubprotocolNotAllowed,
    /// The client has as many WebSockets open as it may.
    WebSocketClientLimit,
    /// As many WebSockets are open as may be.
    WebSocketGlobalLimit,
    /// An upgrade that is no valid WebSocket handshake (RFC 6455 4.2.1).
    BadHandshake,
    /// A WebSocket version that nobody here speaks (RFC 6455 4.4).
    HandshakeVersion,
    /// The client took too long to send its head or body.
    RequestTimeout,
    /// The upstream has no peer that could be asked.
    NoPeer,
    /// The upstream's peers are names, and none has an address.
    Unresolved,
    /// The upstream has as many requests as `breaker` lets it have.
    UpstreamBusy,
    /// So many of the upstream's requests failed that it is left alone for a while.
    CircuitOpen {
        /// When it is tried again.
        retry_after: Duration,
    },
    /// The peer refused the connection or could not be reached.
    ConnectRefused,
    /// No connection to the peer within `timeout.connect`.
    ConnectTimeout,
    /// The peer's certificate is not to be believed, or it does not speak TLS.
    TlsFailed,
    /// No head of an answer within `timeout.try`, and nobody else to ask.
    TryTimeout,
    /// No whole answer within `timeout.response`.
    ResponseTimeout,
    /// The peer closed the connection before its answer was complete.
    UpstreamClosed,
    /// What the peer sent is no valid answer.
    UpstreamInvalid,
    /// The client takes only what is kept, and this is not (RFC 9111 5.2.1.7).
    NotCached,
    /// The client went away before the answer was complete. Nobody reads this answer.
    ClientClosed,
    /// edge is ending and takes nothing new.
    Draining,
    /// A fault of edge's own.
    Internal,
}

impl Refusal {
    /// One of each kind, for tests and for metrics that must exist before the first refusal.
    pub fn all() -> Vec<Self> {
        let retry_after = Duration::from_secs(1);
        vec![
            Self::NoRoute,
            Self::MethodNotAllowed {
                allow: "GET, HEAD".to_owned(),
            },
            Self::BadRequest,
            Self::BadProxyHeader,
            Self::HttpVersion,
            Self::BadPath,
            Self::BadHost,
            Self::ClientLimit {
                status: StatusCode::TOO_MANY_REQUESTS,
                retry_after,
            },
            Self::GlobalLimit {
                status: StatusCode::SERVICE_UNAVAILABLE,
                retry_after,
            },
            Self::UpgradeNotAllowed,
            Self::OriginNotAllowed,
            Self::SubprotocolNotAllowed,
            Self::WebSocketClientLimit,
            Self::WebSocketGlobalLimit,
            Self::BadHandshake,
            Self::HandshakeVersion,
            Self::RequestTimeout,
            Self::NoPeer,
            Self::Unresolved,
            Self::UpstreamBusy,
            Self::CircuitOpen { retry_after },
            Self::ConnectRefused,
            Self::ConnectTimeout,
            Self::TlsFailed,
            Self::TryTimeout,
            Self::ResponseTimeout,
            Self::UpstreamClosed,
            Self::UpstreamInvalid,
            Self::NotCached,
            Self::ClientClosed,
            Self::Draining,
            Self::Internal,
        ]
    }

    /// Status, reason word, what a person reads, and the `Proxy-Status` error type.
    fn arm(&self) -> (u16, &'static str, &'static str, &'static str) {
        match self {
            Self::NoRoute => (
                404,
                "no_route",
                "no route fits this host and path",
                "destination_not_found",
            ),
            Self::MethodNotAllowed { .. } => (
                405,
                "method_not_allowed",
                "the route does not take this method",
                "http_request_denied",
            ),
            Self::BadRequest => (
                400,
                "bad_request",
                "the request is not valid HTTP",
                "http_request_error",
            ),
            Self::BadProxyHeader => (
                400,
                "bad_proxy_header",
                "the connection does not begin with a PROXY protocol header",
                "http_request_error",
            ),
            Self::HttpVersion => (
                505,
                "http_version",
                "only HTTP/1.1 is spoken here, for WebSockets as for requests",
                "http_request_error",
            ),
            Self::BadPath => (
                400,
                "bad_path",
                "the target is no path, or holds a dot segment",
                "http_request_error",
            ),
            Self::BadHost => (
                400,
                "bad_host",
                "the request names no valid host",
                "http_request_error",
            ),
            Self::ClientLimit { status, .. } => (
                status.as_u16(),
                "client_limit",
                "too many requests from this client",
                "http_request_denied",
            ),
            Self::GlobalLimit { status, .. } => (
                status.as_u16(),
                "global_limit",
                "too many requests from all clients together",
                "http_request_denied",
            ),
            Self::UpgradeNotAllowed => (
                403,
                "upgrade_not_allowed",
                "the route takes no WebSockets",
                "http_request_denied",
            ),
            Self::OriginNotAllowed => (
                403,
                "origin_not_allowed",
                "pages of this origin may open no WebSocket here",
                "http_request_denied",
            ),
            Self::SubprotocolNotAllowed => (
                400,
                "subprotocol_not_allowed",
                "none of the subprotocols offered is spoken here",
                "http_request_denied",
            ),
            Self::WebSocketClientLimit => (
                429,
                "websocket_client_limit",
                "this client has as many WebSockets open as it may",
                "http_request_denied",
            ),
            Self::WebSocketGlobalLimit => (
                503,
                "websocket_global_limit",
                "as many WebSockets are open as may be",
                "http_request_denied",
            ),
            Self::BadHandshake => (
                400,
                "bad_handshake",
                "this is no valid WebSocket handshake",
                "http_request_error",
            ),
            Self::HandshakeVersion => (
                400,
                "handshake_version",
                "only WebSocket version 13 is spoken here",
                "http_request_error",
            ),
            Self::RequestTimeout => (
                408,
                "request_timeout",
                "the request took too long to arrive",
                "http_request_error",
            ),
            Self::NoPeer => (
                503,
                "no_peer",
                "the upstream has no peer that could be asked",
                "destination_unavailable",
            ),
            Self::Unresolved => (
                503,
                "unresolved",
                "no name of the upstream's peers has an address",
                "dns_error",
            ),
            Self::UpstreamBusy => (
                503,
                "upstream_busy",
                "the upstream has as many requests as it may have",
                "connection_limit_reached",
            ),
            Self::CircuitOpen { .. } => (
                503,
                "circuit_open",
                "the upstream fails too often and is left alone for a while",
                "destination_unavailable",
            ),
            Self::ConnectRefused => (
                502,
                "connect_refused",
                "the peer could not be reached",
                "connection_refused",
            ),
            Self::ConnectTimeout => (
                504,
                "connect_timeout",
                "no connection to the peer in time",
                "connection_timeout",
            ),
            Self::TlsFailed => (
                502,
                "tls_failed",
                "the peer could not prove who it is, or does not speak TLS",
                "tls_protocol_error",
            ),
            Self::TryTimeout => (
                504,
                "try_timeout",
                "no answer from the peer within the time for one try",
                "http_response_timeout",
            ),
            Self::ResponseTimeout => (
                504,
                "response_timeout",
                "no whole answer from the peer in time",
                "http_response_timeout",
            ),
            Self::UpstreamClosed => (
                502,
                "upstream_closed",
                "the peer closed before its answer was complete",
                "connection_terminated",
            ),
            Self::UpstreamInvalid => (
                502,
                "upstream_invalid",
                "the peer's answer is not valid HTTP",
                "http_protocol_error",
            ),
            Self::NotCached => (
                504,
                "not_cached",
                "the client takes only what is kept, and this is not",
                "http_request_denied",
            ),
            Self::ClientClosed => (
                499,
                "client_closed",
                "the client went away",
                "connection_terminated",
            ),
            Self::Draining => (
                503,
                "draining",
                "this gateway is ending",
                "destination_unavailable",
            ),
            Self::Internal => (
                500,
                "internal",
                "a fault of the gateway's own",
                "proxy_internal_error",
            ),
        }
    }

    /// The HTTP status of the answer.
    pub fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.arm().0).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// The one word for this no in the answer, the log and the metrics.
    pub fn reason(&self) -> &'static str {
        self.arm().1
    }

    /// What a person reads in the problem body.
    pub fn detail(&self) -> &'static str {
        self.arm().2
    }

    /// The error type of the `Proxy-Status` field (RFC 9209 2.3).
    pub fn proxy_error(&self) -> &'static str {
        self.arm().3
    }

    /// Whole seconds for `Retry-After`, at least one (RFC 9110 10.2.3); `None` where waiting
    /// would change nothing.
    pub fn retry_after(&self) -> Option<u64> {
        match self {
            Self::ClientLimit { retry_after, .. }
            | Self::GlobalLimit { retry_after, .. }
            | Self::CircuitOpen { retry_after } => Some(
                retry_after
                    .as_millis()
                    .div_ceil(1_000)
                    .max(1)
                    .try_into()
                    .unwrap_or(u64::MAX),
            ),
            Self::NoPeer
            | Self::Unresolved
            | Self::UpstreamBusy
            | Self::Draining
            | Self::WebSocketClientLimit
            | Self::WebSocketGlobalLimit => Some(1),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn each_refusal_has_a_reason_of_its_own_and_an_error_status() {
        let all = Refusal::all();
        let reasons: HashSet<_> = all.iter().map(Refusal::reason).collect();
        assert_eq!(reasons.len(), all.len());
        for refusal in all {
            assert!(refusal.status().as_u16() >= 400, "{refusal:?}");
            assert!(!refusal.detail().is_empty() && !refusal.proxy_error().is_empty());
        }
    }

    #[test]
    fn retry_after_is_never_early_and_never_zero() {
        let limit = |ms| Refusal::ClientLimit {
            status: StatusCode::TOO_MANY_REQUESTS,
            retry_after: Duration::from_millis(ms),
        };
        assert_eq!(limit(0).retry_after(), Some(1));
        assert_eq!(limit(1_000).retry_after(), Some(1));
        assert_eq!(limit(1_001).retry_after(), Some(2));
        assert_eq!(Refusal::NoRoute.retry_after(), None);
    }
}
