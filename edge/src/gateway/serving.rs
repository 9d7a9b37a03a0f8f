//! How an answer that is kept, or arrives for the cache, goes out to one client.

use std::time::SystemTime;

use http::{Method, StatusCode, Version, header};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::proxy::Session;
use pingora::{Error, ErrorType, Result};

use super::compressing::at_once;
use super::conversing::gone;
use super::{Context, in_time};
use crate::cache::{self, Part, Told};
use crate::exchange::CacheState;
use crate::flight::{Head, Reader};
use crate::respond;
use crate::store::Entry;

/// Answers with what is kept.
pub(super) async fn serve(
    session: &mut Session,
    context: &mut Context,
    entry: &Entry,
    told: Told,
) -> Result<()> {
    entry.hit();
    context.exchange.cache = match told.ttl {
        _ if !told.hit => CacheState::Revalidated,
        Some(..0) => CacheState::Stale,
        _ => CacheState::Hit,
    };
    context.exchange.cache_reason = told.detail;
    let request = session.req_header();
    let mut head = Box::new(entry.head.clone());
    let age = entry.lifetime.age(SystemTime::now()).as_secs();
    head.insert_header(header::AGE, age)?;
    let length = entry.body.len() as u64;
    let shape = shape(request, &mut head, Some(length))?;
    let body = match shape {
        Shape::HeadOnly => None,
        Shape::Whole => Some(entry.body.clone()),
        Shape::Part { first, length } => {
            let first = usize::try_from(first).unwrap_or(usize::MAX);
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            let end = first.saturating_add(length).min(entry.body.len());
            Some(entry.body.slice(first.min(end)..end))
        }
    };
    let body = body.filter(|body| !body.is_empty());
    let end = body.is_none();
    begin(session, context, head, &entry.head, told, end).await?;
    match body {
        Some(body) => context.outlet.finish(session, Some(body)).await,
        None => Ok(()),
    }
}

/// Answers with what is arriving.
pub(super) async fn stream(
    session: &mut Session,
    context: &mut Context,
    mut reader: Reader,
    arriving: &Head,
    mut told: Told,
) -> Result<()> {
    let led = !told.collapsed;
    told.fwd_status = Some(arriving.head.status.as_u16());
    match &arriving.kept {
        Ok((lifetime, _)) => {
            told.stored = true;
            told.ttl = Some(lifetime.left(SystemTime::now()));
        }
        Err(reason) => {
            told.detail = Some(reason.as_str());
            context.exchange.cache_reason = Some(reason.as_str());
        }
    }
    let request = session.req_header();
    let mut head = Box::new(arriving.head.clone());
    let shape = shape(request, &mut head, arriving.length)?;
    let head_only = matches!(shape, Shape::HeadOnly) || arriving.length == Some(0);
    let left = context.deadline().left();
    let passing = async {
        begin(session, context, head, &arriving.head, told, head_only).await?;
        if head_only {
            return Ok(());
        }
        let passed = pass_body(session, context, &mut reader, &shape).await;
        if led {
            context.exchange.upstream = reader.upstream();
        }
        passed
    };
    let late =
        || Err(Error::explain(ErrorType::ReadTimedout, "the answer took too long").into_up());
    in_time(left, passing).await.unwrap_or_else(late)
}

async fn pass_body(
    session: &mut Session,
    context: &mut Context,
    reader: &mut Reader,
    shape: &Shape,
) -> Result<()> {
    let (mut skip, mut left) = match shape {
        Shape::Part { first, length } => (*first, *length),
        Shape::HeadOnly | Shape::Whole => (0, u64::MAX),
    };
    while left > 0 {
        let at_once = match context.outlet.holds() {
            true => at_once(reader.next()).await,
            false => None,
        };
        let chunk = match at_once {
            Some(chunk) => chunk,
            None => {
                context.outlet.flush(session).await?;
                tokio::select! {
                    biased;
                    chunk = reader.next() => chunk,
                    // Listened to, the client also gets what was said so far.
                    error = gone(session, true) => return Err(error.into_down()),
                }
            }
        };
        let chunk = chunk.map_err(|refusal| {
            context.exchange.refusal = Some(refusal);
            Error::explain(ErrorType::ConnectionClosed, "the fetch has failed").into_up()
        })?;
        let Some(chunk) = chunk else { break };
        let from = usize::try_from(skip).unwrap_or(usize::MAX).min(chunk.len());
        let most = usize::try_from(left).unwrap_or(usize::MAX);
        let end = from.saturating_add(most).min(chunk.len());
        skip -= from as u64;
        left -= (end - from) as u64;
        if end > from {
            context
                .outlet
                .write(session, chunk.slice(from..end))
                .await?;
        }
    }
    context.outlet.finish(session, None).await
}

/// How much of a body a request gets.
enum Shape {
    HeadOnly,
    Whole,
    Part { first: u64, length: u64 },
}

/// Makes the answer what the request asks for: the whole, a part of it, or only word that the
/// client's own copy holds.
fn shape(request: &RequestHeader, head: &mut ResponseHeader, length: Option<u64>) -> Result<Shape> {
    if head.status == StatusCode::OK {
        if cache::not_modified(&request.headers, &head.headers) {
            not_modified(head)?;
            return Ok(Shape::HeadOnly);
        }
        if let Some(length) = length.filter(|_| request.method == Method::GET) {
            match cache::part(&request.headers, &head.headers, length) {
                Part::Whole => {}
                Part::Bytes(bytes) => return partial(head, &bytes, length),
                Part::Unsatisfiable => return unsatisfiable(head, length),
            }
        }
    }
    Ok(match request.method == Method::HEAD {
        true => Shape::HeadOnly,
        false => Shape::Whole,
    })
}

/// A 304 has the fields that RFC 9110 15.4.5 wants, and none that speak of a body.
fn not_modified(head: &mut ResponseHeader) -> Result<()> {
    head.set_status(StatusCode::NOT_MODIFIED)?;
    for name in [
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
        header::CONTENT_TYPE,
        header::CONTENT_ENCODING,
        header::CONTENT_LANGUAGE,
        header::CONTENT_RANGE,
    ] {
        head.remove_header(&name);
    }
    Ok(())
}

fn partial(
    head: &mut ResponseHeader,
    bytes: &std::ops::RangeInclusive<u64>,
    length: u64,
) -> Result<Shape> {
    let (first, last) = (*bytes.start(), *bytes.end());
    let part = last - first + 1;
    head.set_status(StatusCode::PARTIAL_CONTENT)?;
    head.insert_header(header::CONTENT_RANGE, cache::content_range(bytes, length))?;
    head.insert_header(header::CONTENT_LENGTH, part)?;
    Ok(Shape::Part {
        first,
        length: part,
    })
}

fn unsatisfiable(head: &mut ResponseHeader, length: u64) -> Result<Shape> {
    head.set_status(StatusCode::RANGE_NOT_SATISFIABLE)?;
    head.insert_header(header::CONTENT_RANGE, format!("bytes */{length}"))?;
    head.insert_header(header::CONTENT_LENGTH, 0)?;
    head.remove_header(&header::CONTENT_TYPE);
    Ok(Shape::HeadOnly)
}

/// A body of unknown length is sent in chunks, so that one that was cut off cannot look complete
/// (RFC 9112 6.3). A client of HTTP/1.0 cannot read them: there the connection's end is the body's.
pub(super) fn frame(session: &mut Session, head: &mut ResponseHeader) -> Result<()> {
    let old = session.req_header().version < Version::HTTP_11;
    if old {
        head.remove_header(&header::TRANSFER_ENCODING);
    }
    let framed = head.headers.contains_key(header::CONTENT_LENGTH)
        || head.headers.contains_key(header::TRANSFER_ENCODING);
    let bodiless = [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED].contains(&head.status);
    match (framed || bodiless, old) {
        (true, _) => {}
        (false, true) => session.set_keepalive(None),
        (false, false) => head.insert_header(header::TRANSFER_ENCODING, "chunked")?,
    }
    head.set_version(Version::HTTP_11);
    Ok(())
}

/// The head goes out, dressed like every answer; `whole` is that of the answer that it comes of.
async fn begin(
    session: &mut Session,
    context: &mut Context,
    mut head: Box<ResponseHeader>,
    whole: &ResponseHeader,
    told: Told,
    end: bool,
) -> Result<()> {
    for name in cache::TAG_FIELDS {
        head.remove_header(&name);
    }
    respond::dress(&mut head, &context.exchange, Some(told.to_string()))?;
    context.compress(session, &mut head, Some(&whole.headers))?;
    frame(session, &mut head)?;
    context.exchange.status = head.status.as_u16();
    context.connection.keep_date(head.headers.get(header::DATE));
    context.deadline().head_sent();
    if session.is_http2() {
        // A stream cannot be cut from outside: a write ends by the deadline of its own.
        let write = context.plan.config.timeout.write;
        let left = context.deadline().left();
        session.set_write_timeout(left.into_iter().chain(write).min());
    }
    session
        .write_response_header(head, end)
        .await
        .map_err(Error::into_down)
}
