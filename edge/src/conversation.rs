//! One request with one peer, over HTTP/1.1 or HTTP/2: what is said, and what is heard.

use std::future::poll_fn;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::SendStream;
use http::{HeaderMap, HeaderValue, StatusCode, Version, header};
use pingora::connectors::http::Connector;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::SocketDigest;
use pingora::protocols::http::client::HttpSession;
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorType, OrErr, Result, RetryType};
use tokio::time::sleep;

use crate::forward;

/// A request that is being sent and answered.
pub(crate) struct Conversation {
    session: HttpSession,
    /// Where the rest of the request goes over HTTP/2.
    writer: Option<Writer>,
    /// Has the whole request been said?
    said: bool,
    /// It never will be.
    broken: bool,
    stage: Stage,
    interim: usize,
    /// See [`STALL`].
    stall: Duration,
}

/// How far the answer has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Head,
    Body,
    Trailers,
    End,
}

/// What a peer says.
pub(crate) enum Event {
    /// Nothing; but what was said has gone out, and more may be said.
    Ready,
    /// An answer before the answer (RFC 9110 15.2).
    Interim(Box<ResponseHeader>),
    /// The answer's head, without what belongs to the connection.
    Head(Box<ResponseHeader>),
    /// The next part of its body.
    Body(Bytes),
    /// What follows the body (RFC 9110 6.5).
    Trailers(HeaderMap),
    /// It is complete.
    End,
}

/// An answer's head may not be longer, names and values taken together.
const LONGEST_HEAD: usize = 64 << 10;
/// It may follow so many interim ones.
const MOST_INTERIM: usize = 16;
/// A peer that answers and takes nothing of a request's body for so long will take no more.
const STALL: Duration = Duration::from_secs(1);
/// Through TLS not all that comes is an answer: what follows the handshake, for one.
const STALL_SECURE: Duration = Duration::from_secs(10);
/// So often that is looked at.
const STALL_LOOKS: u32 = 10;

impl Conversation {
    /// Sends the head of a request, which is in the words of HTTP/1.1; `secure`: through TLS;
    /// `whole`: it has no body.
    pub(crate) async fn begin(
        mut session: HttpSession,
        mut request: Box<RequestHeader>,
        secure: bool,
        whole: bool,
    ) -> Result<Self> {
        let writer = match &mut session {
            HttpSession::H2(h2) => {
                h2.write_request_header(to_http2(request, secure)?, whole)?;
                h2.take_request_body_writer().map(Writer::new)
            }
            _ => {
                // Here no trailers pass.
                request.remove_header(&header::TE);
                session.write_request_header(request).await?;
                if whole {
                    session.finish_request_body().await?;
                }
                None
            }
        };
        Ok(Self {
            session,
            writer,
            said: whole,
            broken: false,
            stage: Stage::Head,
            interim: 0,
            stall: if secure { STALL_SECURE } else { STALL },
        })
    }

    /// May more of the body be said now?
    pub(crate) fn takes_more(&self) -> bool {
        let waits = self.writer.as_ref().is_some_and(Writer::is_waiting);
        !self.said && !waits
    }

    /// Sends a part of the body. Over HTTP/1.1 this waits until it is written; over HTTP/2 it goes
    /// out while the answer is listened to.
    pub(crate) async fn say(&mut self, part: Bytes) -> Result<()> {
        match &mut self.writer {
            // An empty chunk would be the last one (RFC 9112 7.1).
            _ if part.is_empty() => Ok(()),
            Some(writer) => {
                if !writer.closed {
                    writer.waiting = part;
                }
                Ok(())
            }
            None => {
                let digest = self.session.digest();
                let socket = digest.and_then(|digest| digest.socket_digest.clone());
                tokio::select! {
                    biased;
                    written = self.session.write_request_body(part, false) => written,
                    () = has_spoken(socket.as_deref(), self.stall) => {
                        let why = "it answers and takes no more";
                        Err(Error::explain(ErrorType::WriteError, why).into_up())
                    }
                }
            }
        }
    }

    /// The request is complete.
    pub(crate) async fn finish(&mut self) -> Result<()> {
        if self.said {
            return Ok(());
        }
        self.said = true;
        match &mut self.writer {
            Some(writer) => {
                writer.end = true;
                writer.send_end();
                Ok(())
            }
            None => self.session.finish_request_body().await,
        }
    }

    /// The request will not be completed; the answer is listened to all the same.
    pub(crate) fn fall_silent(&mut self) {
        self.said = true;
        self.broken = true;
    }

    /// What the peer says next. Dropped halfway, nothing is lost.
    pub(crate) async fn hear(&mut self) -> Result<Event> {
        match self.stage {
            Stage::Head => self.hear_head().await,
            Stage::Body => self.hear_body().await,
            Stage::Trailers => self.hear_trailers().await,
            Stage::End => Ok(Event::End),
        }
    }

    async fn hear_head(&mut self) -> Result<Event> {
        match (&mut self.session, &mut self.writer) {
            (HttpSession::H2(session), writer) => {
                let heard = poll_fn(|context| match poll_writer(writer, context) {
                    Poll::Ready(()) => Poll::Ready(None),
                    Poll::Pending => session.poll_read_response_header(context).map(Some),
                });
                match heard.await {
                    None => return Ok(Event::Ready),
                    Some(heard) => heard.map_err(refused)?,
                };
            }
            (session, _) => session.read_response_header().await?,
        }
        let head = self.session.response_header();
        let head = head.ok_or_else(|| invalid("no head"))?;
        let length = head
            .headers
            .iter()
            .map(|(name, value)| name.as_str().len() + value.len());
        if length.sum::<usize>() > LONGEST_HEAD {
            return Err(invalid("the head is too long"));
        }
        let mut head = Box::new(head.clone());
        let mut codings = head.headers.get_all(header::TRANSFER_ENCODING).iter();
        let chunked = |coding: &HeaderValue| coding.as_bytes().eq_ignore_ascii_case(b"chunked");
        if codings.next().is_some_and(|coding| !chunked(coding)) || codings.next().is_some() {
            // Nobody has asked for another one (RFC 9110 10.1.4).
            return Err(invalid("a transfer coding that is not chunked alone"));
        }
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            return Err(invalid("an upgrade that nobody asked for"));
        }
        for name in forward::hop_by_hop(&head.headers) {
            head.remove_header(&name);
        }
        if head.status.is_informational() {
            // It has no body (RFC 9110 8.6, RFC 9112 6.1).
            head.remove_header(&header::CONTENT_LENGTH);
            head.remove_header(&header::TRANSFER_ENCODING);
            self.interim += 1;
            return match self.interim > MOST_INTERIM {
                true => Err(invalid("too many interim answers")),
                false => Ok(Event::Interim(head)),
            };
        }
        self.stage = Stage::Body;
        Ok(Event::Head(head))
    }

    async fn hear_body(&mut self) -> Result<Event> {
        let part = match (&mut self.session, &mut self.writer) {
            (HttpSession::H2(session), writer) => {
                let heard = poll_fn(|context| match poll_writer(writer, context) {
                    Poll::Ready(()) => Poll::Ready(None),
                    Poll::Pending => session.poll_read_response_body(context).map(Some),
                });
                let Some(part) = heard.await else {
                    return Ok(Event::Ready);
                };
                let part = part.transpose();
                part.or_err(ErrorType::ReadError, "reading the answer")?
            }
            (session, _) => session.read_response_body().await?,
        };
        match part {
            Some(part) => Ok(Event::Body(part)),
            None => {
                self.stage = Stage::Trailers;
                self.hear_trailers().await
            }
        }
    }

    async fn hear_trailers(&mut self) -> Result<Event> {
        let trailers = match &mut self.session {
            HttpSession::H2(session) => session.read_trailers().await?,
            _ => None,
        };
        self.stage = Stage::End;
        Ok(trailers.map_or(Event::End, Event::Trailers))
    }

    /// Was that the whole answer, as far as can be told without waiting?
    pub(crate) fn is_over(&mut self) -> bool {
        if let HttpSession::H1(session) = &mut self.session
            && self.stage == Stage::Body
            && session.is_body_done()
        {
            self.stage = Stage::End;
        }
        self.stage == Stage::End
    }

    /// The connection may serve others: it goes back, if both sides have said all.
    pub(crate) async fn end(mut self, connector: &Connector, peer: &HttpPeer) {
        let done = self.said && self.stage == Stage::End && !self.broken;
        let http2 = matches!(self.session, HttpSession::H2(_));
        if done && !http2 {
            let _ = self.session.response_done();
        }
        // Of HTTP/2 only the stream ends here, and others go on.
        if done || http2 {
            let idle = peer.options.idle_timeout;
            connector
                .release_http_session(self.session, peer, idle)
                .await;
        }
    }
}

/// Ready when a peer has said something since this was first polled, and then has taken nothing
/// for so long. Over HTTP/1.1 Pingora does not listen while it writes.
async fn has_spoken(socket: Option<&SocketDigest>, stall: Duration) {
    let seen = || {
        let seen = socket?.tcp_info()?;
        Some((seen.tcpi_bytes_received, seen.tcpi_bytes_acked))
    };
    let Some((heard, mut taken)) = seen() else {
        return std::future::pending().await;
    };
    let mut still = 0;
    while still < STALL_LOOKS {
        sleep(stall / STALL_LOOKS).await;
        let Some((now_heard, now_taken)) = seen() else {
            return std::future::pending().await;
        };
        still = match now_heard > heard && now_taken == taken {
            true => still + 1,
            false => 0,
        };
        taken = now_taken;
    }
}

/// The rest of a request over HTTP/2: a part at a time, as the peer has room for it.
struct Writer {
    stream: SendStream<Bytes>,
    waiting: Bytes,
    end: bool,
    ended: bool,
    /// The peer takes no more; why, it says in its answer.
    closed: bool,
}

impl Writer {
    fn new(stream: SendStream<Bytes>) -> Self {
        Self {
            stream,
            waiting: Bytes::new(),
            end: false,
            ended: false,
            closed: false,
        }
    }

    fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        while !self.waiting.is_empty() {
            self.stream.reserve_capacity(self.waiting.len());
            let room = match ready!(self.stream.poll_capacity(context)) {
                None => {
                    // The stream is closed.
                    self.closed = true;
                    self.waiting = Bytes::new();
                    return Poll::Ready(Ok(()));
                }
                Some(room) => room?,
            };
            if room > 0 {
                let part = self.waiting.split_to(room.min(self.waiting.len()));
                self.stream.send_data(part, false)?;
            }
        }
        self.send_end();
        Poll::Ready(Ok(()))
    }

    /// Once all has gone out.
    fn send_end(&mut self) {
        if self.end && !self.ended && self.waiting.is_empty() {
            self.ended = true;
            self.closed |= self.stream.send_data(Bytes::new(), true).is_err();
        }
    }
}

/// Writes what there is room for; ready when that was the rest of what waited.
fn poll_writer(writer: &mut Option<Writer>, context: &mut Context<'_>) -> Poll<()> {
    let writer = writer.as_mut().filter(|writer| !writer.closed);
    let Some(writer) = writer else {
        return Poll::Pending;
    };
    let waited = writer.is_waiting();
    if let Poll::Ready(Err(_)) = writer.poll(context) {
        writer.closed = true;
        writer.waiting = Bytes::new();
    }
    match waited && !writer.is_waiting() {
        true => Poll::Ready(()),
        false => Poll::Pending,
    }
}

/// What kept a peer from answering over HTTP/2, in Pingora's words.
fn refused(error: h2::Error) -> Box<Error> {
    // Nothing was done with the request (RFC 9113 6.8, 8.7): it may be repeated.
    let untouched = error.is_remote()
        && match error.reason() {
            Some(h2::Reason::REFUSED_STREAM) => error.is_reset(),
            Some(h2::Reason::NO_ERROR) => error.is_go_away(),
            _ => false,
        };
    let kind = if error.is_io() || error.is_remote() {
        ErrorType::ConnectionClosed
    } else {
        ErrorType::InvalidHTTPHeader
    };
    let lost = error.is_io();
    let mut error = Error::because(kind, "reading the answer's head", error).into_up();
    error.retry = match (untouched, lost) {
        (true, _) => true.into(),
        (false, true) => RetryType::ReusedOnly,
        (false, false) => false.into(),
    };
    error
}

fn invalid(why: &'static str) -> Box<Error> {
    Error::explain(ErrorType::InvalidHTTPHeader, why).into_up()
}

/// The same head in the words of HTTP/2 (RFC 9113 8.2.2, 8.3.1).
fn to_http2(mut request: Box<RequestHeader>, secure: bool) -> Result<Box<RequestHeader>> {
    let host = request.remove_header(&header::HOST);
    let host = host.ok_or_else(|| unspeakable("no host"))?;
    request.remove_header(&header::TRANSFER_ENCODING);
    let path = std::str::from_utf8(request.raw_path()).map_err(|_| unspeakable("the target"))?;
    let uri = http::Uri::builder()
        .scheme(if secure { "https" } else { "http" })
        .authority(host.as_bytes())
        .path_and_query(path)
        .build();
    request.set_uri(uri.map_err(|_| unspeakable("the target"))?);
    request.set_version(Version::HTTP_2);
    Ok(request)
}

/// What HTTP/2 has no words for: the request's fault, and not the peer's.
fn unspeakable(what: &'static str) -> Box<Error> {
    Error::explain(ErrorType::InvalidHTTPHeader, what).into_down()
}
