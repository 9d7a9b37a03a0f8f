//! The figures on `/metrics`, in the words of the configuration and the log.
//!
//! Label values are bounded: routes, upstreams and peers come from the configuration, reasons
//! from the closed list of refusals, and methods that nobody standardised are `OTHER`. What a
//! reload removes keeps its last figures until edge ends, its peers' health excepted.

mod upstream;

pub use upstream::PerUpstream;

use std::collections::BTreeMap;
use std::time::SystemTime;

use http::Method;
use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder, core::Collector,
};

use crate::compression::Encoding;
use crate::exchange::{CacheState, Exchange};
use crate::refusal::Refusal;
use crate::websocket::ending::{Ending, code_label};

/// The buckets of the times that people feel, in seconds.
const SECONDS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];
/// The buckets of edge's own share, in seconds.
const OVERHEAD: &[f64] = &[
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.05, 0.25,
];
/// The buckets of a WebSocket's life, in seconds.
const LIFETIMES: &[f64] = &[
    0.1, 1.0, 10.0, 60.0, 300.0, 900.0, 3_600.0, 14_400.0, 86_400.0,
];

/// All that edge counts.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    families: Families,
    /// The figures of requests that fit no route.
    none: PerRoute,
    websockets_closed: IntCounterVec,
    websockets_refused: IntCounterVec,
    /// Requests that were not even HTTP, by reason.
    malformed: IntCounterVec,
    handshakes: IntCounter,
    handshakes_failed: IntCounterVec,
    certificates: IntGaugeVec,
    issuers_looked: IntCounterVec,
    issuer_keys: IntGaugeVec,
    /// Connections from clients open now.
    pub connections: IntGauge,
    connections_refused: IntCounterVec,
    connections_full: IntCounter,
    accepts_failed: IntCounter,
    /// Places taken in the table of clients.
    pub limit_clients: IntGauge,
    /// Answers that were to be compressed and found no room.
    pub compression_skipped: IntCounter,
    /// For each encoding, bytes before and after.
    compressed: Vec<[IntCounter; 2]>,
    /// Bytes in the cache's store.
    pub cache_bytes: IntGauge,
    /// Answers in the cache's store.
    pub cache_entries: IntGauge,
    /// Answers that made room for others.
    pub cache_evictions: IntCounter,
    purges: IntCounterVec,
    purged: IntCounter,
    /// Log lines that found the writer's queue full.
    pub log_lines_lost: IntCounter,
    upstreams: upstream::Families,
    reloads_applied: IntCounter,
    reloads_refused: IntCounter,
    reloaded: IntGauge,
}

/// What every route has figures of.
#[derive(Debug)]
struct Families {
    duration: HistogramVec,
    upstream: HistogramVec,
    overhead: HistogramVec,
    received: IntCounterVec,
    sent: IntCounterVec,
    limits: IntCounterVec,
    cache: IntCounterVec,
    cache_reasons: IntCounterVec,
    cache_fetches: IntCounterVec,
    cache_wait: HistogramVec,
    open: IntGaugeVec,
    opened: IntCounterVec,
    lifetime: HistogramVec,
    ping: HistogramVec,
    messages: IntCounterVec,
    moved: IntCounterVec,
}

/// The figures of one route.
#[derive(Debug)]
pub struct PerRoute {
    name: String,
    duration: Histogram,
    upstream: Histogram,
    overhead: Histogram,
    bytes_in: IntCounter,
    bytes_out: IntCounter,
    allowed: IntCounter,
    client_limit: IntCounter,
    global_limit: IntCounter,
    cache: Vec<IntCounter>,
    cache_wait: Histogram,
    /// There for routes that take WebSockets.
    pub websockets: Option<WebSockets>,
}

/// The figures of one route's WebSockets, which move while these are open.
#[derive(Debug, Clone)]
pub struct WebSockets {
    /// Open now.
    pub open: IntGauge,
    /// Opened since the start.
    pub opened: IntCounter,
    /// How long they lived.
    pub lifetime: Histogram,
    /// How long clients took to answer edge's Pings.
    pub ping: Histogram,
    /// Messages from clients.
    pub messages_in: IntCounter,
    /// Messages to clients.
    pub messages_out: IntCounter,
    /// Bytes from clients, the frames' headers included.
    pub bytes_in: IntCounter,
    /// Bytes to clients, the frames' headers included.
    pub bytes_out: IntCounter,
}

/// Something is wrong with a metric's name: a fault of edge's own, found at start.
pub type Result<T> = std::result::Result<T, prometheus::Error>;

impl Metrics {
    /// All figures at zero.
    pub fn new() -> Result<Self> {
        let registry = Registry::new();
        let make = Maker(&registry);
        let families = Families::new(&make)?;
        let closed = make.counters(
            "edge_websockets_closed_total",
            "WebSockets closed, by close code and by who began",
            &["route", "code", "by"],
        )?;
        let refused = make.counters(
            "edge_websockets_refused_total",
            "Upgrades that edge refused, by reason",
            &["route", "reason"],
        )?;
        let build = make.gauges(
            "edge_build_info",
            "Which edge this is; always 1",
            &["version"],
        )?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let reloads = make.counters(
            "edge_config_reloads_total",
            "Configurations read while edge ran, by what became of them",
            &["result"],
        )?;
        let refused_connections = make.counters(
            "edge_connections_refused_total",
            "Connections closed at once because their client had too many open",
            &["reason"],
        )?;
        refused_connections.with_label_values(&[Refusal::ConnectionClientLimit.reason()]);
        let compressed = make.counters(
            "edge_compressed_bytes_total",
            "Bytes of answers that edge compressed, before (in) and after (out)",
            &["encoding", "direction"],
        )?;
        let compressed = Encoding::ALL.map(|encoding| {
            ["in", "out"].map(|way| compressed.with_label_values(&[encoding.name(), way]))
        });
        Ok(Self {
            compressed: compressed.into(),
            compression_skipped: make.counter(
                "edge_compression_skipped_total",
                "Answers that went as they are because too many were being compressed",
            )?,
            none: families.of("none", false),
            families,
            reloads_applied: reloads.with_label_values(&["applied"]),
            reloads_refused: reloads.with_label_values(&["refused"]),
            reloaded: make.gauge(
                "edge_config_reloaded_timestamp_seconds",
                "When the configuration in force was put in force",
            )?,
            requests: make.counters(
                "edge_requests_total",
                "Requests by what became of them",
                &["route", "method", "status", "reason"],
            )?,
            websockets_closed: closed,
            websockets_refused: refused,
            malformed: make.counters(
                "edge_malformed_total",
                "Requests refused before they could be read, by reason",
                &["reason"],
            )?,
            handshakes: make.counter(
                "edge_tls_handshakes_total",
                "TLS handshakes with clients that succeeded",
            )?,
            handshakes_failed: make.counters(
                "edge_tls_handshakes_failed_total",
                "TLS handshakes with clients that failed, by reason",
                &["reason"],
            )?,
            issuers_looked: make.counters(
                "edge_issuer_looks_total",
                "Times that the keys of tokens were looked at, by what became of it",
                &["auth", "result"],
            )?,
            issuer_keys: make.gauges(
                "edge_issuer_keys",
                "Keys known that tokens may be signed with",
                &["auth"],
            )?,
            certificates: make.gauges(
                "edge_tls_certificate_expires_timestamp_seconds",
                "When the certificate in force ends",
                &["cert"],
            )?,
            connections: make.gauge("edge_connections", "Clients' connections open now")?,
            connections_refused: refused_connections,
            connections_full: make.counter(
                "edge_connections_full_total",
                "Times that nobody more was taken in because as many were open as may be",
            )?,
            accepts_failed: make.counter(
                "edge_accepts_failed_total",
                "Times that the system had no room for one more connection",
            )?,
            limit_clients: make.gauge("edge_limit_clients", "Clients that have a bucket now")?,
            cache_bytes: make.gauge(
                "edge_cache_bytes",
                "Bytes in the cache's store, its overhead included",
            )?,
            cache_entries: make.gauge("edge_cache_entries", "Answers in the cache's store")?,
            cache_evictions: make.counter(
                "edge_cache_evictions_total",
                "Answers that made room for others",
            )?,
            purges: make.counters(
                "edge_cache_purges_total",
                "Purges that an operator asked for, by what they named and how",
                &["kind", "mode"],
            )?,
            purged: make.counter(
                "edge_cache_purged_total",
                "Answers that these purges took out of service or made stale",
            )?,
            log_lines_lost: make.counter(
                "edge_log_lines_lost_total",
                "Log lines that found the writer's queue full",
            )?,
            upstreams: upstream::Families::new(&make)?,
            registry,
        })
    }

    /// The figures of the route of this name: the same ones whenever they are asked for. A route
    /// that a reload has removed keeps its last ones until edge ends.
    pub fn per_route(&self, name: &str, websocket: bool) -> PerRoute {
        self.families.of(name, websocket)
    }

    /// A purge of this kind has hit so many answers.
    pub fn purged(&self, kind: &str, soft: bool, answers: u64) {
        let mode = if soft { "soft" } else { "hard" };
        self.purges.with_label_values(&[kind, mode]).inc();
        self.purged.inc_by(answers);
    }

    /// How many requests the cache has met so, all routes together, by the word of what it did.
    pub fn cache_requests(&self) -> BTreeMap<String, u64> {
        let mut requests = BTreeMap::new();
        for state in CacheState::ALL
            .iter()
            .filter(|state| **state != CacheState::Off)
        {
            requests.insert(state.as_str().to_owned(), 0);
        }
        for family in self.families.cache.collect() {
            for metric in family.get_metric() {
                let mut labels = metric.get_label().iter();
                let state = labels.find(|label| label.name() == "state");
                let sum = state.and_then(|state| requests.get_mut(state.value()));
                if let Some(sum) = sum {
                    *sum += whole(metric.get_counter().get_value());
                }
            }
        }
        requests
    }

    /// An exchange has ended; without a route it counts for those that fit none.
    pub fn count(
        &self,
        route: Option<&PerRoute>,
        exchange: &Exchange,
        method: &Method,
        bytes_in: u64,
        bytes_out: u64,
    ) {
        let route = route.unwrap_or(&self.none);
        let mut digits = [0; 3];
        let status = status_text(exchange.status, &mut digits);
        let labels = [
            route.name.as_str(),
            method_label(method),
            status,
            exchange.reason(),
        ];
        self.requests.with_label_values(&labels).inc();
        let times = exchange.times();
        route.duration.observe(times.total.as_secs_f64());
        route.overhead.observe(times.gateway.as_secs_f64());
        if let Some(upstream) = times.upstream {
            route.upstream.observe(upstream.as_secs_f64());
        }
        route.bytes_in.inc_by(bytes_in);
        route.bytes_out.inc_by(bytes_out);
        if let Some(cache) = route.cache.get(exchange.cache as usize) {
            cache.inc();
        }
        if let Some(reason) = exchange.cache_reason {
            let labels = [route.name.as_str(), reason];
            self.families.cache_reasons.with_label_values(&labels).inc();
        }
        if let Some(waited) = exchange.waited {
            route.cache_wait.observe(waited.as_secs_f64());
        }
        match exchange.refusal {
            Some(Refusal::ClientLimit { .. }) => route.client_limit.inc(),
            Some(Refusal::GlobalLimit { .. }) => route.global_limit.inc(),
            _ => {}
        }
    }

    /// The body of an answer was compressed, from so many bytes to so many.
    pub fn compressed(&self, encoding: Encoding, before: u64, after: u64) {
        if let Some([counted, given]) = self.compressed.get(encoding as usize) {
            counted.inc_by(before);
            given.inc_by(after);
        }
    }

    /// A fetch for the cache has come to this.
    pub fn fetched(&self, route: &str, result: &str) {
        let labels = [route, result];
        self.families.cache_fetches.with_label_values(&labels).inc();
    }

    /// A WebSocket has ended.
    pub fn websocket_closed(&self, route: &str, ending: Ending) {
        let labels = [route, code_label(ending.code()), ending.by().as_str()];
        self.websockets_closed.with_label_values(&labels).inc();
    }

    /// An upgrade was refused.
    pub fn websocket_refused(&self, route: Option<&PerRoute>, refusal: &Refusal) {
        let route = route.unwrap_or(&self.none);
        let labels = [route.name.as_str(), refusal.reason()];
        self.websockets_refused.with_label_values(&labels).inc();
    }

    /// A request was refused before it became an exchange.
    pub fn count_malformed(&self, refusal: &Refusal) {
        self.malformed.with_label_values(&[refusal.reason()]).inc();
    }

    /// A TLS handshake with a client is over; `failed` is why it came to nothing.
    pub fn handshake(&self, failed: Option<&str>) {
        match failed {
            None => self.handshakes.inc(),
            Some(reason) => self.handshakes_failed.with_label_values(&[reason]).inc(),
        }
    }

    /// As many connections are open as may be: nobody more is taken in.
    pub fn connections_full(&self) {
        self.connections_full.inc();
    }

    /// The system had no room for one more connection.
    pub fn accept_failed(&self) {
        self.accepts_failed.inc();
    }

    /// A connection was closed at once: its client has too many open.
    pub fn connection_refused(&self, reason: &str) {
        self.connections_refused.with_label_values(&[reason]).inc();
    }

    /// The keys of an issuer were looked at, and could be used or not.
    pub fn issuer_looked(&self, auth: &str, good: bool) {
        let result = if good { "good" } else { "failed" };
        self.issuers_looked.with_label_values(&[auth, result]).inc();
    }

    /// So many keys of an issuer are known.
    pub fn issuer_keys(&self, auth: &str, count: usize) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        self.issuer_keys.with_label_values(&[auth]).set(count);
    }

    /// These certificates are in force, by the names of their files, and when each ends, in
    /// seconds of Unix time.
    pub fn certificates<'a>(&self, ends: impl Iterator<Item = (&'a str, u64)>) {
        self.certificates.reset();
        for (cert, seconds) in ends {
            let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
            self.certificates.with_label_values(&[cert]).set(seconds);
        }
    }

    /// A try at a peer failed.
    pub fn count_failure(&self, upstream: &str, refusal: &Refusal) {
        self.upstreams.failed(upstream, refusal);
    }

    /// The figures of the upstream of this name: the same ones whenever they are asked for.
    pub fn per_upstream(&self, name: &str) -> PerUpstream {
        self.upstreams.of(name)
    }

    /// A configuration is in force from this moment on.
    pub fn in_force(&self, now: SystemTime) {
        let since = now.duration_since(SystemTime::UNIX_EPOCH);
        let seconds = since.unwrap_or_default().as_secs();
        self.reloaded
            .set(i64::try_from(seconds).unwrap_or(i64::MAX));
    }

    /// A configuration was put in force while edge ran.
    pub fn reload_applied(&self) {
        self.reloads_applied.inc();
    }

    /// A configuration was not put in force, and nothing has changed.
    pub fn reload_refused(&self) {
        self.reloads_refused.inc();
    }

    /// All figures as Prometheus reads them.
    pub fn text(&self) -> Vec<u8> {
        let mut text = Vec::new();
        // Writing to memory fails for a faulty metric only, which `new` would have refused.
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut text);
        text
    }
}

impl Families {
    fn new(make: &Maker<'_>) -> Result<Self> {
        Ok(Self {
            duration: make.histograms(
            "edge_request_duration_seconds",
            "From the request's arrival to the last byte of the answer",
            SECONDS,
        )?,
            upstream: make.histograms(
            "edge_upstream_duration_seconds",
            "From the choice of a peer to the last byte of its answer",
            SECONDS,
        )?,
            overhead: make.histograms(
            "edge_gateway_overhead_seconds",
            "A request's time without the upstream's: edge's work, and what it waited for the client",
            OVERHEAD,
        )?,
            received: make.counters(
            "edge_received_bytes_total",
            "Bytes of request bodies",
            &["route"],
        )?,
            sent: make.counters(
            "edge_sent_bytes_total",
            "Bytes of answers' bodies",
            &["route"],
        )?,
            limits: make.counters(
            "edge_limit_decisions_total",
            "What the limits decided",
            &["route", "decision"],
        )?,
            cache: make.counters(
            "edge_cache_requests_total",
            "What the cache did",
            &["route", "state"],
        )?,
            cache_reasons: make.counters(
            "edge_cache_reasons_total",
            "Why the cache was passed by, an answer not kept, or a stale one handed out",
            &["route", "reason"],
        )?,
            cache_fetches: make.counters(
            "edge_cache_fetches_total",
            "What came of the cache's fetches from upstreams",
            &["route", "result"],
        )?,
            cache_wait: make.histograms(
            "edge_cache_wait_seconds",
            "How long requests waited for another's fetch",
            SECONDS,
        )?,
            open: make.gauges("edge_websockets", "WebSockets open now", &["route"])?,
            opened: make.counters(
            "edge_websockets_opened_total",
            "WebSockets opened",
            &["route"],
        )?,
            lifetime: make.histograms(
            "edge_websocket_lifetime_seconds",
            "How long WebSockets lived",
            LIFETIMES,
        )?,
            ping: make.histograms(
            "edge_websocket_ping_seconds",
            "From edge's Ping to the client's Pong",
            SECONDS,
        )?,
            messages: make.counters(
            "edge_websocket_messages_total",
            "Messages through WebSockets",
            &["route", "direction"],
        )?,
            moved: make.counters(
            "edge_websocket_bytes_total",
            "Bytes through WebSockets, the frames' headers included",
            &["route", "direction"],
        )?,
        })
    }

    fn of(&self, name: &str, websocket: bool) -> PerRoute {
        PerRoute {
            name: name.to_owned(),
            duration: self.duration.with_label_values(&[name]),
            upstream: self.upstream.with_label_values(&[name]),
            overhead: self.overhead.with_label_values(&[name]),
            bytes_in: self.received.with_label_values(&[name]),
            bytes_out: self.sent.with_label_values(&[name]),
            allowed: self.limits.with_label_values(&[name, "allowed"]),
            client_limit: self.limits.with_label_values(&[name, "client_limit"]),
            global_limit: self.limits.with_label_values(&[name, "global_limit"]),
            cache: CacheState::ALL
                .iter()
                .map(|state| self.cache.with_label_values(&[name, state.as_str()]))
                .collect(),
            cache_wait: self.cache_wait.with_label_values(&[name]),
            websockets: websocket.then(|| WebSockets {
                open: self.open.with_label_values(&[name]),
                opened: self.opened.with_label_values(&[name]),
                lifetime: self.lifetime.with_label_values(&[name]),
                ping: self.ping.with_label_values(&[name]),
                messages_in: self.messages.with_label_values(&[name, "in"]),
                messages_out: self.messages.with_label_values(&[name, "out"]),
                bytes_in: self.moved.with_label_values(&[name, "in"]),
                bytes_out: self.moved.with_label_values(&[name, "out"]),
            }),
        }
    }
}

impl PerRoute {
    /// The limits let a request pass.
    pub fn limit_allowed(&self) {
        self.allowed.inc();
    }
}

fn status_text(status: u16, digits: &mut [u8; 3]) -> &str {
    for (place, digit) in [100, 10, 1].into_iter().zip(digits.iter_mut()) {
        *digit = b'0' + u8::try_from(status / place % 10).unwrap_or_default();
    }
    std::str::from_utf8(digits).unwrap_or_default()
}

/// The method, or `OTHER`: a client must not be able to grow the metrics.
fn method_label(method: &Method) -> &str {
    match *method {
        Method::GET
        | Method::HEAD
        | Method::POST
        | Method::PUT
        | Method::PATCH
        | Method::DELETE
        | Method::OPTIONS => method.as_str(),
        _ => "OTHER",
    }
}

/// Prometheus hands out what was counted as a float.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a counter is whole, never negative, and far below 2^53"
)]
fn whole(count: f64) -> u64 {
    count as u64
}

/// Makes metrics and registers them.
struct Maker<'a>(&'a Registry);

impl Maker<'_> {
    fn register<C: Collector + Clone + 'static>(&self, metric: C) -> Result<C> {
        self.0.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn counter(&self, name: &str, help: &str) -> Result<IntCounter> {
        self.register(IntCounter::new(name, help)?)
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec> {
        self.register(IntCounterVec::new(Opts::new(name, help), labels)?)
    }

    fn gauge(&self, name: &str, help: &str) -> Result<IntGauge> {
        self.register(IntGauge::new(name, help)?)
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec> {
        self.register(IntGaugeVec::new(Opts::new(name, help), labels)?)
    }

    fn histograms(&self, name: &str, help: &str, buckets: &[f64]) -> Result<HistogramVec> {
        self.register(HistogramVec::new(
            HistogramOpts::new(name, help).buckets(buckets.to_vec()),
            &["route"],
        )?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Client;

    #[test]
    fn no_client_can_grow_the_metrics() {
        let metrics = Metrics::new().unwrap();
        let route = metrics.per_route("/a", false);
        let address = [127, 0, 0, 1].into();
        let mut exchange =
            Exchange::begin(String::new(), address, Client { address, key: 0 }, "http");
        exchange.route = Some(0);
        exchange.status = 200;
        metrics.count(Some(&route), &exchange, &Method::GET, 0, 5);
        let before = String::from_utf8(metrics.text()).unwrap().lines().count();
        for number in 0..100 {
            let method = Method::from_bytes(format!("M{number}").as_bytes()).unwrap();
            metrics.count(Some(&route), &exchange, &method, 0, 0);
        }
        let text = String::from_utf8(metrics.text()).unwrap();
        assert_eq!(text.lines().count(), before + 1);
        assert!(
            text.contains(
                "edge_requests_total{method=\"OTHER\",reason=\"\",route=\"/a\",status=\"200\"} 100"
            ),
            "{text}"
        );
    }
}
