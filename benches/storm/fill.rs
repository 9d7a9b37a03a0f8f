//! Reads each of many objects once through edge, so that the cache has seen them all.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::task::JoinSet;

use crate::http1::Connection;
use crate::origin::is_of;
use crate::report::{Counts, add, count};
use crate::target::{Failure, Way};

/// Objects `PATH/0`, `PATH/1`, ...; the path is that of the way.
#[derive(Debug, Clone)]
pub(crate) struct Objects {
    pub(crate) way: Way,
    /// Bytes in each of them.
    pub(crate) size: usize,
}

/// So many are read at the same time, each over a connection of its own.
pub(crate) const CONNECTIONS: u32 = 64;

impl Objects {
    pub(crate) fn way_to(&self, number: u64) -> Way {
        self.way.to(&format!("{}/{number}", self.way.target.path))
    }

    /// Reads one and checks that it is the one.
    pub(crate) async fn read(&self, open: &mut Connection, number: u64) -> Result<(), Failure> {
        let way = self.way_to(number);
        let answer = open.get(&way, None).await?;
        if answer.status != 200 {
            return Err(format!("answered {}", answer.status));
        }
        if !is_of(open.body(), &way.target.path, self.size) {
            return Err("another body".to_owned());
        }
        Ok(())
    }

    /// Reads all of these; `next` tells how far it is. What was lost.
    pub(crate) async fn read_all(self, numbers: Range<u64>, next: Arc<AtomicU64>) -> Counts {
        next.store(numbers.start, Ordering::Relaxed);
        let mut workers = JoinSet::new();
        for _ in 0..CONNECTIONS {
            workers.spawn(self.clone().work(numbers.end, next.clone()));
        }
        let mut lost = Counts::new();
        while let Some(done) = workers.join_next().await {
            add(&mut lost, done.unwrap_or_default());
        }
        lost
    }

    async fn work(self, end: u64, next: Arc<AtomicU64>) -> Counts {
        let (mut lost, mut open) = (Counts::new(), None);
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= end {
                return lost;
            }
            if let Err(failure) = self.read_over(&mut open, number).await {
                count(&mut lost, failure);
                open = None;
            }
        }
    }

    async fn read_over(&self, open: &mut Option<Connection>, number: u64) -> Result<(), Failure> {
        let connection = match open {
            Some(connection) => connection,
            None => open.insert(Connection::open(&self.way).await?),
        };
        self.read(connection, number).await
    }
}
