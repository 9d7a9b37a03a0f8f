//! One address of an upstream: how edge connects to it, and what is known of it.

use std::hash::BuildHasher;
use std::net::SocketAddr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use pingora::upstreams::peer::{ALPN, HttpPeer, HttpUpstreamRequestPolicy};

use super::Found;
use super::security::Security;
use crate::config::{self, Protocol};
use crate::standing::{Eject, News, Probe, Standing, Until};

/// One address of an upstream.
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    /// The address as people read it.
    pub(crate) name: String,
    /// The name by which the configuration knows it, with its port.
    pub(crate) host: String,
    pub(crate) weight: u32,
    /// How Pingora connects to it.
    pub(crate) http: HttpPeer,
    /// Requests and WebSockets that it has now.
    open: AtomicUsize,
    standing: Mutex<Standing>,
    /// What `standing` says, for those in a hurry: when it may be asked again, in nanoseconds of
    /// edge's time; 0: now, [`NEVER`]: when a probe says so.
    out_until: AtomicU64,
    /// Is there something that a success would change?
    troubled: AtomicBool,
}

/// See [`Peer::out_until`].
const NEVER: u64 = u64::MAX;

/// A connection that nobody uses is closed after this time: sooner than echo and most servers
/// close it from their side.
const POOL_IDLE: Duration = Duration::from_secs(20);
/// Requests that share one connection of HTTP/2.
const STREAMS: usize = 100;
/// A connection of HTTP/2 that does not answer a PING is given up: so often it is asked.
const PING: Duration = Duration::from_secs(10);
/// What a peer may send ahead of its reader over HTTP/2: for one answer, and on one connection.
const WINDOWS: (u32, u32) = (256 << 10, 1 << 20);

impl Peer {
    /// A peer at this address. `joining`: it comes while others are there, and gets its share
    /// slowly.
    pub(super) fn new(
        upstream: &config::Upstream,
        security: &Security,
        found: &Found,
        joining: bool,
        now: Instant,
    ) -> Self {
        let Found {
            address,
            weight,
            host,
        } = found;
        let standing = match joining {
            true => Standing::joining(now),
            false => Standing::new(),
        };
        Self {
            address: *address,
            name: address.to_string(),
            host: host.clone(),
            weight: *weight,
            http: http_peer(upstream, security, found),
            open: AtomicUsize::new(0),
            standing: Mutex::new(standing),
            out_until: AtomicU64::new(0),
            troubled: AtomicBool::new(false),
        }
    }

    /// Is this what was found?
    pub(super) fn is(&self, found: &Found) -> bool {
        (self.address, self.weight, &self.host) == (found.address, found.weight, &found.host)
    }

    /// Requests and WebSockets that it has now.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    pub(super) fn enter(&self) {
        self.open.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn leave(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    /// May it be asked?
    pub(crate) fn is_usable(&self, now: Instant) -> bool {
        match self.out_until.load(Ordering::Relaxed) {
            0 => true,
            NEVER => false,
            until => nanoseconds(now) >= until,
        }
    }

    /// May it be asked now?
    pub(crate) fn is_well(&self) -> bool {
        self.is_usable(Instant::now())
    }

    /// Is it left out for what its answers say?
    pub(super) fn is_ejected(&self) -> bool {
        let until = self.out_until.load(Ordering::Relaxed);
        until != 0 && until != NEVER && !self.is_well()
    }

    /// How it stands, in a word.
    pub(crate) fn state(&self) -> &'static str {
        match self.out_until.load(Ordering::Relaxed) {
            NEVER => "failed",
            _ if self.is_well() => "up",
            _ => "ejected",
        }
    }

    /// How much of its weight it gets now, in percent.
    pub(super) fn share(&self, slow_start: Option<Duration>, now: Instant) -> u8 {
        match slow_start {
            None => 100,
            Some(_) => self.standing.lock().share(slow_start, now),
        }
    }

    /// It has answered a request well.
    pub(super) fn succeeded(&self, eject: &Eject) {
        // Almost always there is nothing to change, and nobody waits for a lock.
        if self.troubled.load(Ordering::Relaxed) {
            self.with(|standing| standing.succeeded(eject, Instant::now()));
        }
    }

    /// It has not.
    pub(super) fn failed(&self, eject: &Eject, may_eject: bool, unreachable: bool) -> Option<News> {
        self.with(|standing| standing.failed(eject, may_eject, unreachable, Instant::now()))
    }

    /// It has been asked whether it is well.
    pub(crate) fn probed(&self, good: bool, probe: &Probe) -> Option<News> {
        self.with(|standing| standing.probed(good, probe, Instant::now()))
    }

    /// Its time out may be over.
    pub(super) fn tick(&self) -> Option<News> {
        match self.out_until.load(Ordering::Relaxed) {
            0 | NEVER => None,
            _ => self.with(|standing| standing.tick(Instant::now())),
        }
    }

    fn with<T>(&self, change: impl FnOnce(&mut Standing) -> T) -> T {
        let mut standing = self.standing.lock();
        let told = change(&mut standing);
        let until = match standing.out_until() {
            None => 0,
            Some(Until::Probe) => NEVER,
            Some(Until::Time(at)) => nanoseconds(at).max(1),
        };
        self.out_until.store(until, Ordering::Relaxed);
        self.troubled
            .store(standing.is_troubled(), Ordering::Relaxed);
        told
    }
}

/// How many requests share one connection.
pub(super) fn streams(protocol: Protocol) -> usize {
    match protocol {
        Protocol::Http1 => 1,
        Protocol::Http2 | Protocol::Auto => STREAMS,
    }
}

/// edge's own time: since it first asked for it.
fn nanoseconds(at: Instant) -> u64 {
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    let since = at.saturating_duration_since(*EPOCH.get_or_init(Instant::now));
    u64::try_from(since.as_nanos()).unwrap_or(NEVER - 1)
}

fn http_peer(upstream: &config::Upstream, security: &Security, found: &Found) -> HttpPeer {
    let tls = upstream.tls.as_ref();
    // Pingora verifies nobody who has no name: an address is its own.
    let name = tls.map_or_else(String::new, |tls| {
        let host = found.host.as_str();
        let own = host.rsplit_once(':').map_or(host, |(host, _)| host);
        let own = own.trim_start_matches('[').trim_end_matches(']');
        tls.name.clone().unwrap_or_else(|| own.to_owned())
    });
    let mut peer = HttpPeer::new(found.address, tls.is_some(), name);
    let options = &mut peer.options;
    options.idle_timeout = Some(POOL_IDLE);
    // Handshakes take another way, with a head of their own.
    options.http_upstream_request_policy = HttpUpstreamRequestPolicy::deny_upgrades();
    options.alpn = match upstream.protocol {
        Protocol::Http1 => ALPN::H1,
        Protocol::Http2 => ALPN::H2,
        Protocol::Auto => ALPN::H2H1,
    };
    options.max_h2_streams = STREAMS;
    options.h2_ping_interval = Some(PING);
    options.h2_stream_window_size = Some(WINDOWS.0);
    options.h2_connection_window_size = Some(WINDOWS.1);
    if let Some(tls) = tls {
        options.verify_cert = tls.verify;
        options.verify_hostname = tls.verify;
        options.ca = security.authorities.clone();
        peer.client_cert_key = security.identity.clone();
        // Connections are shared among those that would believe the same peer only.
        let hasher = foldhash::fast::FixedState::default();
        peer.group_key = hasher.hash_one((&upstream.name, security.number));
    }
    peer
}
