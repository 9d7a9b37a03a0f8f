//! All at once: are exactly those let through for whom there is room, and the others told when
//! to come back on a connection that stays open?

use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use crate::http1::{Answer, Connection};
use crate::report::{Counts, Report, add, count};
use crate::target::{MOST_CLIENTS, Way, client};

/// See the module.
#[derive(Args, Debug, Clone)]
pub(crate) struct Burst {
    #[command(flatten)]
    way: Way,
    /// Say in X-Forwarded-For that they come from so many clients; without it, from no other.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=MOST_CLIENTS))]
    clients: Option<u32>,
    /// How many requests.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    count: u32,
    /// Over how many connections, all open before the first request.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    connections: u32,
}

#[derive(Default)]
struct Tally {
    statuses: Counts,
    times: Vec<Duration>,
    lost: Counts,
    silent: u64,
    closed: u64,
}

impl Burst {
    pub(crate) async fn run(self) -> Report {
        let mut report = Report::default();
        let (mut open, mut all) = (Vec::new(), Tally::default());
        for _ in 0..self.connections {
            match Connection::open(&self.way).await {
                Ok(connection) => open.push(connection),
                Err(failure) => count(&mut all.lost, failure),
            }
        }
        let ready = Arc::new(Barrier::new(open.len() + 1));
        let mut workers = JoinSet::new();
        for (first, connection) in (0..).zip(open) {
            workers.spawn(self.clone().work(first, connection, ready.clone()));
        }
        ready.wait().await;
        let start = Instant::now();
        let mut last = start;
        while let Some(done) = workers.join_next().await {
            let (done, end) = done.unwrap_or_else(|_| (Tally::default(), start));
            last = last.max(end);
            add(&mut all.statuses, done.statuses);
            add(&mut all.lost, done.lost);
            all.times.extend(done.times);
            all.silent += done.silent;
            all.closed += done.closed;
        }
        report.row("requests", self.count);
        report.counts("answered", &all.statuses);
        report.failures("lost", &all.lost);
        report.fault("refused without Retry-After", all.silent);
        report.fault("connections closed", all.closed);
        report.number("milliseconds", (last - start).as_secs_f64() * 1e3);
        report.times("answer", all.times);
        report
    }

    /// Sends every so-manieth request, one after the other.
    async fn work(
        self,
        first: u32,
        mut connection: Connection,
        ready: Arc<Barrier>,
    ) -> (Tally, Instant) {
        let mut tally = Tally::default();
        let step = usize::try_from(self.connections).unwrap_or(usize::MAX);
        ready.wait().await;
        for number in (first..self.count).step_by(step) {
            let client = self.clients.map(|clients| client(number % clients));
            let asked = Instant::now();
            match connection.get(&self.way, client).await {
                Ok(answer) => tally.note(&answer, asked.elapsed()),
                Err(failure) => {
                    count(&mut tally.lost, failure);
                    break;
                }
            }
        }
        let end = Instant::now();
        tally.closed += u64::from(!connection.is_open().await);
        (tally, end)
    }
}

impl Tally {
    fn note(&mut self, answer: &Answer, time: Duration) {
        self.times.push(time);
        count(&mut self.statuses, answer.status.to_string());
        let refused = matches!(answer.status, 429 | 503);
        self.silent += u64::from(refused && !answer.retry_after);
    }
}
