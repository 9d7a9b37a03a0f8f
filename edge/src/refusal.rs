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
    /// The message's form could be read in two ways (RFC 9112 3, 5, 6 and 11).
    MessageForm,
    /// The target is longer than `[request] target` (RFC 9110 15.5.15).
    TargetTooLong,
    /// The header fields are larger, or more, than `[request]` lets them be (RFC 6585 5).
    FieldsTooLarge,
    /// The body is larger than `[request] body` (RFC 9110 15.5.14).
    BodyTooLarge,
    /// A method that edge does not know and no route names (RFC 9110 15.6.2).
    MethodUnknown,
    /// The client's address is not among those that the route lets in.
    AddressNotAllowed,
    /// A preflight of an origin, method or field that the route's `cors` does not name (Fetch 4.8).
    PreflightRefused,
    /// The client has as many connections open as it may. Nobody reads this answer.
    ConnectionClientLimit,
    /// The client takes, or sends, less than it must. Nobody reads this answer.
    ClientStalled,
    /// The client says too much beside its requests over HTTP/2 (RFC 9113 10.5). Nobody reads this
    /// answer.
    ClientFloods,
    /// So many proofs of this address were bad that no more are looked at for a while.
    AuthFailures {
        /// When one more proof is looked at.
        retry_after: Duration,
    },
    /// No token, key or certificate came.
    CredentialsMissing,
    /// The token is none (RFC 7519 7.2).
    TokenMalformed,
    /// The token is signed by an algorithm that may not be used (RFC 8725 3.1).
    TokenAlgorithm,
    /// No key is known that the token names.
    TokenKey,
    /// The token's signature is not by the key that it names.
    TokenSignature,
    /// The token's time is over (RFC 7519 4.1.4).
    TokenExpired,
    /// The token's time has not come (RFC 7519 4.1.5).
    TokenNotYet,
    /// The token is somebody else's (RFC 7519 4.1.1).
    TokenIssuer,
    /// The token is for somebody else (RFC 7519 4.1.3).
    TokenAudience,
    /// The token does not reach so far (RFC 6750 3.1).
    ScopeMissing {
        /// What the route asks for, as `WWW-Authenticate` lists it.
        scopes: String,
    },
    /// The token's bearer has none of the roles.
    RoleMissing,
    /// Nobody has this API key.
    KeyUnknown,
    /// The API key is for other routes.
    KeyNotHere,
    /// The client's certificate is not among those that may enter.
    CertificateNotAllowed,
    /// The issuer's keys have not been got yet.
    IssuerUnavailable,
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
            Self::MessageForm,
            Self::TargetTooLong,
            Self::FieldsTooLarge,
            Self::BodyTooLarge,
            Self::MethodUnknown,
            Self::AddressNotAllowed,
            Self::PreflightRefused,
            Self::ConnectionClientLimit,
            Self::ClientFloods,
            Self::ClientStalled,
            Self::AuthFailures { retry_after },
            Self::CredentialsMissing,
            Self::TokenMalformed,
            Self::TokenAlgorithm,
            Self::TokenKey,
            Self::TokenSignature,
            Self::TokenExpired,
            Self::TokenNotYet,
            Self::TokenIssuer,
            Self::TokenAudience,
            Self::ScopeMissing {
                scopes: "read".to_owned(),
            },
            Self::RoleMissing,
            Self::KeyUnknown,
            Self::KeyNotHere,
            Self::CertificateNotAllowed,
            Self::IssuerUnavailable,
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
            Self::MessageForm => (
                400,
                "bad_message",
                "the message could be read in more than one way",
                "http_request_error",
            ),
            Self::TargetTooLong => (
                414,
                "target_too_long",
                "the target is too long",
                "http_request_error",
            ),
            Self::FieldsTooLarge => (
                431,
                "fields_too_large",
                "the header fields are too large or too many",
                "http_request_error",
            ),
            Self::BodyTooLarge => (
                413,
                "body_too_large",
                "the body is too large",
                "http_request_error",
            ),
            Self::MethodUnknown => (
                501,
                "method_unknown",
                "this method is not known here",
                "http_request_denied",
            ),
            Self::AddressNotAllowed => (
                403,
                "address_not_allowed",
                "this address may not enter here",
                "http_request_denied",
            ),
            Self::PreflightRefused => (
                403,
                "preflight_refused",
                "pages of this origin may not ask so",
                "http_request_denied",
            ),
            Self::ConnectionClientLimit => (
                503,
                "connection_client_limit",
                "this client has as many connections open as it may",
                "http_request_denied",
            ),
            Self::ClientStalled => (
                408,
                "client_stalled",
                "the client takes or sends too little",
                "http_request_error",
            ),
            Self::ClientFloods => (
                429,
                "client_floods",
                "the client says too much beside its requests",
                "http_request_denied",
            ),
            Self::AuthFailures { .. } => (
                429,
                "auth_failures",
                "too many bad credentials from this address",
                "http_request_denied",
            ),
            Self::CredentialsMissing => (
                401,
                "credentials_missing",
                "credentials are needed",
                "http_request_denied",
            ),
            Self::TokenMalformed => (
                401,
                "token_malformed",
                "the token cannot be read",
                "http_request_denied",
            ),
            Self::TokenAlgorithm => (
                401,
                "token_algorithm",
                "the token's algorithm is not accepted",
                "http_request_denied",
            ),
            Self::TokenKey => (
                401,
                "token_key",
                "the token's key is not known",
                "http_request_denied",
            ),
            Self::TokenSignature => (
                401,
                "token_signature",
                "the token's signature is wrong",
                "http_request_denied",
            ),
            Self::TokenExpired => (
                401,
                "token_expired",
                "the token has expired",
                "http_request_denied",
            ),
            Self::TokenNotYet => (
                401,
                "token_not_yet",
                "the token is not valid yet",
                "http_request_denied",
            ),
            Self::TokenIssuer => (
                401,
                "token_issuer",
                "the token is not of an accepted issuer",
                "http_request_denied",
            ),
            Self::TokenAudience => (
                401,
                "token_audience",
                "the token is for another audience",
                "http_request_denied",
            ),
            Self::ScopeMissing { .. } => (
                403,
                "scope_missing",
                "the token lacks a scope",
                "http_request_denied",
            ),
            Self::RoleMissing => (
                403,
                "role_missing",
                "the bearer lacks a role",
                "http_request_denied",
            ),
            Self::KeyUnknown => (
                401,
                "key_unknown",
                "the API key is not known",
                "http_request_denied",
            ),
            Self::KeyNotHere => (
                403,
                "key_not_here",
                "the API key is for other routes",
                "http_request_denied",
            ),
            Self::CertificateNotAllowed => (
                403,
                "certificate_not_allowed",
                "this certificate may not enter here",
                "http_request_denied",
            ),
            Self::IssuerUnavailable => (
                503,
                "issuer_unavailable",
                "the keys that prove tokens are not there yet",
                "destination_unavailable",
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
            | Self::AuthFailures { retry_after }
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
            | Self::IssuerUnavailable
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
