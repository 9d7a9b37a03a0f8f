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

/// A client that was silent for so long while it was waited for has not yet sent its body too
/// slowly, whatever rate it must keep.
const GRACE: Duration = Duration::from_secs(5);
/// What comes fast buys no more silence than this.
const AHEAD: Duration = Duration::from_secs(60);

/// The clocks that run for the request that a connection is serving.
#[derive(Debug, Default)]
pub(crate) struct Deadline(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// By when the request's body must have arrived; `None`: it has, or may take for ever.
    body_by: Option<Instant>,
    /// How slowly the body may arrive; `None`: it has arrived, or as slowly as the client likes.
    pace: Option<Pace>,
    /// By when the answer must be complete.
    answer_by: Option<Instant>,
    /// The head of the answer is on its way.
    head_sent: bool,
    expired: Option<Expired>,
}

/// How much silence a body's bytes have bought: a clock that runs only while the client is waited
/// for, and not while a peer takes its time.
#[derive(Debug)]
struct Pace {
    /// Bytes in a second.
    least: u64,
    /// What is left, without what has passed since it was last waited for.
    left: Duration,
    since: Option<Instant>,
}

impl Pace {
    fn new(least: u64) -> Self {
        Self {
            least,
            left: GRACE,
            since: None,
        }
    }

    /// When it runs out, if nothing comes.
    fn by(&self) -> Option<Instant> {
        self.since.map(|since| since + self.left)
    }

    fn wait(&mut self, now: Instant) {
        self.since = Some(now);
    }

    fn pause(&mut self, now: Instant) {
        if let Some(since) = self.since.take() {
            let waited = now.saturating_duration_since(since);
            self.left = self.left.saturating_sub(waited);
        }
    }

    fn came(&mut self, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let millis = bytes.saturating_mul(1_000) / self.least.max(1);
        let bought = Duration::from_millis(millis);
        self.left = self.left.saturating_add(bought).min(AHEAD);
    }
}

/// A client's body is waited for, until this is dropped.
#[derive(Debug)]
pub(crate) struct Awaiting<'a>(&'a Deadline);

impl Drop for Awaiting<'_> {
    fn drop(&mut self) {
        if let Some(pace) = &mut self.0.0.lock().pace {
            pace.pause(now());
        }
    }
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
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
        state.pace = None;
    }

    /// The body must arrive at this mean rate at least, in bytes a second.
    pub(crate) fn keep_pace(&self, least: Option<u64>) {
        self.0.lock().pace = least.map(Pace::new);
    }

    /// It is the client's turn to send more of its body.
    pub(crate) fn await_body(&self) -> Awaiting<'_> {
        if let Some(pace) = &mut self.0.lock().pace {
            pace.wait(now());
        }
        Awaiting(self)
    }

    /// So many bytes of the body came.
    pub(crate) fn body_came(&self, bytes: usize) {
        if let Some(pace) = &mut self.0.lock().pace {
            pace.came(bytes);
        }
    }

    /// edge answers by itself from now on: whoever does not read that is cut.
    pub(crate) fn answer_now(&self) {
        let mut state = self.0.lock();
        state.answer_by = Some(Instant::now() + OWN_ANSWER);
        (state.body_by, state.pace) = (None, None);
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
        let mut state = self.0.lock();
        (state.body_by, state.pace) = (None, None);
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
        let pace_by = state.pace.as_ref().and_then(Pace::by);
        let body_by = state.body_by.into_iter().chain(pace_by);
        body_by.chain(state.answer_by).min()
    }

    /// A clock has run out; tells whether the client must be cut.
    fn expire(&self) -> bool {
        let mut state = self.0.lock();
        let pace_by = state.pace.as_ref().and_then(Pace::by);
        let mut body_by = state.body_by.into_iter().chain(pace_by);
        let body_is_late = body_by.any(|by| by <= now());
        let which = if body_is_late {
            Expired::Body
        } else {
            Expired::Answer
        };
        state.expired.get_or_insert(which);
        (state.body_by, state.pace, state.answer_by) = (None, None, None);
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

    /// A body in parts of so many bytes, each after so many seconds, at 100 bytes a second.
    async fn paced(parts: &[(u64, usize)]) -> Option<Expired> {
        let deadline = Deadline::default();
        let serving = async {
            deadline.start(now(), None, None);
            deadline.keep_pace(Some(100));
            for (silence, bytes) in parts {
                let awaiting = deadline.await_body();
                tokio::time::sleep(seconds(*silence)).await;
                drop(awaiting);
                deadline.body_came(*bytes);
                // The peer takes its time: that is nobody's fault here.
                tokio::time::sleep(seconds(100)).await;
            }
            deadline.body_arrived();
            tokio::time::sleep(seconds(100)).await;
        };
        deadline.keep(|| {}, serving).await;
        deadline.expired()
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_keeps_the_rate_may_pause_and_one_that_drips_may_not() {
        assert_eq!(paced(&[(4, 1), (1, 1), (4, 1)]).await, Some(Expired::Body));
        assert_eq!(paced(&[(6, 1_000)]).await, Some(Expired::Body), "the grace");
        assert_eq!(paced(&[(4, 100), (1, 100), (1, 0)]).await, None);
        assert_eq!(paced(&[(0, 2_000), (24, 1)]).await, None, "the mean counts");
        let ahead = [(0, 1 << 30), (61, 1)];
        assert_eq!(
            paced(&ahead).await,
            Some(Expired::Body),
            "but a minute at most"
        );
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
