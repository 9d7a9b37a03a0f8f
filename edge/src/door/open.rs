//! How many connections are open, and whose they are.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use foldhash::quality::RandomState;
use parking_lot::Mutex;
use prometheus::IntGauge;
use tokio::sync::Notify;

/// How many connections are open; edge ends when none is.
#[derive(Debug)]
pub(crate) struct Open {
    count: AtomicUsize,
    gauge: IntGauge,
    /// How many each client has: never more entries than connections.
    clients: Mutex<HashMap<u128, usize, RandomState>>,
    /// One is open no more.
    left: Notify,
}

impl Open {
    pub(crate) fn new(gauge: IntGauge) -> Arc<Self> {
        Arc::new(Self {
            count: AtomicUsize::new(0),
            gauge,
            clients: Mutex::default(),
            left: Notify::new(),
        })
    }

    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Counts one more until the guard is dropped; `None` if there are `most` already.
    pub(super) fn enter(self: &Arc<Self>, most: usize) -> Option<Entered> {
        let one_more = |count| (count < most).then_some(count + 1);
        self.count
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more)
            .ok()?;
        self.gauge.inc();
        Some(Entered {
            open: self.clone(),
            client: None,
        })
    }

    /// Waits until one leaves; one that left since the last wait counts.
    pub(super) async fn one_leaves(&self) {
        self.left.notified().await;
    }
}

/// One connection, and whose it is once that is known.
pub(super) struct Entered {
    open: Arc<Open>,
    client: Option<u128>,
}

impl Entered {
    /// It is this client's; `false` if that has `most` open already.
    pub(super) fn belongs(&mut self, client: u128, most: usize) -> bool {
        let mut clients = self.open.clients.lock();
        let open = clients.entry(client).or_default();
        if *open >= most {
            return false;
        }
        *open += 1;
        self.client = Some(client);
        true
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        if let Some(client) = self.client {
            let mut clients = self.open.clients.lock();
            if let Some(open) = clients.get_mut(&client) {
                *open -= 1;
                if *open == 0 {
                    clients.remove(&client);
                }
            }
        }
        self.open.gauge.dec();
        self.open.count.fetch_sub(1, Ordering::Relaxed);
        self.open.left.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open() -> Arc<Open> {
        Open::new(IntGauge::new("open", "connections").unwrap())
    }

    #[tokio::test]
    async fn there_is_room_again_when_one_leaves() {
        let open = open();
        let (one, two) = (open.enter(2).unwrap(), open.enter(2).unwrap());
        assert!(open.enter(2).is_none());
        assert!(open.enter(3).is_some(), "a reload may make room");
        drop(one);
        open.one_leaves().await;
        assert!(open.enter(2).is_some());
        drop(two);
        assert_eq!(open.count(), 0);
    }

    #[test]
    fn a_client_has_an_entry_while_it_has_a_connection() {
        let open = open();
        let mut held: Vec<_> = (0..3).filter_map(|_| open.enter(9)).collect();
        assert!(held[0].belongs(1, 1));
        assert!(!held[1].belongs(1, 1), "its share is taken");
        assert!(held[1].belongs(2, 1));
        assert_eq!(open.clients.lock().len(), 2);
        held.clear();
        assert!(open.clients.lock().is_empty());
    }
}
