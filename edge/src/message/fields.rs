//! What HTTP/2 can carry and HTTP/1.1 cannot say without a doubt (RFC 9113 8.2 and 8.3).

use http::{HeaderMap, Method, header};

use super::class;
use crate::forward;
use crate::refusal::Refusal;

/// Fields of a connection, which HTTP/2 has none of (RFC 9113 8.2.2).
const OF_CONNECTION: [&str; 5] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "transfer-encoding",
    "upgrade",
];

/// Can this request of HTTP/2 be said in HTTP/1.1, and is read there as here? `target` is its
/// `:path`.
pub fn check_fields(method: &Method, target: &[u8], headers: &HeaderMap) -> Result<(), Refusal> {
    if *method != Method::CONNECT && !target.starts_with(b"/") {
        return Err(Refusal::BadPath);
    }
    if !class::is_target(target) {
        return Err(Refusal::MessageForm);
    }
    for name in OF_CONNECTION {
        if headers.contains_key(name) {
            return Err(Refusal::MessageForm);
        }
    }
    for (name, value) in headers {
        // The name was read as HTTP/2 writes it; `_` is `-` to many a peer.
        let framing = matches!(name.as_str(), "content_length" | "transfer_encoding");
        if framing
            || !class::is_token(name.as_str().as_bytes())
            || !class::is_value(value.as_bytes())
        {
            return Err(Refusal::MessageForm);
        }
    }
    let te = headers.get_all(header::TE).iter();
    let trailers = |value: &http::HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"trailers");
    if !te.into_iter().all(trailers) {
        return Err(Refusal::MessageForm);
    }
    lengths(headers)?;
    hosts(headers)
}

fn lengths(headers: &HeaderMap) -> Result<(), Refusal> {
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    match (lengths.next(), lengths.next()) {
        (None, _) => Ok(()),
        (Some(one), None) if class::length(one.as_bytes()).is_some() => Ok(()),
        _ => Err(Refusal::MessageForm),
    }
}

fn hosts(headers: &HeaderMap) -> Result<(), Refusal> {
    let mut hosts = headers.get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(one), None) if one.to_str().ok().and_then(forward::host).is_some() => Ok(()),
        _ => Err(Refusal::BadHost),
    }
}
