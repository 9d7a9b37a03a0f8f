//! The stream that Pingora reads and writes in place of the real one.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use async_trait::async_trait;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::tls::{SslDigest, TlsRef};
use pingora::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl,
    Stream, TimingDigest, UniqueID, UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufWriter, ReadBuf};
use tokio::time::Instant;

use super::ahead::{self, Ahead};
use super::frames::Frames;
use super::{Connection, EXCHANGE, HEAD, IDLE};
use crate::alarm::Alarm;
use crate::message::Walk;
use crate::refusal::Refusal;

/// How long edge waits for a client between and within heads.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    /// For a whole head, from its first byte; on a new connection from its beginning.
    pub(crate) head: Duration,
    /// For the next request's first byte.
    pub(crate) keepalive: Duration,
    /// For a client to take something of what is written; `None`: as long as it likes.
    pub(crate) write: Option<Duration>,
}

/// How a client begins that takes edge for a speaker of HTTP/2.
const HTTP2: &[u8] = b"PRI * HTTP/2";

/// How HTTP/2 begins in the clear (RFC 9113 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// GOAWAY with `ENHANCE_YOUR_CALM` (RFC 9113 6.8, 7); which streams were served, it does not tell.
const GOAWAY: &[u8] = &[
    0, 0, 8, 7, 0, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 11,
];

/// So much is read to see whether it is that; never more than Pingora's first read takes.
const FIRST_READ: usize = 2_048;

/// So often within the time is looked at what a client has taken.
const LOOKS: u32 = 8;
/// Less than this within the time for a write is nothing: a byte now and then buys no more time.
const LEAST_TAKEN: u64 = 1_024;

/// So much is gathered of small parts: a segment.
const GATHERED: usize = 1_460;

/// A client that is let go has so long to read why.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The stream that Pingora reads and writes in place of the real one.
pub(crate) struct Guarded {
    /// There until it is handed over. What is written in small parts goes out in large ones.
    stream: Option<BufWriter<Stream>>,
    pub(super) connection: Arc<Connection>,
    times: Times,
    /// Has a byte of the head arrived?
    begun: bool,
    /// Does the connection begin as one of HTTP/2 does, though none is spoken?
    preface: bool,
    /// Is HTTP/2 spoken? Then the streams in it have clocks and pages, and this is but a pipe.
    http2: bool,
    /// And what the client says of it beside its requests.
    frames: Option<Box<Frames>>,
    /// What was read to see that.
    ahead: ahead::Bytes,
    /// In this phase edge waits for the client, until then.
    by: Option<(u8, Instant)>,
    alarm: Alarm,
    /// What is written in place of Pingora's error page, and how much of it has been.
    instead: Option<(Vec<u8>, usize)>,
    /// Where each message begins and ends, and whether it could be read otherwise.
    walk: Walk,
    /// Was something written that may still lie in a buffer?
    unflushed: bool,
    /// When the client had last taken something, and how much by then.
    taken: Option<(Instant, u64)>,
    /// When that is looked at next.
    look: Option<Instant>,
    writing: Alarm,
}

impl Guarded {
    /// The first head must have arrived `by` then.
    pub(crate) fn new(
        stream: Stream,
        connection: Arc<Connection>,
        times: Times,
        by: Instant,
    ) -> Self {
        let by = Some((HEAD, by));
        Self {
            stream: Some(BufWriter::with_capacity(GATHERED, stream)),
            connection,
            times,
            begun: false,
            preface: false,
            http2: false,
            frames: None,
            ahead: ahead::Bytes::default(),
            by,
            alarm: Alarm::default(),
            instead: None,
            walk: Walk::default(),
            unflushed: false,
            taken: None,
            look: None,
            writing: Alarm::default(),
        }
    }

    /// What the client has acknowledged so far. What the kernel still holds for it may be megabytes,
    /// of which no writer hears anything until a good part of it is gone.
    fn acknowledged(&self) -> u64 {
        let socket = self.get_socket_digest();
        let told = socket.and_then(|socket| socket.tcp_info());
        told.map_or(0, |told| told.tcpi_bytes_acked)
    }

    /// What came of a write: a client that takes nothing for too long is let go, whatever it may
    /// have been promised.
    fn poll_taken<T>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let Some(limit) = self.times.write else {
            return written;
        };
        if written.is_ready() {
            (self.taken, self.look) = (None, None);
            return written;
        }
        loop {
            let now = Instant::now();
            let (since, before) = match self.taken {
                Some(taken) => taken,
                None => (now, self.acknowledged()),
            };
            self.taken = Some((since, before));
            // Looked at now and then, for time counts from when something was taken.
            let next = (now + limit / LOOKS).min(since + limit);
            let look = *self.look.get_or_insert(next);
            std::task::ready!(self.writing.poll(context, look));
            self.look = None;
            let acknowledged = self.acknowledged();
            if acknowledged >= before.saturating_add(LEAST_TAKEN) {
                self.taken = Some((Instant::now(), acknowledged));
            } else if Instant::now() >= since + limit {
                break;
            }
        }
        self.connection.stalled.store(true, Ordering::Relaxed);
        // Whatever else would be written must not wait as long again.
        self.connection.cut();
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the client takes nothing",
        )))
    }

    /// Of larger heads than this the rest is not waited for.
    pub(crate) fn bound_heads(&mut self, most: usize) {
        self.walk = Walk::bounded(most);
    }

    /// HTTP/2 was agreed upon.
    pub(crate) fn speak_http2(&mut self) {
        self.http2 = true;
        self.frames = Some(Box::new(Frames::new(PREFACE.len())));
    }

    /// Waits for the first bytes and tells whether they are those of HTTP/2; if so, it is spoken
    /// from here on. Who says nothing in time does not speak it.
    pub(crate) async fn begins_http2(&mut self) -> bool {
        let begins = poll_fn(|context| self.poll_begin(context)).await;
        if begins {
            self.speak_http2();
        }
        begins
    }

    fn poll_begin(&mut self, context: &mut Context<'_>) -> Poll<bool> {
        loop {
            let read = self.ahead.get();
            let length = read.len().min(PREFACE.len());
            if read.get(..length) != PREFACE.get(..length) {
                return Poll::Ready(false);
            }
            if length == PREFACE.len() {
                return Poll::Ready(true);
            }
            let mut bytes = [0; FIRST_READ];
            let mut buffer = ReadBuf::new(&mut bytes);
            let reading = self
                .stream()
                .map(|stream| stream.poll_read(context, &mut buffer));
            match reading {
                Ok(Poll::Ready(Ok(()))) if !buffer.filled().is_empty() => {
                    self.ahead.add(buffer.filled());
                }
                Ok(Poll::Pending) => {
                    let (_, by) = self.by.unwrap_or((HEAD, Instant::now()));
                    std::task::ready!(self.alarm.poll(context, by));
                    return Poll::Ready(false);
                }
                // Whoever reads on meets the end, too.
                _ => return Poll::Ready(false),
            }
        }
    }

    /// What has been read ahead comes first.
    fn poll_stream(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            return self.stream()?.poll_read(context, buffer);
        }
        self.ahead.put(buffer);
        Poll::Ready(Ok(()))
    }

    /// What a client of HTTP/2 has said, unless it says too much beside its requests.
    fn counted(
        &mut self,
        read: Poll<io::Result<()>>,
        fresh: Option<&[u8]>,
    ) -> Poll<io::Result<()>> {
        let fresh = fresh.unwrap_or_default();
        let mut frames = self.frames.as_mut().filter(|_| !fresh.is_empty());
        if frames.as_mut().is_none_or(|frames| frames.heard(fresh)) {
            return read;
        }
        *self.connection.refused.lock() = Some(Refusal::ClientFloods);
        self.say_goaway();
        self.connection.cut();
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "too much is said beside requests",
        )))
    }

    /// Tells the client why, if that can be said at once: nobody waits for one that floods.
    fn say_goaway(&mut self) {
        let between = self.frames.as_ref().is_some_and(|frames| frames.between());
        if let (true, Some(stream)) = (between, &mut self.stream) {
            let mut context = Context::from_waker(Waker::noop());
            let written = Pin::new(&mut *stream).poll_write(&mut context, GOAWAY);
            if written.is_ready() {
                let _ = Pin::new(stream).poll_flush(&mut context);
            }
        }
    }

    /// So much of this was written.
    fn said<'a>(
        &mut self,
        written: &Poll<io::Result<usize>>,
        slices: impl IntoIterator<Item = &'a [u8]>,
    ) {
        let (Some(frames), Poll::Ready(Ok(written))) = (&mut self.frames, written) else {
            return;
        };
        let mut left = *written;
        for slice in slices {
            let part = slice.get(..left.min(slice.len())).unwrap_or_default();
            frames.said(part);
            left -= part.len();
        }
    }

    fn stream(&mut self) -> io::Result<Pin<&mut BufWriter<Stream>>> {
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

    fn inner(&self) -> Option<&Stream> {
        self.stream.as_ref().map(BufWriter::get_ref)
    }

    /// Looks at what has come since `before`, ahead of whoever reads it. A body is passed on up to
    /// where it is at fault; is there anything to pass?
    fn look(&mut self, buffer: &mut ReadBuf<'_>, before: usize) -> bool {
        let known = self.walk.fault().is_some();
        let fresh = buffer.filled().get(before..).unwrap_or_default();
        let passed = self.walk.read(fresh);
        if let Some(fault) = self.walk.fault().filter(|_| !known) {
            self.connection.found(fault.clone());
        }
        buffer.set_filled(before + passed);
        passed > 0
    }

    /// What is at fault is not read on: neither a body, nor a head whose rest is still to come.
    /// Another request, which is served before, is not disturbed.
    fn poll_faulty(&mut self) -> Poll<io::Result<()>> {
        if self.phase() == EXCHANGE && self.connection.fault().is_none() {
            return Poll::Pending;
        }
        if let Some(refusal) = self.connection.next_fault() {
            self.answer_instead(refusal);
        }
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "it could be read in two ways",
        )))
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
        self.answer_instead(if self.preface {
            Refusal::HttpVersion
        } else if let Some(refusal) = self.connection.next_fault() {
            refusal
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
            _ if self.http2 => false,
            EXCHANGE => false,
            _ => self.instead.is_some() || bytes.starts_with(b"HTTP/1."),
        }
    }

    /// Whoever listens to the client has nothing more to say for now: what was said goes out.
    /// Pingora lets less than a segment of a body of known length wait for the rest.
    fn send_what_waits(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if self.unflushed
            && !self.http2
            && let Poll::Ready(flushed) = self.stream()?.poll_flush(context)
        {
            self.unflushed = false;
            return flushed;
        }
        Ok(())
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
        // What a client was told before it is cut, it may still hear; nobody waits for it.
        if let Some(stream) = self.stream.as_mut().filter(|one| !one.buffer().is_empty()) {
            let _ = Pin::new(stream).poll_flush(&mut Context::from_waker(Waker::noop()));
        }
        let mut handed_over = self.connection.handed_over.lock();
        if handed_over.tunnel.is_some() {
            let ahead = std::mem::take(&mut self.ahead);
            // A client that has not even taken the 101 gets nothing that would stand behind a gap.
            let stream = self.stream.take().filter(|one| one.buffer().is_empty());
            handed_over.stream = match stream.map(BufWriter::into_inner) {
                Some(stream) if !ahead.is_empty() => {
                    Some(Box::new(Ahead::new(stream, ahead.get(), None)))
                }
                stream => stream,
            };
        }
    }
}

impl AsyncRead for Guarded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.send_what_waits(context)?;
        let before = buffer.filled().len();
        if let Some(fault) = self.walk.fault()
            && (fault.in_body || self.phase() != EXCHANGE)
        {
            return self.poll_faulty();
        }
        let read = self.poll_stream(context, buffer);
        if !self.http2 && buffer.filled().len() > before && !self.look(buffer, before) {
            return self.poll_faulty();
        }
        match self.phase() {
            _ if self.http2 => self.counted(read, buffer.filled().get(before..)),
            EXCHANGE => {
                self.begun = false;
                read
            }
            _ if read.is_pending() => self.poll_waiting(context),
            phase if buffer.filled().len() > before => {
                let fresh = buffer.filled().get(before..).unwrap_or_default();
                self.preface = !self.begun && fresh.starts_with(HTTP2);
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
        self.unflushed = true;
        let written = match self.connection.dated.load(Ordering::Relaxed) {
            true => self.poll_write_dated(context, bytes),
            false => self.stream()?.poll_write(context, bytes),
        };
        self.said(&written, [bytes]);
        self.poll_taken(context, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(self.poll_instead(context))?;
        let flushed = self.stream()?.poll_flush(context);
        self.unflushed &= flushed.is_pending();
        self.poll_taken(context, flushed)
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
        self.unflushed = true;
        let written = self.stream()?.poll_write_vectored(context, bytes);
        self.said(&written, bytes.iter().map(|slice| &**slice));
        self.poll_taken(context, written)
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
            let shutting = async {
                let _ = stream.flush().await;
                Shutdown::shutdown(&mut **stream.get_mut()).await;
            };
            // Who takes nothing does not take this either.
            let _ = tokio::time::timeout(LAST_WORDS, shutting).await;
        }
    }
}

impl UniqueID for Guarded {
    fn id(&self) -> UniqueIDType {
        self.stream
            .as_ref()
            .map_or(-1, |stream| stream.get_ref().id())
    }
}

impl Ssl for Guarded {
    fn get_ssl(&self) -> Option<&TlsRef> {
        self.inner()?.get_ssl()
    }

    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.inner()?.get_ssl_digest()
    }

    /// What Pingora is to speak, however it was found out.
    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.http2.then_some(ALPN::H2)
    }
}

impl GetTimingDigest for Guarded {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.inner()
            .map_or_else(Vec::new, |stream| stream.get_timing_digest())
    }

    fn get_read_pending_time(&self) -> Duration {
        self.inner()
            .map_or(Duration::ZERO, |stream| stream.get_read_pending_time())
    }

    fn get_write_pending_time(&self) -> Duration {
        self.inner()
            .map_or(Duration::ZERO, |stream| stream.get_write_pending_time())
    }
}

impl GetProxyDigest for Guarded {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.inner()?.get_proxy_digest()
    }
}

impl GetSocketDigest for Guarded {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.inner()?.get_socket_digest()
    }
}

impl Peek for Guarded {}
