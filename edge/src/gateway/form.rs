//! The first step at the door: the form of a request, its sizes, and its path.

use http::{HeaderMap, Version, header};
use pingora::proxy::Session;

use super::request::path_of;
use super::{Gateway, Held};
use crate::refusal::Refusal;
use crate::{forward, message};

impl Gateway {
    /// What could be read in two ways goes no further, and neither does what is too large. From
    /// here on the target holds the path as it is written in one way.
    pub(super) fn form(session: &mut Session, context: &Held) -> Result<(), Refusal> {
        let formed = check_form(session, context);
        if formed.is_err() {
            // Nobody knows where the next request would begin, or wants to.
            session.set_keepalive(None);
        }
        formed
    }
}

fn check_form(session: &mut Session, context: &Held) -> Result<(), Refusal> {
    if let Some(refusal) = context.connection.fault() {
        return Err(refusal);
    }
    let request = session.req_header();
    if request.version == Version::HTTP_2 {
        message::check_fields(&request.method, request.raw_path(), &request.headers)?;
    }
    let bounds = &context.plan.config.request;
    if request.raw_path().len() > bounds.target {
        return Err(Refusal::TargetTooLong);
    }
    let headers = &request.headers;
    if headers.len() > bounds.fields || size(headers) > bounds.fields_size {
        return Err(Refusal::FieldsTooLarge);
    }
    let path = path_of(request).ok_or(Refusal::BadPath)?;
    let written = bounds.paths.normalise(path)?;
    // A target may come with scheme and host; that is the host of `Host` (RFC 9112 3.2.2).
    if written == path && request.raw_path().starts_with(b"/") {
        return Ok(());
    }
    let target = match request.uri.query() {
        Some(query) => format!("{written}?{query}"),
        None => written.into_owned(),
    };
    let request = session.req_header_mut();
    let set = request.set_raw_path(target.as_bytes());
    set.map_err(|_| Refusal::BadPath)
}

/// Fields as HTTP/1.1 writes them: each with a colon, a blank and the end of its line.
fn size(headers: &HeaderMap) -> usize {
    let field = |(name, value): (&header::HeaderName, &header::HeaderValue)| {
        name.as_str().len() + value.len() + 4
    };
    headers.iter().map(field).sum()
}

/// Says the head that the body is larger than it may be?
pub(super) fn says_too_much(headers: &HeaderMap, most: Option<u64>) -> bool {
    let length = forward::content_length(headers);
    matches!((length, most), (Some(length), Some(most)) if length > most)
}
