//! The one place that writes edge's own answers, and the dressing room that every answer passes.
//!
//! Pingora's own `respond_error` closes the connection, which would turn each 429 into a
//! reconnect; here the connection stays open where the request allows it.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header};
use pingora::Result;
use pingora::http::ResponseHeader;
use pingora::proxy::Session;

use crate::credentials::BEARER;
use crate::exchange::Exchange;
use crate::forward;
use crate::grpc;
use crate::refusal::Refusal;

const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");
const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// A problem body (RFC 9457). Nothing in it needs escaping: the texts are edge's own, and of an
/// id only plain characters are taken over (`forward::received_id`).
fn problem(refusal: &Refusal, instance: &str) -> String {
    let (status, reason) = (refusal.status(), refusal.reason());
    let title = status.canonical_reason().unwrap_or("Client Closed Request");
    [
        r#"{"type":"urn:edge:problem:"#,
        reason,
        r#"","title":""#,
        title,
        r#"","status":"#,
        status.as_str(),
        r#","detail":""#,
        refusal.detail(),
        r#"","reason":""#,
        reason,
        r#"","instance":""#,
        instance,
        r#""}"#,
    ]
    .concat()
}

fn proxy_status(refusal: &Refusal) -> String {
    [
        "edge; error=",
        refusal.proxy_error(),
        "; details=\"",
        refusal.reason(),
        "\"",
    ]
    .concat()
}

/// A request's body up to this size is read and thrown away so that the connection can stay open.
const DRAIN: u64 = 64 << 10;
/// How long such a body may take.
const DRAIN_TIME: Duration = Duration::from_secs(1);

/// Answers with this refusal.
pub(crate) async fn refuse(
    session: &mut Session,
    refusal: Refusal,
    exchange: &mut Exchange,
) -> Result<()> {
    if grpc::is_grpc(&session.req_header().headers) {
        return refuse_call(session, refusal, exchange).await;
    }
    let body = problem(&refusal, &exchange.id);
    let mut header = ResponseHeader::build_no_case(refusal.status(), Some(10))?;
    let kind = HeaderValue::from_static("application/problem+json");
    header.insert_header(header::CONTENT_TYPE, kind)?;
    header.insert_header(header::CONTENT_LENGTH, body.len())?;
    header.insert_header(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))?;
    header.insert_header(PROXY_STATUS, proxy_status(&refusal))?;
    if let Some(seconds) = refusal.retry_after() {
        header.insert_header(header::RETRY_AFTER, seconds)?;
    }
    match &refusal {
        Refusal::MethodNotAllowed { allow } => header.insert_header(header::ALLOW, allow)?,
        Refusal::HandshakeVersion => {
            header.insert_header(header::SEC_WEBSOCKET_VERSION, "13")?;
        }
        _ => {}
    }
    if let Some(challenge) = challenge(&refusal, exchange.challenge) {
        header.insert_header(header::WWW_AUTHENTICATE, challenge)?;
    }
    header.insert_header(forward::X_REQUEST_ID, exchange.id.as_str())?;
    put_on(&mut header, exchange)?;
    exchange.status = refusal.status().as_u16();
    // Of what could be read in two ways nobody knows where it ends.
    if refusal != Refusal::MessageForm {
        drain_small_body(session).await;
    }
    exchange.refusal = Some(refusal);
    let empty = session.req_header().method == Method::HEAD;
    session
        .write_response_header(Box::new(header), empty)
        .await?;
    if !empty {
        session
            .write_response_body(Some(Bytes::from(body)), true)
            .await?;
    }
    Ok(())
}

/// What a client without good credentials is asked for (RFC 9110 11.6.1), and in the words of
/// RFC 6750 3 what was wrong with its token. A key's challenge has no more to say.
fn challenge(refusal: &Refusal, scheme: Option<&'static str>) -> Option<String> {
    let scheme = scheme?;
    let asked = [scheme, " realm=\"edge\""].concat();
    let told = match refusal {
        Refusal::ScopeMissing { scopes } if scheme == BEARER => {
            format!("{asked}, error=\"insufficient_scope\", scope=\"{scopes}\"")
        }
        Refusal::RoleMissing if scheme == BEARER => {
            format!("{asked}, error=\"insufficient_scope\"")
        }
        _ if refusal.status() != StatusCode::UNAUTHORIZED => return None,
        // Who has shown nothing has done nothing wrong.
        Refusal::CredentialsMissing => asked,
        _ if scheme == BEARER => {
            let description = refusal.detail();
            format!("{asked}, error=\"invalid_token\", error_description=\"{description}\"")
        }
        _ => asked,
    };
    Some(told)
}

/// Refuses a call of gRPC: its client reads the code, and takes any other status for a fault of
/// the way ("Trailers-Only" in gRPC's words). The status of HTTP stands in the log.
async fn refuse_call(
    session: &mut Session,
    refusal: Refusal,
    exchange: &mut Exchange,
) -> Result<()> {
    let mut header = ResponseHeader::build_no_case(StatusCode::OK, Some(6))?;
    let kind = HeaderValue::from_static("application/grpc");
    header.insert_header(header::CONTENT_TYPE, kind)?;
    for (name, value) in &trailers(&refusal) {
        header.insert_header(name, value)?;
    }
    header.insert_header(PROXY_STATUS, proxy_status(&refusal))?;
    header.insert_header(forward::X_REQUEST_ID, exchange.id.as_str())?;
    if session.req_header().version != Version::HTTP_2 {
        header.insert_header(header::CONTENT_LENGTH, 0)?;
    }
    put_on(&mut header, exchange)?;
    exchange.status = refusal.status().as_u16();
    exchange.refusal = Some(refusal);
    session.write_response_header(Box::new(header), true).await
}

/// How a call of gRPC ends that edge refuses, or breaks off. Nothing in it needs escaping.
pub(crate) fn trailers(refusal: &Refusal) -> HeaderMap {
    let message = [refusal.reason(), ": ", refusal.detail()].concat();
    let message = HeaderValue::from_str(&message);
    let message = message.unwrap_or(HeaderValue::from_static("refused"));
    HeaderMap::from_iter([
        (
            grpc::GRPC_STATUS,
            HeaderValue::from(u16::from(grpc::status(refusal))),
        ),
        (grpc::GRPC_MESSAGE, message),
    ])
}

/// Reads a small request body to its end; what is larger, or waits for a `100 Continue` that
/// never comes, closes the connection instead.
async fn drain_small_body(session: &mut Session) {
    let headers = &session.req_header().headers;
    let length = forward::content_length(headers);
    let small =
        length.is_some_and(|length| length <= DRAIN) && !headers.contains_key(header::EXPECT);
    if small && !session.is_body_done() {
        session.set_total_drain_timeout(Some(DRAIN_TIME));
        // A body that does not come leaves the connection to be closed.
        let _ = session.drain_request_body().await;
    }
}

/// A whole answer as bytes, for connections on which there was no request to answer.
pub(crate) fn bare(refusal: &Refusal) -> Vec<u8> {
    let body = problem(refusal, "");
    let status = refusal.status();
    let title = status.canonical_reason().unwrap_or_default();
    let allow = if status == http::StatusCode::METHOD_NOT_ALLOWED {
        "Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n"
    } else {
        ""
    };
    let mut answer = format!(
        "HTTP/1.1 {} {title}\r\nContent-Type: application/problem+json\r\nContent-Length: {}\r\n{allow}Cache-Control: no-store\r\nProxy-Status: {}\r\nConnection: close\r\n\r\n",
        status.as_u16(),
        body.len(),
        proxy_status(refusal),
    )
    .into_bytes();
    answer.extend_from_slice(body.as_bytes());
    answer
}

/// Answers a preflight with what the exchange's dressing says.
pub(crate) async fn preflight(session: &mut Session, exchange: &mut Exchange) -> Result<()> {
    let mut header = ResponseHeader::build_no_case(StatusCode::NO_CONTENT, Some(10))?;
    header.insert_header(forward::X_REQUEST_ID, exchange.id.as_str())?;
    put_on(&mut header, exchange)?;
    // Also where any origin may ask: methods and fields are told apart.
    header.insert_header(header::VARY, HeaderValue::from_static(ASKED_BY))?;
    exchange.status = StatusCode::NO_CONTENT.as_u16();
    drain_small_body(session).await;
    session.write_response_header(Box::new(header), true).await
}

/// What a preflight's answer depends on.
const ASKED_BY: &str = "Origin, Access-Control-Request-Method, Access-Control-Request-Headers";

/// What the route gives every answer. What is kept in the cache stays as the peer has sent it.
fn put_on(header: &mut ResponseHeader, exchange: &Exchange) -> Result<()> {
    let Some(dressing) = &exchange.dressing else {
        return Ok(());
    };
    for name in &dressing.remove {
        header.remove_header(name);
    }
    for (name, value) in &dressing.set {
        header.insert_header(name.clone(), value.clone())?;
    }
    for (name, value) in &dressing.add {
        header.append_header(name.clone(), value.clone())?;
    }
    for (name, value) in &dressing.unless {
        if !header.headers.contains_key(name) {
            header.insert_header(name.clone(), value.clone())?;
        }
    }
    if exchange.varies_by_origin {
        header.append_header(header::VARY, HeaderValue::from_static("Origin"))?;
    }
    Ok(())
}

/// What every answer from an upstream or the cache gets before it leaves.
pub(crate) fn dress(
    header: &mut ResponseHeader,
    exchange: &Exchange,
    cache_status: Option<String>,
) -> Result<()> {
    header.insert_header(forward::X_REQUEST_ID, exchange.id.as_str())?;
    header.insert_header(header::VIA, forward::via(&header.headers, header.version))?;
    if let Some(cache_status) = cache_status {
        header.append_header(CACHE_STATUS, cache_status)?;
    }
    put_on(header, exchange)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_tells_the_same_reason_everywhere() {
        for refusal in Refusal::all() {
            let body: serde_json::Value = serde_json::from_str(&problem(&refusal, "id-1")).unwrap();
            assert_eq!(body["reason"], refusal.reason());
            assert_eq!(
                body["type"],
                format!("urn:edge:problem:{}", refusal.reason())
            );
            assert_eq!(body["status"], refusal.status().as_u16());
            assert_eq!(body["instance"], "id-1");
            assert!(proxy_status(&refusal).contains(refusal.reason()));
        }
    }

    #[test]
    fn a_bare_answer_is_framed_and_closes() {
        let answer = String::from_utf8(bare(&Refusal::BadRequest)).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 400 Bad Request\r\n"));
        assert!(head.contains(&format!("Content-Length: {}", body.len())));
        assert!(head.contains("Connection: close"));
    }
}
