//! Where edge stands in its life: starting, ready, or draining.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;

/// Shared by the probes, the gateway and whoever ends edge.
#[derive(Debug)]
pub(crate) struct Life {
    started: AtomicBool,
    draining: watch::Sender<bool>,
}

impl Life {
    pub(crate) fn new() -> Self {
        Self {
            started: AtomicBool::new(false),
            draining: watch::Sender::new(false),
        }
    }

    /// The listeners are open.
    pub(crate) fn start(&self) {
        self.started.store(true, Ordering::Relaxed);
    }

    /// From now on edge only finishes what it has begun.
    pub(crate) fn drain(&self) {
        self.draining.send_replace(true);
    }

    pub(crate) fn has_started(&self) -> bool {
        self.started.load(Ordering::Relaxed)
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.has_started() && !*self.draining.borrow()
    }

    /// Turns true when edge drains.
    pub(crate) fn draining(&self) -> watch::Receiver<bool> {
        self.draining.subscribe()
    }
}
