//! What is known of one request and its answer so far (an "exchange", RFC 9110).

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant, SystemTime};

use crate::client::Client;
use crate::headers::Dressing;
use crate::identity::Identity;
use crate::refusal::Refusal;

/// One request with its response.
#[derive(Debug)]
pub struct Exchange {
    /// When the request's head had arrived, on the clock that never jumps.
    pub began: Instant,
    /// The same moment as people write it.
    pub time: SystemTime,
    /// The id that stands in the answer, the log, and every problem body.
    pub id: String,
    /// The address at the other end of the connection.
    pub peer: IpAddr,
    /// Who asks.
    pub client: Client,
    /// Who that was shown to be, where the route wants to know.
    pub identity: Option<Identity>,
    /// What a client without credentials is asked for (RFC 9110 11.6.1).
    pub challenge: Option<&'static str>,
    /// What its answer is given when it goes out, whatever it says.
    pub dressing: Option<Box<Dressing>>,
    /// Does the answer differ by the page that asks?
    pub varies_by_origin: bool,
    /// `http` or `https`, as the client sees it.
    pub scheme: &'static str,
    /// The place of the route among the routes.
    pub route: Option<usize>,
    /// edge's own no, if it said one.
    pub refusal: Option<Refusal>,
    /// The status of the answer; 0 as long as there is none.
    pub status: u16,
    /// What the cache did.
    pub cache: CacheState,
    /// Why the cache was passed by or the answer not kept.
    pub cache_reason: Option<&'static str>,
    /// How long it waited for another's fetch; `None`: it did not.
    pub waited: Option<Duration>,
    /// The upstream's part.
    pub upstream: Upstream,
    /// Has the whole request body arrived?
    pub body_arrived: bool,
}

/// The upstream's part in an exchange.
#[derive(Debug, Clone, Default)]
pub struct Upstream {
    /// The peers tried, the last one last.
    pub tried: Vec<SocketAddr>,
    /// When the first peer was chosen.
    pub began: Option<Instant>,
    /// How long the upstream took, once it is done.
    pub took: Option<Duration>,
}

impl Upstream {
    /// It is done, well or not.
    pub fn done(&mut self) {
        if self.took.is_none() {
            self.took = self.began.map(|began| began.elapsed());
        }
    }
}

/// What the cache did, as RFC 9211 and the log say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CacheState {
    /// The route has none.
    #[default]
    Off,
    /// The request passed it by.
    Bypass,
    /// Answered from it.
    Hit,
    /// Not there; fetched.
    Miss,
    /// There but too old; fetched anew.
    Expired,
    /// There but too old; the upstream said that it still holds.
    Revalidated,
    /// There but too old, handed out all the same.
    Stale,
}

impl CacheState {
    /// The word in log and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Bypass => "bypass",
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Expired => "expired",
            Self::Revalidated => "revalidated",
            Self::Stale => "stale",
        }
    }

    /// All of them, for metrics that must exist before the first request.
    pub const ALL: [Self; 7] = [
        Self::Off,
        Self::Bypass,
        Self::Hit,
        Self::Miss,
        Self::Expired,
        Self::Revalidated,
        Self::Stale,
    ];
}

impl Exchange {
    /// A request from `client` that has just arrived through `peer`.
    pub fn begin(id: String, peer: IpAddr, client: Client, scheme: &'static str) -> Self {
        Self {
            began: Instant::now(),
            time: SystemTime::now(),
            id,
            peer,
            client,
            identity: None,
            challenge: None,
            dressing: None,
            varies_by_origin: false,
            scheme,
            route: None,
            refusal: None,
            status: 0,
            cache: CacheState::Off,
            cache_reason: None,
            waited: None,
            upstream: Upstream::default(),
            body_arrived: false,
        }
    }

    /// The reason word: edge's own no, or empty.
    pub fn reason(&self) -> &'static str {
        self.refusal.as_ref().map_or("", Refusal::reason)
    }

    /// The upstream is done with this exchange, well or not.
    pub fn upstream_done(&mut self) {
        self.upstream.done();
    }

    /// How long it took in all, and how much of it was edge's own doing.
    pub fn times(&self) -> Times {
        let total = self.began.elapsed();
        let upstream = self
            .upstream
            .took
            .or_else(|| self.upstream.began.map(|began| began.elapsed()));
        Times {
            total,
            upstream,
            gateway: total.saturating_sub(upstream.unwrap_or_default()),
        }
    }
}

/// Where the time went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// From the request's arrival to the last byte.
    pub total: Duration,
    /// From the choice of a peer to the last byte of its answer; `None` if no peer was asked.
    pub upstream: Option<Duration>,
    /// The rest: edge's own work, and what it waited for the client or for another's fetch.
    pub gateway: Duration,
}
