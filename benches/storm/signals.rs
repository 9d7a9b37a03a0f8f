//! Signals to a process while a load goes on, such as those by which it reads its configuration
//! again.

use std::time::Duration;

use clap::{Args, ValueEnum};
use rustix::process::Signal;
use tokio::time::{Instant, sleep_until};

use crate::process::Process;
use crate::report::{Counts, Report, count};
use crate::units::duration;

/// See the module.
#[derive(Args, Debug, Clone, Copy)]
pub(crate) struct Signals {
    /// Send this signal to the process while messages flow.
    #[arg(long, requires = "pid", ignore_case = true)]
    signal: Option<Name>,
    /// How long from one signal to the next, as 250ms or 1s.
    #[arg(long, default_value = "1s", value_parser = duration, requires = "signal")]
    every: Duration,
    /// How many signals; messages flow until one `every` after the last.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000), requires = "signal")]
    times: u32,
}

#[derive(ValueEnum, Debug, Clone, Copy)]
#[value(rename_all = "UPPER")]
enum Name {
    Hup,
    Usr1,
    Usr2,
}

/// What came of the signals.
#[derive(Default)]
pub(crate) struct Sent {
    sent: u64,
    failed: Counts,
}

impl Signals {
    /// How long a load must last at least.
    pub(crate) fn last(&self) -> Duration {
        match self.signal {
            Some(_) => self.every * (self.times + 1),
            None => Duration::ZERO,
        }
    }

    /// Sends them all; `None` where there is none to send, or nobody to send it to.
    pub(crate) async fn send(self, start: Instant, process: Option<Process>) -> Option<Sent> {
        let signal = match self.signal? {
            Name::Hup => Signal::HUP,
            Name::Usr1 => Signal::USR1,
            Name::Usr2 => Signal::USR2,
        };
        let process = process?;
        let mut sent = Sent::default();
        for number in 1..=self.times {
            sleep_until(start + self.every * number).await;
            match process.signal(signal) {
                // A process that has ended, but whose parent has not noticed, takes any signal.
                Ok(()) if process.is_gone() => count(&mut sent.failed, "signal: gone".to_owned()),
                Ok(()) => sent.sent += 1,
                Err(failure) => count(&mut sent.failed, failure),
            }
        }
        sleep_until(start + self.last()).await;
        if process.is_gone() {
            count(&mut sent.failed, "process ended".to_owned());
        }
        Some(sent)
    }
}

impl Sent {
    pub(crate) fn report(&self, report: &mut Report) {
        report.row("signals sent", self.sent);
        report.failures("signals failed", &self.failed);
    }
}
