//! What all connections of one server share.

use crate::{auth::Gate, metrics::Metrics, settings::Settings};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// TCP connections beyond the WebSockets, so that `/health`, `/metrics` and refusals
/// still get in when every WebSocket is taken.
const SPARE: usize = 128;

/// What all connections of one server share.
pub(crate) struct Shared {
    pub(crate) settings: Settings,
    pub(crate) gate: Gate,
    pub(crate) metrics: Metrics,
    draining: watch::Sender<bool>,
    /// How many WebSockets there were when the drain began, and how many have their turn.
    leaving: AtomicU32,
    turns: AtomicU32,
    ids: AtomicU64,
    sockets: Arc<Semaphore>,
    connections: Arc<Semaphore>,
}

/// A place among the open connections, given back when dropped.
pub(crate) type Place = OwnedSemaphorePermit;

impl Shared {
    pub(crate) fn new(settings: Settings, gate: Gate) -> Self {
        let sockets = settings.max_connections.min(Semaphore::MAX_PERMITS - SPARE);
        Self {
            settings,
            gate,
            metrics: Metrics::new(),
            draining: watch::Sender::new(false),
            leaving: AtomicU32::new(0),
            turns: AtomicU32::new(0),
            ids: AtomicU64::new(1),
            sockets: Arc::new(Semaphore::new(sockets)),
            connections: Arc::new(Semaphore::new(sockets + SPARE)),
        }
    }

    /// The number of the next WebSocket, for the log.
    pub(crate) fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }

    /// A place for one WebSocket, if one is free.
    pub(crate) fn socket_place(&self) -> Option<Place> {
        self.sockets.clone().try_acquire_owned().ok()
    }

    /// A place for one TCP connection, as soon as one is free.
    pub(crate) async fn connection_place(&self) -> Option<Place> {
        self.connections.clone().acquire_owned().await.ok()
    }

    /// From now on there is no new work.
    pub(crate) fn drain(&self) {
        let open = u32::try_from(self.metrics.connections()).unwrap_or(0);
        self.leaving.store(open, Ordering::Release);
        self.draining.send_replace(true);
    }

    pub(crate) fn is_draining(&self) -> bool {
        *self.draining.borrow()
    }

    /// Returns once `drain` was called.
    pub(crate) async fn draining(&self) {
        // The sender lives in `self`, so this can end in no other way.
        drop(self.draining.subscribe().wait_for(|on| *on).await);
    }

    /// Returns once `drain` was called, with how long this WebSocket may stay.
    pub(crate) async fn turn(&self) -> Duration {
        self.draining().await;
        let turn = self.turns.fetch_add(1, Ordering::Relaxed);
        spread(
            self.settings.drain,
            turn,
            self.leaving.load(Ordering::Acquire),
        )
    }
}

/// The moment of one turn among all of them: evenly over the first four fifths of the drain, so
/// that clients do not all come back at once, and the last of them can still say goodbye.
fn spread(drain: Duration, turn: u32, all: u32) -> Duration {
    let window = drain / 5 * 4;
    let all = all.max(1);
    window.saturating_mul(turn.min(all)) / all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_spread_evenly_over_most_of_the_drain() {
        let drain = Duration::from_secs(10);
        let at: Vec<_> = (0..4).map(|turn| spread(drain, turn, 4)).collect();
        assert_eq!(at, [0, 2, 4, 6].map(Duration::from_secs));
    }

    #[test]
    fn who_is_alone_goes_at_once() {
        assert_eq!(spread(Duration::from_secs(10), 0, 1), Duration::ZERO);
    }

    #[test]
    fn who_came_too_late_to_be_counted_goes_with_the_last() {
        let drain = Duration::from_secs(10);
        let last = Duration::from_secs(8);
        assert_eq!(spread(drain, 9, 4), last);
        assert_eq!(spread(drain, 1, 0), last);
        let ages = Duration::from_secs(100 * 366 * 24 * 3_600);
        assert!(spread(ages, u32::MAX, u32::MAX) < ages);
    }
}
