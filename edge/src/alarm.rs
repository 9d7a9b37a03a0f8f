//! A timer that is set once in a while, not once for each thing that is waited for.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::time::{Instant, Sleep};

/// Rings at the time that it is polled with. Set for something earlier, it rings too early, is
/// set anew, and nobody hears of it.
#[derive(Debug, Default)]
pub(crate) struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    /// Ready once it is `by`.
    pub(crate) fn poll(&mut self, context: &mut Context<'_>, by: Instant) -> Poll<()> {
        loop {
            let sleep = self
                .0
                .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(by)));
            if sleep.deadline() > by {
                sleep.as_mut().reset(by);
            }
            let set_for = sleep.deadline();
            ready!(sleep.as_mut().poll(context));
            self.0 = None;
            if set_for >= by {
                return Poll::Ready(());
            }
        }
    }
}
