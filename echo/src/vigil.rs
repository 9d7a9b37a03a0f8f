//! What is due on an open WebSocket, and when: the law, without a clock of its own.

use crate::ending::Cause;
use std::time::{Duration, Instant};

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// Ask the peer whether it is still there.
    Ping,
    /// Say Close.
    Close(Cause),
}

/// A sign of life. The greater one tells more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Sign {
    /// A pong, or bytes of a message still on its way: it is there, and may be idle all the same.
    Bytes,
    /// It said something of its own.
    Word,
}

/// How long a peer may be silent, and how it is asked.
#[derive(Clone, Copy)]
pub(crate) struct Patience {
    pub(crate) idle: Duration,
    pub(crate) ping: Option<Duration>,
    pub(crate) pong: Option<Duration>,
}

/// One WebSocket's moments. All that is due comes from here, so that one timer serves.
pub(crate) struct Vigil {
    patience: Patience,
    /// When the peer last said something of its own.
    spoke: Instant,
    /// When it last gave any sign of life.
    heard: Instant,
    /// When it was asked, if it has given no sign since.
    asked: Option<Instant>,
    /// When what let it in runs out.
    expires: Option<Instant>,
    /// When it is its turn to leave.
    leaves: Option<Instant>,
}

impl Vigil {
    pub(crate) fn new(patience: Patience, expires: Option<Instant>, now: Instant) -> Self {
        Self {
            patience,
            spoke: now,
            heard: now,
            asked: None,
            expires,
            leaves: None,
        }
    }

    /// The peer gave this sign, until now.
    pub(crate) fn heard(&mut self, sign: Sign, now: Instant) {
        self.heard = now;
        self.asked = None;
        if sign == Sign::Word {
            self.spoke = now;
        }
    }

    /// The peer was sent a ping.
    pub(crate) fn asked(&mut self, now: Instant) {
        self.asked = Some(now);
    }

    /// The server goes away, and this is the moment to say so.
    pub(crate) fn leave(&mut self, at: Instant) {
        self.leaves = Some(at);
    }

    pub(crate) fn is_leaving(&self) -> bool {
        self.leaves.is_some()
    }

    /// When to ask again what is due; until then nothing is.
    pub(crate) fn next(&self) -> Instant {
        self.soonest().0
    }

    /// What is due now, if anything is.
    pub(crate) fn due(&self, now: Instant) -> Option<Due> {
        let (at, due) = self.soonest();
        (at <= now).then_some(due)
    }

    fn soonest(&self) -> (Instant, Due) {
        let Patience { idle, ping, pong } = self.patience;
        let dead = self.asked.zip(pong).map(|(asked, wait)| asked + wait);
        // Asked and waiting for the answer, it is not asked again.
        let ping = match (self.asked, pong) {
            (Some(_), Some(_)) => None,
            (asked, _) => ping.map(|every| asked.unwrap_or(self.heard) + every),
        };
        let mut soonest = (self.spoke + idle, Due::Close(Cause::Idle));
        for (at, due) in [
            (self.leaves, Due::Close(Cause::Draining)),
            (self.expires, Due::Close(Cause::TokenExpired)),
            (dead, Due::Close(Cause::NoPong)),
            (ping, Due::Ping),
        ] {
            if let Some(at) = at
                && at < soonest.0
            {
                soonest = (at, due);
            }
        }
        soonest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const USUAL: Patience = Patience {
        idle: Duration::from_secs(3_600),
        ping: Some(Duration::from_secs(30)),
        pong: Some(Duration::from_secs(10)),
    };

    #[test]
    fn a_silent_peer_is_asked_and_then_given_up() {
        let began = Instant::now();
        let mut vigil = Vigil::new(USUAL, None, began);
        assert_eq!(vigil.next(), began + 30 * SECOND);
        assert_eq!(vigil.due(began + 29 * SECOND), None);
        let asked = began + 30 * SECOND;
        assert_eq!(vigil.due(asked), Some(Due::Ping));
        vigil.asked(asked);
        assert_eq!(vigil.due(asked + 9 * SECOND), None);
        let gone = Some(Due::Close(Cause::NoPong));
        assert_eq!(vigil.due(asked + 10 * SECOND), gone);
    }

    #[test]
    fn any_frame_is_a_sign_of_life_and_puts_the_ping_off() {
        let began = Instant::now();
        for sign in [Sign::Bytes, Sign::Word] {
            let mut vigil = Vigil::new(USUAL, None, began);
            vigil.asked(began + 30 * SECOND);
            vigil.heard(sign, began + 35 * SECOND);
            assert_eq!(vigil.due(began + 64 * SECOND), None);
            assert_eq!(vigil.due(began + 65 * SECOND), Some(Due::Ping));
        }
    }

    #[test]
    fn who_only_answers_pings_is_idle_all_the_same() {
        let began = Instant::now();
        let mut vigil = Vigil::new(USUAL, None, began);
        vigil.heard(Sign::Bytes, began + 3_599 * SECOND);
        let idle = Some(Due::Close(Cause::Idle));
        assert_eq!(vigil.due(began + 3_600 * SECOND), idle);
        vigil.heard(Sign::Word, began + 3_600 * SECOND);
        assert_eq!(vigil.due(began + 3_601 * SECOND), None);
    }

    #[test]
    fn without_a_wait_for_pongs_pings_go_on() {
        let began = Instant::now();
        let patience = Patience {
            pong: None,
            ..USUAL
        };
        let mut vigil = Vigil::new(patience, None, began);
        for n in 1..=10 {
            let now = began + n * 30 * SECOND;
            assert_eq!(vigil.due(now), Some(Due::Ping));
            vigil.asked(now);
            assert_eq!(vigil.next(), now + 30 * SECOND);
        }
    }

    #[test]
    fn without_pings_only_idleness_is_left() {
        let began = Instant::now();
        let patience = Patience {
            ping: None,
            ..USUAL
        };
        let vigil = Vigil::new(patience, None, began);
        assert_eq!(vigil.next(), began + 3_600 * SECOND);
    }

    #[test]
    fn an_end_comes_no_matter_how_lively_the_peer_is() {
        let began = Instant::now();
        let mut vigil = Vigil::new(USUAL, Some(began + 60 * SECOND), began);
        vigil.heard(Sign::Word, began + 59 * SECOND);
        let expired = Some(Due::Close(Cause::TokenExpired));
        assert_eq!(vigil.due(began + 60 * SECOND), expired);
        vigil.leave(began + 59 * SECOND);
        assert!(vigil.is_leaving());
        let leaving = Some(Due::Close(Cause::Draining));
        assert_eq!(vigil.due(began + 59 * SECOND), leaving);
    }
}
