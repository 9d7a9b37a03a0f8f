//! Many clients that ask at once for what the cache does not have: one of them must fetch it for
//! all, and where it cannot be kept, none may wait for another.

use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use crate::http1::Connection;
use crate::origin::{Answers, Origin, Place, is_of};
use crate::report::{Counts, Report, count};
use crate::target::{Failure, Way, fresh};
use crate::units::duration;

/// See the module.
#[derive(Args, Debug, Clone)]
#[command(after_long_help = concat!("edge runs with this:\n\n", include_str!("cache.toml")))]
pub(crate) struct Herd {
    #[command(flatten)]
    way: Way,
    #[command(flatten)]
    place: Place,
    /// How many clients, each with a connection that is open before.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=8_000))]
    count: u32,
    /// How long the upstream takes for an answer, as 1s.
    #[arg(long, default_value = "1s", value_parser = duration)]
    slow: Duration,
    /// The upstream says no-store.
    #[arg(long)]
    uncacheable: bool,
}

/// How much longer each may take than the upstream does.
const MARGIN: Duration = Duration::from_millis(200);

/// The same where each is fetched on its own.
const WIDE_MARGIN: Duration = Duration::from_millis(500);

/// The first time, and once more.
const COLD: &str = "cold";
const AGAIN: &str = "again";

/// Bytes in the answer.
const SIZE: usize = 4_096;

/// What one round of all clients has met.
#[derive(Default)]
struct Round {
    times: Vec<Duration>,
    lost: Counts,
    open: Vec<Connection>,
}

impl Herd {
    pub(crate) async fn run(self) -> Report {
        let mut report = Report::default();
        let done = self.load(&mut report).await;
        report.done(done);
        report
    }

    async fn load(mut self, report: &mut Report) -> Result<(), Failure> {
        self.way = self.way.to(&fresh(&self.way.target.path));
        let answers = Answers {
            after: self.slow,
            size: SIZE,
            kept: !self.uncacheable,
        };
        let origin = self.place.answer(answers)?;
        let mut open = Vec::new();
        for _ in 0..self.count {
            open.push(Connection::open(&self.way).await?);
        }
        report.row("clients", self.count);
        let cold = self.round(open).await;
        let open = self.report(COLD, cold, &origin, report);
        let again = self.round(open).await;
        self.report(AGAIN, again, &origin, report);
        Ok(())
    }

    /// All ask at the same moment.
    async fn round(&self, open: Vec<Connection>) -> Round {
        let ready = Arc::new(Barrier::new(open.len() + 1));
        let mut asking = JoinSet::new();
        for connection in open {
            asking.spawn(ask(self.way.clone(), connection, ready.clone()));
        }
        ready.wait().await;
        let start = Instant::now();
        let mut round = Round::default();
        while let Some(asked) = asking.join_next().await {
            match asked.unwrap_or_else(|_| Err("broken off".to_owned())) {
                Ok((connection, end)) => {
                    round.times.push(end.saturating_duration_since(start));
                    round.open.push(connection);
                }
                Err(failure) => count(&mut round.lost, failure),
            }
        }
        round
    }

    fn report(
        &self,
        when: &str,
        round: Round,
        origin: &Origin,
        report: &mut Report,
    ) -> Vec<Connection> {
        report.failures(&format!("{when}: lost"), &round.lost);
        let asked = format!("{when}: upstream requests so far");
        if self.uncacheable {
            report.row(&asked, origin.requests());
        } else {
            report.at_most(&asked, Some(origin.requests() as f64), 1.0);
        }
        // Who waited in vain for another's answer asks for his own; the second time all know that.
        let (waits, margin) = match (when, self.uncacheable) {
            (AGAIN, false) => (0, MARGIN),
            (AGAIN, true) => (1, WIDE_MARGIN),
            (_, false) => (1, MARGIN),
            (_, true) => (2, WIDE_MARGIN),
        };
        let most = waits * self.slow + margin;
        let slowest = round.times.iter().max().map(Duration::as_secs_f64);
        report.at_most(&format!("{when}: slowest s"), slowest, most.as_secs_f64());
        report.times(&format!("{when}: answer"), round.times);
        round.open
    }
}

async fn ask(
    way: Way,
    mut connection: Connection,
    ready: Arc<Barrier>,
) -> Result<(Connection, Instant), Failure> {
    ready.wait().await;
    let answer = connection.get(&way, None).await?;
    let end = Instant::now();
    if answer.status != 200 {
        return Err(format!("answered {}", answer.status));
    }
    if !is_of(connection.body(), &way.target.path, SIZE) {
        return Err("another body".to_owned());
    }
    Ok((connection, end))
}
