//! When what is due: at a constant rate, whatever becomes of what was due before.
//!
//! A load that waits for an answer before it asks again slows down with the system, and leaves out
//! just those requests that would have been slow (coordinated omission). Here each has its moment
//! before the load begins, and the time it takes counts from that moment.

use std::time::Duration;

/// So many a second, the first at the beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    rate: u32,
}

impl Schedule {
    /// `None` where none is ever due.
    pub fn new(rate: u32) -> Option<Self> {
        (rate > 0).then_some(Self { rate })
    }

    /// The moment of this one, since the beginning. Reckoned from the number, so that nothing adds up.
    pub fn moment(self, number: u64) -> Duration {
        let rate = u64::from(self.rate);
        let rest = Duration::from_secs(number % rate) / self.rate;
        Duration::from_secs(number / rate) + rest
    }

    /// How many are due before this time.
    pub fn before(self, time: Duration) -> u64 {
        let number = (time.as_nanos() * u128::from(self.rate)).div_ceil(1_000_000_000);
        u64::try_from(number).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(rate: u32) -> Schedule {
        Schedule::new(rate).unwrap()
    }

    #[test]
    fn the_distance_is_constant_and_does_not_drift() {
        let moments = |rate, number| schedule(rate).moment(number);
        assert_eq!(moments(1_000, 0), Duration::ZERO);
        assert_eq!(moments(1_000, 1), Duration::from_millis(1));
        assert_eq!(moments(3, 1), Duration::from_nanos(333_333_333));
        assert_eq!(moments(3, 3_000_000), Duration::from_secs(1_000_000));
    }

    #[test]
    fn as_many_are_due_as_have_their_moment() {
        for (rate, millis, due) in [
            (1_000, 30_000, 30_000),
            (1_000, 0, 0),
            (10, 1, 1),
            (10, 100, 1),
            (10, 101, 2),
            (3, 1_000, 3),
        ] {
            let before = schedule(rate).before(Duration::from_millis(millis));
            assert_eq!(before, due, "{rate}/s, {millis} ms");
        }
    }

    #[test]
    fn a_rate_of_nothing_is_no_schedule() {
        assert_eq!(Schedule::new(0), None);
    }
}
