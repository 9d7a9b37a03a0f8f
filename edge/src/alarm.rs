//! A timer that is set once in a while, not once for each thing that is waited for.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::task::coop::has_budget_remaining;
use tokio::time::{Instant, Sleep};

/// Rings at the time that it is polled with. Set for something earlier, it rings too early, is
/// set anew, and nobody hears of it.
#[derive(Debug, Default)]
pub(crate) struct Alarm {
    sleep: Option<Pin<Box<Sleep>>>,
    /// Whoever polled it last will be woken.
    will_wake: bool,
}

impl Alarm {
    /// Will it wake the task by then without being polled again? Only for an alarm that no other
    /// task has polled.
    pub(crate) fn is_set(&self, now: Instant, by: Instant) -> bool {
        let sleep = self.sleep.as_ref().filter(|_| self.will_wake);
        sleep.is_some_and(|sleep| sleep.deadline() > now && sleep.deadline() <= by)
    }

    /// Ready once it is `by`.
    pub(crate) fn poll(&mut self, context: &mut Context<'_>, by: Instant) -> Poll<()> {
        loop {
            let sleep = self
                .sleep
                .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(by)));
            if sleep.deadline() > by {
                sleep.as_mut().reset(by);
            }
            let set_for = sleep.deadline();
            // A task that has used its turn up is woken at once, and not at the time.
            self.will_wake = has_budget_remaining();
            ready!(sleep.as_mut().poll(context));
            self.sleep = None;
            if set_for >= by {
                return Poll::Ready(());
            }
        }
    }
}
