//! The law of a bucket: GCRA, the token bucket written as one moment in time.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// So many requests per so long, so many at once; neither can be zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// Nanoseconds from one request to the next.
    interval: u64,
    /// Requests that fit at once.
    depth: u64,
}

impl Quota {
    /// `count` requests each `per`, of which `burst` may come at once. Zeros count as one.
    pub fn new(count: u64, per: Duration, burst: u64) -> Self {
        let per = u64::try_from(per.as_nanos()).unwrap_or(u64::MAX);
        Self {
            interval: (per / count.max(1)).max(1),
            depth: burst.max(1),
        }
    }

    /// The same rate with another burst.
    pub fn with_burst(self, burst: u64) -> Self {
        Self {
            depth: burst.max(1),
            ..self
        }
    }

    /// How long an empty bucket takes to be full again.
    pub fn refill(&self) -> Duration {
        Duration::from_nanos(self.interval.saturating_mul(self.depth))
    }

    /// Requests that fit within `time`, at least the burst.
    pub fn within(&self, time: Duration) -> u64 {
        (nanoseconds(time) / self.interval).max(self.depth)
    }

    /// One request at `now` from a bucket that is full again at `full`: the moment at which it is
    /// full again afterwards, or how long until one more fits. All in nanoseconds.
    pub fn take(&self, full: u64, now: u64) -> Result<u64, u64> {
        let most = now.saturating_add(self.interval.saturating_mul(self.depth));
        let then = full.max(now).saturating_add(self.interval);
        if then <= most {
            Ok(then)
        } else {
            Err(then - most)
        }
    }
}

impl fmt::Display for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (second, minute, hour) = (1_000_000_000, 60_000_000_000, 3_600_000_000_000);
        let (length, unit) = if self.interval <= second {
            (second, "s")
        } else if self.interval <= minute {
            (minute, "m")
        } else {
            (hour, "h")
        };
        write!(f, "{}/{unit}, burst {}", length / self.interval, self.depth)
    }
}

/// What one key has used, kept as the moment at which its bucket is full again. One number, so
/// that no thread sees half an update.
#[derive(Debug, Default)]
pub struct Bucket(AtomicU64);

impl Bucket {
    /// Takes one request, or tells how long until one more fits.
    pub fn take(&self, quota: &Quota, now: Duration) -> Result<(), Duration> {
        let now = nanoseconds(now);
        let mut full = self.0.load(Ordering::Relaxed);
        loop {
            let then = quota.take(full, now).map_err(Duration::from_nanos)?;
            match self
                .0
                .compare_exchange_weak(full, then, Ordering::Relaxed, Ordering::Relaxed)
            {
                Ok(_) => return Ok(()),
                Err(seen) => full = seen,
            }
        }
    }
}

/// 584 years fit.
pub(super) fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_fresh_bucket_is_full() {
        let (quota, bucket) = (Quota::new(10, SECOND, 10), Bucket::default());
        assert_eq!(
            (0..30)
                .filter(|_| bucket.take(&quota, at(5)).is_ok())
                .count(),
            10
        );
    }

    #[test]
    fn the_eleventh_fits_a_tenth_of_a_second_later_and_not_sooner() {
        let (quota, bucket) = (Quota::new(10, SECOND, 10), Bucket::default());
        for _ in 0..10 {
            bucket.take(&quota, at(0)).unwrap();
        }
        assert_eq!(bucket.take(&quota, at(0)), Err(at(100)));
        assert_eq!(bucket.take(&quota, at(99)), Err(at(1)));
        assert_eq!(bucket.take(&quota, at(100)), Ok(()));
    }

    #[test]
    fn a_rest_never_saves_up_more_than_the_burst() {
        let (quota, bucket) = (Quota::new(10, SECOND, 20), Bucket::default());
        bucket.take(&quota, at(0)).unwrap();
        assert_eq!(
            (0..99)
                .filter(|_| bucket.take(&quota, at(3_600_000)).is_ok())
                .count(),
            20
        );
    }

    #[test]
    fn the_highest_rate_and_the_longest_time_do_not_overflow() {
        let quota = Quota::new(u64::MAX, SECOND, u64::MAX);
        let bucket = Bucket::default();
        assert!(bucket.take(&quota, Duration::MAX).is_ok());
        assert!(bucket.take(&quota, Duration::ZERO).is_ok());
    }

    proptest! {
        /// The law: in no window of length t pass more than burst + t * rate requests, and a
        /// refused request is told the exact wait.
        #[test]
        fn no_window_admits_more_than_its_burst_and_what_refilled(
            rate in 1u64..500, burst in 1u64..50, steps in prop::collection::vec(0u64..300, 1..200),
        ) {
            let (quota, bucket) = (Quota::new(rate, SECOND, burst), Bucket::default());
            let (mut now, mut passed) = (0u64, Vec::new());
            for step in steps {
                now += step;
                match bucket.take(&quota, at(now)) {
                    Ok(()) => passed.push(now),
                    Err(wait) => {
                        let (then, just_before) = (at(now) + wait, at(now) + wait - Duration::from_nanos(1));
                        let copy = Bucket(AtomicU64::new(bucket.0.load(Ordering::Relaxed)));
                        prop_assert!(copy.take(&quota, just_before).is_err());
                        prop_assert!(copy.take(&quota, then).is_ok());
                    }
                }
            }
            for (from, first) in passed.iter().enumerate() {
                for (to, last) in passed.iter().enumerate().skip(from) {
                    let (count, window) = ((to - from + 1) as u128, u128::from(last - first));
                    let interval = u128::from(quota.interval);
                    prop_assert!(count * interval <= u128::from(burst) * interval + window * 1_000_000);
                }
            }
        }
    }
}
