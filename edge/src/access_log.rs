//! One JSON line for each request.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};

use serde::{Serialize, Serializer};
use tracing_appender::non_blocking::NonBlocking;

/// What is written about one request, in the order of the line.
#[derive(Debug, Serialize)]
pub struct Line<'a> {
    /// When the request arrived.
    #[serde(serialize_with = "rfc3339")]
    pub time: SystemTime,
    /// `request`, or `websocket_closed` for the end of an upgraded connection.
    pub event: &'static str,
    /// The request id.
    pub id: &'a str,
    /// Who asked.
    pub client: IpAddr,
    /// Who that was shown to be.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub identity: &'a str,
    /// The method as it came.
    pub method: &'a str,
    /// The host as it came.
    pub host: &'a str,
    /// The path as it came, without the query: a query may hold secrets.
    pub path: &'a str,
    /// The route's name.
    pub route: &'a str,
    /// The status of the answer; 0 where none was sent.
    pub status: u16,
    /// Why edge said no, or why a WebSocket ended; absent where edge did not say no.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub reason: &'a str,
    /// Bytes of the request's body, or from the client through a WebSocket.
    pub bytes_in: u64,
    /// Bytes of the answer's body, or to the client.
    pub bytes_out: u64,
    /// What edge has compressed the answer's body with.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub encoding: &'a str,
    /// The upstream's name.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub upstream: &'a str,
    /// The peer asked last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<SocketAddr>,
    /// How many peers were tried.
    #[serde(skip_serializing_if = "is_zero")]
    pub tries: usize,
    /// Milliseconds from the request's arrival to the last byte.
    #[serde(serialize_with = "milliseconds")]
    pub total_ms: Duration,
    /// Of these, milliseconds that the upstream took.
    #[serde(
        serialize_with = "maybe_milliseconds",
        skip_serializing_if = "Option::is_none"
    )]
    pub upstream_ms: Option<Duration>,
    /// Of these, milliseconds that edge took.
    #[serde(serialize_with = "milliseconds")]
    pub gateway_ms: Duration,
    /// What the cache did.
    pub cache: &'a str,
    /// Why the cache was passed by or the answer not kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_reason: Option<&'a str>,
    /// The client's program, as it calls itself.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub user_agent: &'a str,
    /// How a WebSocket ended.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub websocket: Option<Closed>,
}

/// How a WebSocket ended, and what it came to.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Closed {
    /// The close code (RFC 6455 7.4).
    pub code: u16,
    /// Who began: `client`, `upstream` or `edge`.
    pub by: &'static str,
    /// Messages from the client.
    pub messages_in: u64,
    /// Messages to the client.
    pub messages_out: u64,
}

/// Where the lines go: to a writer of its own, so that no request waits for the disk.
#[derive(Clone, Debug)]
pub struct AccessLog(Option<NonBlocking>);

impl AccessLog {
    /// Writes to `out`; without one, nothing is written.
    pub fn new(out: Option<NonBlocking>) -> Self {
        Self(out)
    }

    /// Is anything written at all?
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Writes one line. Lines beyond the writer's bound are counted as lost, not waited for.
    pub fn write(&self, line: &Line<'_>) {
        let Some(out) = &self.0 else { return };
        let mut text = Vec::with_capacity(512);
        if serde_json::to_writer(&mut text, line).is_ok() {
            text.push(b'\n');
            // A writer that is full counts the loss itself; see `edge_log_lines_lost_total`.
            let _ = out.clone().write_all(&text);
        }
    }
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde asks for a reference"
)]
fn is_zero(number: &usize) -> bool {
    *number == 0
}

fn rfc3339<S: Serializer>(time: &SystemTime, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&humantime::format_rfc3339_millis(*time))
}

fn milliseconds<S: Serializer>(time: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_f64((time.as_secs_f64() * 1e6).round() / 1e3)
}

fn maybe_milliseconds<S: Serializer>(time: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
    milliseconds(&time.unwrap_or_default(), to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_json_object_without_what_does_not_apply() {
        let line = Line {
            time: SystemTime::UNIX_EPOCH,
            event: "request",
            id: "1",
            client: [127, 0, 0, 1].into(),
            identity: "",
            method: "GET",
            host: "a",
            path: "/\"\n",
            route: "/*",
            status: 200,
            reason: "",
            bytes_in: 0,
            bytes_out: 5,
            encoding: "",
            upstream: "",
            peer: None,
            tries: 0,
            total_ms: Duration::from_micros(1_234),
            upstream_ms: None,
            gateway_ms: Duration::from_micros(1_234),
            cache: "hit",
            cache_reason: None,
            user_agent: "",
            websocket: None,
        };
        let text = serde_json::to_string(&line).unwrap();
        assert!(!text.contains('\n') && !text.contains("upstream"), "{text}");
        assert!(
            text.contains("\"time\":\"1970-01-01T00:00:00.000Z\""),
            "{text}"
        );
        assert!(text.contains("\"total_ms\":1.234"), "{text}");
    }
}
