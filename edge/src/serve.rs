//! Starts edge from a configuration and ends it in order.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::IntoRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pingora::apps::http_app::HttpServer;
use pingora::cache::lock::CacheLock;
use pingora::connectors::TransportConnector;
use pingora::listeners::{L4BufferSettings, ListenerConfig};
use pingora::proxy::http_proxy;
use pingora::server::configuration::ServerConf;
use pingora::server::{Fds, ListenFds};
use pingora::services::Service as _;
use pingora::services::listening::Service;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing_appender::non_blocking::NonBlocking;

use crate::access_log::AccessLog;
use crate::admin::Admin;
use crate::config::{Config, Route};
use crate::connection::Times;
use crate::door::{Door, Open};
use crate::gateway::{Gateway, Rule, Uncacheable, WebSocket};
use crate::health;
use crate::life::Life;
use crate::metrics::Metrics;
use crate::route::Routes;
use crate::shares::{Share, Shares};
use crate::sockets::Sockets;
use crate::store::Store;
use crate::upstream::Upstream;

/// A gateway that listens.
pub struct Edge {
    address: SocketAddr,
    admin: SocketAddr,
    life: Arc<Life>,
    open: Arc<Open>,
    drain: Duration,
    drain_delay: Duration,
    /// Closes the listener for traffic.
    stop: watch::Sender<bool>,
    /// Closes the admin listener, last of all.
    stop_admin: watch::Sender<bool>,
    sockets: Arc<Sockets>,
    tasks: Vec<JoinHandle<()>>,
}

/// Connections that may wait to be accepted; the system may set a lower bound.
const BACKLOG: i32 = 4_096;
/// Connections kept open to peers, for all of them together.
const POOL: usize = 1_024;
/// Keys that are remembered as not to be kept, in each of 16 parts.
const UNCACHEABLE: usize = 4_096;
/// Somebody who waits for another's fetch waits no longer than this.
const LOCK_AGE: Duration = Duration::from_secs(10);

impl Edge {
    /// Binds the listeners and starts to serve. An address that is taken is an error at once.
    ///
    /// Must be called within a tokio runtime. `log` is where the access log's lines go.
    pub async fn start(config: Config, log: Option<NonBlocking>) -> io::Result<Self> {
        let traffic = bind("[server] listen", config.server.listen)?;
        let probes = bind("[admin] listen", config.admin)?;
        let (address, admin) = (traffic.local_addr()?, probes.local_addr()?);

        let names = config
            .routes
            .iter()
            .map(|route| (route.name.as_str(), route.websocket.is_some()));
        let names: Vec<_> = names.collect();
        let metrics = Arc::new(Metrics::new(&names).map_err(io::Error::other)?);
        let life = Arc::new(Life::new());
        let open = Open::new(metrics.connections.clone());
        let store: &'static Store = Box::leak(Box::new(Store::new(
            config.cache.memory,
            config.cache.object,
        )));
        let shares = Shares::new(&config);
        let upstreams = upstreams(&config).await;
        let (stop, _) = watch::channel(false);
        let (stop_admin, _) = watch::channel(false);
        let sockets = Arc::new(Sockets::default());
        let mut tasks = watch_peers(&upstreams, &metrics);

        let lost = log.as_ref().map(NonBlocking::error_counter);
        let gateway = Gateway {
            started: Instant::now(),
            trust: config.server.trust.clone(),
            routes: Routes::new(
                config
                    .routes
                    .iter()
                    .map(|route| route.rule.clone())
                    .collect(),
            ),
            rules: rules(&config, &shares),
            upstreams,
            store,
            lock: Box::leak(CacheLock::new_boxed(LOCK_AGE)),
            predictor: Box::leak(Box::new(Uncacheable::new(UNCACHEABLE, None))),
            connector: TransportConnector::new(None),
            sockets: sockets.clone(),
            metrics: metrics.clone(),
            log: AccessLog::new(log.filter(|_| config.log.access)),
            nowhere: Arc::default(),
            draining: life.draining(),
        };
        let proxy = http_proxy(&Arc::new(server_conf()), gateway);
        let door = Door::new(
            proxy,
            open.clone(),
            config.server.connections,
            Times {
                head: config.timeout.head,
                keepalive: config.timeout.keepalive,
            },
            metrics.clone(),
        );
        let mut service = Service::new("traffic".to_owned(), door);
        // Pingora's parser has a buffer of its own; one below it would be held by every connection.
        let buffers = L4BufferSettings::default().read(0);
        service.add_listener(ListenerConfig::tcp(address.to_string()).l4_buffer(buffers));
        tasks.push(run(service, traffic, address, stop.subscribe()));

        let probe = Admin {
            life: life.clone(),
            metrics,
            store,
            clients: shares.tables(),
            lost,
        };
        let mut service = Service::new("admin".to_owned(), HttpServer::new_app(probe));
        service.add_tcp(&admin.to_string());
        tasks.push(run(service, probes, admin, stop_admin.subscribe()));

        life.start();
        tracing::info!(%address, %admin, version = env!("CARGO_PKG_VERSION"), "started");
        let (drain, drain_delay) = (config.server.drain, config.server.drain_delay);
        Ok(Self {
            address,
            admin,
            life,
            open,
            drain,
            drain_delay,
            stop,
            stop_admin,
            sockets,
            tasks,
        })
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where probes and metrics are.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Ends in order: not ready at once, new requests for the delay still, then none, and what is
    /// open finishes within the drain. Returns as soon as nothing is open. `hurry` skips the
    /// delay.
    pub async fn end(self, hurry: bool) {
        self.life.drain();
        tracing::info!(open = self.open.count(), "draining");
        if !hurry {
            tokio::time::sleep(self.drain_delay).await;
        }
        self.stop.send_replace(true);
        // What is told last still has a tenth of the time to say goodbye.
        let finishing = async {
            tokio::select! {
                () = self.sockets.close_within(self.drain.mul_f64(0.9)) => self.nothing_open().await,
                () = self.nothing_open() => {}
            }
        };
        let finished = tokio::time::timeout(self.drain, finishing).await;
        if finished.is_err() {
            tracing::warn!(open = self.open.count(), "drain_cut");
            self.sockets.cut();
            // What is cut is told so before the process goes.
            let _ = tokio::time::timeout(Duration::from_millis(500), self.nothing_open()).await;
        }
        self.stop_admin.send_replace(true);
        for task in &self.tasks {
            task.abort();
        }
        tracing::info!("ended");
    }

    async fn nothing_open(&self) {
        while self.open.count() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// As many threads as the process may use at once; the CPU quota of a container counts.
pub fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn bind(what: &str, address: SocketAddr) -> io::Result<TcpListener> {
    let bound = TcpListener::bind(address).and_then(|listener| {
        rustix::net::listen(&listener, BACKLOG)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    bound.map_err(|error| io::Error::new(error.kind(), format!("{what} {address}: {error}")))
}

fn run<A>(
    mut service: Service<A>,
    listener: TcpListener,
    address: SocketAddr,
    stop: watch::Receiver<bool>,
) -> JoinHandle<()>
where
    A: pingora::apps::ServerApp + Send + Sync + 'static,
{
    let mut fds = Fds::new();
    fds.add(address.to_string(), listener.into_raw_fd());
    let fds: ListenFds = Arc::new(parking_lot::Mutex::new(fds));
    tokio::spawn(async move { service.start_service(Some(fds), stop, 1).await })
}

fn server_conf() -> ServerConf {
    ServerConf {
        threads: 1,
        upstream_keepalive_pool_size: POOL,
        ..ServerConf::default()
    }
}

async fn upstreams(config: &Config) -> Arc<[Upstream]> {
    let upstreams: Arc<[Upstream]> = config
        .upstreams
        .iter()
        .map(|upstream| {
            Upstream::new(
                upstream.name.clone(),
                upstream.peers.clone(),
                upstream.health.clone(),
            )
        })
        .collect();
    let places = places(&upstreams).map(|(upstream, peer)| {
        let upstreams = upstreams.clone();
        tokio::spawn(async move { health::resolve_first(&upstreams, upstream, peer).await })
    });
    // All at once: an upstream without an address must not hold up the probes.
    for looked_up in places.collect::<Vec<_>>() {
        let _ = looked_up.await;
    }
    upstreams
}

fn watch_peers(upstreams: &Arc<[Upstream]>, metrics: &Arc<Metrics>) -> Vec<JoinHandle<()>> {
    let watch = |(upstream, peer)| {
        tokio::spawn(health::watch(
            upstreams.clone(),
            upstream,
            peer,
            metrics.clone(),
        ))
    };
    places(upstreams).map(watch).collect()
}

/// Every peer, by its upstream's place and its own.
fn places(upstreams: &[Upstream]) -> impl Iterator<Item = (usize, usize)> {
    let numbered = upstreams.iter().enumerate();
    numbered.flat_map(|(place, upstream)| (0..upstream.peers.len()).map(move |peer| (place, peer)))
}

fn rules(config: &Config, shares: &Shares) -> Vec<Rule> {
    let rule = |(route, own): (&Route, &Share)| Rule {
        name: route.name.clone(),
        upstream: route.upstream,
        rewrite: route.rewrite.clone(),
        cache: route.cache,
        limits: own.limits.clone(),
        timeout: route.timeout,
        websocket: route.websocket.as_ref().map(|websocket| WebSocket {
            settings: websocket.settings.clone(),
            places: own.places.clone(),
            messages: own.messages.clone(),
        }),
    };
    config.routes.iter().zip(&shares.routes).map(rule).collect()
}
