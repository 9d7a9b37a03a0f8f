//! One load from its beginning to its end.

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::machine::{self, Busy, Cost, Named};
use crate::offer::{Offer, SETTLE, Ways};
use crate::own;
use crate::requests::Requests;
use crate::series::Series;
use crate::sockets::Sockets;
use crate::verdict::Verdict;

/// All that a load has met.
#[derive(Debug)]
pub struct Measured {
    /// Where it went, as it is shown.
    pub place: String,
    /// What was offered.
    pub offer: Offer,
    /// What came of the requests.
    pub requests: Requests,
    /// What came of the WebSockets.
    pub sockets: Sockets,
    /// How late this program itself was.
    pub late: Series,
    /// What it all comes to.
    pub verdict: Verdict,
    /// What it cost the processes beside it, this program last.
    pub costs: Vec<Cost>,
    /// How busy the machine was, where it tells.
    pub busy: Option<Busy>,
}

impl Measured {
    /// Offers the load and waits for what comes of it.
    pub async fn run(place: String, ways: &Ways, offer: Offer, watched: Vec<Named>) -> Self {
        let began = machine::load();
        let start = Instant::now() + SETTLE / 10;
        let full = (start + offer.opening(), start + offer.total());
        let watched = watched.into_iter().chain(Named::own());
        let mut watching: JoinSet<_> = watched
            .zip(0..)
            .map(|(named, number)| async move { (number, named.watch(full).await) })
            .collect();
        let (requests, sockets, late) = tokio::join!(
            Requests::send(
                &ways.health,
                offer.rate,
                offer.connections,
                (start, offer.total())
            ),
            Sockets::open(&ways.ws, &offer, start),
            own::lateness((start, offer.total())),
        );
        let mut costs: Vec<(usize, Cost)> = Vec::new();
        while let Some(cost) = watching.join_next().await {
            costs.extend(cost);
        }
        costs.sort_unstable_by_key(|(number, _)| *number);
        let load = began.zip(machine::load());
        Self {
            verdict: Verdict::of(&offer, &ways.health.target.path, &requests, &sockets),
            place,
            offer,
            requests,
            sockets,
            late,
            costs: costs.into_iter().map(|(_, cost)| cost).collect(),
            busy: load.map(|load| Busy {
                load,
                cores: machine::cores(),
            }),
        }
    }
}
