//! The total deadline, which Pingora does not have.
//!
//! Every connection, and over HTTP/2 every stream, is served inside [`Deadline::keep`]. When a
//! request's time is over, whoever waits on [`Deadline::passes`] hears of it at that moment, gives
//! the peer up and answers. Where the head was already sent, the client's side is cut, so that no
//! truncated body can look complete.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use crate::alarm::Alarm;
use parking_lot::Mutex;

/// A client has so long to read an answer of edge's own.
const OWN_ANSWER: Duration = Duration::from_secs(10);

/// The clocks that run for the request that a connection is serving.
#[derive(Debug, Default)]
pub(crate) struct Deadline(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// By when the request's body must have arrived; `None`: it has, or may take for ever.
    body_by: Option<Instant>,
    /// By when the answer must be complete.
    answer_by: Option<Instant>,
    /// The head of the answer is on its way.
    head_sent: bool,
    expired: Option<Expired>,
}

/// Which clock ran out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expired {
    /// The client did not send its body in time.
    Body,
    /// The answer was not complete in time.
    Answer,
}

impl Deadline {
    /// Serves a connection; `cut` must end the client's side of it.
    pub(crate) async fn keep<F: Future>(&self, cut: impl Fn(), serving: F) -> F::Output {
        let mut serving = pin!(serving);
        let mut alarm = Alarm::default();
        poll_fn(|context| {
            loop {
                if let Poll::Ready(output) = serving.as_mut().poll(context) {
                    return Poll::Ready(output);
                }
                let Some(at) = self.next() else {
                    return Poll::Pending;
                };
                std::task::ready!(alarm.poll(context, at.into()));
                if self.expire() {
                    cut();
                }
            }
        })
        .await
    }

    /// Starts the clocks of a request that arrived at `began`.
    pub(crate) fn start(&self, began: Instant, answer: Option<Duration>, body: Option<Duration>) {
        let mut state = self.0.lock();
        state.answer_by = answer.map(|time| began + time);
        state.body_by = body.map(|time| began + time);
    }

    /// edge answers by itself from now on: whoever does not read that is cut.
    pub(crate) fn answer_now(&self) {
        let mut state = self.0.lock();
        state.answer_by = Some(Instant::now() + OWN_ANSWER);
        state.body_by = None;
        state.head_sent = true;
    }

    /// How long until the answer must be complete; `None`: no limit.
    pub(crate) fn left(&self) -> Option<Duration> {
        let answer_by = self.0.lock().answer_by;
        answer_by.map(|at| at.saturating_duration_since(Instant::now()))
    }

    /// Which clock ran out, if one did.
    pub(crate) fn expired(&self) -> Option<Expired> {
        self.0.lock().expired
    }

    /// The whole body of the request has arrived.
    pub(crate) fn body_arrived(&self) {
        self.0.lock().body_by = None;
    }

    /// Ready once a clock has run out. Only for a future that is served inside [`Self::keep`],
    /// which is polled again at that moment.
    pub(crate) async fn passes(&self) {
        poll_fn(|_| match self.expired() {
            Some(_) => Poll::Ready(()),
            None => Poll::Pending,
        })
        .await;
    }

    /// The head of the answer is on its way to the client.
    pub(crate) fn head_sent(&self) {
        self.0.lock().head_sent = true;
    }

    /// The exchange is over: no clock runs until the next one.
    pub(crate) fn stop(&self) {
        *self.0.lock() = State::default();
    }

    fn next(&self) -> Option<Instant> {
        let state = self.0.lock();
        state.body_by.into_iter().chain(state.answer_by).min()
    }

    /// A clock has run out; tells whether the client must be cut.
    fn expire(&self) -> bool {
        let mut state = self.0.lock();
        let body_is_late = state.body_by.is_some_and(|by| by <= Instant::now());
        let which = if body_is_late {
            Expired::Body
        } else {
            Expired::Answer
        };
        state.expired.get_or_insert(which);
        (state.body_by, state.answer_by) = (None, None);
        state.head_sent
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    fn seconds(number: u64) -> Duration {
        Duration::from_secs(number)
    }

    /// A request of so many seconds, and what became of the client's side.
    async fn cut_after(deadline: &Deadline, length: u64, started: impl FnOnce()) -> bool {
        let cut = Cell::new(false);
        let serving = async {
            started();
            tokio::time::sleep(seconds(length)).await;
        };
        deadline.keep(|| cut.set(true), serving).await;
        cut.get()
    }

    fn now() -> Instant {
        tokio::time::Instant::now().into_std()
    }

    #[tokio::test(start_paused = true)]
    async fn when_time_is_over_whoever_waits_hears_of_it_at_once() {
        let (deadline, cut) = (Deadline::default(), Cell::new(false));
        let began = now();
        let serving = async {
            deadline.start(began, Some(seconds(3)), None);
            tokio::select! {
                () = deadline.passes() => now() - began,
                () = std::future::pending() => seconds(0),
            }
        };
        let waited = deadline.keep(|| cut.set(true), serving).await;
        assert!(waited >= seconds(3) && waited < seconds(4), "{waited:?}");
        assert!(!cut.get(), "no head was sent: the client gets an answer");
        assert_eq!(deadline.expired(), Some(Expired::Answer));
    }

    #[tokio::test(start_paused = true)]
    async fn once_the_head_is_sent_the_client_is_cut() {
        let deadline = Deadline::default();
        let cut = cut_after(&deadline, 60, || {
            deadline.start(now(), Some(seconds(3)), None);
            deadline.head_sent();
        });
        assert!(cut.await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_body_is_told_from_a_late_answer() {
        let deadline = Deadline::default();
        let begin = now() - seconds(5);
        cut_after(&deadline, 60, || {
            deadline.start(begin, Some(seconds(3)), Some(seconds(2)));
        })
        .await;
        assert_eq!(deadline.expired(), Some(Expired::Body));
    }

    #[tokio::test(start_paused = true)]
    async fn an_alarm_of_an_earlier_request_does_not_end_a_later_one() {
        let deadline = Deadline::default();
        let serving = async {
            deadline.start(now(), Some(seconds(3)), None);
            tokio::time::sleep(seconds(2)).await;
            deadline.stop();
            deadline.start(now(), Some(seconds(3)), None);
            tokio::time::sleep(seconds(2)).await;
            let before = deadline.expired();
            tokio::time::sleep(seconds(2)).await;
            (before, deadline.expired())
        };
        let seen = deadline.keep(|| {}, serving).await;
        assert_eq!(seen, (None, Some(Expired::Answer)));
    }
}
