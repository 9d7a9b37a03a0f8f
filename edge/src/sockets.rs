//! The open WebSockets, so that whoever ends edge can close them one after the other.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::task::Waker;
use std::time::Duration;

use foldhash::fast::RandomState;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until};

/// All open WebSockets; never more than connections.
#[derive(Debug, Default)]
pub(crate) struct Sockets {
    open: Mutex<HashMap<u64, Arc<Told>, RandomState>>,
    next: AtomicU64,
    draining: AtomicBool,
}

/// What a WebSocket was told.
#[derive(Debug, Default)]
pub(crate) struct Told {
    word: AtomicU8,
    waker: Mutex<Option<Waker>>,
}

/// Say Close, wait for the client's, and end.
const CLOSE: u8 = 1;
/// End now: what cannot be said at once is not said.
const CUT: u8 = 2;

impl Told {
    /// Shall it say Close?
    pub(crate) fn to_close(&self) -> bool {
        self.word.load(Ordering::Acquire) >= CLOSE
    }

    /// Shall it end now?
    pub(crate) fn to_end(&self) -> bool {
        self.word.load(Ordering::Acquire) >= CUT
    }

    /// The task that is woken when it is told something.
    pub(crate) fn wake(&self, waker: &Waker) {
        *self.waker.lock() = Some(waker.clone());
    }

    fn tell(&self, word: u8) {
        self.word.fetch_max(word, Ordering::AcqRel);
        if let Some(waker) = &*self.waker.lock() {
            waker.wake_by_ref();
        }
    }
}

/// Stands among the open WebSockets until dropped.
#[derive(Debug)]
pub(crate) struct Entered {
    sockets: Arc<Sockets>,
    number: u64,
    told: Arc<Told>,
}

impl Entered {
    /// What it is told.
    pub(crate) fn told(&self) -> &Told {
        &self.told
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.sockets.open.lock().remove(&self.number);
    }
}

impl Sockets {
    /// One more is open. Once edge drains, it is told to close at once.
    pub(crate) fn enter(self: &Arc<Self>) -> Entered {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let told = Arc::new(Told::default());
        let mut open = self.open.lock();
        if self.draining.load(Ordering::Relaxed) {
            told.tell(CLOSE);
        }
        open.insert(number, told.clone());
        Entered {
            sockets: self.clone(),
            number,
            told,
        }
    }

    /// Tells all that are open to close, spread evenly over this time so that their clients do
    /// not all come back at once.
    pub(crate) async fn close_within(&self, time: Duration) {
        let open: Vec<_> = {
            let open = self.open.lock();
            self.draining.store(true, Ordering::Relaxed);
            open.values().cloned().collect()
        };
        let start = Instant::now();
        let count = u32::try_from(open.len()).unwrap_or(u32::MAX).max(1);
        for (place, told) in (0..).zip(open) {
            sleep_until(start + time / count * place).await;
            told.tell(CLOSE);
        }
    }

    /// Ends all that are still open.
    pub(crate) fn cut(&self) {
        for told in self.open.lock().values() {
            told.tell(CUT);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn closes_are_spread_evenly() {
        let sockets = Arc::new(Sockets::default());
        let open: Vec<_> = (0..1_000).map(|_| sockets.enter()).collect();
        let closing = tokio::spawn({
            let sockets = sockets.clone();
            async move { sockets.close_within(Duration::from_secs(10)).await }
        });
        let start = Instant::now();
        for second in 0..10 {
            sleep_until(start + Duration::from_secs(second) + Duration::from_millis(500)).await;
            let told = open.iter().filter(|open| open.told().to_close()).count();
            let expected = usize::try_from(second).unwrap() * 100 + 50;
            assert!(told.abs_diff(expected) <= 2, "{told} after {second}.5 s");
        }
        closing.await.unwrap();
        assert!(open.iter().all(|open| open.told().to_close()));
        assert!(
            sockets.enter().told().to_close(),
            "who comes late is told, too"
        );
    }

    #[tokio::test]
    async fn nothing_is_kept_of_a_websocket_that_has_ended() {
        let sockets = Arc::new(Sockets::default());
        drop((sockets.enter(), sockets.enter()));
        assert_eq!(sockets.open.lock().len(), 0);
    }
}
