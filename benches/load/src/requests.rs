//! Requests at their moments, over a bounded number of connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::http1::Connection;
use crate::reason;
use crate::schedule::Schedule;
use crate::series::Series;
use crate::target::{Failure, PATIENCE, Way};

/// What came of the requests.
#[derive(Debug, Default)]
pub struct Requests {
    /// The answers.
    pub answers: Series,
    /// How many found all connections busy.
    pub queued: u64,
}

/// Which requests are sent, and when.
#[derive(Debug, Clone, Copy)]
struct Due {
    schedule: Schedule,
    number: u64,
    start: Instant,
    /// What is not sent by then never is.
    latest: Instant,
}

/// A connection that waited longer may have been closed by the other side, which is no failure.
const FRESH: Duration = Duration::from_secs(10);

impl Requests {
    /// Sends them, and waits for the answers to the last.
    pub async fn send(
        way: &Way,
        rate: u32,
        connections: u32,
        (start, total): (Instant, Duration),
    ) -> Self {
        let mut all = Self::default();
        let Some(schedule) = Schedule::new(rate) else {
            return all;
        };
        let due = Due {
            schedule,
            number: schedule.before(total),
            start,
            latest: start + total + PATIENCE,
        };
        let next = Arc::new(AtomicU64::new(0));
        let work = |_| due.work(way.clone(), next.clone());
        let mut workers: JoinSet<_> = (0..connections).map(work).collect();
        while let Some(done) = workers.join_next().await {
            match done {
                Ok(done) => all.add(done),
                Err(_) => all.answers.complain("broken off".to_owned()),
            }
        }
        all
    }

    fn add(&mut self, other: Self) {
        self.answers.add(other.answers);
        self.queued += other.queued;
    }
}

impl Due {
    /// One connection: takes the next request, waits for its moment, sends it, reads the answer.
    async fn work(self, way: Way, next: Arc<AtomicU64>) -> Requests {
        let mut done = Requests::default();
        let mut open = None;
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= self.number {
                return done;
            }
            let since = self.schedule.moment(number);
            let moment = self.start + since;
            done.queued += u64::from(Instant::now() > moment);
            sleep_until(moment).await;
            if Instant::now() >= self.latest {
                done.answers.lose(since, "not sent in time".to_owned());
                continue;
            }
            match ask(&mut open, &way).await {
                Ok(()) => done.answers.note(since, moment.elapsed()),
                Err(failure) => done.answers.lose(since, failure),
            }
        }
    }
}

/// Asks over the connection that is open, or a new one. A no of the system's is a failure, too.
async fn ask(open: &mut Option<(Connection, Instant)>, way: &Way) -> Result<(), Failure> {
    let kept = open.take();
    let kept = kept.filter(|(_, since)| since.elapsed() < FRESH);
    let mut connection = match kept {
        Some((connection, _)) => connection,
        None => Connection::open(way).await?,
    };
    let answer = connection.get(way, None).await?;
    let told = match answer.status {
        200..300 => Ok(()),
        status => Err(reason::word(status, reason::of_body(connection.body()))),
    };
    if answer.stays {
        *open = Some((connection, Instant::now()));
    }
    told
}
