//! How long a kept answer lives (RFC 9111 4.2).

use std::time::{Duration, SystemTime};

use super::field::LONGEST;

/// What is decided about an answer when it is kept.
#[derive(Debug, Clone, PartialEq)]
pub struct Lifetime {
    /// When it came.
    pub received: SystemTime,
    /// How old it was when it came (`corrected_initial_age`, 4.2.3).
    pub initial_age: Duration,
    /// Up to which age it is fresh.
    pub fresh_for: Duration,
    /// How long past that it is handed out while edge asks again (RFC 5861 3); zero: not at all.
    pub stale_while_revalidate: Duration,
    /// How long past that it stands in for an upstream that fails (RFC 5861 4); zero: not at all.
    pub stale_if_error: Duration,
    /// How long past that it stands in for an upstream that no longer answers at all (RFC 9111
    /// 4.2.4); zero: not at all.
    pub stale_if_unreachable: Duration,
    /// `no-cache`: never without asking the upstream (5.2.2.4).
    pub validate_always: bool,
    /// Nothing forbids to hand it out stale (4.2.4).
    pub may_be_stale: bool,
    /// Also for requests with credentials (3.5).
    pub shared: bool,
}

impl Lifetime {
    /// How old it is now (4.2.3). A clock set back makes nothing younger than it came.
    pub fn age(&self, now: SystemTime) -> Duration {
        let resident = now.duration_since(self.received).unwrap_or_default();
        self.initial_age.saturating_add(resident).min(LONGEST)
    }

    /// Is it fresh now (4.2)?
    pub fn is_fresh(&self, now: SystemTime) -> bool {
        self.fresh_for > self.age(now)
    }

    /// May those who wait for it have it too, without asking for themselves (RFC 9111 4)?
    pub fn is_for_who_waits(&self, now: SystemTime) -> bool {
        self.is_fresh(now) && !self.validate_always
    }

    /// May it stand in for an answer that says that the upstream has failed (RFC 5861 4)?
    pub fn stands_in(&self, now: SystemTime) -> bool {
        self.may_be_stale && self.stale_for(now) < self.stale_if_error
    }

    /// For how long it has been stale; zero while it is fresh.
    pub fn stale_for(&self, now: SystemTime) -> Duration {
        self.age(now).saturating_sub(self.fresh_for)
    }

    /// Seconds left, rounded down: what is told is never longer than what is left. Negative once
    /// it has been stale for a moment.
    pub fn left(&self, now: SystemTime) -> i64 {
        let left = self.fresh_for.saturating_sub(self.age(now)).as_secs();
        let stale = self.stale_for(now);
        let stale = stale.as_secs() + u64::from(stale.subsec_nanos() > 0);
        let [left, stale] = [left, stale].map(|secs| i64::try_from(secs).unwrap_or(i64::MAX));
        left - stale
    }

    /// Makes it stale as of now. Its stale windows begin here; one that was stale before is left
    /// as it is.
    pub fn expire(&mut self, now: SystemTime) {
        self.fresh_for = self.fresh_for.min(self.age(now));
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{lifetime, now};
    use super::*;

    fn at(millis: u64) -> SystemTime {
        now() + Duration::from_millis(millis)
    }

    /// RFC 9111 4.2.3.
    #[test]
    fn it_ages_from_the_age_it_came_with() {
        let mut lifetime = lifetime(60);
        lifetime.initial_age = Duration::from_secs(10);
        assert_eq!(lifetime.age(at(5_000)), Duration::from_secs(15));
        assert_eq!(
            lifetime.age(now() - Duration::from_secs(99)),
            Duration::from_secs(10)
        );
    }

    #[test]
    fn the_time_told_is_never_longer_than_the_time_left() {
        let lifetime = lifetime(60);
        for (millis, left, fresh) in [
            (0, 60, true),
            (1, 59, true),
            (59_999, 0, true),
            (60_000, 0, false),
            (60_001, -1, false),
            (62_000, -2, false),
        ] {
            assert_eq!(lifetime.left(at(millis)), left, "{millis}");
            assert_eq!(lifetime.is_fresh(at(millis)), fresh, "{millis}");
        }
    }

    #[test]
    fn what_expires_is_stale_now_and_no_older() {
        let mut soft = lifetime(60);
        soft.expire(at(20_000));
        assert!(!soft.is_fresh(at(20_000)));
        assert_eq!(soft.stale_for(at(25_000)), Duration::from_secs(5));
        assert_eq!(soft.age(at(20_000)), Duration::from_secs(20));
        let mut stale = lifetime(60);
        stale.expire(at(90_000));
        assert_eq!(stale.stale_for(at(90_000)), Duration::from_secs(30));
    }
}
