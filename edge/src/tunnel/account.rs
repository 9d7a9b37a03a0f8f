//! What is known of one WebSocket while it is open: its clock, its Ping, and its figures.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::limit::Clients;
use crate::metrics::WebSockets;
use crate::websocket::clock::{Clock, Due, Times};
use crate::websocket::ending::Cause;
use crate::websocket::frame::{self, Sender};

/// How many messages a client may send, over all its WebSockets.
#[derive(Clone)]
pub(crate) struct MessageLimit {
    pub(crate) clients: Arc<Clients>,
    /// The client's key.
    pub(crate) key: u128,
    /// From when the limit counts its time.
    pub(crate) epoch: Instant,
}

/// What has gone in one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Moved {
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
}

/// See the module.
pub(super) struct Account {
    began: Instant,
    /// When this round of moving began: one look at the clock for all of it.
    now: Instant,
    clock: Clock,
    /// What all Pings of edge's begin with here.
    mark: u32,
    /// How many there have been.
    pings: u32,
    /// When the last one was sent, until its Pong has come.
    pinged: Option<Instant>,
    limit: Option<MessageLimit>,
    figures: WebSockets,
    /// From the client.
    pub(super) inward: Moved,
    /// To the client.
    pub(super) outward: Moved,
}

impl Account {
    pub(super) fn new(times: Times, limit: Option<MessageLimit>, figures: WebSockets) -> Self {
        let now = Instant::now();
        Self {
            began: now,
            now,
            clock: Clock::new(times),
            mark: fastrand::u32(..),
            pings: 0,
            pinged: None,
            limit,
            figures,
            inward: Moved::default(),
            outward: Moved::default(),
        }
    }

    /// A look at the clock.
    pub(super) fn tick(&mut self) -> Instant {
        self.now = Instant::now();
        self.now
    }

    /// Since the opening.
    pub(super) fn age(&self) -> Duration {
        self.now.saturating_duration_since(self.began)
    }

    /// When a frame passed last.
    pub(super) fn moved_at(&self) -> Instant {
        self.began + self.clock.moved_at()
    }

    /// When something will be due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.began.checked_add(self.clock.next()?)
    }

    /// What is due. While the client is not listened to, because the upstream is `behind`, its
    /// silence says nothing.
    pub(super) fn due(&mut self, behind: bool) -> Option<Due> {
        if behind {
            self.clock.heard(self.age());
        }
        self.clock.due(self.age())
    }

    /// A Ping to be sent; a client that is `behind` will not see it soon.
    pub(super) fn ping(&mut self, behind: bool) -> Vec<u8> {
        self.pings = self.pings.wrapping_add(1);
        if behind {
            self.clock.pinged(self.age());
        } else {
            self.clock.asked();
        }
        frame::ping(self.mark, self.pings)
    }

    /// The Ping is on its way.
    pub(super) fn pinged(&mut self) {
        self.clock.pinged(self.age());
        self.pinged = Some(self.now);
    }

    /// A Pong: is it the answer to a Ping of edge's own, which concerns nobody else?
    pub(super) fn pong(&mut self, sender: Sender, frame: &[u8]) -> bool {
        if sender == Sender::Upstream || self.pings == 0 {
            return false;
        }
        let payload = frame::payload(frame);
        let [mark, number] = match payload.as_chunks() {
            ([mark, number], []) => [mark, number].map(|bytes| u32::from_be_bytes(*bytes)),
            _ => return false,
        };
        // A late answer to an earlier one says nothing about the last one's time.
        if (mark, number) == (self.mark, self.pings)
            && let Some(sent) = self.pinged.take()
        {
            let round_trip = self.now.saturating_duration_since(sent);
            self.figures.ping.observe(round_trip.as_secs_f64());
        }
        mark == self.mark
    }

    /// The client will say no more.
    pub(super) fn gone(&mut self) {
        self.clock.gone();
    }

    /// One side sent something.
    pub(super) fn heard(&mut self, sender: Sender) {
        if sender == Sender::Client {
            self.clock.heard(self.age());
        }
    }

    /// The receiver took something that had waited for it.
    pub(super) fn took(&mut self, sender: Sender) {
        if sender == Sender::Upstream {
            self.clock.took(self.age());
        }
    }

    /// So many bytes pass.
    pub(super) fn moved(&mut self, sender: Sender, bytes: usize) {
        self.clock.moved(self.age());
        let bytes = bytes as u64;
        match sender {
            Sender::Client => {
                self.inward.bytes += bytes;
                self.figures.bytes_in.inc_by(bytes);
            }
            Sender::Upstream => {
                self.outward.bytes += bytes;
                self.figures.bytes_out.inc_by(bytes);
            }
        }
    }

    /// A message begins.
    pub(super) fn message(&mut self, sender: Sender) -> Result<(), Cause> {
        self.message_limit(sender)?;
        match sender {
            Sender::Client => {
                self.inward.messages += 1;
                self.figures.messages_in.inc();
            }
            Sender::Upstream => {
                self.outward.messages += 1;
                self.figures.messages_out.inc();
            }
        }
        Ok(())
    }

    /// May the client send one more message, or Ping?
    pub(super) fn message_limit(&self, sender: Sender) -> Result<(), Cause> {
        match &self.limit {
            Some(limit) if sender == Sender::Client => {
                let now = self.now.saturating_duration_since(limit.epoch);
                let taken = limit.clients.take(limit.key, now);
                taken.map_err(|_| Cause::MessageLimit)
            }
            _ => Ok(()),
        }
    }
}
