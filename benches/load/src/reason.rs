//! The one word with which an answer says why it is a no.

use http::HeaderMap;
use serde_json::Value;

/// The member `reason` of a problem body (RFC 9457), or the `details` of `Proxy-Status` (RFC 9209),
/// where the body has not come yet.
pub fn of(headers: &HeaderMap, body: Option<&[u8]>) -> Option<String> {
    let status = || headers.get("proxy-status")?.to_str().ok();
    body.and_then(of_body).or_else(|| details(status()?))
}

/// The member `reason` of a problem body.
pub fn of_body(body: &[u8]) -> Option<String> {
    let problem: Value = serde_json::from_slice(body).ok()?;
    plain(problem.get("reason")?.as_str()?)
}

fn details(status: &str) -> Option<String> {
    let (_, details) = status.split_once("details=\"")?;
    plain(details.split_once('"')?.0)
}

/// A longer word, or a stranger one, is no reason: it would swell the report.
fn plain(word: &str) -> Option<String> {
    let fits = (1..=64).contains(&word.len())
        && word
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
    fits.then(|| word.to_owned())
}

/// What the report counts by, as `503 no_peer`.
pub fn word(status: u16, reason: Option<String>) -> String {
    reason.map_or(status.to_string(), |reason| format!("{status} {reason}"))
}

/// Is this word a limit's no? Those are counted apart: the system keeps what it is told to keep.
pub fn is_limit(word: &str) -> bool {
    let mut words = word.rsplit(": ").next().unwrap_or(word).split(' ');
    match (words.next(), words.next()) {
        (Some("429"), _) => true,
        (Some("503"), Some(reason)) => reason.ends_with("_limit"),
        // A Close frame of edge's or of echo's.
        (Some("1008"), Some(reason)) => matches!(reason, "message_limit" | "message_rate"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_tells_and_else_the_field() {
        let mut headers = HeaderMap::new();
        let field = "edge; error=http_request_denied; details=\"global_limit\"";
        headers.insert("proxy-status", field.parse().unwrap());
        let body = br#"{"status":429,"reason":"client_limit"}"#;
        let told = |body| of(&headers, body);
        assert_eq!(told(Some(body.as_slice())).unwrap(), "client_limit");
        assert_eq!(told(Some(b"{\"stat")).unwrap(), "global_limit");
        assert_eq!(told(None).unwrap(), "global_limit");
        assert_eq!(of(&HeaderMap::new(), Some(b"upstream error")), None);
    }

    #[test]
    fn a_reason_that_is_no_word_is_left_out() {
        for reason in ["", "a b", "<b>", &"a".repeat(65)] {
            let body = serde_json::json!({ "reason": reason }).to_string();
            assert_eq!(of_body(body.as_bytes()), None, "{reason}");
        }
    }

    #[test]
    fn limits_are_told_from_faults() {
        for limit in [
            "429",
            "429 client_limit",
            "503 global_limit",
            "upgrade: 429 websocket_client_limit",
            "upgrade: 503 websocket_global_limit",
            "closed: 1008 message_limit",
            "closed: 1008 message_rate",
        ] {
            assert!(is_limit(limit), "{limit}");
        }
        for fault in [
            "503",
            "503 no_peer",
            "upgrade: 503 full",
            "404 no_route",
            "answer: timeout",
            "closed: 1008 token_expired",
            "closed: 1012 draining",
        ] {
            assert!(!is_limit(fault), "{fault}");
        }
    }
}
