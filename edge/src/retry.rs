//! Whether a request that failed is sent to another peer.

use std::time::Instant;

use parking_lot::Mutex;

/// How requests are repeated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// How many peers a request is sent to at most, the first included.
    pub attempts: usize,
    /// Repeated requests may be so many of all requests, in percent.
    pub budget: u8,
    /// The largest body that is kept to be sent again, in bytes.
    pub body: u64,
    /// What is repeated.
    pub on: On,
}

/// The failures after which a request is repeated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct On {
    /// No connection: nothing was sent.
    pub connect: bool,
    /// The connection broke before an answer had begun, or what came was no answer.
    pub closed: bool,
    /// `timeout.try` passed.
    pub timeout: bool,
    /// The peer answered with one of these statuses.
    pub statuses: Vec<u16>,
}

impl Default for Settings {
    fn default() -> Self {
        let on = On {
            connect: true,
            closed: true,
            timeout: true,
            statuses: Vec::new(),
        };
        Self {
            attempts: 3,
            budget: 20,
            body: 64 << 10,
            on,
        }
    }
}
/// How a try at a peer failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failed {
    /// There was no connection.
    Connect,
    /// The connection broke before an answer had begun, or what came was no answer.
    Closed,
    /// The time for one try was over.
    Timeout,
    /// The peer answered with this status.
    Status(u16),
    /// Otherwise: another peer would do no better.
    Other,
}

impl Failed {
    /// The word in `retry.on`, log and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Closed => "closed",
            Self::Timeout => "timeout",
            Self::Status(_) => "status",
            Self::Other => "other",
        }
    }
}

/// What has become of a request so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    /// Asking twice does no more than asking once (RFC 9110 9.2.2).
    pub idempotent: bool,
    /// A byte of it went to a peer.
    pub anything: bool,
    /// All that was read of its body is kept.
    pub body_kept: bool,
    /// The client has got the head of an answer.
    pub answered: bool,
}

/// May the request be sent to one more peer, after so many? Whether there is one, and budget, is
/// for others to say.
pub fn may_repeat(settings: &Settings, failed: Failed, sent: &Sent, attempts: usize) -> bool {
    let on = &settings.on;
    let wanted = match failed {
        Failed::Connect => on.connect,
        Failed::Closed => on.closed,
        Failed::Timeout => on.timeout,
        Failed::Status(status) => on.statuses.contains(&status),
        Failed::Other => false,
    };
    let harmless = !sent.anything || (sent.idempotent && sent.body_kept);
    wanted && harmless && !sent.answered && attempts < settings.attempts
}

/// How many requests are repeated, beside how many there are: a failing upstream must not get
/// a multiple of its load from those who mean to help.
#[derive(Debug)]
pub struct Budget {
    began: Instant,
    seconds: Mutex<[Second; SECONDS]>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Second {
    number: u64,
    requests: u32,
    retries: u32,
}

/// So many seconds count.
const SECONDS: usize = 10;
/// So many may be repeated in these seconds whatever the share says: of ten requests a fifth is
/// soon used up.
const ALWAYS: u32 = 10;

impl Budget {
    /// With nothing spent.
    pub fn new(now: Instant) -> Self {
        Self {
            began: now,
            seconds: Mutex::default(),
        }
    }

    /// There is one more request.
    pub fn request(&self, now: Instant) {
        self.with(now, |seconds, place| {
            if let Some(second) = seconds.get_mut(place) {
                second.requests = second.requests.saturating_add(1);
            }
        });
    }

    /// May one more be repeated, where so many of a hundred may? If so, it counts.
    pub fn take(&self, percent: u8, now: Instant) -> bool {
        self.with(now, |seconds, place| {
            let sum = |of: fn(&Second) -> u32| -> u64 {
                seconds.iter().map(|second| u64::from(of(second))).sum()
            };
            let may = sum(|second| second.requests) * u64::from(percent) / 100;
            let one_more = sum(|second| second.retries) < may.saturating_add(u64::from(ALWAYS));
            if let Some(second) = seconds.get_mut(place).filter(|_| one_more) {
                second.retries = second.retries.saturating_add(1);
            }
            one_more
        })
    }

    /// With the seconds that count, and the place of this one.
    fn with<T>(&self, now: Instant, change: impl FnOnce(&mut [Second; SECONDS], usize) -> T) -> T {
        let number = now.saturating_duration_since(self.began).as_secs();
        let mut seconds = self.seconds.lock();
        for second in seconds.iter_mut() {
            if second.number + SECONDS as u64 <= number {
                *second = Second::default();
            }
        }
        let place = usize::try_from(number % SECONDS as u64).unwrap_or_default();
        if let Some(second) = seconds.get_mut(place) {
            if second.number != number {
                *second = Second::default();
            }
            second.number = number;
        }
        change(&mut seconds, place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use proptest::prelude::*;

    const FRESH: Sent = Sent {
        idempotent: true,
        anything: true,
        body_kept: true,
        answered: false,
    };

    fn all() -> Settings {
        let mut settings = Settings::default();
        settings.on.statuses = vec![503];
        settings
    }

    #[test]
    fn what_was_not_sent_may_always_be_and_what_was_only_if_that_is_harmless() {
        let failures = [
            Failed::Connect,
            Failed::Closed,
            Failed::Timeout,
            Failed::Status(503),
        ];
        for failed in failures {
            for bits in 0..16 {
                let bit = |place: u32| bits >> place & 1 == 1;
                let sent = Sent {
                    idempotent: bit(0),
                    anything: bit(1),
                    body_kept: bit(2),
                    answered: bit(3),
                };
                let harmless = match sent {
                    Sent { answered: true, .. } => false,
                    Sent {
                        anything: false, ..
                    } => true,
                    Sent {
                        idempotent,
                        body_kept,
                        ..
                    } => idempotent && body_kept,
                };
                assert_eq!(
                    may_repeat(&all(), failed, &sent, 1),
                    harmless,
                    "{failed:?} {sent:?}"
                );
            }
        }
    }

    #[test]
    fn only_what_the_configuration_names_is_repeated() {
        let on = On {
            connect: false,
            closed: false,
            timeout: false,
            statuses: vec![502],
        };
        let none = Settings { on, ..all() };
        for failed in [
            Failed::Connect,
            Failed::Closed,
            Failed::Timeout,
            Failed::Status(503),
            Failed::Other,
        ] {
            assert!(!may_repeat(&none, failed, &FRESH, 1), "{failed:?}");
        }
        assert!(may_repeat(&none, Failed::Status(502), &FRESH, 1));
        assert!(!may_repeat(&all(), Failed::Other, &FRESH, 1));
    }

    #[test]
    fn after_so_many_attempts_there_is_no_other() {
        let may: Vec<_> = (1..5)
            .map(|made| may_repeat(&all(), Failed::Closed, &FRESH, made))
            .collect();
        assert_eq!(may, [true, true, false, false]);
    }

    #[test]
    fn old_requests_buy_nothing() {
        let now = Instant::now();
        let budget = Budget::new(now);
        for _ in 0..1_000 {
            budget.request(now);
        }
        let later = now + Duration::from_secs(10);
        let spent = (0..1_000).filter(|_| budget.take(20, later)).count();
        assert_eq!(spent, 10);
        let spent = (0..1_000).filter(|_| budget.take(20, later)).count();
        assert_eq!(spent, 0);
    }

    proptest! {
        #[test]
        fn of_all_requests_no_more_than_the_share_is_repeated(
            steps in prop::collection::vec((0_u64..3_000, 0_u32..40, 0_u32..40), 1..60),
            percent in 1_u8..=100,
        ) {
            let mut now = Instant::now();
            let budget = Budget::new(now);
            let mut log: Vec<(Instant, u64, u64)> = Vec::new();
            for (wait, requests, wanted) in steps {
                now += Duration::from_millis(wait);
                (0..requests).for_each(|_| budget.request(now));
                let taken = (0..wanted).filter(|_| budget.take(percent, now)).count();
                log.push((now, u64::from(requests), taken as u64));
                // In any eleven seconds there are at most two rounds of what is always allowed.
                let within = Duration::from_secs(SECONDS as u64 - 1);
                let recent = log.iter().filter(|(at, ..)| now - *at < within);
                let (requests, retries) =
                    recent.fold((0, 0), |sum, (_, a, b)| (sum.0 + a, sum.1 + b));
                let before = log.iter().filter(|(at, ..)| now - *at < within * 3).map(|(_, a, _)| a);
                let most = before.sum::<u64>().max(requests) * u64::from(percent) / 100 + 10;
                prop_assert!(retries <= most, "{retries} > {most}");
            }
        }
    }
}
