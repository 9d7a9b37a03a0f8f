//! Asks each peer whether it is well, and finds the address of each peer that is a name.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use http::header;
use pingora::connectors::TransportConnector;
use pingora::http::RequestHeader;
use pingora::protocols::http::v1::client::HttpSession;
use prometheus::IntGauge;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::metrics::Metrics;
use crate::upstream::{Peer, Upstream, http_peer};

/// How often each peer is asked.
const EVERY: Duration = Duration::from_secs(5);
/// How long a peer may take to answer.
const TIMEOUT: Duration = Duration::from_secs(1);
/// A peer is no longer well after so many failures in a row; one good answer makes it well again.
const FALL: u32 = 2;

/// The peers that are watched, each by where it lies in memory: it stays there while it is held.
#[derive(Default)]
pub(crate) struct Watches(HashMap<usize, Watched>);

/// One of them; the watching ends with it.
struct Watched {
    upstream: Arc<Upstream>,
    peer: Arc<Peer>,
    task: AbortHandle,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Watches {
    /// From now on the peers of these upstreams are watched and no others. Who was watched before
    /// and still is notices nothing.
    pub(crate) fn follow(&mut self, upstreams: &[Arc<Upstream>], metrics: &Metrics) {
        let peers = upstreams.iter().flat_map(|upstream| {
            let peers = upstream.peers.iter();
            peers.map(move |peer| (Arc::as_ptr(peer).addr(), (upstream, peer)))
        });
        let mut left: HashMap<_, _> = peers.collect();
        self.0.retain(|place, watched| {
            let stays = left.remove(place).is_some();
            if !stays {
                metrics.peer_gone(&watched.upstream.name, &watched.peer.name);
            }
            stays
        });
        for (place, (upstream, peer)) in left {
            // Made here and not in the task, which could make it anew once the peer has gone.
            let up = metrics.peer(&upstream.name, &peer.name);
            let task = tokio::spawn(watch(upstream.clone(), peer.clone(), up));
            let watched = Watched {
                upstream: upstream.clone(),
                peer: peer.clone(),
                task: task.abort_handle(),
            };
            self.0.insert(place, watched);
        }
    }
}

/// Watches one peer of an upstream for as long as it is there.
async fn watch(upstream: Arc<Upstream>, peer: Arc<Peer>, up: IntGauge) {
    up.set(i64::from(peer.is_well()));
    let fixed = peer.name.parse::<std::net::SocketAddr>().is_ok();
    if fixed && upstream.health.is_none() {
        return;
    }
    let connector = TransportConnector::new(None);
    let mut failures = 0;
    let mut tick = interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        if !fixed {
            resolve(&upstream.name, &peer).await;
        }
        let Some(path) = &upstream.health else {
            continue;
        };
        let well = timeout(TIMEOUT, ask(&connector, &peer, path))
            .await
            .unwrap_or(Err("no answer in time"));
        failures = if well.is_ok() { 0 } else { failures + 1 };
        let news = match well {
            Ok(()) => peer.set_well(true),
            Err(_) if failures >= FALL => peer.set_well(false),
            Err(_) => false,
        };
        up.set(i64::from(peer.is_well()));
        if news {
            let event = if peer.is_well() {
                "peer_recovered"
            } else {
                "peer_failed"
            };
            tracing::warn!(
                upstream = upstream.name,
                peer = peer.name,
                why = well.err(),
                "{event}"
            );
        }
    }
}

/// Finds the first address of each peer that is a name without one; each look-up has its time,
/// and all run at once.
pub(crate) async fn resolve_first(upstreams: &[Arc<Upstream>]) {
    let mut looking = JoinSet::new();
    for upstream in upstreams {
        for peer in &upstream.peers {
            if peer.address().is_none() {
                let (upstream, peer) = (upstream.clone(), peer.clone());
                looking.spawn(async move { resolve(&upstream.name, &peer).await });
            }
        }
    }
    while looking.join_next().await.is_some() {}
}

/// A look-up that fails leaves the last address in place.
async fn resolve(upstream: &str, peer: &Peer) {
    let found = match timeout(TIMEOUT, tokio::net::lookup_host(&peer.name)).await {
        Ok(Ok(mut addresses)) => addresses
            .next()
            .ok_or_else(|| "the name has no address".to_owned()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no answer in time".to_owned()),
    };
    match found {
        Ok(address) => peer.set_address(address),
        Err(why) => tracing::warn!(upstream, peer = peer.name, why, "lookup_failed"),
    }
}

/// A peer is well if it answers the question with 2xx.
async fn ask(connector: &TransportConnector, peer: &Peer, path: &str) -> Result<(), &'static str> {
    let address = peer.address().ok_or("the name has no address")?;
    let stream = connector
        .new_stream(&http_peer(address, TIMEOUT))
        .await
        .map_err(|_| "no connection")?;
    let mut session = HttpSession::new(stream);
    let wrong = |_| "the question cannot be written";
    let mut request = RequestHeader::build("GET", path.as_bytes(), Some(3)).map_err(wrong)?;
    request
        .insert_header(header::HOST, &peer.name)
        .map_err(wrong)?;
    request
        .insert_header(header::USER_AGENT, "edge-health")
        .map_err(wrong)?;
    request
        .insert_header(header::CONNECTION, "close")
        .map_err(wrong)?;
    session
        .write_request_header(Box::new(request))
        .await
        .map_err(|_| "the connection broke")?;
    session
        .read_response()
        .await
        .map_err(|_| "no valid answer")?;
    match session.get_status() {
        Some(status) if status.is_success() => Ok(()),
        _ => Err("the answer is not 2xx"),
    }
}
