//! Whether a peer may be asked: what probes say of it, and what its answers say.

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

/// How peers are asked whether they are well (active health checks).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// The path asked.
    pub path: String,
    /// How often each peer is asked.
    pub every: Duration,
    /// How long a peer may take to answer.
    pub timeout: Duration,
    /// The statuses that say that it is well.
    pub expect: Vec<RangeInclusive<u16>>,
    /// So many good answers in a row make it well again.
    pub rise: u32,
    /// So many bad ones in a row make it unwell.
    pub fall: u32,
}

/// When a peer is left out for what its answers say (passive health checks).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Eject {
    /// After so many failures in a row: no connection, no answer in time, a broken one, or 5xx.
    pub failures: u32,
    /// For how long the first time; twice as long each further time.
    pub time: Duration,
    /// Never for longer than this.
    pub time_max: Duration,
    /// At most so many of an upstream's peers at once, in percent; one always may be.
    pub share: u8,
}
/// What is known of one peer.
#[derive(Debug, Clone)]
pub struct Standing {
    /// Do the probes say that it is well?
    well: bool,
    /// How many probes in a row have said the opposite.
    against: u32,
    /// Failures in a row.
    failures: u32,
    /// How often in a row it was left out, each time for longer.
    times: u32,
    /// Left out until then.
    out_until: Option<Instant>,
    /// It is left out because nobody could speak with it.
    unreachable: bool,
    /// Good probes in a row since then.
    good: u32,
    /// Since when it is back; `None`: it was never away.
    back_since: Option<Instant>,
}

/// What has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// Probes say that it is not well.
    Failed,
    /// Probes say that it is well again.
    Recovered,
    /// Its answers failed: it is left out.
    Ejected {
        /// For how long.
        time: Duration,
    },
    /// That time is over.
    Returned,
}

/// Until when a peer is not asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// Until probes say that it is well.
    Probe,
    /// Until then.
    Time(Instant),
}

/// What a peer that is back gets at first, in percent of its share.
const FIRST_SHARE: u32 = 10;
/// The time for which a peer is left out doubles at most so often.
const MOST_DOUBLINGS: u32 = 20;

/// May one more of `peers` be left out, where `out` are? Never the last one, and one always where
/// there are others.
pub fn may_eject(eject: &Eject, peers: usize, out: usize) -> bool {
    let most = (peers * usize::from(eject.share) / 100).max(1);
    out < most && out + 1 < peers
}

impl Standing {
    /// A peer that was there from the beginning: it counts as well until it is asked.
    pub fn new() -> Self {
        Self {
            well: true,
            against: 0,
            failures: 0,
            times: 0,
            out_until: None,
            unreachable: false,
            good: 0,
            back_since: None,
        }
    }

    /// A peer that comes while others are there: it gets its share slowly.
    pub fn joining(now: Instant) -> Self {
        Self {
            back_since: Some(now),
            ..Self::new()
        }
    }

    /// It was asked whether it is well. Probes that are answered bring a peer back that could not
    /// be reached; one whose answers failed has to wait, for they say nothing of these.
    pub fn probed(&mut self, good: bool, probe: &Probe, now: Instant) -> Option<News> {
        self.good = if good { self.good.saturating_add(1) } else { 0 };
        if self.out_until.is_some() && self.unreachable && self.well && self.good >= probe.rise {
            return Some(self.come_back(now));
        }
        if good == self.well {
            self.against = 0;
            return None;
        }
        self.against = self.against.saturating_add(1);
        if self.against < if good { probe.rise } else { probe.fall } {
            return None;
        }
        self.well = good;
        self.against = 0;
        if !good {
            return Some(News::Failed);
        }
        // What it was before is no longer held against it.
        if self.unreachable {
            self.out_until = None;
        }
        self.failures = 0;
        self.back_since = Some(now);
        Some(News::Recovered)
    }

    /// It has answered well: what it did before is forgotten, and in time how often, too.
    pub fn succeeded(&mut self, eject: &Eject, now: Instant) {
        self.failures = 0;
        let back = self
            .back_since
            .map(|since| now.saturating_duration_since(since));
        if self.times > 0
            && self.out_until.is_none()
            && back.is_none_or(|back| back >= self.time(eject))
        {
            self.times -= 1;
            self.back_since = Some(now);
        }
    }

    /// It has not. `may_eject`: others do not need it. `unreachable`: it has not answered at all.
    pub fn failed(
        &mut self,
        eject: &Eject,
        may_eject: bool,
        unreachable: bool,
        now: Instant,
    ) -> Option<News> {
        self.failures = self.failures.saturating_add(1);
        // Whoever has just come back is sent away at its first failure.
        let most = match self.times {
            0 => eject.failures,
            _ => 1,
        };
        if !may_eject || self.out_until.is_some() || self.failures < most {
            return None;
        }
        self.times = self.times.saturating_add(1);
        let time = self.time(eject);
        self.failures = 0;
        self.good = 0;
        self.unreachable = unreachable;
        self.out_until = Some(now + time);
        Some(News::Ejected { time })
    }

    /// The time for which it is left out, for the time that this is.
    fn time(&self, eject: &Eject) -> Duration {
        let doublings = self.times.saturating_sub(1).min(MOST_DOUBLINGS);
        eject
            .time
            .saturating_mul(1 << doublings)
            .min(eject.time_max)
    }

    /// The time for which it was left out may be over; told once.
    pub fn tick(&mut self, now: Instant) -> Option<News> {
        self.out_until.filter(|until| *until <= now)?;
        Some(self.come_back(now))
    }

    fn come_back(&mut self, now: Instant) -> News {
        self.out_until = None;
        self.back_since = Some(now);
        News::Returned
    }

    /// May it be asked?
    pub fn is_usable(&self, now: Instant) -> bool {
        self.well && self.out_until.is_none_or(|until| until <= now)
    }

    /// Until when it is not asked; `None`: it may be.
    pub fn out_until(&self) -> Option<Until> {
        match self.well {
            false => Some(Until::Probe),
            true => self.out_until.map(Until::Time),
        }
    }

    /// Is there something that a success would change?
    pub fn is_troubled(&self) -> bool {
        self.failures > 0 || self.times > 0
    }

    /// How much of its share it gets, in percent: all, or ever more of it while it is new.
    pub fn share(&self, slow_start: Option<Duration>, now: Instant) -> u8 {
        let (Some(time), Some(since)) = (slow_start, self.back_since) else {
            return 100;
        };
        let passed = now.saturating_duration_since(since).as_micros();
        let more = passed.saturating_mul(u128::from(100 - FIRST_SHARE)) / time.as_micros().max(1);
        let share = u128::from(FIRST_SHARE).saturating_add(more).min(100);
        u8::try_from(share).unwrap_or(100)
    }
}

impl Default for Standing {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const EJECT: Eject = Eject {
        failures: 3,
        time: Duration::from_secs(10),
        time_max: Duration::from_secs(60),
        share: 50,
    };

    fn probe() -> Probe {
        Probe {
            path: "/health".to_owned(),
            every: seconds(5),
            timeout: seconds(1),
            expect: vec![200..=299],
            rise: 2,
            fall: 3,
        }
    }

    fn seconds(number: u64) -> Duration {
        Duration::from_secs(number)
    }

    fn out(time: u64) -> Option<News> {
        Some(News::Ejected {
            time: seconds(time),
        })
    }

    #[test]
    fn probes_in_a_row_decide_and_one_between_begins_anew() {
        let now = Instant::now();
        let mut peer = Standing::new();
        let mut ask = |good| peer.probed(good, &probe(), now);
        for good in [false, false, true, false, false] {
            assert_eq!(ask(good), None);
        }
        assert_eq!(ask(false), Some(News::Failed));
        for good in [false, true, false, true] {
            assert_eq!(ask(good), None);
        }
        assert_eq!(ask(true), Some(News::Recovered));
        assert!(peer.is_usable(now));
    }

    #[test]
    fn failures_in_a_row_eject_and_a_success_begins_anew() {
        let now = Instant::now();
        let mut peer = Standing::new();
        for _ in 0..2 {
            assert_eq!(peer.failed(&EJECT, true, false, now), None);
        }
        peer.succeeded(&EJECT, now);
        for _ in 0..2 {
            assert_eq!(peer.failed(&EJECT, true, false, now), None);
        }
        assert_eq!(peer.failed(&EJECT, true, false, now), out(10));
        assert!(!peer.is_usable(now) && peer.is_usable(now + seconds(10)));
        // Those that were on their way change nothing.
        assert_eq!(peer.failed(&EJECT, true, false, now), None);
    }

    #[test]
    fn who_comes_back_and_fails_at_once_is_sent_away_for_twice_as_long_and_not_for_ever() {
        let mut now = Instant::now();
        let mut peer = Standing::new();
        for _ in 0..2 {
            peer.failed(&EJECT, true, false, now);
        }
        for time in [10, 20, 40, 60, 60] {
            assert_eq!(peer.failed(&EJECT, true, false, now), out(time));
            assert_eq!(peer.tick(now), None);
            now += seconds(time);
            assert_eq!(peer.tick(now), Some(News::Returned));
            assert_eq!(peer.tick(now), None);
        }
    }

    #[test]
    fn a_good_while_is_forgiven_step_by_step() {
        let mut now = Instant::now();
        let mut peer = Standing::new();
        for _ in 0..3 {
            peer.failed(&EJECT, true, false, now);
        }
        now += seconds(10);
        peer.tick(now);
        assert_eq!(peer.failed(&EJECT, true, false, now), out(20));
        now += seconds(20);
        peer.tick(now);
        assert!(peer.is_troubled());
        for wait in [20, 10] {
            now += seconds(wait);
            peer.succeeded(&EJECT, now);
        }
        assert!(!peer.is_troubled());
        for _ in 0..2 {
            assert_eq!(peer.failed(&EJECT, true, false, now), None);
        }
        assert_eq!(peer.failed(&EJECT, true, false, now), out(10));
    }

    #[test]
    fn probes_bring_back_who_could_not_be_reached_and_nobody_else() {
        for unreachable in [true, false] {
            let now = Instant::now();
            let mut peer = Standing::new();
            for _ in 0..3 {
                peer.failed(&EJECT, true, unreachable, now);
            }
            assert_eq!(peer.probed(true, &probe(), now), None);
            let back = unreachable.then_some(News::Returned);
            assert_eq!(peer.probed(true, &probe(), now), back);
            assert_eq!(peer.is_usable(now), unreachable);
        }
    }

    #[test]
    fn the_last_one_stays_and_no_more_than_a_share_go() {
        let share = |share, peers| {
            let eject = Eject { share, ..EJECT };
            (0..peers)
                .take_while(|out| may_eject(&eject, peers, *out))
                .count()
        };
        assert_eq!(share(100, 1), 0);
        assert_eq!(share(1, 2), 1);
        assert_eq!(share(50, 3), 1);
        assert_eq!(share(50, 10), 5);
        assert_eq!(share(100, 10), 9);
    }

    #[test]
    fn who_is_new_gets_its_share_slowly_and_who_was_always_there_at_once() {
        let now = Instant::now();
        let slow = Some(seconds(90));
        assert_eq!(Standing::new().share(slow, now), 100);
        let peer = Standing::joining(now);
        let shares: Vec<_> = [0, 10, 50, 90, 1_000]
            .map(|after| peer.share(slow, now + seconds(after)))
            .into();
        assert_eq!(shares, [10, 20, 60, 100, 100]);
        assert_eq!(peer.share(None, now), 100);
    }

    proptest! {
        #[test]
        fn nobody_is_out_for_longer_than_may_be_and_everybody_comes_back(
            steps in prop::collection::vec((0_u64..30, 0_u8..4), 1..200)
        ) {
            let mut now = Instant::now();
            let mut peer = Standing::new();
            for (wait, step) in steps {
                now += seconds(wait);
                let news = match step {
                    0 => { peer.succeeded(&EJECT, now); None }
                    1 => peer.tick(now),
                    _ => peer.failed(&EJECT, true, false, now),
                };
                if let Some(News::Ejected { time }) = news {
                    prop_assert!(time >= EJECT.time && time <= EJECT.time_max);
                }
                prop_assert!(peer.is_usable(now + EJECT.time_max));
                let share = peer.share(Some(seconds(30)), now);
                prop_assert!((10..=100).contains(&share));
            }
        }
    }
}
