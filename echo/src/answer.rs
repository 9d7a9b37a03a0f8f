//! How an answer is written: a status, a kind of body, and the headers that belong to it.

use bytes::Bytes;
use futures_util::Stream;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    Response, StatusCode,
    body::Frame,
    header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue},
};
use serde::Serialize;
use std::io;

/// The body of any answer, whole or streamed.
pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// An answer whose body is at hand.
pub(crate) fn whole(
    status: StatusCode,
    kind: &'static str,
    body: impl Into<Bytes>,
) -> Response<Body> {
    let body = Full::new(body.into()).map_err(|never| match never {});
    let mut answer = Response::new(body.boxed_unsync());
    *answer.status_mut() = status;
    with(answer, CONTENT_TYPE, kind)
}

pub(crate) fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    whole(status, "text/plain; charset=utf-8", body)
}

pub(crate) fn json(status: StatusCode, body: &impl Serialize) -> Response<Body> {
    json_as("application/json", status, body)
}

/// JSON under a media type of its own, such as `application/problem+json`.
pub(crate) fn json_as(
    kind: &'static str,
    status: StatusCode,
    body: &impl Serialize,
) -> Response<Body> {
    match serde_json::to_vec(body) {
        Ok(mut bytes) => {
            bytes.push(b'\n');
            whole(status, kind, bytes)
        }
        // Our own structs have text keys and no maps, so this stays a formality.
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

/// An answer whose body comes as it is made; the client's pace is the pace.
pub(crate) fn streamed(
    kind: HeaderValue,
    body: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
) -> Response<Body> {
    use futures_util::TryStreamExt;
    let frames = StreamBody::new(body.map_ok(Frame::data));
    let mut answer = Response::new(frames.boxed_unsync());
    answer.headers_mut().insert(CONTENT_TYPE, kind);
    answer
}

/// The same answer with one more header.
pub(crate) fn with(
    mut answer: Response<Body>,
    name: HeaderName,
    value: &'static str,
) -> Response<Body> {
    answer
        .headers_mut()
        .insert(name, HeaderValue::from_static(value));
    answer
}

/// The same answer, not to be kept by any cache.
pub(crate) fn fresh(answer: Response<Body>) -> Response<Body> {
    with(answer, CACHE_CONTROL, "no-store")
}
