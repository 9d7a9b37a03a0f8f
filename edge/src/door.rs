//! A client's connection from its first byte to its last: who it is (PROXY protocol), TLS, and the
//! protocol that it speaks; then it is Pingora's, and if it became a WebSocket, the tunnel's.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use pingora::apps::{HttpServerApp, ServerApp};
use pingora::protocols::{GetSocketDigest, Stream};
use pingora::proxy::HttpProxy;
use pingora::server::ShutdownWatch;
use prometheus::IntGauge;
use tokio::io::AsyncReadExt;
use tokio::time::{Instant, timeout_at};

use crate::connection::{Ahead, Connection, Guarded, Times};
use crate::gateway::Gateway;
use crate::http2::Http2;
use crate::metrics::Metrics;
use crate::plan::{InForce, Plan};
use crate::proxy_protocol::{self, Read};
use crate::refusal::Refusal;
use crate::tls::{Failure, Terminator};
use crate::tunnel;

/// Takes connections in and keeps count of them.
#[derive(Clone)]
pub(crate) struct Door {
    proxy: Arc<HttpProxy<Gateway>>,
    open: Arc<Open>,
    plan: Arc<InForce>,
    metrics: Arc<Metrics>,
    /// Behind it all is TLS; `None`: in the clear.
    tls: Option<Arc<Terminator>>,
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
    /// In the clear.
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
            tls: None,
        }
    }

    /// The same for clients that come through TLS.
    pub(crate) fn secure(&self, tls: Arc<Terminator>) -> Self {
        Self {
            tls: Some(tls),
            ..self.clone()
        }
    }

    /// The stream of HTTP within what has connected, and whether HTTP/2 was agreed upon; `None`:
    /// there is none.
    async fn enter(&self, mut stream: Stream, plan: &Plan, by: Instant) -> Option<(Stream, bool)> {
        if announces(&stream, plan) {
            stream = self.announced(stream, by).await?;
        }
        let Some(tls) = &self.tls else {
            return Some((stream, false));
        };
        let client = client(&stream);
        match tls.accept(stream, by).await {
            Ok(secured) => {
                let http2 = secured.speaks_http2();
                Some((Box::new(secured), http2))
            }
            // Whoever only looks whether somebody listens is no news.
            Err(Failure::Closed) => None,
            Err(failure) => {
                tracing::info!(reason = failure.reason(), client, "handshake_failed");
                None
            }
        }
    }

    /// Reads the PROXY header with which this connection must begin.
    async fn announced(&self, mut stream: Stream, by: Instant) -> Option<Stream> {
        let mut bytes = Vec::with_capacity(proxy_protocol::MOST);
        loop {
            match proxy_protocol::read(&bytes) {
                Read::Header { length, source } => {
                    let rest = bytes.get(length..).unwrap_or_default();
                    return Some(Box::new(Ahead::new(stream, rest, source)));
                }
                Read::More if bytes.len() < proxy_protocol::MOST => {
                    let mut room = (&mut stream).take((proxy_protocol::MOST - bytes.len()) as u64);
                    let reading = timeout_at(by, room.read_buf(&mut bytes)).await;
                    if reading.is_ok_and(|read| read.is_ok_and(|read| read > 0)) {
                        continue;
                    }
                    // Whoever only looks whether somebody listens is no news.
                    if bytes.is_empty() {
                        return None;
                    }
                }
                _ => {}
            }
            self.count_malformed(&Refusal::BadProxyHeader, client(&stream).as_deref());
            return None;
        }
    }

    fn count_malformed(&self, refusal: &Refusal, client: Option<&str>) {
        self.metrics.count_malformed(refusal);
        tracing::info!(reason = refusal.reason(), client, "request_malformed");
    }

    /// Serves HTTP/1.1 to its end, and what becomes of it.
    async fn serve(
        &self,
        guarded: Guarded,
        connection: &Connection,
        entered: Entered,
        shutdown: &ShutdownWatch,
    ) {
        let client = guarded.get_socket_digest();
        let serving = ServerApp::process_new(&self.proxy, Box::new(guarded), shutdown);
        connection.deadline.keep(|| connection.cut(), serving).await;
        if let Some(refusal) = connection.take_refused() {
            let client = client.and_then(|client| client.peer_addr().map(ToString::to_string));
            self.count_malformed(&refusal, client.as_deref());
        }
        if let Some((client, tunnel)) = connection.take_over() {
            // A task of its own: Pingora's holds room for the work on a request for as long as
            // it lives, and a WebSocket may live for days.
            tokio::spawn(async move {
                tunnel::run(client, tunnel).await;
                drop(entered);
            });
        }
    }
}

/// Must whoever has connected say for whom?
fn announces(stream: &Stream, plan: &Plan) -> bool {
    let networks = &plan.config.server.proxy_protocol;
    if networks.is_empty() {
        return false;
    }
    let socket = stream.get_socket_digest();
    let peer = socket.and_then(|socket| socket.peer_addr()?.as_inet().map(SocketAddr::ip));
    let peer = peer.map(|peer| peer.to_canonical());
    peer.is_some_and(|peer| networks.iter().any(|network| network.contains(&peer)))
}

fn client(stream: &Stream) -> Option<String> {
    stream
        .get_socket_digest()?
        .peer_addr()
        .map(ToString::to_string)
}

#[async_trait]
impl ServerApp for Door {
    async fn process_new(
        self: &Arc<Self>,
        stream: Stream,
        shutdown: &ShutdownWatch,
    ) -> Option<Stream> {
        let plan = self.plan.load_full();
        let server = &plan.config.server;
        let Some(entered) = self.open.enter(server.connections) else {
            self.metrics.connections_refused.inc();
            return None;
        };
        let times = Times {
            head: plan.config.timeout.head,
            keepalive: plan.config.timeout.keepalive,
        };
        let (http2, streams) = (server.http2, server.streams);
        let largest_head = plan.config.request.largest_head();
        let by = Instant::now() + times.head;
        let secure = self.tls.is_some();
        let mut ending = shutdown.clone();
        // Boxed: a connection that lives for long does not carry how it began.
        let entering = Box::pin(async move {
            let (stream, agreed) = self.enter(stream, &plan, by).await?;
            drop(plan);
            let connection = Connection::new(secure);
            let mut guarded = Guarded::new(stream, connection.clone(), times, by);
            guarded.bound_heads(largest_head);
            if agreed {
                guarded.speak_http2();
            }
            let speaks_http2 = agreed || (http2 && !secure && guarded.begins_http2().await);
            Some((guarded, connection, speaks_http2))
        });
        // edge ends: whoever has not begun is let go.
        let entering = tokio::select! {
            biased;
            entering = entering => entering,
            _ = ending.changed() => None,
        };
        let (guarded, connection, speaks_http2) = entering?;
        if speaks_http2 {
            let (proxy, metrics) = (self.proxy.clone(), self.metrics.clone());
            let http2 = Http2::new(proxy, metrics, secure, streams);
            // Boxed: what speaks HTTP/1.1 does not carry it.
            Box::pin(http2.serve(guarded, times, by, shutdown)).await;
        } else {
            self.serve(guarded, &connection, entered, shutdown).await;
        }
        None
    }

    /// The listener is closed: connections on which nothing is open are let go.
    async fn cleanup(&self) {
        self.proxy.http_cleanup().await;
    }
}
