//! A client's connection from its first byte to its last: first Pingora's, and if it became a
//! WebSocket, the tunnel's.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use pingora::apps::{HttpServerApp, ServerApp};
use pingora::protocols::Stream;
use pingora::proxy::HttpProxy;
use pingora::server::ShutdownWatch;
use prometheus::IntGauge;

use crate::connection::{Connection, Guarded, Times};
use crate::gateway::Gateway;
use crate::metrics::Metrics;
use crate::plan::InForce;
use crate::tunnel;

/// Takes connections in and keeps count of them.
pub(crate) struct Door {
    proxy: Arc<HttpProxy<Gateway>>,
    open: Arc<Open>,
    plan: Arc<InForce>,
    metrics: Arc<Metrics>,
}

/// How many connections are open; edge ends when none is.
#[derive(Debug)]
pub(crate) struct Open {
    count: AtomicUsize,
    gauge: IntGauge,
}

impl Open {
    pub(crate) fn new(gauge: IntGauge) -> Arc<Self> {
        Arc::new(Self {
            count: AtomicUsize::new(0),
            gauge,
        })
    }

    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Counts one more until the guard is dropped; `None` if there are `most` already.
    fn enter(self: &Arc<Self>, most: usize) -> Option<Entered> {
        let one_more = |count| (count < most).then_some(count + 1);
        self.count
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more)
            .ok()?;
        self.gauge.inc();
        Some(Entered(self.clone()))
    }
}

struct Entered(Arc<Open>);

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.gauge.dec();
        self.0.count.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Door {
    pub(crate) fn new(
        proxy: HttpProxy<Gateway>,
        open: Arc<Open>,
        plan: Arc<InForce>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            proxy: Arc::new(proxy),
            open,
            plan,
            metrics,
        }
    }

    /// The most connections open at once, and how long this one may wait for its client.
    fn bounds(&self) -> (usize, Times) {
        let config = &self.plan.load().config;
        let times = Times {
            head: config.timeout.head,
            keepalive: config.timeout.keepalive,
        };
        (config.server.connections, times)
    }
}

#[async_trait]
impl ServerApp for Door {
    async fn process_new(
        self: &Arc<Self>,
        stream: Stream,
        shutdown: &ShutdownWatch,
    ) -> Option<Stream> {
        let (most, times) = self.bounds();
        let Some(entered) = self.open.enter(most) else {
            self.metrics.connections_refused.inc();
            return None;
        };
        let connection = Arc::new(Connection::default());
        let peer = stream.get_socket_digest();
        let guarded = Guarded::new(stream, connection.clone(), times);
        let serving = ServerApp::process_new(&self.proxy, Box::new(guarded), shutdown);
        connection.deadline.keep(|| connection.cut(), serving).await;
        if let Some(refusal) = connection.take_refused() {
            self.metrics.count_malformed(&refusal);
            let client = peer.and_then(|peer| peer.peer_addr().map(ToString::to_string));
            tracing::info!(reason = refusal.reason(), client, "request_malformed");
        }
        if let Some((client, tunnel)) = connection.take_over() {
            // A task of its own: Pingora's holds room for the work on a request for as long as
            // it lives, and a WebSocket may live for days.
            tokio::spawn(async move {
                tunnel::run(client, tunnel).await;
                drop(entered);
            });
        }
        None
    }

    /// The listener is closed: connections on which nothing is open are let go.
    async fn cleanup(&self) {
        self.proxy.http_cleanup().await;
    }
}
