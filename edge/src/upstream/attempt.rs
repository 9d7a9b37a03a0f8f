//! One try at a peer, from its choice to what came of it.

use std::sync::Arc;

use super::places::Place;
use super::{Peer, Upstream};
use crate::breaker::Admitted;
use crate::refusal::Refusal;

/// One try at a peer: while it lasts it counts as open there. Whoever drops it without saying
/// what came of it says nothing for or against the peer.
pub(crate) struct Attempt {
    pub(crate) upstream: Arc<Upstream>,
    pub(crate) peer: Arc<Peer>,
    _place: Place,
    admitted: Option<Admitted>,
    /// It has answered well so far.
    good: bool,
}

impl Attempt {
    pub(super) fn new(
        upstream: Arc<Upstream>,
        peer: Arc<Peer>,
        place: Place,
        admitted: Option<Admitted>,
    ) -> Self {
        peer.enter();
        Self {
            upstream,
            peer,
            _place: place,
            admitted,
            good: false,
        }
    }

    /// Its answer begins. One that is well is well only at its end, or when nobody waits for that
    /// any more: a peer whose answers all break off must not seem well in between. What finds out
    /// for a circuit that is half-open is not to keep others waiting.
    pub(crate) fn answered(&mut self, status: http::StatusCode) {
        let verdict = Verdict::of(status);
        if verdict == Verdict::Good && !self.admitted.as_ref().is_some_and(Admitted::is_trial) {
            self.good = true;
        } else {
            self.judge(verdict);
        }
    }

    /// Nothing is known of how its answer would have ended.
    pub(crate) fn forget(&mut self) {
        self.good = false;
    }

    /// What came of it.
    pub(crate) fn judge(&mut self, verdict: Verdict) {
        self.good = false;
        self.upstream.judge(&self.peer, verdict);
        let good = verdict == Verdict::Good;
        self.upstream.record(self.admitted.take(), Some(good));
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if self.good {
            self.judge(Verdict::Good);
        }
        self.peer.leave();
        self.upstream.record(self.admitted.take(), None);
    }
}

/// What a try says of its peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It answered, if only to say no; the answer itself may still be on its way.
    Good,
    /// It answered 5xx, or what is no answer, or not to the end.
    Bad,
    /// It did not answer at all.
    Unreachable,
}

impl Verdict {
    /// What an answer of this status says.
    pub(crate) fn of(status: http::StatusCode) -> Self {
        match status.is_server_error() {
            true => Self::Bad,
            false => Self::Good,
        }
    }

    /// What a try says that came to no answer.
    pub(crate) fn without_answer(refusal: &Refusal) -> Self {
        match refusal {
            Refusal::UpstreamInvalid | Refusal::TlsFailed => Self::Bad,
            _ => Self::Unreachable,
        }
    }
}
