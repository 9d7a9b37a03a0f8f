//! How fast one WebSocket may speak: the law, without a clock of its own.

use crate::units;
use std::{
    str::FromStr,
    time::{Duration, Instant},
};

/// So many messages per so long, as written: `100/s`, `600/m`, `5/10s`. Neither part is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// What one message costs: the time until its place in the bucket is free again.
    cost: Duration,
    /// What the bucket holds: as many messages at once as the rate's own number.
    depth: Duration,
}

impl FromStr for Rate {
    type Err = String;

    /// Reads `100/s`, `600/m` or `5/10s`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (count, per) = units::rate(text)?;
        let cost = per / count;
        Ok(Self {
            cost,
            depth: cost * count,
        })
    }
}

/// What one WebSocket has used, kept as the moment at which its bucket is full again.
pub(crate) struct Bucket {
    rate: Rate,
    full: Instant,
}

impl Bucket {
    pub(crate) fn new(rate: Rate, now: Instant) -> Self {
        Self { rate, full: now }
    }

    /// Takes one message, if it fits.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let full = self.full.max(now) + self.rate.cost;
        let fits = full - now <= self.rate.depth;
        if fits {
            self.full = full;
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(bucket: &mut Bucket, tries: usize, now: Instant) -> usize {
        (0..tries).filter(|_| bucket.take(now)).count()
    }

    #[test]
    fn as_many_as_the_number_fit_at_once_and_one_more_after_its_share_of_the_time() {
        let began = Instant::now();
        let mut bucket = Bucket::new("10/s".parse().unwrap(), began);
        assert_eq!(taken(&mut bucket, 30, began), 10);
        assert!(!bucket.take(began + Duration::from_millis(99)));
        assert!(bucket.take(began + Duration::from_millis(100)));
        assert!(!bucket.take(began + Duration::from_millis(100)));
    }

    #[test]
    fn a_long_silence_saves_up_no_more_than_the_bucket_holds() {
        let began = Instant::now();
        let mut bucket = Bucket::new("3/s".parse().unwrap(), began);
        let later = began + Duration::from_secs(3_600);
        assert_eq!(taken(&mut bucket, 30, later), 3);
    }

    #[test]
    fn a_steady_sender_at_the_rate_is_never_refused() {
        let began = Instant::now();
        for text in ["3/s", "600/m", "7/10s", "1000000/s"] {
            let rate: Rate = text.parse().unwrap();
            let mut bucket = Bucket::new(rate, began);
            for n in 0..1_000 {
                assert!(bucket.take(began + rate.cost * n), "{text}: {n}");
            }
        }
    }
}
