//! A client's connection as edge holds it, around the stream that Pingora reads and writes.
//!
//! It knows what Pingora does not: how long a head takes to arrive, that Pingora wrote an error
//! page of its own, that the deadline has passed, and that the stream was handed over to become
//! a WebSocket.

mod ahead;
mod date;
mod frames;
mod guarded;

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use http::HeaderValue;
use parking_lot::Mutex;
use pingora::protocols::Stream;

use crate::deadline::Deadline;
use crate::identity::Certificate;
use crate::message::Fault;
use crate::refusal::Refusal;
use crate::tunnel::Tunnel;
pub(crate) use ahead::Ahead;
use date::Date;
pub(crate) use guarded::{Guarded, Times};

tokio::task_local! {
    /// The connection for whom this task works, where Pingora's session does not hold it.
    static SERVED: Arc<Connection>;
}

/// What is known of a client's connection, shared by the stream and the gateway's steps.
#[derive(Debug, Default)]
pub(crate) struct Connection {
    /// The clocks of the request that it serves.
    pub(crate) deadline: Deadline,
    /// Does the client come through TLS?
    pub(crate) secure: bool,
    /// The certificate that the client has shown.
    pub(crate) certificate: Option<Arc<Certificate>>,
    phase: AtomicU8,
    cut: AtomicBool,
    /// Has the client taken nothing for too long?
    pub(crate) stalled: Arc<AtomicBool>,
    /// The date of the answer that is to be written next, and whether there is one.
    date: Mutex<Option<Date>>,
    dated: AtomicBool,
    handed_over: Mutex<HandOver>,
    /// How many requests it has brought.
    requests: AtomicU64,
    /// The first message that could be read in two ways, and whether there is one.
    fault: Mutex<Option<Fault>>,
    faulty: AtomicBool,
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
    pub(crate) fn new(secure: bool, certificate: Option<Arc<Certificate>>) -> Arc<Self> {
        Arc::new(Self {
            secure,
            certificate,
            ..Self::default()
        })
    }

    /// What a stream of HTTP/2 on this connection is served with.
    pub(crate) fn stream(&self) -> Arc<Self> {
        Arc::new(Self {
            secure: self.secure,
            certificate: self.certificate.clone(),
            stalled: self.stalled.clone(),
            ..Self::default()
        })
    }

    /// The connection under Pingora's stream; a request over HTTP/2 has no stream that Pingora
    /// would show, and is served as if it had a connection of its own.
    pub(crate) fn of(stream: Option<&Stream>) -> Option<Arc<Self>> {
        match stream {
            None => SERVED.try_with(Arc::clone).ok(),
            Some(stream) => {
                let guarded = stream.as_any().downcast_ref::<Guarded>()?;
                Some(guarded.connection.clone())
            }
        }
    }

    /// Serves a request over HTTP/2, which finds this connection by [`Connection::of`].
    pub(crate) fn serving<F: Future>(
        self: &Arc<Self>,
        serving: F,
    ) -> impl Future<Output = F::Output> {
        SERVED.scope(self.clone(), serving)
    }

    /// A request's head has arrived.
    pub(crate) fn exchange_begins(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.phase.store(EXCHANGE, Ordering::Relaxed);
    }

    /// The answer is complete.
    pub(crate) fn exchange_ends(&self) {
        self.phase.store(IDLE, Ordering::Relaxed);
    }

    /// From this message on nobody knows what the client says.
    fn found(&self, fault: Fault) {
        *self.fault.lock() = Some(fault);
        self.faulty.store(true, Ordering::Release);
    }

    /// Why the request that is served now cannot be read in one way, if so.
    pub(crate) fn fault(&self) -> Option<Refusal> {
        let served = self.requests.load(Ordering::Relaxed);
        self.fault_of(served)
    }

    /// The same of the head that is arriving.
    fn next_fault(&self) -> Option<Refusal> {
        self.fault_of(self.requests.load(Ordering::Relaxed) + 1)
    }

    fn fault_of(&self, message: u64) -> Option<Refusal> {
        if !self.faulty.load(Ordering::Acquire) {
            return None;
        }
        let fault = self.fault.lock();
        let own = fault.as_ref().filter(|fault| fault.message == message);
        own.map(|fault| fault.refusal.clone())
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
