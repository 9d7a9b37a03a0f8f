//! Every way echo says no over HTTP: one arm gives the status, the word for the counter and the
//! sentence for the person.

use crate::answer::{self, Body};
use hyper::{
    Response, StatusCode,
    header::{
        ALLOW, CONNECTION, HeaderValue, RETRY_AFTER, SEC_WEBSOCKET_VERSION, UPGRADE,
        WWW_AUTHENTICATE,
    },
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
    /// No token where one is asked for.
    TokenMissing,
    /// A token that is no JSON Web Token, or has claims of the wrong kind.
    TokenMalformed,
    /// A token that is not signed with HS256.
    TokenAlgorithm,
    /// A token that somebody else signed, or changed.
    TokenSignature,
    /// A token for another audience.
    TokenAudience,
    /// A token without an end.
    TokenEndless,
    /// A token that has ended.
    TokenExpired,
    /// A token that is not good yet.
    TokenEarly,
    /// No API key where one is asked for.
    KeyMissing,
    /// Another API key.
    KeyWrong,
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
            Self::TokenMissing => (
                StatusCode::UNAUTHORIZED,
                "token_missing",
                "a token is needed: in `Authorization: Bearer`, as the subprotocol after `bearer`, or as the query's `access_token`",
            ),
            Self::TokenMalformed => (
                StatusCode::UNAUTHORIZED,
                "token_malformed",
                "the token is no JSON Web Token that can be read",
            ),
            Self::TokenAlgorithm => (
                StatusCode::UNAUTHORIZED,
                "token_wrong_algorithm",
                "the token must be signed with HS256",
            ),
            Self::TokenSignature => (
                StatusCode::UNAUTHORIZED,
                "token_wrong_signature",
                "the token's signature is not of our secret",
            ),
            Self::TokenAudience => (
                StatusCode::UNAUTHORIZED,
                "token_wrong_audience",
                "the token is not for this audience",
            ),
            Self::TokenEndless => (
                StatusCode::UNAUTHORIZED,
                "token_without_exp",
                "the token must say when it ends, in `exp`",
            ),
            Self::TokenExpired => (
                StatusCode::UNAUTHORIZED,
                "token_expired",
                "the token has ended",
            ),
            Self::TokenEarly => (
                StatusCode::UNAUTHORIZED,
                "token_not_yet_valid",
                "the token is not good yet",
            ),
            Self::KeyMissing => (
                StatusCode::UNAUTHORIZED,
                "api_key_missing",
                "an API key is needed, in `X-API-Key`",
            ),
            Self::KeyWrong => (
                StatusCode::UNAUTHORIZED,
                "api_key_wrong",
                "the API key is another one",
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

    /// The word for this, the same in the answer, the log and the metric.
    pub(crate) fn label(&self) -> &'static str {
        self.parts().1
    }

    /// The answer: a problem body (RFC 9457) and the headers that say what to do next.
    pub(crate) fn answer(&self) -> Response<Body> {
        let (status, reason, detail) = self.parts();
        let problem = Problem {
            r#type: "about:blank",
            title: status.canonical_reason().unwrap_or_default(),
            status: status.as_u16(),
            reason,
            detail,
        };
        let answer = answer::json_as("application/problem+json", status, &problem);
        match self {
            Self::Method(allow) => answer::with(answer, ALLOW, allow),
            Self::NoUpgrade => upgrade(answer),
            Self::Version => answer::with(upgrade(answer), SEC_WEBSOCKET_VERSION, "13"),
            Self::Full | Self::Draining => answer::with(answer, RETRY_AFTER, "1"),
            Self::KeyMissing | Self::KeyWrong => challenge(answer, r#"ApiKey realm="echo""#),
            // Nothing was said, so there is no error to tell (RFC 6750, section 3.1).
            Self::TokenMissing => challenge(answer, r#"Bearer realm="echo""#),
            Self::TokenMalformed
            | Self::TokenAlgorithm
            | Self::TokenSignature
            | Self::TokenAudience
            | Self::TokenEndless
            | Self::TokenExpired
            | Self::TokenEarly => {
                let error = r#"error="invalid_token""#;
                let value =
                    format!(r#"Bearer realm="echo", {error}, error_description="{detail}""#);
                challenge(answer, &value)
            }
            Self::Unknown | Self::Number(_) | Self::Key => answer,
        }
    }

    /// The status of the answer.
    pub(crate) fn status(&self) -> StatusCode {
        self.parts().0
    }
}

#[derive(Serialize)]
struct Problem {
    r#type: &'static str,
    title: &'static str,
    status: u16,
    reason: &'static str,
    detail: &'static str,
}

/// Says what would let in. The token may have come in the URL, so no cache is to keep this.
fn challenge(answer: Response<Body>, value: &str) -> Response<Body> {
    let mut answer = answer::fresh(answer);
    // Our own words are visible ASCII.
    if let Ok(value) = HeaderValue::from_str(value) {
        answer.headers_mut().insert(WWW_AUTHENTICATE, value);
    }
    answer
}

fn upgrade(answer: Response<Body>) -> Response<Body> {
    let answer = answer::with(answer, CONNECTION, "Upgrade");
    answer::with(answer, UPGRADE, "websocket")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn each_refusal_has_a_word_of_its_own_and_a_401_a_challenge() {
        let all = [
            Refusal::Unknown,
            Refusal::Method("GET"),
            Refusal::Number("a number"),
            Refusal::NoUpgrade,
            Refusal::Version,
            Refusal::Key,
            Refusal::TokenMissing,
            Refusal::TokenMalformed,
            Refusal::TokenAlgorithm,
            Refusal::TokenSignature,
            Refusal::TokenAudience,
            Refusal::TokenEndless,
            Refusal::TokenExpired,
            Refusal::TokenEarly,
            Refusal::KeyMissing,
            Refusal::KeyWrong,
            Refusal::Full,
            Refusal::Draining,
        ];
        let words: HashSet<_> = all.iter().map(Refusal::label).collect();
        assert_eq!(words.len(), all.len());
        for refusal in all {
            let answer = refusal.answer();
            let challenge = answer.headers().get(WWW_AUTHENTICATE);
            let asked = answer.status() == StatusCode::UNAUTHORIZED;
            assert_eq!(challenge.is_some(), asked, "{refusal:?}");
            // A description holds neither quotes nor backslashes (RFC 6750, section 3).
            let quotes =
                challenge.map_or(0, |c| c.as_bytes().iter().filter(|b| **b == b'"').count());
            assert!(matches!(quotes, 0 | 2 | 6), "{challenge:?}");
        }
    }
}
