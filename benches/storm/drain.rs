//! A process told to end: does each of its WebSockets get a Close frame, are they spread over the
//! time there is, and does the process end in time?

use std::time::Duration;

use clap::Args;
use rustix::process::Signal;
use tokio::time::{Instant, sleep_until};

use crate::ends::Ending;
use crate::opening;
use crate::process::Process;
use crate::report::{Counts, Report, count};
use crate::target::Way;
use crate::units::duration;

/// See the module.
#[derive(Args, Debug, Clone)]
pub(crate) struct Drain {
    #[command(flatten)]
    way: Way,
    /// How many are open when the process is told.
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    count: u32,
    /// The process that is told to end, with SIGTERM (edge).
    #[arg(long)]
    pid: Process,
    /// Over how long it spreads the ends of its sockets, as 10s.
    #[arg(long, default_value = "10s", value_parser = duration)]
    within: Duration,
    /// How many messages a second over all of them; 0: none.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    messages_per_second: u32,
}

/// How long messages flow before.
const BEFORE: Duration = Duration::from_secs(2);

/// How much longer than the sockets the process may last.
const GRACE: Duration = Duration::from_secs(5);

/// How many times more sockets may end in one second than an even spread would end.
const UNEVEN: f64 = 1.5;

impl Drain {
    pub(crate) async fn run(self) -> Report {
        let mut report = Report::default();
        let opened = opening::open_many(&self.way, self.count, None).await;
        let (sockets, _) = opened.report(&mut report);
        let even = sockets.len() as f64 / self.within.as_secs_f64().max(1.0);
        let told = Instant::now() + BEFORE;
        let end = told + self.within + GRACE;
        let ending = Ending::start(sockets, self.messages_per_second, end);
        sleep_until(told).await;
        let told = Instant::now();
        let mut failed = Counts::new();
        if let Err(failure) = self.pid.signal(Signal::TERM) {
            count(&mut failed, failure);
        }
        let gone = self.pid.gone(end).await;
        let ends = ending.all(told).await;
        report.failures("not told to end", &failed);
        ends.report(&mut report);
        let times = ends.times();
        let second = |time: Option<&Duration>| time.map_or(0.0, Duration::as_secs_f64);
        report.number("first end s", second(times.first()));
        report.number("last end s", second(times.last()));
        let worst = worst_second(&times);
        report.row("ends in the worst second", worst);
        let ratio = (even > 0.0).then(|| worst as f64 / even);
        report.at_most("times an even spread", ratio, UNEVEN);
        let gone = gone.map(|gone| (gone - told).as_secs_f64());
        let most = (self.within + GRACE).as_secs_f64();
        report.at_most("process gone s", gone, most);
        if self.messages_per_second > 0 {
            ends.report_messages(&mut report);
        }
        report
    }
}

/// The most of these within any one second; they are in order.
fn worst_second(times: &[Duration]) -> usize {
    let mut worst = 0;
    for (number, start) in times.iter().enumerate() {
        let end = *start + Duration::from_secs(1);
        worst = worst.max(times.partition_point(|time| *time < end) - number);
    }
    worst
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_second_may_begin_at_any_moment() {
        let worst = |times: &[u64]| {
            let times: Vec<_> = times.iter().copied().map(Duration::from_millis).collect();
            worst_second(&times)
        };
        assert_eq!((worst(&[]), worst(&[7])), (0, 1));
        assert_eq!(worst(&[0, 900, 1_100, 1_899, 2_900]), 3);
        assert_eq!(worst(&[0, 1_000, 2_000]), 1);
    }
}
