//! When an upstream is spared: it has enough to do, or it fails too often.

use std::time::{Duration, Instant};

/// How much an upstream is given to do at once.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    /// Connections in use at once; `None`: no bound.
    pub max_connections: Option<usize>,
    /// Requests that may wait for one of these.
    pub max_pending: usize,
    /// Requests open at once, those that wait included; `None`: no bound.
    pub max_requests: Option<usize>,
    /// When the circuit opens; `None`: never.
    pub trip: Option<Trip>,
}

/// When so many requests fail that the upstream is left alone for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trip {
    /// So many of the requests fail, in percent.
    pub errors: u8,
    /// And there were at least so many.
    pub requests: u32,
    /// Counted over this time.
    pub window: Duration,
    /// It is left alone for so long; then one request at a time tells whether it is well.
    pub open: Duration,
}
/// Counts how requests end, and says when to leave the upstream alone.
#[derive(Debug)]
pub struct Circuit {
    began: Instant,
    phase: Phase,
    /// How often it has changed: what was let pass before says nothing of what is now.
    era: u64,
    slots: [Slot; SLOTS],
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    Closed,
    /// Until then nobody passes; from then on one at a time, and since then this one is.
    Open {
        until: Instant,
        trying: Option<Instant>,
    },
}

#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    number: u64,
    good: u32,
    bad: u32,
}

/// The window is counted in so many parts.
const SLOTS: usize = 10;

/// How the circuit stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// All pass.
    Closed,
    /// One at a time passes, to find out.
    HalfOpen,
    /// Nobody passes.
    Open,
}

impl State {
    /// The word in log and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::HalfOpen => "half_open",
            Self::Open => "open",
        }
    }
}

/// A request that was let pass; what came of it is to be recorded.
#[derive(Debug, PartialEq, Eq)]
pub struct Admitted {
    era: u64,
    trial: bool,
}

impl Admitted {
    /// Is it to find out whether the upstream is well again?
    pub fn is_trial(&self) -> bool {
        self.trial
    }
}

impl Circuit {
    /// A closed one.
    pub fn new(now: Instant) -> Self {
        Self {
            began: now,
            phase: Phase::Closed,
            era: 0,
            slots: [Slot::default(); SLOTS],
        }
    }

    /// Lets a request pass; or tells how long until one may try. A trial of which nothing is heard
    /// for as long as the circuit was open makes room for the next.
    pub fn admit(&mut self, trip: &Trip, now: Instant) -> Result<Admitted, Duration> {
        let Phase::Open { until, trying } = &mut self.phase else {
            return Ok(Admitted {
                era: self.era,
                trial: false,
            });
        };
        if now < *until {
            return Err(*until - now);
        }
        let given_up = trying.map(|since| since + trip.open);
        if let Some(left) = given_up.and_then(|at| at.checked_duration_since(now))
            && !left.is_zero()
        {
            return Err(left);
        }
        *trying = Some(now);
        Ok(Admitted {
            era: self.era,
            trial: true,
        })
    }

    /// What came of a request; `None`: nobody knows, for its client went. Tells what that changes.
    pub fn record(
        &mut self,
        trip: &Trip,
        admitted: &Admitted,
        good: Option<bool>,
        now: Instant,
    ) -> Option<State> {
        if admitted.era != self.era {
            return None;
        }
        match (good, admitted.trial) {
            (None, true) => {
                if let Phase::Open { trying, .. } = &mut self.phase {
                    *trying = None;
                }
                None
            }
            (None, false) => None,
            (Some(true), true) => Some(self.turn(Phase::Closed)),
            (Some(false), true) => Some(self.open(trip, now)),
            (Some(good), false) => {
                self.count(trip, good, now);
                self.fails_too_often(trip, now)
                    .then(|| self.open(trip, now))
            }
        }
    }

    /// How it stands.
    pub fn state(&self, now: Instant) -> State {
        match self.phase {
            Phase::Closed => State::Closed,
            Phase::Open { until, .. } if now < until => State::Open,
            Phase::Open { .. } => State::HalfOpen,
        }
    }

    fn open(&mut self, trip: &Trip, now: Instant) -> State {
        self.turn(Phase::Open {
            until: now + trip.open,
            trying: None,
        })
    }

    fn turn(&mut self, phase: Phase) -> State {
        self.era += 1;
        self.phase = phase;
        self.slots = [Slot::default(); SLOTS];
        match phase {
            Phase::Closed => State::Closed,
            Phase::Open { .. } => State::Open,
        }
    }

    /// The number of the part of the window that is now.
    fn number(&self, trip: &Trip, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.began).as_nanos();
        let part = (trip.window.as_nanos() / SLOTS as u128).max(1);
        u64::try_from(since / part).unwrap_or(u64::MAX)
    }

    fn count(&mut self, trip: &Trip, good: bool, now: Instant) {
        let number = self.number(trip, now);
        let place = usize::try_from(number % SLOTS as u64).unwrap_or_default();
        let Some(slot) = self.slots.get_mut(place) else {
            return;
        };
        if slot.number != number {
            *slot = Slot {
                number,
                ..Slot::default()
            };
        }
        let count = if good { &mut slot.good } else { &mut slot.bad };
        *count = count.saturating_add(1);
    }

    fn fails_too_often(&self, trip: &Trip, now: Instant) -> bool {
        let number = self.number(trip, now);
        let recent = |slot: &&Slot| slot.number + SLOTS as u64 > number;
        let slots = self.slots.iter().filter(recent);
        let (good, bad) = slots.fold((0_u64, 0_u64), |(good, bad), slot| {
            (good + u64::from(slot.good), bad + u64::from(slot.bad))
        });
        let all = good + bad;
        all >= u64::from(trip.requests) && bad * 100 >= all * u64::from(trip.errors) && bad > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TRIP: Trip = Trip {
        errors: 50,
        requests: 4,
        window: Duration::from_secs(10),
        open: Duration::from_secs(5),
    };

    fn seconds(number: u64) -> Duration {
        Duration::from_secs(number)
    }

    fn ask(circuit: &mut Circuit, good: bool, now: Instant) -> Option<State> {
        let admitted = circuit.admit(&TRIP, now).unwrap();
        circuit.record(&TRIP, &admitted, Some(good), now)
    }

    /// A circuit that has just opened.
    fn opened(now: Instant) -> Circuit {
        let mut circuit = Circuit::new(now);
        let news: Vec<_> = (0..4).map(|_| ask(&mut circuit, false, now)).collect();
        assert_eq!(news, [None, None, None, Some(State::Open)]);
        circuit
    }

    #[test]
    fn it_opens_once_enough_of_enough_requests_fail() {
        let now = Instant::now();
        let mut circuit = Circuit::new(now);
        for good in [true, true, true, false, false] {
            assert_eq!(ask(&mut circuit, good, now), None);
        }
        assert_eq!(ask(&mut circuit, false, now), Some(State::Open));
        assert_eq!(circuit.admit(&TRIP, now), Err(seconds(5)));
        assert_eq!(circuit.state(now), State::Open);
    }

    #[test]
    fn failures_that_are_long_past_do_not_count() {
        let now = Instant::now();
        let mut circuit = Circuit::new(now);
        for after in 0..20 {
            assert_eq!(ask(&mut circuit, false, now + seconds(4 * after)), None);
        }
    }

    #[test]
    fn after_a_while_one_at_a_time_finds_out() {
        let now = Instant::now();
        let mut circuit = opened(now);
        let later = now + seconds(5);
        assert_eq!(circuit.state(later), State::HalfOpen);
        let trial = circuit.admit(&TRIP, later).unwrap();
        assert!(circuit.admit(&TRIP, later).is_err());
        let news = circuit.record(&TRIP, &trial, Some(true), later);
        assert_eq!(news, Some(State::Closed));
        assert!(circuit.admit(&TRIP, later).is_ok());
    }

    #[test]
    fn a_trial_that_fails_opens_it_again() {
        let now = Instant::now();
        let mut circuit = opened(now);
        let later = now + seconds(5);
        assert_eq!(ask(&mut circuit, false, later), Some(State::Open));
        assert_eq!(circuit.admit(&TRIP, later), Err(seconds(5)));
    }

    #[test]
    fn a_trial_whose_client_went_makes_room_for_the_next() {
        let now = Instant::now();
        let mut circuit = opened(now);
        let later = now + seconds(5);
        let trial = circuit.admit(&TRIP, later).unwrap();
        assert_eq!(circuit.record(&TRIP, &trial, None, later), None);
        assert!(circuit.admit(&TRIP, later).is_ok());
        // One of which nothing is heard does so, too, in time.
        assert!(circuit.admit(&TRIP, later).is_err());
        assert!(circuit.admit(&TRIP, later + seconds(5)).is_ok());
    }

    #[test]
    fn what_was_let_pass_before_says_nothing_of_what_is_now() {
        let now = Instant::now();
        let mut circuit = Circuit::new(now);
        let early = circuit.admit(&TRIP, now).unwrap();
        for _ in 0..4 {
            ask(&mut circuit, false, now);
        }
        assert_eq!(circuit.record(&TRIP, &early, Some(true), now), None);
        assert_eq!(circuit.state(now), State::Open);
    }

    proptest! {
        #[test]
        fn an_upstream_that_fails_less_than_that_is_never_left_alone(
            wait in prop::collection::vec(0_u64..3_000, 1..300)
        ) {
            let mut now = Instant::now();
            let mut circuit = Circuit::new(now);
            for (place, wait) in wait.into_iter().enumerate() {
                now += Duration::from_millis(wait);
                // One of five is bad: at most a third of any four and more.
                let news = ask(&mut circuit, place % 5 != 2, now);
                prop_assert_eq!(news, None);
            }
        }

        #[test]
        fn while_it_is_half_open_never_more_than_one_is_asked(
            steps in prop::collection::vec((0_u64..2_000, any::<bool>()), 1..100)
        ) {
            let mut now = Instant::now();
            let mut circuit = opened(now);
            let mut since = None::<Instant>;
            for (wait, ask) in steps {
                now += Duration::from_millis(wait);
                if ask && circuit.admit(&TRIP, now).is_ok() {
                    let alone = since.is_none_or(|since| now - since >= TRIP.open);
                    prop_assert!(alone);
                    since = Some(now);
                }
            }
        }
    }
}
