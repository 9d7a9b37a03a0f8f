//! A WebSocket that is open: edge owns both streams and moves the bytes, unchanged.
//!
//! It begins when Pingora has let go of the client's stream, so nothing of Pingora's is held
//! while it lasts, and no buffer is held while nothing moves.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use pingora::protocols::Stream;
use prometheus::{IntCounter, IntGauge};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What the relay needs to know of the request that became this WebSocket.
pub(crate) struct Tunnel {
    /// The connection to the peer.
    pub(crate) peer: Stream,
    /// What the peer sent together with its 101.
    pub(crate) from_peer: Bytes,
    /// What the client sent without waiting for the 101.
    pub(crate) from_client: Bytes,
    /// It ends when nothing has moved for so long.
    pub(crate) idle: Option<Duration>,
    /// Moving counters of the route.
    pub(crate) bytes_in: IntCounter,
    pub(crate) bytes_out: IntCounter,
    /// Called once, when it has ended.
    pub(crate) closed: Box<dyn FnOnce(End) + Send + Sync>,
}

/// How a WebSocket ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct End {
    /// One word for the log.
    pub(crate) reason: &'static str,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    pub(crate) lasted: Duration,
}

/// A WebSocket that one side has ended is let go after so much silence of the other.
const LINGER: Duration = Duration::from_secs(30);

/// Moves the bytes until both sides have ended, nothing has moved for too long, or `ending`
/// comes first.
pub(crate) async fn run(mut client: Stream, tunnel: Tunnel, ending: impl Future<Output = ()>) {
    let Tunnel {
        mut peer,
        from_peer,
        from_client,
        idle,
        bytes_in,
        bytes_out,
        closed,
    } = tunnel;
    let began = Instant::now();
    let mut inward = Pump::new(from_client, bytes_in);
    let mut outward = Pump::new(from_peer, bytes_out);
    let reason = {
        let moving = relay(&mut client, &mut peer, &mut inward, &mut outward, idle);
        let moving = std::pin::pin!(moving);
        let ending = std::pin::pin!(ending);
        tokio::select! {
            reason = moving => reason,
            () = ending => "draining",
        }
    };
    closed(End {
        reason,
        bytes_in: inward.moved,
        bytes_out: outward.moved,
        lasted: began.elapsed(),
    });
}

async fn relay(
    client: &mut Stream,
    peer: &mut Stream,
    inward: &mut Pump,
    outward: &mut Pump,
    idle: Option<Duration>,
) -> &'static str {
    loop {
        let half_closed = inward.ended || outward.ended;
        let patience = if half_closed { Some(LINGER) } else { idle };
        let quiet_since = inward.last.max(outward.last);
        let moving = poll_fn(|context| {
            let first = inward.poll(context, client, peer);
            let second = outward.poll(context, peer, client);
            match (first, second) {
                (Poll::Ready(Err(_)), _) | (_, Poll::Ready(Err(_))) => Poll::Ready(Some("reset")),
                (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(Some("closed")),
                // The side that is still open gets less patience from now on.
                _ if !half_closed && (inward.ended || outward.ended) => Poll::Ready(None),
                _ => Poll::Pending,
            }
        });
        let Some(patience) = patience else {
            match moving.await {
                Some(reason) => return reason,
                None => continue,
            }
        };
        match tokio::time::timeout_at((quiet_since + patience).into(), moving).await {
            Ok(Some(reason)) => return reason,
            Ok(None) => {}
            // One timer for a whole stretch of silence, not one for each message.
            Err(_) if inward.last.max(outward.last) == quiet_since => {
                return if half_closed { "half_closed" } else { "idle" };
            }
            Err(_) => {}
        }
    }
}

/// One direction.
struct Pump {
    /// What was read and could not be written yet; nothing more is read before it is gone.
    held: BytesMut,
    counter: IntCounter,
    moved: u64,
    /// When something moved last.
    last: Instant,
    /// The side that is read has ended.
    read_all: bool,
    /// And the other side was told.
    ended: bool,
}

/// As much is read at once.
const CHUNK: usize = 16 << 10;

thread_local! {
    /// One buffer for all WebSockets of a thread: in none of them is anything in flight while
    /// another one is polled.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; CHUNK].into_boxed_slice());
}

impl Pump {
    fn new(first: Bytes, counter: IntCounter) -> Self {
        Self {
            held: BytesMut::from(first),
            counter,
            moved: 0,
            last: Instant::now(),
            read_all: false,
            ended: false,
        }
    }

    fn poll(
        &mut self,
        context: &mut Context<'_>,
        from: &mut Stream,
        to: &mut Stream,
    ) -> Poll<io::Result<()>> {
        if self.ended {
            return Poll::Ready(Ok(()));
        }
        loop {
            ready!(self.poll_write_held(context, to))?;
            if self.read_all {
                ready!(Pin::new(&mut *to).poll_flush(context))?;
                ready!(Pin::new(&mut *to).poll_shutdown(context))?;
                self.ended = true;
                return Poll::Ready(Ok(()));
            }
            let read = SCRATCH.with_borrow_mut(|scratch| {
                let mut buffer = ReadBuf::new(scratch);
                match Pin::new(&mut *from).poll_read(context, &mut buffer) {
                    Poll::Ready(Ok(())) => Poll::Ready(self.write(context, to, buffer.filled())),
                    Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                    Poll::Pending => Poll::Pending,
                }
            });
            match read {
                Poll::Ready(read) => read?,
                Poll::Pending => {
                    ready!(Pin::new(&mut *to).poll_flush(context))?;
                    return Poll::Pending;
                }
            }
        }
    }

    /// Writes what was just read as far as it goes; the rest is held.
    fn write(
        &mut self,
        context: &mut Context<'_>,
        to: &mut Stream,
        mut bytes: &[u8],
    ) -> io::Result<()> {
        if bytes.is_empty() {
            self.read_all = true;
        }
        while !bytes.is_empty() {
            match Pin::new(&mut *to).poll_write(context, bytes) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(written)) => {
                    self.count(written);
                    bytes.advance(written);
                }
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => {
                    self.held = BytesMut::from(bytes);
                    break;
                }
            }
        }
        Ok(())
    }

    fn poll_write_held(
        &mut self,
        context: &mut Context<'_>,
        to: &mut Stream,
    ) -> Poll<io::Result<()>> {
        while !self.held.is_empty() {
            let written = ready!(Pin::new(&mut *to).poll_write(context, &self.held))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.count(written);
            self.held.advance(written);
        }
        // What is empty gives its memory back.
        if self.held.capacity() > 0 {
            self.held = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }

    fn count(&mut self, bytes: usize) {
        self.last = Instant::now();
        self.moved += bytes as u64;
        self.counter.inc_by(bytes as u64);
    }
}

/// Counts a WebSocket as open for as long as it lives.
pub(crate) struct Open(IntGauge);

impl Open {
    pub(crate) fn new(count: IntGauge) -> Self {
        count.inc();
        Self(count)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}
