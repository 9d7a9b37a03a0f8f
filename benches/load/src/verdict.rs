//! What was promised, what was measured, and whether the one keeps to the other.

use std::time::Duration;

use crate::counts::{Counts, add};
use crate::offer::Offer;
use crate::quantile::Quantiles;
use crate::requests::Requests;
use crate::series::Series;
use crate::sockets::{Sockets, all_open};

/// How long 95 of 100 requests may take, in milliseconds.
pub const HEALTH: f64 = 50.0;
/// How long 95 of 100 handshakes may take, from connecting to the 101.
pub const UPGRADE: f64 = 100.0;
/// How long 95 of 100 messages may take to come back.
pub const ECHO: f64 = 10.0;

/// This much of what was offered must have come back in time: the last answers come after the end.
const SHARE: f64 = 0.99;

/// What all promises came to.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// How long things may take.
    pub times: Vec<Timed>,
    /// How many there must be.
    pub numbers: Vec<Number>,
    /// What failed, by kind; there may be none.
    pub errors: Counts,
    /// What limits did not let through, by kind: no fault in itself, but it is missing elsewhere.
    pub limited: Counts,
}

/// A promise on 95 of 100.
#[derive(Debug, Clone, PartialEq)]
pub struct Timed {
    /// What was done.
    pub name: String,
    /// How long it took, in milliseconds; `None` where nothing came.
    pub times: Option<Quantiles<f64>>,
    /// 95 of 100 take less than this.
    pub below: f64,
}

/// A promise on how much.
#[derive(Debug, Clone, PartialEq)]
pub struct Number {
    /// Of what.
    pub name: String,
    /// What was offered.
    pub offered: f64,
    /// What came of it.
    pub achieved: f64,
    /// What must have.
    pub least: f64,
}

impl Timed {
    /// Nothing at all keeps no promise.
    pub fn kept(&self) -> bool {
        self.times.is_some_and(|times| times.p95 < self.below)
    }
}

impl Number {
    /// As many as there must be.
    pub fn kept(&self) -> bool {
        self.achieved >= self.least
    }
}

impl Verdict {
    /// Judges what was offered; what was not is not judged.
    pub fn of(offer: &Offer, health: &str, requests: &Requests, sockets: &Sockets) -> Self {
        let mut verdict = Self {
            times: Vec::new(),
            numbers: Vec::new(),
            errors: Counts::new(),
            limited: Counts::new(),
        };
        let total = offer.total();
        if offer.rate > 0 {
            verdict.time(&format!("GET {health}"), &requests.answers, HEALTH);
            let span = (Duration::ZERO, total);
            verdict.rate("requests a second", offer.rate, &requests.answers, span);
        }
        if offer.sockets > 0 {
            verdict.time("WebSocket upgrade", &sockets.upgrades, UPGRADE);
            let open = sockets.open_at(all_open(offer));
            let open = open.min(usize::try_from(sockets.stayed).unwrap_or(usize::MAX));
            verdict.numbers.push(Number {
                name: "WebSockets open to the end".to_owned(),
                offered: offer.sockets.into(),
                achieved: count(open),
                least: offer.sockets.into(),
            });
        }
        if offer.sockets > 0 && offer.messages > 0 {
            verdict.time("Message echoed", &sockets.echoes, ECHO);
            let span = (offer.opening(), total);
            verdict.rate("messages a second", offer.messages, &sockets.echoes, span);
        }
        verdict.count(&requests.answers, "request");
        verdict.count(&sockets.upgrades, "WebSocket");
        verdict.count(&sockets.echoes, "message");
        verdict
    }

    /// All of it?
    pub fn kept(&self) -> bool {
        self.times.iter().all(Timed::kept)
            && self.numbers.iter().all(Number::kept)
            && self.errors.is_empty()
    }

    fn time(&mut self, name: &str, series: &Series, below: f64) {
        self.times.push(Timed {
            name: name.to_owned(),
            times: series.quantiles(),
            below,
        });
    }

    /// What comes later than it was offered makes the rate lower.
    fn rate(
        &mut self,
        name: &str,
        offered: u32,
        series: &Series,
        (from, to): (Duration, Duration),
    ) {
        let time = series.last().max(to).saturating_sub(from);
        let offered = f64::from(offered);
        self.numbers.push(Number {
            name: name.to_owned(),
            offered,
            achieved: count(series.done()) / time.as_secs_f64().max(f64::EPSILON),
            least: offered * SHARE,
        });
    }

    fn count(&mut self, series: &Series, of: &str) {
        let named = |counts: &Counts| -> Counts {
            let counts = counts.iter();
            counts
                .map(|(word, number)| (format!("{of}: {word}"), *number))
                .collect()
        };
        add(&mut self.errors, named(&series.errors));
        add(&mut self.limited, named(&series.limited));
    }
}

fn count(number: usize) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFER: Offer = Offer {
        rate: 10,
        connections: 1,
        sockets: 2,
        upgrades: 2,
        messages: 10,
        size: 10,
        seconds: 8,
    };

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn requests(number: u64, took: Duration) -> Requests {
        let mut requests = Requests::default();
        for number in 0..number {
            requests.answers.note(ms(100 * number), took);
        }
        requests
    }

    fn sockets() -> Sockets {
        let mut sockets = Sockets {
            spans: vec![(ms(10), ms(10_010)), (ms(510), ms(10_010))],
            stayed: 2,
            ..Sockets::default()
        };
        sockets.upgrades.note(ms(0), ms(10));
        sockets.upgrades.note(ms(500), ms(10));
        for number in 0..80 {
            sockets.echoes.note(ms(2_000 + 100 * number), ms(5));
        }
        sockets
    }

    fn judge(requests: &Requests, sockets: &Sockets) -> Verdict {
        Verdict::of(&OFFER, "/health", requests, sockets)
    }

    #[test]
    fn all_promises_kept_is_a_pass() {
        let verdict = judge(&requests(100, ms(49)), &sockets());
        assert!(verdict.kept(), "{verdict:?}");
        assert_eq!((verdict.times.len(), verdict.numbers.len()), (3, 3));
    }

    #[test]
    fn a_promise_is_broken_by_the_tail_and_by_silence() {
        let timed = |p95| Timed {
            name: String::new(),
            times: p95,
            below: 50.0,
        };
        let times = |p95| Quantiles {
            p50: 1.0,
            p95,
            p99: 900.0,
            max: 900.0,
        };
        assert!(timed(Some(times(49.9))).kept());
        assert!(!timed(Some(times(50.0))).kept());
        assert!(!timed(None).kept());
    }

    #[test]
    fn one_error_breaks_the_promise() {
        let mut requests = requests(100, ms(1));
        requests.answers.complain("503 no_peer".to_owned());
        let verdict = judge(&requests, &sockets());
        assert!(!verdict.kept());
        assert_eq!(verdict.errors["request: 503 no_peer"], 1);
    }

    #[test]
    fn what_a_limit_refuses_is_no_error_but_missing_from_the_rate() {
        let mut requests = requests(50, ms(1));
        for number in 0..50 {
            requests
                .answers
                .lose(ms(100 * number), "429 client_limit".to_owned());
        }
        let verdict = judge(&requests, &sockets());
        assert_eq!(verdict.errors.len(), 0);
        assert_eq!(verdict.limited["request: 429 client_limit"], 50);
        let broken: Vec<_> = verdict
            .numbers
            .iter()
            .filter(|number| !number.kept())
            .collect();
        assert_eq!((broken.len(), broken[0].achieved), (1, 5.0));
    }

    #[test]
    fn answers_that_come_late_lower_the_rate() {
        let mut requests = requests(99, ms(1));
        requests.answers.note(ms(9_900), ms(100));
        assert!(judge(&requests, &sockets()).numbers[0].kept());
        requests.answers.note(ms(9_900), ms(2_100));
        assert!(!judge(&requests, &sockets()).numbers[0].kept());
    }

    #[test]
    fn a_socket_that_comes_late_or_ends_early_is_missing() {
        let open = |spans: [(u64, u64); 2], stayed| {
            let sockets = Sockets {
                spans: spans.map(|(from, to)| (ms(from), ms(to))).to_vec(),
                stayed,
                ..sockets()
            };
            judge(&requests(100, ms(1)), &sockets).numbers[1].achieved
        };
        assert_eq!(open([(10, 10_010), (510, 10_010)], 2), 2.0);
        assert_eq!(open([(10, 10_010), (510, 7_000)], 1), 1.0);
        assert_eq!(open([(10, 10_010), (1_900, 10_010)], 2), 1.0);
    }

    #[test]
    fn what_is_not_offered_is_not_judged() {
        let offer = Offer {
            rate: 0,
            messages: 0,
            ..OFFER
        };
        let verdict = Verdict::of(&offer, "/health", &Requests::default(), &sockets());
        assert!(verdict.kept());
        assert_eq!((verdict.times.len(), verdict.numbers.len()), (1, 1));
    }
}
