//! Counts the clients for whom the table of buckets has no place, in fixed memory: a count-min
//! sketch of `pingora-limits` over windows of at least a second.
//!
//! It may count too much, never too little, so the rate holds; at the border of two windows a
//! client may send two bursts at once. In a flood of more keys than it was sized for it
//! refuses strangers, not the clients that have a bucket.

use std::sync::OnceLock;
use std::time::Duration;

use parking_lot::RwLock;
use pingora_limits::estimator::Estimator;

use crate::limit::{Overflow, Quota};

/// How many rows the sketch has: a count is wrong only if it collides in each.
const ROWS: usize = 4;

/// See the module.
pub(crate) struct Sketch {
    /// Requests that one key may send in a window.
    most: isize,
    window: Duration,
    columns: usize,
    /// Made when it is first needed: most gateways never meet so many clients.
    counts: OnceLock<RwLock<Counts>>,
}

struct Counts {
    estimator: Estimator,
    /// The number of the window that is being counted.
    window: u128,
}

impl Sketch {
    /// Sized for as many keys as the table holds: four counters for each in each row, so that as
    /// many strangers as clients are told apart (128 bytes each, once there are strangers).
    pub(crate) fn new(quota: Quota, clients: usize) -> Self {
        // Emptying the counters takes a while: seldom enough that a flood does not live on it.
        let window = quota.refill().max(Duration::from_secs(1));
        Self {
            most: isize::try_from(quota.within(window)).unwrap_or(isize::MAX),
            window,
            columns: clients.saturating_mul(4).next_power_of_two().max(1_024),
            counts: OnceLock::new(),
        }
    }

    /// Until the next window.
    fn left(&self, now: Duration) -> Duration {
        let spent = u64::try_from(now.as_nanos() % self.window.as_nanos()).unwrap_or(0);
        self.window.saturating_sub(Duration::from_nanos(spent))
    }

    fn counts(&self) -> &RwLock<Counts> {
        self.counts.get_or_init(|| {
            RwLock::new(Counts {
                estimator: Estimator::new(ROWS, self.columns),
                window: 0,
            })
        })
    }
}

impl Overflow for Sketch {
    fn take(&self, client: u64, now: Duration) -> Result<(), Duration> {
        let window = now.as_nanos() / self.window.as_nanos();
        let counts = self.counts();
        if counts.read().window != window {
            let mut counts = counts.write();
            if counts.window != window {
                counts.estimator.reset();
                counts.window = window;
            }
        }
        if counts.read().estimator.incr(client, 1) <= self.most {
            return Ok(());
        }
        Err(self.left(now))
    }

    fn wait(&self, client: u64, now: Duration) -> Option<Duration> {
        let counts = self.counts.get()?.read();
        let counted = counts.window == now.as_nanos() / self.window.as_nanos();
        let full = counted && counts.estimator.get(client) >= self.most;
        full.then(|| self.left(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit::Clients;

    const SECOND: Duration = Duration::from_secs(1);

    fn ten_a_second() -> Quota {
        Quota::new(10, SECOND, 10)
    }

    #[test]
    fn a_key_beyond_the_table_is_counted_too() {
        let sketch = Sketch::new(ten_a_second(), 1_000);
        assert_eq!(
            (0..50)
                .filter(|_| sketch.take(7, SECOND * 5).is_ok())
                .count(),
            10
        );
        assert_eq!(sketch.take(7, SECOND * 5 + SECOND / 4), Err(SECOND * 3 / 4));
        assert!(sketch.take(7, SECOND * 6).is_ok());
    }

    #[test]
    fn as_many_strangers_as_it_was_sized_for_are_told_apart() {
        let sketch = Sketch::new(ten_a_second(), 100_000);
        let refused = (0..100_000u64)
            .flat_map(|key| [key; 5])
            .filter(|&key| {
                sketch
                    .take(key.wrapping_mul(0x9E37_79B9_7F4A_7C15), SECOND)
                    .is_err()
            })
            .count();
        assert_eq!(refused, 0);
    }

    #[test]
    fn a_full_table_with_its_sketch_neither_grows_nor_opens() {
        let quota = ten_a_second();
        let clients = Clients::new(quota, 1_000, Some(Box::new(Sketch::new(quota, 1_000))));
        for key in 0..1_000 {
            clients.take(key, SECOND).unwrap();
        }
        assert_eq!(
            (0..100)
                .filter(|_| clients.take(9_999, SECOND).is_ok())
                .count(),
            10
        );
        assert_eq!(clients.len(), 1_000);
        assert_eq!(clients.wait(9_999, SECOND), Some(SECOND));
        assert_eq!(clients.wait(9_998, SECOND), None);
        assert_eq!(clients.wait(9_999, SECOND * 2), None);
    }
}
