//! What is counted. Every label has a closed list of values, so a client cannot make new series.

use crate::ending::{self, Ending};
use hyper::StatusCode;
use prometheus::{
    IntCounter, IntCounterVec, IntGauge, Opts, Registry, TextEncoder, core::Collector,
};
use std::time::{Duration, Instant};
use tokio_tungstenite::tungstenite::Message;

/// Counters of one server; each has its own registry, so that two can run in one process.
pub(crate) struct Metrics {
    registry: Registry,
    born: Instant,
    uptime: IntGauge,
    open: IntGauge,
    opened: IntCounter,
    closed: IntCounterVec,
    requests: IntCounterVec,
    refused: IntCounterVec,
    rejected: IntCounterVec,
    admitted: IntCounterVec,
    pub(crate) received: Flow,
    pub(crate) sent: Flow,
}

/// What went one way. The counters are looked up once, not once a message.
pub(crate) struct Flow {
    text: IntCounter,
    binary: IntCounter,
    ping: IntCounter,
    pong: IntCounter,
    bytes: IntCounter,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let registry = Registry::new();
        let open = gauge(&registry, "echo_connections", "WebSockets open now");
        let uptime = gauge(&registry, "echo_uptime_seconds", "Seconds since the start");
        let opened = counters(
            &registry,
            "echo_connections_opened_total",
            "WebSockets opened",
            &[],
        );
        let closed = counters(
            &registry,
            "echo_connections_closed_total",
            "WebSockets closed, by close code, who began and why",
            &["code", "by", "cause"],
        );
        let requests = counters(
            &registry,
            "echo_requests_total",
            "HTTP requests answered, by path and status",
            &["path", "status"],
        );
        let refused = counters(
            &registry,
            "echo_refused_total",
            "Requests and connections refused, by reason",
            &["reason"],
        );
        let rejected = counters(
            &registry,
            "echo_messages_rejected_total",
            "Messages answered with an error, by what is wrong with them",
            &["error"],
        );
        let admitted = counters(
            &registry,
            "echo_admitted_total",
            "WebSockets let in by a credential, by its kind",
            &["by"],
        );
        let messages = counters(
            &registry,
            "echo_messages_total",
            "WebSocket messages, by direction and kind",
            &["direction", "kind"],
        );
        let bytes = counters(
            &registry,
            "echo_bytes_total",
            "Bytes of WebSocket payload, by direction",
            &["direction"],
        );
        counters(
            &registry,
            "echo_build_info",
            "The version, as a label; always 1",
            &["version"],
        )
        .with_label_values(&[env!("CARGO_PKG_VERSION")])
        .inc();
        Self {
            born: Instant::now(),
            uptime,
            open,
            opened: opened.with_label_values::<&str>(&[]),
            closed,
            requests,
            refused,
            rejected,
            admitted,
            received: Flow::new(&messages, &bytes, "in"),
            sent: Flow::new(&messages, &bytes, "out"),
            registry,
        }
    }

    pub(crate) fn connection_opened(&self) {
        self.open.inc();
        self.opened.inc();
    }

    pub(crate) fn connection_closed(&self, ending: &Ending) {
        self.open.dec();
        let code = ending::code_label(ending.code());
        self.closed
            .with_label_values(&[code, ending.by(), ending.label()])
            .inc();
    }

    pub(crate) fn answered(&self, path: &'static str, status: StatusCode) {
        self.requests
            .with_label_values(&[path, status.as_str()])
            .inc();
    }

    pub(crate) fn refused(&self, reason: &'static str) {
        self.refused.with_label_values(&[reason]).inc();
    }

    pub(crate) fn rejected(&self, error: &'static str) {
        self.rejected.with_label_values(&[error]).inc();
    }

    pub(crate) fn admitted(&self, by: &'static str) {
        self.admitted.with_label_values(&[by]).inc();
    }

    /// WebSockets open now.
    pub(crate) fn connections(&self) -> i64 {
        self.open.get()
    }

    /// Text and binary messages received since the start.
    pub(crate) fn messages(&self) -> u64 {
        self.received.text.get() + self.received.binary.get()
    }

    pub(crate) fn uptime(&self) -> Duration {
        self.born.elapsed()
    }

    /// All of it in Prometheus' text format.
    pub(crate) fn render(&self) -> Result<String, prometheus::Error> {
        let seconds = self.uptime().as_secs();
        self.uptime.set(i64::try_from(seconds).unwrap_or(i64::MAX));
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

impl Flow {
    fn new(messages: &IntCounterVec, bytes: &IntCounterVec, direction: &str) -> Self {
        let kind = |kind| messages.with_label_values(&[direction, kind]);
        Self {
            text: kind("text"),
            binary: kind("binary"),
            ping: kind("ping"),
            pong: kind("pong"),
            bytes: bytes.with_label_values(&[direction]),
        }
    }

    /// Counts a message; a Close is counted when the connection ends, by its code.
    pub(crate) fn count(&self, message: &Message) {
        match message {
            Message::Text(_) => self.text.inc(),
            Message::Binary(_) => self.binary.inc(),
            Message::Ping(_) => self.ping.inc(),
            Message::Pong(_) => self.pong.inc(),
            Message::Close(_) | Message::Frame(_) => return,
        }
        self.bytes.inc_by(message.len() as u64);
    }
}

#[expect(
    clippy::expect_used,
    reason = "names are constants; the test below makes them all"
)]
fn gauge(registry: &Registry, name: &str, help: &str) -> IntGauge {
    let gauge = IntGauge::new(name, help).expect("a valid metric name");
    register(registry, gauge)
}

#[expect(
    clippy::expect_used,
    reason = "names are constants; the test below makes them all"
)]
fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    let counters = IntCounterVec::new(Opts::new(name, help), labels).expect("a valid metric name");
    register(registry, counters)
}

#[expect(
    clippy::expect_used,
    reason = "names are constants; the test below makes them all"
)]
fn register<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> C {
    registry
        .register(Box::new(collector.clone()))
        .expect("a metric name used once");
    collector
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_tungstenite::tungstenite::protocol::CloseFrame;

    #[test]
    fn every_metric_can_be_made_and_rendered() {
        let metrics = Metrics::new();
        metrics.connection_opened();
        metrics.received.count(&Message::text("hello"));
        metrics.answered("/info", StatusCode::OK);
        metrics.refused("full");
        metrics.rejected("invalid_json");
        metrics.admitted("jwt");
        metrics.connection_closed(&Ending::Heard(Some(CloseFrame {
            code: 4_321.into(),
            reason: "any".into(),
        })));
        let text = metrics.render().unwrap();
        for line in [
            "echo_connections 0",
            "echo_connections_opened_total 1",
            "echo_connections_closed_total{by=\"client\",cause=\"close\",code=\"4xxx\"} 1",
            "echo_messages_rejected_total{error=\"invalid_json\"} 1",
            "echo_admitted_total{by=\"jwt\"} 1",
            "echo_messages_total{direction=\"in\",kind=\"text\"} 1",
            "echo_messages_total{direction=\"out\",kind=\"pong\"} 0",
            "echo_bytes_total{direction=\"in\"} 5",
            "echo_requests_total{path=\"/info\",status=\"200\"} 1",
            "echo_refused_total{reason=\"full\"} 1",
            "echo_uptime_seconds 0",
        ] {
            assert!(text.lines().any(|l| l == line), "no {line:?} in\n{text}");
        }
        assert!(text.contains("echo_build_info{version="));
    }
}
