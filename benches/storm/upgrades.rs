//! Many WebSockets, each for one message and its echo: is any of them lost?

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use tokio::task::JoinSet;

use crate::report::{Counts, Report, add, count};
use crate::target::{Failure, MOST_CLIENTS, Way, client};
use crate::websocket;

/// See the module.
#[derive(Args, Debug, Clone)]
pub(crate) struct Upgrades {
    #[command(flatten)]
    way: Way,
    /// How many.
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    count: u32,
    /// How many at the same time.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    concurrency: u32,
    /// Give up after so many seconds.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    seconds: u64,
    /// Say in X-Forwarded-For that they come from so many clients.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=MOST_CLIENTS))]
    clients: Option<u32>,
}

#[derive(Default)]
struct Tally {
    handshakes: Vec<Duration>,
    lost: Counts,
}

impl Upgrades {
    pub(crate) async fn run(self) -> Report {
        let start = Instant::now();
        let end = start + Duration::from_secs(self.seconds);
        let next = Arc::new(AtomicU32::new(0));
        let mut workers = JoinSet::new();
        for _ in 0..self.concurrency {
            workers.spawn(self.clone().work(next.clone(), end));
        }
        let mut all = Tally::default();
        while let Some(done) = workers.join_next().await {
            let done = done.unwrap_or_default();
            all.handshakes.extend(done.handshakes);
            add(&mut all.lost, done.lost);
        }
        let opened = all.handshakes.len() as u64;
        let mut report = Report::default();
        report.row("upgrades", self.count);
        report.row("opened", opened);
        report.failures("lost", &all.lost);
        let asked = next.load(Ordering::Relaxed).min(self.count);
        report.fault("not tried in time", u64::from(self.count - asked));
        report.number("seconds", start.elapsed().as_secs_f64());
        report.times("handshake", all.handshakes);
        report
    }

    async fn work(self, next: Arc<AtomicU32>, end: Instant) -> Tally {
        let mut tally = Tally::default();
        while Instant::now() < end {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= self.count {
                break;
            }
            if let Err(failure) = self.one(number, &mut tally.handshakes).await {
                count(&mut tally.lost, failure);
            }
        }
        tally
    }

    async fn one(&self, number: u32, handshakes: &mut Vec<Duration>) -> Result<(), Failure> {
        let client = self.clients.map(|clients| client(number % clients));
        let (mut socket, time) = websocket::open(&self.way, client).await?;
        handshakes.push(time);
        websocket::echo(&mut socket, &format!("message {number}")).await?;
        websocket::close(socket).await
    }
}
