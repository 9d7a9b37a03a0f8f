//! How the upstreams stand, for whoever asks at three in the morning.

use http::Response;
use serde::Serialize;

use super::json;
use crate::plan::Plan;
use crate::upstream::{Peer, Upstream};

/// One upstream.
#[derive(Debug, Serialize)]
struct Standing<'a> {
    name: &'a str,
    /// `closed`, `half_open` or `open`.
    circuit: &'static str,
    /// Requests that wait for a place.
    pending: usize,
    peers: Vec<Place>,
}

/// One of its peers.
#[derive(Debug, Serialize)]
struct Place {
    peer: String,
    /// The entry of `peers` that it comes from.
    host: String,
    weight: u32,
    /// `up`, `failed` (a probe says so) or `ejected` (its answers do).
    state: &'static str,
    /// Requests and WebSockets that it has now.
    open: usize,
}

/// All of them.
pub(super) fn upstreams(plan: &Plan) -> Response<Vec<u8>> {
    let standings = plan.upstreams.iter().map(|upstream| Standing::of(upstream));
    json(&standings.collect::<Vec<_>>())
}

impl<'a> Standing<'a> {
    fn of(upstream: &'a Upstream) -> Self {
        let peers = &upstream.members().peers;
        Self {
            name: &upstream.name,
            circuit: upstream.circuit().as_str(),
            pending: upstream.pending(),
            peers: peers.iter().map(|peer| Place::of(peer)).collect(),
        }
    }
}

impl Place {
    fn of(peer: &Peer) -> Self {
        Self {
            peer: peer.name.clone(),
            host: peer.host.clone(),
            weight: peer.weight,
            state: peer.state(),
            open: peer.open(),
        }
    }
}
