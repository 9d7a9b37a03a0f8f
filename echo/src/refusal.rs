//! Every way echo says no over HTTP: one arm gives the status, the word for the counter and the
//! sentence for the person.

use crate::answer::{self, Body};
use hyper::{
    Response, StatusCode,
    header::{ALLOW, CONNECTION, RETRY_AFTER, SEC_WEBSOCKET_VERSION, UPGRADE},
};
use serde::Serialize;

/// Every way echo says no over HTTP.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// No such path.
    Unknown,
    /// A path that takes other methods; these.
    Method(&'static str),
    /// A number in the path that is none, or out of bounds; what would have been right.
    Number(&'static str),
    /// `/ws` without asking for a WebSocket.
    NoUpgrade,
    /// A WebSocket of a version other than 13.
    Version,
    /// A `Sec-WebSocket-Key` that is not sixteen bytes in base64.
    Key,
    /// Every place for a WebSocket is taken.
    Full,
    /// The server is going away.
    Draining,
}

impl Refusal {
    fn parts(&self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::Unknown => (
                StatusCode::NOT_FOUND,
                "unknown",
                "nothing is served under this path",
            ),
            Self::Method(_) => (
                StatusCode::METHOD_NOT_ALLOWED,
                "method",
                "this path takes other methods; see Allow",
            ),
            Self::Number(right) => (StatusCode::BAD_REQUEST, "number", right),
            Self::NoUpgrade => (
                StatusCode::UPGRADE_REQUIRED,
                "no_upgrade",
                "this path speaks WebSocket: send `Connection: Upgrade` and `Upgrade: websocket` over HTTP/1.1",
            ),
            Self::Version => (
                StatusCode::UPGRADE_REQUIRED,
                "version",
                "only version 13 is spoken: send `Sec-WebSocket-Version: 13`",
            ),
            Self::Key => (
                StatusCode::BAD_REQUEST,
                "key",
                "`Sec-WebSocket-Key` must be sixteen bytes in base64",
            ),
            Self::Full => (
                StatusCode::SERVICE_UNAVAILABLE,
                "full",
                "every place for a WebSocket is taken",
            ),
            Self::Draining => (
                StatusCode::SERVICE_UNAVAILABLE,
                "draining",
                "the server is shutting down",
            ),
        }
    }

    /// The word under which this is counted.
    pub(crate) fn label(&self) -> &'static str {
        self.parts().1
    }

    /// The answer: a problem body (RFC 9457) and the headers that say what to do next.
    pub(crate) fn answer(&self) -> Response<Body> {
        let (status, _, detail) = self.parts();
        let problem = Problem {
            r#type: "about:blank",
            title: status.canonical_reason().unwrap_or_default(),
            status: status.as_u16(),
            detail,
        };
        let answer = answer::json_as("application/problem+json", status, &problem);
        match self {
            Self::Method(allow) => answer::with(answer, ALLOW, allow),
            Self::NoUpgrade => upgrade(answer),
            Self::Version => answer::with(upgrade(answer), SEC_WEBSOCKET_VERSION, "13"),
            Self::Full | Self::Draining => answer::with(answer, RETRY_AFTER, "1"),
            Self::Unknown | Self::Number(_) | Self::Key => answer,
        }
    }
}

#[derive(Serialize)]
struct Problem {
    r#type: &'static str,
    title: &'static str,
    status: u16,
    detail: &'static str,
}

fn upgrade(answer: Response<Body>) -> Response<Body> {
    let answer = answer::with(answer, CONNECTION, "Upgrade");
    answer::with(answer, UPGRADE, "websocket")
}
