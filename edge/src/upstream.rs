//! The peers of an upstream: who they are now, which one is asked next, and what is known of
//! each.

mod attempt;
mod peer;
mod places;
mod security;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use pingora::ErrorType as E;

pub(crate) use attempt::{Attempt, Verdict};
pub(crate) use peer::Peer;

use crate::balance::{self, Balance, Balancer, Seen};
use crate::breaker::{Admitted, Circuit, State};
use crate::client::Client;
use crate::config;
use crate::discovery::{self, Names, Peers};
use crate::metrics::{Metrics, PerUpstream};
use crate::refusal::Refusal;
use crate::resolver::Resolver;
use crate::retry::{self, Budget, Failed, Sent};
use crate::standing::{News, may_eject};
use places::Places;
use security::Security;

/// A named group that answers.
pub(crate) struct Upstream {
    pub(crate) name: String,
    pub(crate) config: config::Upstream,
    pub(crate) figures: PerUpstream,
    /// Repeated requests, beside all of them.
    pub(crate) budget: Budget,
    members: ArcSwap<Members>,
    places: Places,
    circuit: Mutex<Circuit>,
    security: Security,
    names: Names,
    resolver: Arc<Resolver>,
}

/// Who the peers are now.
pub(crate) struct Members {
    pub(crate) peers: Vec<Arc<Peer>>,
    balancer: Balancer,
}

impl Upstream {
    /// As it stands in `known`, if that says the same of an upstream of this name; else anew, and
    /// of its peers those that stay go on as they are.
    pub(crate) fn new(
        config: &config::Upstream,
        known: &[Arc<Self>],
        resolver: &Arc<Resolver>,
        metrics: &Metrics,
    ) -> Arc<Self> {
        let security = match &config.tls {
            Some(tls) => Security::read(&config.name, tls),
            None => Security::default(),
        };
        let known = known.iter().find(|known| known.name == config.name);
        let secured = known.filter(|known| known.security.number == security.number);
        let same = secured.filter(|known| Arc::ptr_eq(&known.resolver, resolver));
        if let Some(same) = same.filter(|known| known.config == *config) {
            return same.clone();
        }
        let before = known.map(|known| &known.names);
        let names = Names::new(&config.name, &config.peers, config.resolve, before);
        let now = Instant::now();
        let new = Self {
            name: config.name.clone(),
            config: config.clone(),
            figures: metrics.per_upstream(&config.name),
            budget: Budget::new(now),
            members: ArcSwap::from_pointee(Members {
                peers: Vec::new(),
                balancer: Balancer::new(&config.balance, &[]),
            }),
            places: Places::new(&config.breaker, peer::streams(config.protocol)),
            circuit: Mutex::new(Circuit::new(now)),
            security,
            names,
            resolver: resolver.clone(),
        };
        // Who is asked something else, or spoken to otherwise, counts as well until it is asked.
        let asks = |config: &config::Upstream| {
            let config = config.clone();
            (config.health, config.tls, config.protocol)
        };
        if let Some(same) = secured.filter(|known| asks(&known.config) == asks(config)) {
            new.put(same.members.load().peers.clone());
        }
        new.set_peers(&new.names.peers());
        Arc::new(new)
    }

    /// Who the peers are now.
    pub(crate) fn members(&self) -> arc_swap::Guard<Arc<Members>> {
        self.members.load()
    }

    /// From now on the peers are these. Who stays goes on as it is; who has gone is asked nothing
    /// new, and what it is asked already it may answer. Who comes while others are there gets its
    /// share slowly.
    pub(crate) fn set_peers(&self, found: &[(SocketAddr, u32)]) {
        let old = self.members.load_full();
        let now = Instant::now();
        let joining = !old.peers.is_empty();
        let peer = |&(address, weight): &(SocketAddr, u32)| {
            let found = Found {
                address,
                weight,
                host: self.names.entry(address),
            };
            let known = old.peers.iter().find(|peer| peer.is(&found));
            let new = || {
                Arc::new(Peer::new(
                    &self.config,
                    &self.security,
                    &found,
                    joining,
                    now,
                ))
            };
            known.cloned().unwrap_or_else(new)
        };
        self.put(found.iter().map(peer).collect());
        for gone in &old.peers {
            let stays = found.iter().any(|(address, _)| *address == gone.address);
            if !stays {
                self.figures.gone(&gone.name);
            }
        }
        if !old.peers.is_empty() {
            let upstream = self.name.as_str();
            let peers: Vec<_> = found
                .iter()
                .map(|(address, _)| address.to_string())
                .collect();
            tracing::info!(upstream, peers = peers.join(" "), "peers_changed");
        }
    }

    /// Looks up the names that never were, as long as a look-up may take.
    pub(crate) async fn find_peers(&self) {
        if self.names.are_any() {
            let failed = |_: &str| self.figures.lookup_failed();
            let found = discovery::first(&self.resolver, &self.names, failed).await;
            self.set_peers(&found);
        }
    }

    /// Follows the names, for ever.
    pub(crate) async fn follow_names(&self) {
        if !self.names.are_any() {
            return std::future::pending().await;
        }
        let failed = |_: &str| self.figures.lookup_failed();
        let changed = |found: Peers| self.set_peers(&found);
        discovery::follow(self.resolver.clone(), self.names.clone(), failed, changed).await;
    }

    fn put(&self, peers: Vec<Arc<Peer>>) {
        let weights: Vec<_> = peers
            .iter()
            .map(|peer| (peer.address, peer.weight))
            .collect();
        let balancer = Balancer::new(&self.config.balance, &weights);
        self.figures.peers(peers.len());
        for peer in &peers {
            self.figures.up(&peer.name, peer.is_well());
        }
        self.members.store(Arc::new(Members { peers, balancer }));
    }

    /// The key by which a request belongs to a peer, if the upstream goes by one.
    pub(crate) fn key(&self, client: &Client, headers: &http::HeaderMap) -> Option<Vec<u8>> {
        match &self.config.balance {
            Balance::Hash(by) => balance::key(by, client, headers),
            _ => None,
        }
    }

    /// The next peer that is well and was not `tried`. Where none at all is well, any that was not
    /// tried: a peer that looks dead may be alive, and nobody else is.
    pub(crate) fn choose(&self, tried: &[SocketAddr], key: Option<&[u8]>) -> Option<Arc<Peer>> {
        let members = self.members.load();
        let now = Instant::now();
        let slow_start = self.config.slow_start;
        let seen = |place: usize, well: bool| {
            let peer = members.peers.get(place)?;
            let usable = !tried.contains(&peer.address) && (!well || peer.is_usable(now));
            usable.then(|| Seen {
                open: peer.open(),
                share: peer.share(slow_start, now),
            })
        };
        let choose = |well| members.balancer.choose(key, |place| seen(place, well));
        let place = choose(true).or_else(|| {
            let any_is_well = members.peers.iter().any(|peer| peer.is_usable(now));
            if any_is_well { None } else { choose(false) }
        });
        place.and_then(|place| members.peers.get(place).cloned())
    }

    /// Is there another peer to try?
    pub(crate) fn has_untried(&self, tried: &[SocketAddr]) -> bool {
        let members = self.members.load();
        let now = Instant::now();
        let any_is_well = members.peers.iter().any(|peer| peer.is_usable(now));
        members
            .peers
            .iter()
            .any(|peer| !tried.contains(&peer.address) && (!any_is_well || peer.is_usable(now)))
    }

    /// Begins a try at a peer that was not `tried`: waits for a place, if there is none, and asks
    /// the circuit.
    pub(crate) async fn begin(
        self: &Arc<Self>,
        tried: &[SocketAddr],
        key: Option<&[u8]>,
    ) -> Result<Attempt, Refusal> {
        let place = self.places.take().await?;
        let admitted = match &self.config.breaker.trip {
            None => None,
            Some(trip) => {
                let admitted = self.circuit.lock().admit(trip, Instant::now());
                Some(admitted.map_err(|retry_after| Refusal::CircuitOpen { retry_after })?)
            }
        };
        let Some(peer) = self.choose(tried, key) else {
            self.record(admitted, None);
            return Err(self.nobody());
        };
        Ok(Attempt::new(self.clone(), peer, place, admitted))
    }

    /// Why there is nobody to ask.
    fn nobody(&self) -> Refusal {
        match self.members.load().peers.is_empty() && self.names.are_any() {
            true => Refusal::Unresolved,
            false => Refusal::NoPeer,
        }
    }

    /// What came of a request that the circuit let pass; `None`: nobody knows.
    fn record(&self, admitted: Option<Admitted>, good: Option<bool>) {
        let (Some(trip), Some(admitted)) = (&self.config.breaker.trip, admitted) else {
            return;
        };
        let news = self
            .circuit
            .lock()
            .record(trip, &admitted, good, Instant::now());
        if let Some(state) = news {
            let (upstream, state) = (self.name.as_str(), state.as_str());
            tracing::warn!(upstream, state, "circuit");
        }
    }

    /// A peer has answered, or failed to.
    fn judge(&self, peer: &Arc<Peer>, verdict: Verdict) {
        let Some(eject) = &self.config.eject else {
            return;
        };
        if verdict == Verdict::Good {
            peer.succeeded(eject);
            return;
        }
        let members = self.members.load();
        let out = members.peers.iter().filter(|peer| peer.is_ejected());
        let may = may_eject(eject, members.peers.len(), out.count());
        let unreachable = verdict == Verdict::Unreachable;
        if let Some(news) = peer.failed(eject, may, unreachable) {
            self.figures.ejected(&peer.name);
            self.tell(peer, &news, None);
        }
    }

    /// What has become of a peer, for all who watch.
    /// `why`, if a probe says so.
    pub(crate) fn tell(&self, peer: &Peer, news: &News, why: Option<&str>) {
        let (upstream, name) = (self.name.as_str(), peer.name.as_str());
        self.figures.up(name, peer.is_well());
        match news {
            News::Failed => tracing::warn!(upstream, peer = name, why, "peer_failed"),
            News::Recovered => tracing::warn!(upstream, peer = name, "peer_recovered"),
            News::Ejected { time } => {
                let seconds = time.as_secs_f64();
                tracing::warn!(upstream, peer = name, seconds, "peer_ejected");
            }
            News::Returned => tracing::warn!(upstream, peer = name, "peer_returned"),
        }
    }

    /// May a request that failed so be sent to another peer? If so, that is counted.
    pub(crate) fn may_repeat(&self, failed: Failed, sent: &Sent, tried: &[SocketAddr]) -> bool {
        let Some(retry) = &self.config.retry else {
            return false;
        };
        if !retry::may_repeat(retry, failed, sent, tried.len()) || !self.has_untried(tried) {
            return false;
        }
        // It may be this failure that opened it; what failed is a better answer than that.
        if self.circuit() != State::Closed {
            return false;
        }
        // Of what nobody got there is no more for being sent elsewhere.
        let may = !sent.anything || self.budget.take(retry.budget, Instant::now());
        match may {
            true => self.figures.retried(failed.as_str()),
            false => self.figures.retry_denied(),
        }
        may
    }

    /// Nobody watches it any more; `new` has taken its place, or nobody.
    pub(crate) fn leave(&self, new: Option<&Arc<Self>>) {
        for peer in &self.members.load().peers {
            let stays = new.is_some_and(|new| {
                let members = new.members.load();
                members.peers.iter().any(|new| new.address == peer.address)
            });
            if !stays {
                self.figures.gone(&peer.name);
            }
        }
        if new.is_none() {
            self.figures.left();
        }
    }

    /// Brings the figures up to date that are not told as they change.
    pub(crate) fn measure(&self) {
        for peer in &self.members.load().peers {
            self.figures.open(&peer.name, peer.open());
        }
        self.figures.state(self.pending(), self.circuit() as i64);
    }

    /// How many requests wait for a place.
    pub(crate) fn pending(&self) -> usize {
        self.places.pending()
    }

    /// How the circuit stands.
    pub(crate) fn circuit(&self) -> State {
        match &self.config.breaker.trip {
            None => State::Closed,
            Some(_) => self.circuit.lock().state(Instant::now()),
        }
    }

    /// Peers whose time out is over are back.
    pub(crate) fn tick(&self) {
        for peer in &self.members.load().peers {
            if let Some(news) = peer.tick() {
                self.tell(peer, &news, None);
            }
        }
    }
}

/// What an entry of `peers` was found to stand for.
struct Found {
    address: SocketAddr,
    weight: u32,
    /// The entry.
    host: String,
}

/// The refusal that a failed try at a peer amounts to.
pub(crate) fn refusal(error: &pingora::Error) -> Refusal {
    match error.etype() {
        E::ConnectTimedout | E::TLSHandshakeTimedout => Refusal::ConnectTimeout,
        E::ReadTimedout | E::WriteTimedout => Refusal::ResponseTimeout,
        E::ReadError | E::WriteError | E::ConnectionClosed | E::H2Error => Refusal::UpstreamClosed,
        E::ConnectRefused
        | E::ConnectNoRoute
        | E::ConnectError
        | E::ConnectProxyFailure
        | E::SocketError
        | E::BindError => Refusal::ConnectRefused,
        E::TLSHandshakeFailure | E::HandshakeError | E::InvalidCert | E::TLSWantX509Lookup => {
            Refusal::TlsFailed
        }
        _ => Refusal::UpstreamInvalid,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Dns;
    use crate::standing::{Eject, Probe};
    use std::time::Duration;

    fn probe(path: &str) -> Probe {
        Probe {
            path: path.to_owned(),
            every: Duration::from_secs(5),
            timeout: Duration::from_secs(1),
            expect: vec![200..=299],
            rise: 1,
            fall: 1,
        }
    }

    fn three() -> config::Upstream {
        config::Upstream::of("a", &["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"])
    }

    /// Makes upstreams of one process.
    struct Maker(Arc<Resolver>, Metrics);

    impl Maker {
        fn new() -> Self {
            let resolver = Resolver::new(&Dns::default());
            Self(Arc::new(resolver), Metrics::new().unwrap())
        }

        fn make(&self, config: &config::Upstream, known: &[Arc<Upstream>]) -> Arc<Upstream> {
            Upstream::new(config, known, &self.0, &self.1)
        }
    }

    fn of(config: &config::Upstream) -> Arc<Upstream> {
        Maker::new().make(config, &[])
    }

    fn ports(upstream: &Upstream, times: usize) -> Vec<u16> {
        let chosen = (0..times).filter_map(|_| upstream.choose(&[], None));
        let mut ports: Vec<_> = chosen.map(|peer| peer.address.port()).collect();
        ports.sort_unstable();
        ports
    }

    fn peer(upstream: &Upstream, place: usize) -> Arc<Peer> {
        upstream.members().peers[place].clone()
    }

    #[tokio::test]
    async fn peers_take_turns() {
        assert_eq!(ports(&of(&three()), 6), [1, 1, 2, 2, 3, 3]);
    }

    #[tokio::test]
    async fn a_peer_that_is_not_well_is_asked_only_when_none_is() {
        let upstream = of(&three());
        for place in [0, 1] {
            peer(&upstream, place).probed(false, &probe("/"));
        }
        assert_eq!(ports(&upstream, 3), [3, 3, 3]);
        let tried = [peer(&upstream, 2).address];
        assert!(
            upstream.choose(&tried, None).is_none(),
            "well is better than untried"
        );
        assert!(!upstream.has_untried(&tried));
        peer(&upstream, 2).probed(false, &probe("/"));
        assert!(upstream.choose(&tried, None).is_some());
        assert!(upstream.has_untried(&tried));
    }

    #[tokio::test]
    async fn a_peer_that_fails_is_left_out_and_never_the_last_ones() {
        let eject = Eject {
            failures: 2,
            time: Duration::from_secs(60),
            time_max: Duration::from_secs(60),
            share: 50,
        };
        let upstream = of(&config::Upstream {
            eject: Some(eject),
            ..three()
        });
        for place in 0..3 {
            for _ in 0..2 {
                upstream.judge(&peer(&upstream, place), Verdict::Bad);
            }
        }
        let ejected = upstream
            .members()
            .peers
            .iter()
            .filter(|peer| peer.is_ejected())
            .count();
        assert_eq!(ejected, 1);
        assert_eq!(ports(&upstream, 4), [2, 2, 3, 3]);
    }

    #[tokio::test]
    async fn a_name_without_an_address_is_nobody() {
        let upstream = of(&config::Upstream::of("a", &["nobody.invalid:1"]));
        let Err(refusal) = upstream.begin(&[], None).await else {
            panic!("somebody");
        };
        assert_eq!(refusal, Refusal::Unresolved);
        upstream.set_peers(&[("127.0.0.1:1".parse().unwrap(), 1)]);
        assert!(upstream.begin(&[], None).await.is_ok());
    }

    #[tokio::test]
    async fn what_says_the_same_is_the_same_and_what_does_not_knows_who_stays() {
        let maker = Maker::new();
        let before = maker.make(&three(), &[]);
        let known = [before.clone()];
        assert!(Arc::ptr_eq(&before, &maker.make(&three(), &known)));
        peer(&before, 0).probed(false, &probe("/"));
        let more = ["127.0.0.1:4", "127.0.0.1:3", "127.0.0.1:1"];
        let after = maker.make(&config::Upstream::of("a", &more), &known);
        assert_eq!(ports(&after, 4), [3, 3, 4, 4]);
        assert!(Arc::ptr_eq(&peer(&before, 0), &peer(&after, 0)));
        // Who is asked something else counts as well until it is asked.
        let mut other = config::Upstream::of("a", &more);
        other.health = Some(probe("/other"));
        assert_eq!(ports(&maker.make(&other, &known), 3), [1, 3, 4]);
    }

    #[tokio::test]
    async fn who_has_gone_finishes_what_it_has() {
        let upstream = of(&three());
        let attempt = upstream.begin(&[], None).await.unwrap();
        let gone = attempt.peer.clone();
        let left: Vec<_> = upstream
            .members()
            .peers
            .iter()
            .map(|peer| (peer.address, peer.weight))
            .filter(|(address, _)| *address != gone.address)
            .collect();
        upstream.set_peers(&left);
        assert_eq!(gone.open(), 1);
        assert!(!ports(&upstream, 9).contains(&gone.address.port()));
        drop(attempt);
        assert_eq!(gone.open(), 0);
    }
}
