//! A client's connection from its first byte to its last: who it is (PROXY protocol), TLS, and the
//! protocol that it speaks; then it is Pingora's, and if it became a WebSocket, the tunnel's.

mod accept;
mod open;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use pingora::apps::{HttpServerApp, ServerApp};
use pingora::protocols::l4::stream::Stream as L4Stream;
use pingora::protocols::{GetSocketDigest, SocketDigest, Stream};
use pingora::proxy::HttpProxy;
use pingora::server::ShutdownWatch;
use tokio::io::AsyncReadExt;
use tokio::time::{Instant, timeout_at};

use crate::connection::{Ahead, Connection, Guarded, Times};
use crate::gateway::Gateway;
use crate::http2::Http2;
use crate::identity::Certificate;
use crate::metrics::Metrics;
use crate::plan::{InForce, Plan};
use crate::proxy_protocol::{self, Read};
use crate::refusal::Refusal;
use crate::tls::{Failure, Terminator};
use crate::tunnel;
use open::Entered;
pub(crate) use open::Open;

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
    async fn enter(
        &self,
        mut stream: Stream,
        plan: &Plan,
        by: Instant,
        entered: &mut Entered,
    ) -> Option<Entry> {
        if announces(&stream, plan) {
            stream = self.announced(stream, by).await?;
        }
        if !self.lets_in(&stream, plan, entered) {
            return None;
        }
        let Some(tls) = &self.tls else {
            return Some(Entry {
                stream,
                http2: false,
                certificate: None,
            });
        };
        let client = client(&stream);
        match tls.accept(stream, by).await {
            Ok(secured) => Some(Entry {
                http2: secured.speaks_http2(),
                certificate: secured.certificate().map(Arc::new),
                stream: Box::new(secured),
            }),
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

    /// Has this client still room for a connection? Those of trusted proxies are many people's.
    fn lets_in(&self, stream: &Stream, plan: &Plan, entered: &mut Entered) -> bool {
        let server = &plan.config.server;
        let Some((most, address)) = server.connections_per_client.zip(address(stream)) else {
            return true;
        };
        let let_in = server.trust.trusts(address)
            || entered.belongs(server.trust.key(address.to_canonical()), most);
        if !let_in {
            let reason = Refusal::ConnectionClientLimit.reason();
            self.metrics.connection_refused(reason);
            tracing::debug!(reason, client = %address, "connection_refused");
        }
        let_in
    }

    fn count_refused(&self, connection: &Connection, client: Option<&SocketDigest>) {
        if let Some(refusal) = connection.take_refused() {
            let client = client.and_then(|client| client.peer_addr().map(ToString::to_string));
            self.count_malformed(&refusal, client.as_deref());
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
        self.count_refused(connection, client.as_deref());
        if let Some((client, tunnel)) = connection.take_over() {
            // A task of its own: Pingora's holds room for the work on a request for as long as
            // it lives, and a WebSocket may live for days.
            tokio::spawn(async move {
                tunnel::run(client, tunnel).await;
                drop(entered);
            });
        }
    }

    /// Serves what has connected to its end.
    async fn serve_connection(
        &self,
        stream: L4Stream,
        mut entered: Entered,
        shutdown: &ShutdownWatch,
    ) {
        let stream: Stream = Box::new(stream);
        let plan = self.plan.load_full();
        let server = &plan.config.server;
        let times = Times {
            head: plan.config.timeout.head,
            keepalive: plan.config.timeout.keepalive,
            write: plan.config.timeout.write,
        };
        let (http2, streams) = (server.http2, server.streams);
        let largest_head = plan.config.request.largest_head();
        let by = Instant::now() + times.head;
        let secure = self.tls.is_some();
        let mut ending = shutdown.clone();
        // Boxed: a connection that lives for long does not carry how it began.
        let entering = Box::pin(async move {
            let entry = self.enter(stream, &plan, by, &mut entered).await?;
            drop(plan);
            let (stream, agreed) = (entry.stream, entry.http2);
            let connection = Connection::new(secure, entry.certificate);
            let mut guarded = Guarded::new(stream, connection.clone(), times, by);
            guarded.bound_heads(largest_head);
            if agreed {
                guarded.speak_http2();
            }
            let speaks_http2 = agreed || (http2 && !secure && guarded.begins_http2().await);
            Some((guarded, connection, speaks_http2, entered))
        });
        // edge ends: whoever has not begun is let go.
        let entering = tokio::select! {
            biased;
            entering = entering => entering,
            _ = ending.changed() => None,
        };
        let Some((guarded, connection, speaks_http2, entered)) = entering else {
            return;
        };
        if speaks_http2 {
            let (proxy, metrics) = (self.proxy.clone(), self.metrics.clone());
            let http2 = Http2::new(proxy, metrics, connection.clone(), streams);
            let client = guarded.get_socket_digest();
            // Boxed: what speaks HTTP/1.1 does not carry it.
            Box::pin(http2.serve(guarded, times, by, shutdown)).await;
            self.count_refused(&connection, client.as_deref());
            drop(entered);
        } else {
            self.serve(guarded, &connection, entered, shutdown).await;
        }
    }

    /// The listener is closed: connections on which nothing is open are let go.
    async fn cleanup(&self) {
        self.proxy.http_cleanup().await;
    }
}

/// What is known of a client once it may speak HTTP.
struct Entry {
    stream: Stream,
    /// Was HTTP/2 agreed upon?
    http2: bool,
    certificate: Option<Arc<Certificate>>,
}

/// Must whoever has connected say for whom?
fn announces(stream: &Stream, plan: &Plan) -> bool {
    let networks = &plan.config.server.proxy_protocol;
    if networks.is_empty() {
        return false;
    }
    let peer = address(stream).map(|peer| peer.to_canonical());
    peer.is_some_and(|peer| networks.iter().any(|network| network.contains(&peer)))
}

/// From where it comes.
fn address(stream: &Stream) -> Option<IpAddr> {
    let socket = stream.get_socket_digest()?;
    socket.peer_addr()?.as_inet().map(SocketAddr::ip)
}

fn client(stream: &Stream) -> Option<String> {
    stream
        .get_socket_digest()?
        .peer_addr()
        .map(ToString::to_string)
}
