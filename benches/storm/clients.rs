//! Many clients behind one trusted proxy: is any of them refused for what others do?

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::Args;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::http1::Connection;
use crate::report::{Counts, Report, add, count};
use crate::target::{Failure, MOST_CLIENTS, Way, client};

/// See the module.
#[derive(Args, Debug, Clone)]
pub(crate) struct Clients {
    #[command(flatten)]
    way: Way,
    /// How many clients.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=MOST_CLIENTS))]
    clients: u32,
    /// How many requests each of them sends; all clients take turns.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    requests: u32,
    /// How many requests a second over all clients; 0: as fast as they are answered.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    rate: u32,
    /// Over how many connections.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    connections: u32,
    /// Give up after so many seconds.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    seconds: u64,
}

#[derive(Default)]
struct Tally {
    statuses: Counts,
    times: Vec<Duration>,
    lost: Counts,
}

impl Clients {
    pub(crate) async fn run(self) -> Report {
        let start = Instant::now();
        let next = Arc::new(AtomicU64::new(0));
        let mut workers = JoinSet::new();
        for _ in 0..self.connections {
            workers.spawn(self.clone().work(next.clone(), start));
        }
        let mut all = Tally::default();
        while let Some(done) = workers.join_next().await {
            let done = done.unwrap_or_default();
            add(&mut all.statuses, done.statuses);
            add(&mut all.lost, done.lost);
            all.times.extend(done.times);
        }
        let seconds = start.elapsed().as_secs_f64();
        let asked = next.load(Ordering::Relaxed).min(self.total());
        let mut report = Report::default();
        report.row("clients", self.clients);
        report.row("requests", self.total());
        report.counts("answered", &all.statuses);
        report.failures("lost", &all.lost);
        report.fault("not tried in time", self.total() - asked);
        report.number("seconds", seconds);
        report.number("answers a second", all.times.len() as f64 / seconds);
        report.times("answer", all.times);
        report
    }

    fn total(&self) -> u64 {
        u64::from(self.clients) * u64::from(self.requests)
    }

    async fn work(self, next: Arc<AtomicU64>, start: Instant) -> Tally {
        let end = start + Duration::from_secs(self.seconds);
        let mut tally = Tally::default();
        let mut connection = None;
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= self.total() {
                return tally;
            }
            if self.rate > 0 {
                let due = number as f64 / f64::from(self.rate);
                sleep_until((start + Duration::from_secs_f64(due)).min(end)).await;
            }
            if Instant::now() >= end {
                count(&mut tally.lost, "not sent in time".to_owned());
                return tally;
            }
            let asked = Instant::now();
            match self.ask(&mut connection, number).await {
                Ok(status) => {
                    tally.times.push(asked.elapsed());
                    count(&mut tally.statuses, status.to_string());
                }
                Err(failure) => {
                    connection = None;
                    count(&mut tally.lost, failure);
                }
            }
        }
    }

    async fn ask(&self, open: &mut Option<Connection>, number: u64) -> Result<u16, Failure> {
        let connection = match open {
            Some(connection) => connection,
            None => open.insert(Connection::open(&self.way).await?),
        };
        let number = u32::try_from(number % u64::from(self.clients)).unwrap_or(0);
        let answer = connection.get(&self.way, Some(client(number))).await?;
        if !answer.stays {
            *open = None;
        }
        Ok(answer.status)
    }
}
