//! What all connections of one server share.

use crate::{metrics::Metrics, settings::Settings};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// TCP connections beyond the WebSockets, so that `/health`, `/metrics` and refusals
/// still get in when every WebSocket is taken.
const SPARE: usize = 128;

/// What all connections of one server share.
pub(crate) struct Shared {
    pub(crate) settings: Settings,
    pub(crate) metrics: Metrics,
    draining: watch::Sender<bool>,
    ids: AtomicU64,
    sockets: Arc<Semaphore>,
    connections: Arc<Semaphore>,
}

/// A place among the open connections, given back when dropped.
pub(crate) type Place = OwnedSemaphorePermit;

impl Shared {
    pub(crate) fn new(settings: Settings) -> Self {
        let sockets = settings.max_connections.min(Semaphore::MAX_PERMITS - SPARE);
        Self {
            settings,
            metrics: Metrics::new(),
            draining: watch::Sender::new(false),
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
}
