//! What is known of one WebSocket, from its opening to the line in the log that ends it.

use crate::{ending::Ending, metrics::Metrics};
use std::{net::SocketAddr, time::Instant};
use tokio_tungstenite::tungstenite::Message;
use tracing::info;

/// Who came, as told by the TCP connection and by the gateway in front.
pub(crate) struct Visitor {
    pub(crate) id: u64,
    pub(crate) peer: SocketAddr,
    pub(crate) forwarded_for: Option<String>,
    pub(crate) request_id: Option<String>,
    /// What let it in, where not everybody may come in.
    pub(crate) auth: Option<&'static str>,
}

/// One WebSocket's sums. Dropping it writes the log's last line, so that no way out is forgotten.
pub(crate) struct Record<'a> {
    metrics: &'a Metrics,
    visitor: Visitor,
    began: Instant,
    received: Sum,
    sent: Sum,
    pub(crate) ending: Ending,
}

#[derive(Default)]
struct Sum {
    messages: u64,
    bytes: u64,
}

impl<'a> Record<'a> {
    pub(crate) fn open(metrics: &'a Metrics, visitor: Visitor) -> Self {
        metrics.connection_opened();
        info!(
            id = visitor.id,
            peer = %visitor.peer,
            x_forwarded_for = visitor.forwarded_for,
            x_request_id = visitor.request_id,
            auth = visitor.auth,
            "connection_opened"
        );
        Self {
            metrics,
            visitor,
            began: Instant::now(),
            received: Sum::default(),
            sent: Sum::default(),
            // Stands when the task is cut off: by the end of the drain, or by a panic.
            ending: Ending::Dropped("cut_off"),
        }
    }

    /// The WebSocket's number, as in the log.
    pub(crate) fn id(&self) -> u64 {
        self.visitor.id
    }

    pub(crate) fn received(&mut self, message: &Message) {
        self.metrics.received.count(message);
        self.received.add(message);
    }

    pub(crate) fn sent(&mut self, message: &Message) {
        self.metrics.sent.count(message);
        self.sent.add(message);
    }
}

impl Sum {
    /// Adds text and binary; pings are counted in the metrics only.
    fn add(&mut self, message: &Message) {
        if message.is_text() || message.is_binary() {
            self.messages += 1;
            self.bytes += message.len() as u64;
        }
    }
}

impl Drop for Record<'_> {
    fn drop(&mut self) {
        self.metrics.connection_closed(&self.ending);
        info!(
            id = self.visitor.id,
            code = self.ending.code(),
            cause = self.ending.label(),
            reason = self.ending.reason(),
            closed_by = self.ending.by(),
            duration_ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX),
            messages_in = self.received.messages,
            messages_out = self.sent.messages,
            bytes_in = self.received.bytes,
            bytes_out = self.sent.bytes,
            "connection_closed"
        );
    }
}
