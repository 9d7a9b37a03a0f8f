//! The opening handshake of RFC 6455, section 4.2: who asks rightly gets 101 and a place.

use crate::{
    answer::{self, Body},
    credential,
    record::Visitor,
    refusal::Refusal,
    shared::{Place, Shared},
};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::{
    HeaderMap, Request, Response, StatusCode, Version,
    header::{
        CONNECTION, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
        SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
    },
    upgrade::OnUpgrade,
};
use std::{
    net::SocketAddr,
    time::{Instant, SystemTime},
};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tracing::info;

/// How much of a header the log keeps.
const LOGGED: usize = 200;

/// A WebSocket about to be: all that its life needs once the 101 is written.
pub(crate) struct Opening {
    pub(crate) upgrade: OnUpgrade,
    pub(crate) visitor: Visitor,
    pub(crate) place: Place,
    /// When what let it in runs out.
    pub(crate) expires: Option<Instant>,
}

/// Answers a request for a WebSocket; who is refused is in the log.
pub(crate) fn open<B>(
    shared: &Shared,
    peer: SocketAddr,
    mut request: Request<B>,
) -> Result<(Response<Body>, Opening), Refusal> {
    permit(shared, peer, &mut request).inspect_err(|refusal| {
        info!(
            %peer,
            x_forwarded_for = logged(request.headers(), "x-forwarded-for"),
            x_request_id = logged(request.headers(), "x-request-id"),
            status = refusal.status().as_u16(),
            reason = refusal.label(),
            "connection_refused"
        );
    })
}

/// Checks the request, then who asks, and gives a place to whom it may.
fn permit<B>(
    shared: &Shared,
    peer: SocketAddr,
    request: &mut Request<B>,
) -> Result<(Response<Body>, Opening), Refusal> {
    let accept = verify(request.version(), request.headers())?;
    if shared.is_draining() {
        return Err(Refusal::Draining);
    }
    let (headers, query) = (request.headers(), request.uri().query());
    let pass = shared.gate.admit(headers, query, SystemTime::now())?;
    let place = shared.socket_place().ok_or(Refusal::Full)?;
    if let Some(by) = pass.by {
        shared.metrics.admitted(by);
    }
    let protocol = credential::protocol(headers);
    let visitor = Visitor {
        id: shared.next_id(),
        peer,
        forwarded_for: logged(headers, "x-forwarded-for"),
        request_id: logged(headers, "x-request-id"),
        auth: pass.by,
    };
    let opening = Opening {
        upgrade: hyper::upgrade::on(request),
        visitor,
        place,
        expires: pass.lasts.map(|lasts| Instant::now() + lasts),
    };
    Ok((switching(accept, protocol), opening))
}

/// Returns the value of `Sec-WebSocket-Accept`.
fn verify(version: Version, headers: &HeaderMap) -> Result<HeaderValue, Refusal> {
    // An upgrade asked for over HTTP/1.0 is to be ignored (RFC 9110, section 7.8).
    if version != Version::HTTP_11
        || !names(headers, CONNECTION, "upgrade")
        || !names(headers, UPGRADE, "websocket")
    {
        return Err(Refusal::NoUpgrade);
    }
    if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|v| v != "13") {
        return Err(Refusal::Version);
    }
    let key = headers
        .get(SEC_WEBSOCKET_KEY)
        .map(HeaderValue::as_bytes)
        .filter(|key| is_key(key))
        .ok_or(Refusal::Key)?;
    HeaderValue::try_from(derive_accept_key(key)).map_err(|_| Refusal::Key)
}

/// Whether a comma-separated header names a token, in any case.
fn names(headers: &HeaderMap, name: HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|word| word.trim().eq_ignore_ascii_case(token))
}

/// Sixteen bytes in base64 are 22 letters and two `=`.
fn is_key(key: &[u8]) -> bool {
    key.strip_suffix(b"==").is_some_and(|letters| {
        letters.len() == 22
            && letters
                .iter()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, b'+' | b'/'))
    })
}

/// The part of a header that the log keeps.
fn logged(headers: &HeaderMap, name: &str) -> Option<String> {
    let value = headers.get(name)?.to_str().ok()?;
    Some(value.chars().take(LOGGED).collect())
}

fn switching(accept: HeaderValue, protocol: Option<HeaderValue>) -> Response<Body> {
    let body = Empty::<Bytes>::new().map_err(|never| match never {});
    let mut answer = Response::new(body.boxed_unsync());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    answer.headers_mut().insert(SEC_WEBSOCKET_ACCEPT, accept);
    if let Some(protocol) = protocol {
        answer
            .headers_mut()
            .insert(SEC_WEBSOCKET_PROTOCOL, protocol);
    }
    let answer = answer::with(answer, CONNECTION, "Upgrade");
    answer::with(answer, UPGRADE, "websocket")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                )
            })
            .collect()
    }

    const RIGHT: [(&str, &str); 4] = [
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "WebSocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];

    #[test]
    fn the_key_of_the_rfc_gets_the_answer_of_the_rfc() {
        let accept = verify(Version::HTTP_11, &headers(&RIGHT)).unwrap();
        assert_eq!(accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn each_header_is_needed() {
        for (left_out, refusal) in [
            (0, Refusal::NoUpgrade),
            (1, Refusal::NoUpgrade),
            (2, Refusal::Version),
            (3, Refusal::Key),
        ] {
            let mut pairs = RIGHT.to_vec();
            pairs.remove(left_out);
            assert_eq!(verify(Version::HTTP_11, &headers(&pairs)), Err(refusal));
        }
    }

    #[test]
    fn an_upgrade_over_http_1_0_is_none() {
        let refused = verify(Version::HTTP_10, &headers(&RIGHT));
        assert_eq!(refused, Err(Refusal::NoUpgrade));
    }

    #[test]
    fn a_key_is_sixteen_bytes() {
        assert!(is_key(b"dGhlIHNhbXBsZSBub25jZQ=="));
        assert!(!is_key(b"dGhlIHNhbXBsZQ=="));
        assert!(!is_key(b"dGhlIHNhbXBsZSBub25jZQ??"));
        assert!(!is_key(b"dGhlIHNhbXBsZSBub2*jZQ=="));
        assert!(!is_key(b""));
    }
}
