//! How a body goes out to its client: as it came, or compressed.
//!
//! What is kept stays as the peer sent it; each client's answer is made on its way out.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, header};
use pingora::http::ResponseHeader;
use pingora::proxy::Session;
use pingora::{Error, ErrorType, Result};

use super::Held;
use crate::compression::{self, Decision, Encoding};
use crate::encoder::{Encoder, Place};

/// So much is compressed before others get their turn on the same worker.
const SLICE: usize = 64 << 10;

/// The way of one answer's body to the client.
#[derive(Default)]
pub(super) struct Outlet(Option<Box<Stream>>);

struct Stream {
    encoding: Encoding,
    level: Option<u8>,
    /// Made for the first part, and gone after the last.
    encoder: Option<Encoder>,
    /// For as long as the encoder may live.
    place: Option<Place>,
    /// Is something of what was said still in the encoder?
    holds: bool,
    taken: u64,
    given: u64,
}

/// What compressing a body has come to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Compressed {
    pub(super) encoding: Encoding,
    /// Bytes before.
    pub(super) taken: u64,
    /// Bytes after.
    pub(super) given: u64,
}

impl Held {
    /// Decides whether the answer with this head is compressed, and makes the head say so. `whole`
    /// is the head of the kept answer, if it comes of one: a 304 does not tell all of it.
    pub(super) fn compress(
        &mut self,
        session: &Session,
        head: &mut ResponseHeader,
        whole: Option<&HeaderMap>,
    ) -> Result<()> {
        let Some(policy) = self.rule().and_then(|rule| rule.compress.as_ref()) else {
            return Ok(());
        };
        let (request, status) = (session.req_header(), head.status);
        let level = policy.level;
        let decide = |fields: &HeaderMap| {
            compression::decide(policy, request.version, &request.headers, status, fields)
        };
        let decision = match whole.filter(|_| status == StatusCode::NOT_MODIFIED) {
            Some(whole) => decide(&with_body_fields(&head.headers, whole)),
            None => decide(&head.headers),
        };
        let wanted = decision.encoding();
        let wanted = wanted.filter(|_| request.method != Method::HEAD);
        let place = wanted.and_then(|encoding| Place::take(encoding, level));
        let crowded = wanted.is_some() && place.is_none();
        let decision = if crowded { Decision::AsItIs } else { decision };
        put(head, decision)?;
        self.crowded = crowded;
        self.outlet = Outlet::new(decision.encoding(), level, place);
        Ok(())
    }
}

/// What a 304 says, and what it does not say of the body that the client has.
fn with_body_fields(fields: &HeaderMap, whole: &HeaderMap) -> HeaderMap {
    let mut all = fields.clone();
    for name in [
        header::CONTENT_ENCODING,
        header::CONTENT_LENGTH,
        header::CONTENT_TYPE,
    ] {
        if let (false, Some(value)) = (all.contains_key(&name), whole.get(&name)) {
            all.insert(name, value.clone());
        }
    }
    all
}

fn put(head: &mut ResponseHeader, decision: Decision) -> Result<()> {
    for (name, value) in compression::changes(decision, &head.headers) {
        match value {
            Some(value) => head.insert_header(name, value)?,
            None => {
                head.remove_header(&name);
            }
        }
    }
    Ok(())
}

impl Outlet {
    fn new(encoding: Option<Encoding>, level: Option<u8>, place: Option<Place>) -> Self {
        let stream = move |encoding| {
            Box::new(Stream {
                encoding,
                level,
                encoder: None,
                place,
                holds: false,
                taken: 0,
                given: 0,
            })
        };
        Self(encoding.map(stream))
    }

    /// What came of it; `None`: the body went out as it was, or there was none.
    pub(super) fn compressed(&self) -> Option<Compressed> {
        let stream = self.0.as_ref().filter(|stream| stream.given > 0)?;
        Some(Compressed {
            encoding: stream.encoding,
            taken: stream.taken,
            given: stream.given,
        })
    }

    /// Has it taken something that the client does not have yet?
    pub(super) fn holds(&self) -> bool {
        self.0.as_ref().is_some_and(|stream| stream.holds)
    }

    /// A part of the body. What comes of it may wait for what follows, or for [`Self::flush`].
    pub(super) async fn write(&mut self, session: &mut Session, part: Bytes) -> Result<()> {
        let Some(stream) = &mut self.0 else {
            return write(session, Some(part), false).await;
        };
        for from in (0..part.len()).step_by(SLICE) {
            if from > 0 {
                tokio::task::yield_now().await;
            }
            let slice = part.slice(from..part.len().min(from + SLICE));
            let ready = stream.push(&slice)?;
            say(session, ready).await?;
        }
        Ok(())
    }

    /// All that was written goes out.
    pub(super) async fn flush(&mut self, session: &mut Session) -> Result<()> {
        if let Some(stream) = self.0.as_mut().filter(|stream| stream.holds) {
            let ready = stream.flush()?;
            say(session, ready).await?;
        }
        Ok(())
    }

    /// The body's last part, and its end.
    pub(super) async fn finish(
        &mut self,
        session: &mut Session,
        part: Option<Bytes>,
    ) -> Result<()> {
        if self.0.is_none() {
            return write(session, part, true).await;
        }
        let rest = self.rest(session, part).await?;
        write(session, Some(rest), true).await
    }

    /// What is left of the body goes out; the end comes with its trailers. Is the body another
    /// one than the peer's?
    pub(super) async fn finish_for_trailers(&mut self, session: &mut Session) -> Result<bool> {
        if self.0.is_none() {
            return Ok(false);
        }
        let rest = self.rest(session, None).await?;
        say(session, rest).await.map(|()| true)
    }

    /// Takes the last part; what is then left to be said, which is never empty.
    async fn rest(&mut self, session: &mut Session, part: Option<Bytes>) -> Result<Bytes> {
        if let Some(part) = part {
            self.write(session, part).await?;
        }
        match &mut self.0 {
            Some(stream) => stream.finish(),
            None => Ok(Bytes::new()),
        }
    }
}

/// The clock of a write over HTTP/2 is for the whole of it: what is large is written in pieces, so
/// that it is for each of them. A client that is quick gets larger ones.
const PIECE: usize = 4 << 10;
const LARGEST: usize = 16 << 10;
const QUICK: Duration = Duration::from_secs(1);

async fn write(session: &mut Session, body: Option<Bytes>, end: bool) -> Result<()> {
    let mut body = body;
    if let Some(rest) = body.as_mut().filter(|_| session.is_http2()) {
        let mut piece = PIECE;
        while rest.len() > piece {
            let began = Instant::now();
            write_piece(session, Some(rest.split_to(piece)), false).await?;
            piece = match began.elapsed() < QUICK {
                true => (2 * piece).min(LARGEST),
                false => PIECE,
            };
        }
    }
    write_piece(session, body, end).await
}

async fn write_piece(session: &mut Session, body: Option<Bytes>, end: bool) -> Result<()> {
    session
        .write_response_body(body, end)
        .await
        .map_err(Error::into_down)
}

/// An empty part would be the end of the body.
async fn say(session: &mut Session, ready: Bytes) -> Result<()> {
    match ready.is_empty() {
        true => Ok(()),
        false => write(session, Some(ready), false).await,
    }
}

impl Stream {
    fn push(&mut self, slice: &[u8]) -> Result<Bytes> {
        self.taken += slice.len() as u64;
        self.holds = true;
        let ready = self.encoder()?.push(slice);
        self.give(ready)
    }

    fn flush(&mut self) -> Result<Bytes> {
        self.holds = false;
        let ready = self.encoder()?.flush();
        self.give(ready)
    }

    fn finish(&mut self) -> Result<Bytes> {
        self.holds = false;
        self.encoder()?;
        let rest = match self.encoder.take() {
            Some(encoder) => encoder.finish(),
            None => Ok(Bytes::new()),
        };
        self.place = None;
        self.give(rest)
    }

    fn encoder(&mut self) -> Result<&mut Encoder> {
        let encoder = match self.encoder.take() {
            Some(encoder) => encoder,
            None => Encoder::new(self.encoding, self.level).map_err(failed)?,
        };
        Ok(self.encoder.insert(encoder))
    }

    fn give(&mut self, ready: std::io::Result<Bytes>) -> Result<Bytes> {
        let ready = ready.map_err(failed)?;
        self.given += ready.len() as u64;
        Ok(ready)
    }
}

fn failed(error: std::io::Error) -> Box<Error> {
    Error::because(ErrorType::InternalError, "compressing an answer", error)
}

/// What the future comes to without any waiting.
pub(super) async fn at_once<F: Future>(future: F) -> Option<F::Output> {
    tokio::select! {
        biased;
        output = future => Some(output),
        () = std::future::ready(()) => None,
    }
}
