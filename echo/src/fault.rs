//! Answers that misbehave on demand, so that a gateway in front can be tried.

use crate::answer::{self, Body};
use bytes::Bytes;
use futures_util::stream;
use http_body_util::BodyExt;
use hyper::{
    Method, Request, Response, StatusCode, Uri,
    body::Incoming,
    header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue},
};
use serde::Serialize;
use std::{io, time::Duration};
use tokio::time::{sleep, timeout};

/// The longest answer: what `/delay` and `/drip` may take, in milliseconds.
pub(crate) const LONGEST: u64 = 60_000;
/// The largest answer of `/bytes`.
pub(crate) const LARGEST: usize = 10 << 20;
/// How long a request body may pause.
const BODY_WAIT: Duration = Duration::from_secs(30);
/// How much of a request body is read for the sake of an answer that ignores it.
const IGNORED: usize = 1 << 20;

static CHUNK: [u8; 16 << 10] = [b'e'; 16 << 10];

/// Answers after so long.
pub(crate) async fn delay(time: Duration) -> Response<Body> {
    sleep(time).await;
    let body = format!("waited {} ms\n", time.as_millis());
    answer::text(StatusCode::OK, body)
}

/// Answers with this status.
pub(crate) fn status(status: StatusCode) -> Response<Body> {
    let reason = status.canonical_reason().unwrap_or("no reason known");
    match status {
        StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED => {
            answer::text(status, "")
        }
        _ => answer::text(status, format!("{} {reason}\n", status.as_u16())),
    }
}

/// Answers with the request's own head, to see what a gateway made of it.
pub(crate) fn head(method: &Method, uri: &Uri, headers: &HeaderMap) -> Response<Body> {
    #[derive(Serialize)]
    struct Head<'a> {
        method: &'a str,
        path: &'a str,
        headers: Vec<(&'a str, String)>,
    }
    let pairs = headers.iter().map(|(name, value)| {
        let value = String::from_utf8_lossy(value.as_bytes());
        (name.as_str(), value.into_owned())
    });
    let head = Head {
        method: method.as_str(),
        path: uri.path_and_query().map_or("", |path| path.as_str()),
        headers: pairs.collect(),
    };
    answer::json(StatusCode::OK, &head)
}

/// So many bytes, of a length known beforehand.
pub(crate) fn bytes(count: usize) -> Response<Body> {
    let chunks = stream::unfold(count, async |left| {
        let mut chunk = Bytes::from_static(&CHUNK);
        chunk.truncate(left);
        let after = left - chunk.len();
        (!chunk.is_empty()).then_some((Ok(chunk), after))
    });
    let mut answer = answer::streamed(octets(), chunks);
    answer
        .headers_mut()
        .insert(CONTENT_LENGTH, HeaderValue::from(count));
    answer
}

/// So many bytes, one at a time, of a length unknown to the client.
pub(crate) fn drip(count: u64, every: Duration) -> Response<Body> {
    let drops = stream::unfold(count, move |left: u64| async move {
        let after = left.checked_sub(1)?;
        sleep(every).await;
        Some((Ok(Bytes::from_static(b".")), after))
    });
    answer::streamed(octets(), drops)
}

/// Streams the request's body back under the request's own media type.
pub(crate) fn echo(request: Request<Incoming>) -> Response<Body> {
    let (mut head, body) = request.into_parts();
    let kind = head.headers.remove(CONTENT_TYPE).unwrap_or_else(octets);
    let chunks = stream::unfold(Some(body), async |body| {
        let mut body = body?;
        match next(&mut body).await {
            Ok(Some(chunk)) => Some((Ok(chunk), Some(body))),
            Ok(None) => None,
            Err(error) => Some((Err(error), None)),
        }
    });
    answer::streamed(kind, chunks)
}

/// Reads a body that nobody wants, so that closing the connection does not cost the client its answer.
pub(crate) async fn ignore(mut body: Incoming) {
    let mut left = IGNORED;
    while let Ok(Some(chunk)) = next(&mut body).await {
        let Some(after) = left.checked_sub(chunk.len()) else {
            return;
        };
        left = after;
    }
}

/// The next piece of a body; trailers are none.
async fn next(body: &mut Incoming) -> io::Result<Option<Bytes>> {
    match timeout(BODY_WAIT, body.frame()).await {
        Ok(None) => Ok(None),
        Ok(Some(Ok(frame))) => Ok(Some(frame.into_data().unwrap_or_default())),
        Ok(Some(Err(error))) => Err(io::Error::other(error)),
        Err(late) => Err(io::Error::new(io::ErrorKind::TimedOut, late)),
    }
}

fn octets() -> HeaderValue {
    HeaderValue::from_static("application/octet-stream")
}
