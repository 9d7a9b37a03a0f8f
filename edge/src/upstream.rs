//! The peers of an upstream: which one is asked next, and how edge connects to it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::RwLock;
use pingora::ErrorType as E;
use pingora::upstreams::peer::{HttpPeer, HttpUpstreamRequestPolicy};

use crate::config;
use crate::refusal::Refusal;

/// A named group that answers.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) name: String,
    pub(crate) peers: Vec<Arc<Peer>>,
    /// The path asked to learn whether a peer is well.
    pub(crate) health: Option<String>,
    next: AtomicUsize,
}

/// One address of an upstream.
#[derive(Debug)]
pub(crate) struct Peer {
    /// `host:port`, as the configuration has it.
    pub(crate) name: String,
    /// The last address that the name was resolved to.
    address: RwLock<Option<SocketAddr>>,
    well: AtomicBool,
}

/// A connection that nobody uses is closed after this time: sooner than echo and most servers
/// close it from their side.
const POOL_IDLE: Duration = Duration::from_secs(20);

impl Upstream {
    /// Its peers as they stand in `known`, where an upstream of this name asks the same question
    /// of its peers; the others as if they were well.
    pub(crate) fn new(config: &config::Upstream, known: &[Arc<Self>]) -> Self {
        let known = known
            .iter()
            .find(|known| known.name == config.name && known.health == config.health);
        let known = known.map_or(&[][..], |known| &known.peers);
        let peer = |name: &String| {
            let known = known.iter().find(|known| known.name == *name);
            known.cloned().unwrap_or_else(|| Arc::new(Peer::new(name)))
        };
        Self {
            name: config.name.clone(),
            peers: config.peers.iter().map(peer).collect(),
            health: config.health.clone(),
            next: AtomicUsize::new(0),
        }
    }

    /// The next peer that is well and was not `tried`; if none is well, any that was not tried:
    /// a peer that looks dead may be alive, and nobody else is.
    pub(crate) fn choose(&self, tried: &[usize]) -> Option<(usize, SocketAddr)> {
        let start = self.next.fetch_add(1, Ordering::Relaxed);
        let count = self.peers.len();
        let turn = |well: bool| {
            let places = (0..count).map(|step| start.wrapping_add(step) % count);
            places
                .filter(|place| !tried.contains(place))
                .find_map(|place| {
                    let peer = self
                        .peers
                        .get(place)
                        .filter(|peer| !well || peer.is_well())?;
                    Some((place, peer.address()?))
                })
        };
        turn(true).or_else(|| turn(false))
    }

    /// Is there another peer to try?
    pub(crate) fn has_untried(&self, tried: &[usize]) -> bool {
        let mut peers = self.peers.iter().enumerate();
        peers.any(|(place, peer)| !tried.contains(&place) && peer.address().is_some())
    }

    /// The name of the peer at this place.
    pub(crate) fn peer_name(&self, place: Option<&usize>) -> &str {
        place
            .and_then(|&place| self.peers.get(place))
            .map_or("", |peer| &peer.name)
    }
}

impl Peer {
    fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            address: RwLock::new(name.parse().ok()),
            well: AtomicBool::new(true),
        }
    }

    pub(crate) fn address(&self) -> Option<SocketAddr> {
        *self.address.read()
    }

    pub(crate) fn set_address(&self, address: SocketAddr) {
        *self.address.write() = Some(address);
    }

    pub(crate) fn is_well(&self) -> bool {
        self.well.load(Ordering::Relaxed)
    }

    /// Tells whether that is news.
    pub(crate) fn set_well(&self, well: bool) -> bool {
        self.well.swap(well, Ordering::Relaxed) != well
    }
}

/// The peer at this address as Pingora connects to it, in at most `connect`.
pub(crate) fn http_peer(address: SocketAddr, connect: Duration) -> HttpPeer {
    let mut peer = HttpPeer::new(address, false, String::new());
    peer.options.connection_timeout = Some(connect);
    peer.options.total_connection_timeout = Some(connect);
    peer.options.idle_timeout = Some(POOL_IDLE);
    // Handshakes take another way, with a head of their own.
    peer.options.http_upstream_request_policy = HttpUpstreamRequestPolicy::deny_upgrades();
    peer
}

/// The refusal that a failed try at a peer amounts to.
pub(crate) fn refusal(error: &pingora::Error) -> Refusal {
    match error.etype() {
        E::ConnectTimedout | E::TLSHandshakeTimedout => Refusal::ConnectTimeout,
        E::ReadTimedout | E::WriteTimedout => Refusal::ResponseTimeout,
        E::ReadError | E::WriteError | E::ConnectionClosed => Refusal::UpstreamClosed,
        E::ConnectRefused
        | E::ConnectNoRoute
        | E::ConnectError
        | E::ConnectProxyFailure
        | E::SocketError
        | E::BindError
        | E::TLSHandshakeFailure
        | E::HandshakeError
        | E::InvalidCert => Refusal::ConnectRefused,
        _ => Refusal::UpstreamInvalid,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(peers: &[&str], health: Option<&str>, known: &[Arc<Upstream>]) -> Upstream {
        let config = config::Upstream {
            name: "a".to_owned(),
            peers: peers.iter().map(|&peer| peer.to_owned()).collect(),
            health: health.map(str::to_owned),
        };
        Upstream::new(&config, known)
    }

    fn three() -> Upstream {
        of(&["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"], None, &[])
    }

    #[test]
    fn peers_take_turns() {
        let upstream = three();
        let places: Vec<_> = (0..6)
            .filter_map(|_| upstream.choose(&[]))
            .map(|(place, _)| place)
            .collect();
        assert_eq!(places, [0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn a_peer_that_is_not_well_is_asked_only_when_none_is() {
        let upstream = three();
        upstream.peers[0].set_well(false);
        upstream.peers[1].set_well(false);
        assert!((0..6).all(|_| upstream.choose(&[]).unwrap().0 == 2));
        assert!(upstream.choose(&[2]).is_some());
        assert_eq!(upstream.choose(&[0, 1, 2]), None);
    }

    #[test]
    fn a_name_without_an_address_is_passed_over() {
        let upstream = of(&["echo:8080"], None, &[]);
        assert_eq!(upstream.choose(&[]), None);
        upstream.peers[0].set_address("127.0.0.1:8080".parse().unwrap());
        assert!(upstream.choose(&[]).is_some());
    }

    #[test]
    fn a_peer_that_stays_is_as_well_as_it_was_unless_it_is_asked_something_else() {
        let before = [Arc::new(of(
            &["127.0.0.1:1", "echo:8080"],
            Some("/health"),
            &[],
        ))];
        before[0].peers[0].set_well(false);
        before[0].peers[1].set_address("127.0.0.1:2".parse().unwrap());
        let more = ["127.0.0.1:3", "echo:8080", "127.0.0.1:1"];
        let after = of(&more, Some("/health"), &before);
        let well: Vec<_> = after.peers.iter().map(|peer| peer.is_well()).collect();
        assert_eq!(well, [true, true, false]);
        assert!(after.peers[1].address().is_some());
        let after = of(&more, Some("/other"), &before);
        assert!(after.peers.iter().all(|peer| peer.is_well()));
    }
}
