//! Requests at a pace that does not wait for answers, over as many connections as that takes.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::http1::Connection;
use crate::report::{Counts, count};
use crate::target::{Failure, PATIENCE, Way};

/// What was answered.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) statuses: Counts,
    pub(crate) lost: Counts,
    pub(crate) times: Vec<Duration>,
    /// Answers that are no 2xx, and those that never came.
    pub(crate) failed: u64,
}

/// Connections that wait, with the moment since when they do.
type Idle = Arc<Mutex<Vec<(Connection, Instant)>>>;

/// Who waited longer may have been closed by edge, which is no failure.
const FRESH: Duration = Duration::from_secs(10);

/// How often it is looked what is due.
const TICK: Duration = Duration::from_millis(1);

/// So many requests may be open at once.
const MOST: usize = 10_000;

/// Sends so many requests a second, until then.
pub(crate) async fn pace(way: &Way, rate: u32, until: Instant) -> Tally {
    let mut tally = Tally::default();
    let idle = Idle::default();
    let mut open = JoinSet::new();
    let start = Instant::now();
    let mut sent = 0;
    while Instant::now() < until {
        while let Some(answered) = open.try_join_next() {
            tally.note(answered.unwrap_or_else(|_| Err("broken off".to_owned())));
        }
        let due = start.elapsed().as_secs_f64() * f64::from(rate);
        while f64::from(sent) < due {
            sent += 1;
            if open.len() < MOST {
                open.spawn(ask(way.clone(), idle.clone()));
            } else {
                tally.note(Err("too many are open".to_owned()));
            }
        }
        sleep(TICK).await;
    }
    let rest = async {
        while let Some(answered) = open.join_next().await {
            tally.note(answered.unwrap_or_else(|_| Err("broken off".to_owned())));
        }
    };
    let _ = timeout(2 * PATIENCE, rest).await;
    tally
}

async fn ask(way: Way, idle: Idle) -> Result<(u16, Duration), Failure> {
    let asked = Instant::now();
    let kept = idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
    let kept = kept.filter(|(_, since)| since.elapsed() < FRESH);
    let mut connection = match kept {
        Some((connection, _)) => connection,
        None => Connection::open(&way).await?,
    };
    let answer = connection.get(&way, None).await?;
    let took = asked.elapsed();
    if answer.stays {
        let mut idle = idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.push((connection, Instant::now()));
    }
    Ok((answer.status, took))
}

impl Tally {
    fn note(&mut self, answered: Result<(u16, Duration), Failure>) {
        match answered {
            Ok((status, took)) => {
                self.failed += u64::from(!(200..300).contains(&status));
                count(&mut self.statuses, status.to_string());
                self.times.push(took);
            }
            Err(failure) => {
                self.failed += 1;
                count(&mut self.lost, failure);
            }
        }
    }

    pub(crate) fn requests(&self) -> u64 {
        self.times.len() as u64 + self.lost.values().sum::<u64>()
    }

    /// How many took so long.
    pub(crate) fn over(&self, time: Duration) -> u64 {
        self.times.iter().filter(|took| **took >= time).count() as u64
    }
}
