//! An upstream that dies: how soon does each client get a Close frame, and is all memory given
//! back?

use std::time::Duration;

use clap::Args;
use rustix::process::Signal;
use tokio::time::{Instant, sleep, sleep_until};

use crate::ends::Ending;
use crate::opening;
use crate::process::{Process, SETTLE};
use crate::report::{Counts, Report, count};
use crate::target::Way;

/// See the module.
#[derive(Args, Debug, Clone)]
pub(crate) struct Widow {
    #[command(flatten)]
    way: Way,
    /// How many are open when the upstream dies.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    count: u32,
    /// The upstream's process, which is killed (SIGKILL).
    #[arg(long)]
    upstream_pid: Process,
    /// The process whose memory is read (edge's).
    #[arg(long)]
    edge_pid: Option<Process>,
    /// How many messages a second over all of them; 0: none.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    messages_per_second: u32,
}

/// How soon each client ought to know.
const SOON: Duration = Duration::from_secs(1);

/// How long they are waited for.
const PATIENCE: Duration = Duration::from_secs(5);

impl Widow {
    pub(crate) async fn run(self) -> Report {
        let mut report = Report::default();
        self.memory("before", &mut report);
        let opened = opening::open_many(&self.way, self.count, None).await;
        let (sockets, _) = opened.report(&mut report);
        let opened = sockets.len();
        let death = Instant::now() + SETTLE;
        let ending = Ending::start(sockets, self.messages_per_second, death + PATIENCE);
        sleep_until(death).await;
        self.memory("open", &mut report);
        let death = Instant::now();
        let mut failed = Counts::new();
        if let Err(failure) = self.upstream_pid.signal(Signal::KILL) {
            count(&mut failed, failure);
        }
        let ends = ending.all(death).await;
        report.failures("not killed", &failed);
        ends.report(&mut report);
        let closes = ends.closes();
        let soon = closes.iter().filter(|time| **time <= SOON).count();
        report.fault("no Close frame within 1 s", (opened - soon) as u64);
        report.times("close", closes);
        if self.messages_per_second > 0 {
            ends.report_messages(&mut report);
        }
        if self.edge_pid.is_some() {
            sleep(SETTLE).await;
            self.memory("after", &mut report);
        }
        report
    }

    fn memory(&self, when: &str, report: &mut Report) {
        self.edge_pid
            .and_then(|process| report.memory(process, when));
    }
}
