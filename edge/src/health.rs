//! Asks each peer whether it is well, and finds the address of each peer that is a name.

use std::sync::Arc;
use std::time::Duration;

use http::header;
use pingora::connectors::TransportConnector;
use pingora::http::RequestHeader;
use pingora::protocols::http::v1::client::HttpSession;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::metrics::Metrics;
use crate::upstream::{Peer, Upstream, http_peer};

/// How often each peer is asked.
const EVERY: Duration = Duration::from_secs(5);
/// How long a peer may take to answer.
const TIMEOUT: Duration = Duration::from_secs(1);
/// A peer is no longer well after so many failures in a row; one good answer makes it well again.
const FALL: u32 = 2;

/// Watches one peer of an upstream for as long as edge lives.
pub(crate) async fn watch(
    upstreams: Arc<[Upstream]>,
    upstream: usize,
    peer: usize,
    metrics: Arc<Metrics>,
) {
    let Some(upstream) = upstreams.get(upstream) else {
        return;
    };
    let Some(peer) = upstream.peers.get(peer) else {
        return;
    };
    let up = metrics
        .peer_up
        .with_label_values(&[&upstream.name, &peer.name]);
    up.set(1);
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
            resolve(upstream, peer).await;
        }
        let Some(path) = &upstream.health else {
            continue;
        };
        let well = timeout(TIMEOUT, ask(&connector, peer, path))
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

/// Finds the first address of a peer that is a name.
pub(crate) async fn resolve_first(upstreams: &[Upstream], upstream: usize, peer: usize) {
    let upstream = upstreams.get(upstream);
    let peer = upstream.and_then(|upstream| upstream.peers.get(peer));
    if let (Some(upstream), Some(peer)) = (upstream, peer.filter(|peer| peer.address().is_none())) {
        resolve(upstream, peer).await;
    }
}

/// A look-up that fails leaves the last address in place.
async fn resolve(upstream: &Upstream, peer: &Peer) {
    let found = match timeout(TIMEOUT, tokio::net::lookup_host(&peer.name)).await {
        Ok(Ok(mut addresses)) => addresses
            .next()
            .ok_or_else(|| "the name has no address".to_owned()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no answer in time".to_owned()),
    };
    match found {
        Ok(address) => peer.set_address(address),
        Err(why) => tracing::warn!(
            upstream = upstream.name,
            peer = peer.name,
            why,
            "lookup_failed"
        ),
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
