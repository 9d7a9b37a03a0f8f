//! Many WebSockets, opened a few at a time.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::report::{Counts, Report, count};
use crate::target::{Way, client};
use crate::websocket::{Socket, open};

/// What came of opening many.
#[derive(Default)]
pub(crate) struct Opened {
    sockets: Vec<Socket>,
    times: Vec<Duration>,
    refused: Counts,
}

/// How many are opened at the same time.
const OPENING: usize = 32;

/// Opens so many, which say that they come from so many clients.
pub(crate) async fn open_many(way: &Way, number: u32, clients: Option<u32>) -> Opened {
    let places = Arc::new(Semaphore::new(OPENING));
    let mut opening = JoinSet::new();
    for number in 0..number {
        let (way, places) = (way.clone(), places.clone());
        let client = clients.map(|clients| client(number % clients));
        opening.spawn(async move {
            let _place = places.acquire().await;
            open(&way, client).await
        });
    }
    let mut all = Opened::default();
    while let Some(opened) = opening.join_next().await {
        match opened.unwrap_or_else(|_| Err("broken off".to_owned())) {
            Ok((socket, time)) => {
                all.sockets.push(socket);
                all.times.push(time);
            }
            Err(failure) => count(&mut all.refused, failure),
        }
    }
    all
}

impl Opened {
    /// Tells how it went; the sockets, and what each upgrade took.
    pub(crate) fn report(self, report: &mut Report) -> (Vec<Socket>, Vec<Duration>) {
        report.row("opened", self.sockets.len());
        report.failures("not opened", &self.refused);
        report.times("upgrade", self.times.clone());
        (self.sockets, self.times)
    }
}
