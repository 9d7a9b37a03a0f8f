//! A client's connection as edge holds it, around the stream that Pingora reads and writes.
//!
//! It knows what Pingora does not: how long a head takes to arrive, that Pingora wrote an error
//! page of its own, that the deadline has passed, and that the stream was handed over to become
//! a WebSocket.

mod date;

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use http::HeaderValue;
use parking_lot::Mutex;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::tls::{SslDigest, TlsRef};
use pingora::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl,
    Stream, TimingDigest, UniqueID, UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::alarm::Alarm;
use crate::deadline::Deadline;
use crate::refusal::Refusal;
use crate::tunnel::Tunnel;
use date::Date;

/// What is known of a client's connection, shared by the stream and the gateway's steps.
#[derive(Debug, Default)]
pub(crate) struct Connection {
    /// The clocks of the request that it serves.
    pub(crate) deadline: Deadline,
    phase: AtomicU8,
    cut: AtomicBool,
    /// The date of the answer that is to be written next, and whether there is one.
    date: Mutex<Option<Date>>,
    dated: AtomicBool,
    handed_over: Mutex<HandOver>,
    /// What edge said where Pingora found no request.
    refused: Mutex<Option<Refusal>>,
}

#[derive(Default)]
struct HandOver {
    tunnel: Option<Tunnel>,
    stream: Option<Stream>,
}

impl fmt::Debug for HandOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandOver")
            .field("tunnel", &self.tunnel.is_some())
            .finish_non_exhaustive()
    }
}

/// The head of a request is arriving, or the first one is waited for.
const HEAD: u8 = 0;
/// A request is being answered.
const EXCHANGE: u8 = 1;
/// Between two requests.
const IDLE: u8 = 2;

impl Connection {
    /// The connection under Pingora's stream, if it is one of edge's.
    pub(crate) fn of(stream: Option<&Stream>) -> Option<Arc<Self>> {
        let guarded = stream?.as_any().downcast_ref::<Guarded>()?;
        Some(guarded.connection.clone())
    }

    /// A request's head has arrived.
    pub(crate) fn exchange_begins(&self) {
        self.phase.store(EXCHANGE, Ordering::Relaxed);
    }

    /// The answer is complete.
    pub(crate) fn exchange_ends(&self) {
        self.phase.store(IDLE, Ordering::Relaxed);
    }

    /// The next head that is written has this date of its own.
    pub(crate) fn keep_date(&self, date: Option<&HeaderValue>) {
        let date = date.and_then(|date| Date::new(date.as_bytes()));
        self.dated.store(date.is_some(), Ordering::Relaxed);
        *self.date.lock() = date;
    }

    /// Nothing is read or written any more.
    pub(crate) fn cut(&self) {
        self.cut.store(true, Ordering::Relaxed);
    }

    /// Once Pingora lets go of the stream, it belongs to this tunnel.
    pub(crate) fn hand_over(&self, tunnel: Tunnel) {
        self.handed_over.lock().tunnel = Some(tunnel);
    }

    /// The stream that was handed over, and what for.
    pub(crate) fn take_over(&self) -> Option<(Stream, Tunnel)> {
        let mut handed_over = self.handed_over.lock();
        Some((handed_over.stream.take()?, handed_over.tunnel.take()?))
    }

    /// What edge said in place of Pingora's own error page.
    pub(crate) fn take_refused(&self) -> Option<Refusal> {
        self.refused.lock().take()
    }
}

/// How long edge waits for a client between and within heads.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    /// For a whole head, from its first byte; on a new connection from its beginning.
    pub(crate) head: Duration,
    /// For the next request's first byte.
    pub(crate) keepalive: Duration,
}

/// How a client begins that takes edge for a speaker of HTTP/2.
const HTTP2: &[u8] = b"PRI * HTTP/2";

/// A client that is let go has so long to read why.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The stream that Pingora reads and writes in place of the real one.
pub(crate) struct Guarded {
    /// There until it is handed over.
    stream: Option<Stream>,
    connection: Arc<Connection>,
    times: Times,
    /// Has a byte of the head arrived?
    begun: bool,
    /// Does the connection begin as one of HTTP/2 does (RFC 9113 3.4)?
    http2: bool,
    /// In this phase edge waits for the client, until then.
    by: Option<(u8, Instant)>,
    alarm: Alarm,
    /// What is written in place of Pingora's error page, and how much of it has been.
    instead: Option<(Vec<u8>, usize)>,
}

impl Guarded {
    pub(crate) fn new(stream: Stream, connection: Arc<Connection>, times: Times) -> Self {
        let by = Some((HEAD, Instant::now() + times.head));
        Self {
            stream: Some(stream),
            connection,
            times,
            begun: false,
            http2: false,
            by,
            alarm: Alarm::default(),
            instead: None,
        }
    }

    fn stream(&mut self) -> io::Result<Pin<&mut Stream>> {
        if self.connection.cut.load(Ordering::Relaxed) {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the deadline has passed",
            ));
        }
        self.stream
            .as_mut()
            .map(Pin::new)
            .ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    fn phase(&self) -> u8 {
        self.connection.phase.load(Ordering::Relaxed)
    }

    /// A client that sends nothing is let go as if it had gone; one that has sent part of a head
    /// is told that it took too long. Only called when there is nothing to read.
    fn poll_waiting(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let phase = self.phase();
        let between = phase == IDLE;
        let by = match self.by {
            Some((waited_in, by)) if waited_in == phase => by,
            _ => {
                Instant::now()
                    + if between {
                        self.times.keepalive
                    } else {
                        self.times.head
                    }
            }
        };
        self.by = Some((phase, by));
        std::task::ready!(self.alarm.poll(context, by));
        if between || !self.begun {
            return Poll::Ready(Ok(()));
        }
        self.answer_instead(Refusal::RequestTimeout);
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the head took too long",
        )))
    }

    /// Pingora answers what is no request by itself, with an empty page that no hook sees: edge's
    /// own answer is written in its place.
    fn replace_page(&mut self, page: &[u8]) {
        self.answer_instead(if self.http2 {
            Refusal::HttpVersion
        } else if page.starts_with(b"HTTP/1.1 405") {
            Refusal::MethodNotAllowed {
                allow: String::new(),
            }
        } else {
            Refusal::BadRequest
        });
    }

    fn answer_instead(&mut self, refusal: Refusal) {
        if self.instead.is_none() {
            self.instead = Some((crate::respond::bare(&refusal), 0));
            *self.connection.refused.lock() = Some(refusal);
        }
    }

    /// Is this the page of Pingora's own? A gateway's answer begins while an exchange is open;
    /// after it may come the end of its body, but no other head.
    fn is_page(&self, bytes: &[u8]) -> bool {
        match self.phase() {
            EXCHANGE => false,
            _ => self.instead.is_some() || bytes.starts_with(b"HTTP/1."),
        }
    }

    /// Writes a head with the date of its own.
    fn poll_write_dated(
        &mut self,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let connection = self.connection.clone();
        let mut date = connection.date.lock();
        let start = date.as_mut().and_then(|date| date.put(bytes));
        let written = match &start {
            None => self.stream()?.poll_write(context, bytes),
            Some(start) => {
                let rest = bytes.get(start.len()..).unwrap_or_default();
                let slices = [io::IoSlice::new(start), io::IoSlice::new(rest)];
                self.stream()?.poll_write_vectored(context, &slices)
            }
        };
        if let Poll::Ready(Ok(written)) = &written
            && date.as_mut().is_none_or(|date| date.written(*written))
        {
            *date = None;
            connection.dated.store(false, Ordering::Relaxed);
        }
        written
    }

    fn poll_instead(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some((page, mut written)) = self.instead.take() else {
            return Poll::Ready(Ok(()));
        };
        while let Some(left) = page.get(written..).filter(|left| !left.is_empty()) {
            match self.stream()?.poll_write(context, left) {
                Poll::Ready(more) => written += more?,
                Poll::Pending => {
                    self.instead = Some((page, written));
                    return Poll::Pending;
                }
            }
        }
        self.instead = Some((page, written));
        Poll::Ready(Ok(()))
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        let mut handed_over = self.connection.handed_over.lock();
        if handed_over.tunnel.is_some() {
            handed_over.stream = self.stream.take();
        }
    }
}

impl AsyncRead for Guarded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = self.stream()?.poll_read(context, buffer);
        match self.phase() {
            EXCHANGE => {
                self.begun = false;
                read
            }
            _ if read.is_pending() => self.poll_waiting(context),
            phase if buffer.filled().len() > before => {
                let fresh = buffer.filled().get(before..).unwrap_or_default();
                self.http2 = !self.begun && fresh.starts_with(HTTP2);
                self.begun = true;
                if phase == IDLE {
                    self.connection.phase.store(HEAD, Ordering::Relaxed);
                    self.by = None;
                }
                read
            }
            _ => read,
        }
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.is_page(bytes) {
            self.replace_page(bytes);
            return Poll::Ready(Ok(bytes.len()));
        }
        if self.connection.dated.load(Ordering::Relaxed) {
            return self.poll_write_dated(context, bytes);
        }
        self.stream()?.poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(self.poll_instead(context))?;
        self.stream()?.poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A stream that is handed over lives on.
        if self.connection.handed_over.lock().tunnel.is_some() {
            return Poll::Ready(Ok(()));
        }
        std::task::ready!(self.poll_instead(context))?;
        self.stream()?.poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let first = bytes.iter().find(|bytes| !bytes.is_empty());
        let dated = self.connection.dated.load(Ordering::Relaxed);
        if let Some(first) = first.filter(|first| dated || self.is_page(first)) {
            return self.poll_write(context, first);
        }
        self.stream()?.poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream
            .as_ref()
            .is_some_and(|stream| stream.is_write_vectored())
    }
}

impl fmt::Debug for Guarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guarded")
            .field("stream", &self.stream)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Shutdown for Guarded {
    async fn shutdown(&mut self) {
        let handed_over = self.connection.handed_over.lock().tunnel.is_some();
        let writing = std::future::poll_fn(|context| self.poll_instead(context));
        let _ = tokio::time::timeout(LAST_WORDS, writing).await;
        if let Some(stream) = self.stream.as_mut().filter(|_| !handed_over) {
            stream.shutdown().await;
        }
    }
}

impl UniqueID for Guarded {
    fn id(&self) -> UniqueIDType {
        self.stream.as_ref().map_or(-1, |stream| stream.id())
    }
}

impl Ssl for Guarded {
    fn get_ssl(&self) -> Option<&TlsRef> {
        self.stream.as_ref()?.get_ssl()
    }

    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.stream.as_ref()?.get_ssl_digest()
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.stream.as_ref()?.selected_alpn_proto()
    }
}

impl GetTimingDigest for Guarded {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.stream
            .as_ref()
            .map_or_else(Vec::new, |stream| stream.get_timing_digest())
    }

    fn get_read_pending_time(&self) -> Duration {
        self.stream
            .as_ref()
            .map_or(Duration::ZERO, |stream| stream.get_read_pending_time())
    }

    fn get_write_pending_time(&self) -> Duration {
        self.stream
            .as_ref()
            .map_or(Duration::ZERO, |stream| stream.get_write_pending_time())
    }
}

impl GetProxyDigest for Guarded {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.stream.as_ref()?.get_proxy_digest()
    }
}

impl GetSocketDigest for Guarded {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.stream.as_ref()?.get_socket_digest()
    }
}

#[async_trait]
impl Peek for Guarded {
    async fn try_peek(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        match &mut self.stream {
            Some(stream) => stream.try_peek(buffer).await,
            None => Ok(false),
        }
    }
}
