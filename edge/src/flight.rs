//! One fetch and all who wait for it: the first one's answer is read by every other while it
//! still arrives.
//!
//! What is to be kept stays whole until it is; what is not passes through a window, as fast as
//! its slowest reader takes it.

mod flights;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::HeaderMap;
use parking_lot::Mutex;
use pingora::http::ResponseHeader;
use tokio::sync::Notify;

use crate::cache::{Lifetime, Reason, Selection};
use crate::exchange::Upstream;
use crate::refusal::Refusal;
use crate::store::{Entry, Room};
pub(crate) use flights::{Boarder, Boarding, Flights};

/// Of an answer that is not kept, no more than this is held for its readers, in bytes. The last
/// chunk may go over it.
const WINDOW: usize = 64 << 10;
/// Whoever has not read for so long is left behind, if others have.
const LAGGING: Duration = Duration::from_secs(2);
/// More interim answers than this are not passed on.
const MOST_INTERIM: usize = 16;

/// A fetch that is under way, or has just ended.
#[derive(Debug)]
pub(crate) struct Flight {
    /// The store's generation when it began: later purges hit what it brings.
    pub(crate) born: u64,
    /// The variant that it is expected to bring, where the fields that tell variants apart are
    /// known.
    expected: Option<Selection>,
    state: Mutex<State>,
    /// Something has changed, for those who read.
    arrived: Notify,
    /// Somebody has read, or left, for the one who writes.
    taken: Notify,
}

#[derive(Debug)]
struct State {
    began: Instant,
    interim: Vec<Arc<ResponseHeader>>,
    outcome: Option<Outcome>,
    /// What the fetch cost, for the records of those who took part.
    upstream: Upstream,
    /// What has arrived and is still needed; the first one's place is `first`.
    chunks: VecDeque<Bytes>,
    first: usize,
    bytes: usize,
    /// Every chunk is held until the end.
    whole: bool,
    /// What it takes of the store's room for what arrives.
    room: Option<Room>,
    end: Option<Result<(), Refusal>>,
    /// Those who read, and the place that each has come to.
    readers: HashMap<u64, usize>,
    next: u64,
}

/// What a fetch comes to once its head is there.
#[derive(Debug, Clone)]
pub(crate) enum Outcome {
    /// An answer, with its body to come.
    Answer(Arc<Head>),
    /// What is kept still holds (RFC 9111 4.3.3); this is it, freshened, and whether it is kept
    /// any longer.
    Holds(Arc<Entry>, bool),
    /// No answer.
    Failed(Refusal),
}

/// The head of an answer that arrives.
#[derive(Debug)]
pub(crate) struct Head {
    /// Without hop-by-hop fields.
    pub(crate) head: ResponseHeader,
    /// For how long it may be kept, and for whom; or why it may not.
    pub(crate) kept: Result<(Lifetime, Selection), Reason>,
    /// The length of its body, if it says so.
    pub(crate) length: Option<u64>,
}

impl Head {
    /// Is this answer for whoever asks with these fields, without asking for himself?
    fn is_for_all(&self, request: &HeaderMap) -> bool {
        let kept = self.kept.as_ref();
        kept.is_ok_and(|(lifetime, selection)| {
            lifetime.is_for_who_waits(SystemTime::now()) && selection.matches(request)
        })
    }
}

/// What somebody who waits for a head is told.
#[derive(Debug)]
pub(crate) enum News {
    Interim(Arc<ResponseHeader>),
    Outcome(Outcome),
}

impl Flight {
    /// A fetch that begins now, and the first who takes part in it.
    pub(crate) fn begin(
        now: Instant,
        born: u64,
        expected: Option<Selection>,
    ) -> (Arc<Self>, Reader) {
        let flight = Arc::new(Self {
            born,
            expected,
            state: Mutex::new(State {
                began: now,
                interim: Vec::new(),
                outcome: None,
                upstream: Upstream::default(),
                chunks: VecDeque::new(),
                first: 0,
                bytes: 0,
                whole: true,
                room: None,
                end: None,
                readers: HashMap::from([(0, 0)]),
                next: 1,
            }),
            arrived: Notify::new(),
            taken: Notify::new(),
        });
        let first = Reader {
            flight: flight.clone(),
            id: 0,
            interim: 0,
        };
        (flight, first)
    }

    /// Takes part, if it may.
    fn join(self: &Arc<Self>, may: impl Fn(&State) -> bool) -> Option<Reader> {
        let mut state = self.state.lock();
        if !may(&state) {
            return None;
        }
        let id = state.next;
        state.next += 1;
        state.readers.insert(id, 0);
        Some(Reader {
            flight: self.clone(),
            id,
            interim: 0,
        })
    }

    /// What the fetch has cost so far.
    pub(crate) fn spend(&self, upstream: &Upstream) {
        self.state.lock().upstream = upstream.clone();
    }

    /// An interim answer (RFC 9110 15.2).
    pub(crate) fn interim(&self, head: ResponseHeader) {
        let mut state = self.state.lock();
        if state.interim.len() < MOST_INTERIM {
            state.interim.push(Arc::new(head));
            drop(state);
            self.arrived.notify_waiters();
        }
    }

    /// The head is there, or never will be.
    pub(crate) fn decide(&self, outcome: Outcome) {
        let mut state = self.state.lock();
        state.whole = match &outcome {
            Outcome::Answer(head) => head.kept.is_ok(),
            Outcome::Holds(..) | Outcome::Failed(_) => true,
        };
        state.outcome.get_or_insert(outcome);
        drop(state);
        self.arrived.notify_waiters();
    }

    /// Holds no longer every chunk: the answer has turned out too large to be kept.
    pub(crate) fn let_go(&self) {
        self.state.lock().whole = false;
    }

    /// Holds this room as long as anybody reads.
    pub(crate) fn hold(&self, room: Room) {
        self.state.lock().room = Some(room);
    }

    /// More of the body. Waits while its readers have too much to read already; `false`: nobody
    /// reads, and nobody will.
    pub(crate) async fn push(&self, chunk: Bytes) -> bool {
        {
            let mut state = self.state.lock();
            state.bytes += chunk.len();
            state.chunks.push_back(chunk);
        }
        self.arrived.notify_waiters();
        loop {
            let taken = self.taken.notified();
            {
                let mut state = self.state.lock();
                if state.whole {
                    return true;
                }
                state.forget();
                if state.readers.is_empty() {
                    return false;
                }
                if state.bytes <= WINDOW {
                    return true;
                }
            }
            if tokio::time::timeout(LAGGING, taken).await.is_err() {
                self.state.lock().leave_behind();
            }
        }
    }

    /// The body is complete, or never will be. Without an outcome there will be none.
    pub(crate) fn end(&self, end: Result<(), Refusal>) {
        let mut state = self.state.lock();
        if let Err(refusal) = &end {
            state
                .outcome
                .get_or_insert(Outcome::Failed(refusal.clone()));
        }
        state.end.get_or_insert(end);
        state.upstream.done();
        drop(state);
        self.arrived.notify_waiters();
    }
}

impl State {
    /// Goes on without those who have read least, where others have read more.
    fn leave_behind(&mut self) {
        let (least, most) = (self.readers.values().min(), self.readers.values().max());
        if let (Some(&least), Some(&most)) = (least, most)
            && least < most
        {
            self.readers.retain(|_, place| *place > least);
        }
    }

    /// May a request with these fields still take part?
    fn takes(&self, request: &HeaderMap, now: Instant, patience: Duration) -> bool {
        match &self.outcome {
            None => now.saturating_duration_since(self.began) < patience,
            Some(Outcome::Answer(head)) => self.whole && head.is_for_all(request),
            // Who comes now finds in the store what that has left there.
            Some(Outcome::Holds(..) | Outcome::Failed(_)) => false,
        }
    }

    /// Lets go of what every reader has read.
    fn forget(&mut self) {
        let Some(&least) = self.readers.values().min() else {
            return;
        };
        while self.first < least {
            let Some(chunk) = self.chunks.pop_front() else {
                return;
            };
            self.bytes -= chunk.len();
            self.first += 1;
        }
    }
}

/// Somebody who takes part in a fetch.
#[derive(Debug)]
pub(crate) struct Reader {
    flight: Arc<Flight>,
    id: u64,
    interim: usize,
}

impl Reader {
    /// What comes next before the body: interim answers, then the outcome.
    pub(crate) async fn news(&mut self) -> News {
        let flight = self.flight.clone();
        loop {
            let arrived = flight.arrived.notified();
            {
                let state = flight.state.lock();
                if let Some(head) = state.interim.get(self.interim) {
                    self.interim += 1;
                    return News::Interim(head.clone());
                }
                if let Some(outcome) = &state.outcome {
                    return News::Outcome(outcome.clone());
                }
            }
            arrived.await;
        }
    }

    /// The next part of the body; `None` at its end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Refusal> {
        loop {
            let arrived = self.flight.arrived.notified();
            {
                let mut state = self.flight.state.lock();
                let state = &mut *state;
                let place = state.readers.get_mut(&self.id);
                let place = place.ok_or(Refusal::ResponseTimeout)?;
                if let Some(chunk) = state.chunks.get(*place - state.first) {
                    let chunk = chunk.clone();
                    *place += 1;
                    if !state.whole {
                        self.flight.taken.notify_one();
                    }
                    return Ok(Some(chunk));
                }
                if let Some(end) = &state.end {
                    return end.clone().map(|()| None);
                }
            }
            arrived.await;
        }
    }

    /// What the fetch has cost so far.
    pub(crate) fn upstream(&self) -> Upstream {
        self.flight.state.lock().upstream.clone()
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.flight.state.lock().readers.remove(&self.id);
        self.flight.taken.notify_one();
    }
}

#[cfg(test)]
mod tests;
