//! How an answer that is kept, or arrives for the cache, goes out to one client.

use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::{Method, StatusCode, Version, header};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::proxy::Session;
use pingora::{Error, ErrorType, Result};

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
    begin(session, context, head, told, body.is_none()).await?;
    if let Some(body) = body {
        write(session, Some(body), true).await?;
    }
    Ok(())
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
    frame(&mut head)?;
    let left = context.deadline().left();
    let passing = async {
        begin(session, context, head, told, head_only).await?;
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
        let chunk = tokio::select! {
            biased;
            chunk = reader.next() => chunk,
            // Listened to, the client also gets what was said so far.
            error = gone(session, true) => return Err(error.into_down()),
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
            write(session, Some(chunk.slice(from..end)), false).await?;
        }
    }
    write(session, None, true).await
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
/// (RFC 9112 6.3).
pub(super) fn frame(head: &mut ResponseHeader) -> Result<()> {
    let framed = head.headers.contains_key(header::CONTENT_LENGTH)
        || head.headers.contains_key(header::TRANSFER_ENCODING);
    let bodiless = [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED].contains(&head.status);
    if !framed && !bodiless {
        head.insert_header(header::TRANSFER_ENCODING, "chunked")?;
    }
    head.set_version(Version::HTTP_11);
    Ok(())
}

/// The head goes out, dressed like every answer.
async fn begin(
    session: &mut Session,
    context: &mut Context,
    mut head: Box<ResponseHeader>,
    told: Told,
    end: bool,
) -> Result<()> {
    for name in cache::TAG_FIELDS {
        head.remove_header(&name);
    }
    respond::dress(&mut head, &context.exchange, Some(told.to_string()))?;
    head.set_version(Version::HTTP_11);
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

/// The clock of a write over HTTP/2 is for the whole of it: what is large is written in pieces, so that
/// it is for each of them. A client that is quick gets larger ones.
const PIECE: usize = 4 << 10;
const LARGEST: usize = 16 << 10;
const QUICK: Duration = Duration::from_secs(1);

pub(super) async fn write(session: &mut Session, body: Option<Bytes>, end: bool) -> Result<()> {
    let Some(mut rest) = body else {
        return write_piece(session, None, end).await;
    };
    if !session.is_http2() {
        return write_piece(session, Some(rest), end).await;
    }
    let mut piece = PIECE;
    while rest.len() > piece {
        let began = Instant::now();
        write_piece(session, Some(rest.split_to(piece)), false).await?;
        piece = match began.elapsed() < QUICK {
            true => (2 * piece).min(LARGEST),
            false => PIECE,
        };
    }
    write_piece(session, Some(rest), end).await
}

async fn write_piece(session: &mut Session, body: Option<Bytes>, end: bool) -> Result<()> {
    session
        .write_response_body(body, end)
        .await
        .map_err(Error::into_down)
}
