//! When edge pings a client, and when it ends a WebSocket for the time's sake.
//!
//! All times count from the WebSocket's opening.

use std::time::Duration;

use super::ending::Cause;

/// `None` is "off".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// No frame either way for so long ends it. edge's own pings are none.
    pub idle: Option<Duration>,
    /// A client that was silent for so long is pinged.
    pub ping: Option<Duration>,
    /// A client that is pinged has so long to show a sign of life.
    pub pong: Option<Duration>,
    /// It is open no longer than this.
    pub lifetime: Option<Duration>,
}

/// What the clock asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Ping the client.
    Ping,
    /// End it.
    Close(Cause),
}

/// One WebSocket's clock.
#[derive(Debug)]
pub struct Clock {
    times: Times,
    /// When a frame passed last, either way.
    moved: Duration,
    /// When the client was heard last.
    heard: Duration,
    /// A Ping waits for the end of a frame.
    asked: bool,
    /// When it was pinged, until it is heard.
    pinged: Option<Duration>,
    /// When the client took something last after having been behind.
    took: Duration,
}

impl Clock {
    /// At the opening.
    pub fn new(times: Times) -> Self {
        let start = Duration::ZERO;
        Self {
            times,
            moved: start,
            heard: start,
            asked: false,
            pinged: None,
            took: start,
        }
    }

    /// A frame, or a part of one, passed.
    pub fn moved(&mut self, now: Duration) {
        self.moved = now;
    }

    /// When a frame passed last.
    pub fn moved_at(&self) -> Duration {
        self.moved
    }

    /// The client sent something: it lives.
    pub fn heard(&mut self, now: Duration) {
        self.heard = now;
        self.asked = false;
        self.pinged = None;
    }

    /// A client that was behind took a part of what waits for it: it may be slow to answer a
    /// Ping that stands behind the rest, but it lives.
    pub fn took(&mut self, now: Duration) {
        self.took = now;
    }

    /// The client will say no more: it owes no Pong.
    pub fn gone(&mut self) {
        self.times.ping = None;
        self.times.pong = None;
    }

    /// A Ping will be sent as soon as a frame has ended: no other one is due before.
    pub fn asked(&mut self) {
        self.asked = true;
    }

    /// The client was pinged, or is so far behind that a Ping would not help.
    pub fn pinged(&mut self, now: Duration) {
        self.asked = false;
        self.pinged = Some(now);
    }

    /// What is due, if anything is.
    pub fn due(&self, now: Duration) -> Option<Due> {
        let over = |at: Option<Duration>| at.is_some_and(|at| at <= now);
        if over(self.times.lifetime) {
            return Some(Due::Close(Cause::Lifetime));
        }
        if over(self.idle_at()) {
            return Some(Due::Close(Cause::IdleTimeout));
        }
        if over(self.pong_at()) {
            return Some(Due::Close(Cause::PongTimeout));
        }
        over(self.ping_at()).then_some(Due::Ping)
    }

    /// When something will be due if nothing happens before.
    pub fn next(&self) -> Option<Duration> {
        let all = [
            self.times.lifetime,
            self.idle_at(),
            self.pong_at(),
            self.ping_at(),
        ];
        all.into_iter().flatten().min()
    }

    fn idle_at(&self) -> Option<Duration> {
        Some(self.moved.saturating_add(self.times.idle?))
    }

    fn pong_at(&self) -> Option<Duration> {
        let since = self.pinged?.max(self.took);
        Some(since.saturating_add(self.times.pong?))
    }

    fn ping_at(&self) -> Option<Duration> {
        let since = self
            .pinged
            .map_or(self.heard, |pinged| pinged.max(self.heard));
        // While a Pong is owed there is no second Ping.
        let owed = self.pinged.is_some() && self.times.pong.is_some();
        if owed || self.asked {
            return None;
        }
        Some(since.saturating_add(self.times.ping?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFF: Times = Times {
        idle: None,
        ping: None,
        pong: None,
        lifetime: None,
    };

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn pinging() -> Clock {
        Clock::new(Times {
            ping: Some(s(30)),
            pong: Some(s(10)),
            ..OFF
        })
    }

    #[test]
    fn a_silent_client_is_pinged_and_then_given_up() {
        let mut clock = pinging();
        assert_eq!((clock.next(), clock.due(s(29))), (Some(s(30)), None));
        assert_eq!(clock.due(s(30)), Some(Due::Ping));
        clock.pinged(s(30));
        assert_eq!((clock.next(), clock.due(s(39))), (Some(s(40)), None));
        assert_eq!(clock.due(s(40)), Some(Due::Close(Cause::PongTimeout)));
    }

    #[test]
    fn a_client_that_talks_is_never_pinged() {
        let mut clock = pinging();
        for second in 0..100 {
            assert_eq!(clock.due(s(second)), None);
            clock.heard(s(second));
        }
    }

    #[test]
    fn a_pong_is_owed_once() {
        let mut clock = pinging();
        clock.pinged(s(30));
        clock.heard(s(35));
        assert_eq!((clock.next(), clock.due(s(64))), (Some(s(65)), None));
        assert_eq!(clock.due(s(65)), Some(Due::Ping));
    }

    #[test]
    fn a_client_that_is_behind_but_reads_is_not_given_up() {
        let mut clock = pinging();
        clock.pinged(s(30));
        clock.took(s(38));
        assert_eq!(clock.due(s(47)), None);
        assert_eq!(clock.due(s(48)), Some(Due::Close(Cause::PongTimeout)));
    }

    #[test]
    fn without_pong_the_pings_only_keep_the_way_open() {
        let mut clock = Clock::new(Times {
            ping: Some(s(30)),
            ..OFF
        });
        clock.pinged(s(30));
        assert_eq!(clock.due(s(59)), None);
        assert_eq!(clock.due(s(60)), Some(Due::Ping));
    }

    #[test]
    fn pings_do_not_keep_an_idle_websocket() {
        let mut clock = Clock::new(Times {
            idle: Some(s(60)),
            ping: Some(s(30)),
            pong: Some(s(10)),
            lifetime: None,
        });
        clock.pinged(s(30));
        clock.heard(s(31));
        assert_eq!(clock.due(s(60)), Some(Due::Close(Cause::IdleTimeout)));
        clock.moved(s(59));
        assert_eq!(clock.due(s(60)), None);
    }

    #[test]
    fn a_client_that_says_no_more_is_not_asked_for_a_sign_of_life() {
        let mut clock = pinging();
        clock.pinged(s(30));
        clock.gone();
        assert_eq!((clock.next(), clock.due(s(100))), (None, None));
    }

    #[test]
    fn a_lifetime_ends_however_busy_it_is() {
        let mut clock = Clock::new(Times {
            lifetime: Some(s(5)),
            idle: Some(s(60)),
            ..OFF
        });
        clock.moved(s(5));
        assert_eq!(clock.due(s(5)), Some(Due::Close(Cause::Lifetime)));
    }

    #[test]
    fn what_is_off_is_never_due() {
        let clock = Clock::new(OFF);
        assert_eq!((clock.next(), clock.due(Duration::MAX)), (None, None));
    }
}
