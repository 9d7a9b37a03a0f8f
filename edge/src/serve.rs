//! Starts edge from a configuration and ends it in order.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::IntoRawFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pingora::apps::http_app::HttpServer;
use pingora::connectors::http::Connector;
use pingora::connectors::{ConnectorOptions, TransportConnector};
use pingora::proxy::http_proxy;
use pingora::server::configuration::ServerConf;
use pingora::server::{Fds, ListenFds};
use pingora::services::Service as _;
use pingora::services::listening::Service;
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_blocking};
use tracing_appender::non_blocking::NonBlocking;

use crate::admin::Admin;
use crate::config::{Config, Server};
use crate::door::{Door, Open};
use crate::fetch::Fetcher;
use crate::flight::Flights;
use crate::gateway::Gateway;
use crate::life::Life;
use crate::metrics::Metrics;
use crate::plan::InForce;
use crate::reload::Reload;
use crate::sockets::Sockets;
use crate::store::Store;
use crate::tls::{LOOK_EVERY, Terminator};

/// A gateway that listens.
pub struct Edge {
    address: SocketAddr,
    tls_address: Option<SocketAddr>,
    admin: SocketAddr,
    life: Arc<Life>,
    open: Arc<Open>,
    reload: Reload,
    /// Closes the listener for traffic.
    stop: watch::Sender<bool>,
    /// Closes the admin listener, last of all.
    stop_admin: watch::Sender<bool>,
    sockets: Arc<Sockets>,
    /// What ends clients' TLS, if that is listened for.
    tls: Option<Arc<Terminator>>,
    tasks: Vec<JoinHandle<()>>,
}

/// Connections that may wait to be accepted; the system may set a lower bound.
const BACKLOG: i32 = 4_096;

/// What the kernel holds for a client beyond what is on its way: past it edge waits. Without this
/// bound it is megabytes for each client that does not read.
#[cfg(target_os = "linux")]
const UNSENT: u32 = 128 << 10;
/// Connections kept open to peers, for all of them together.
const POOL: usize = 1_024;

impl Edge {
    /// Binds the listeners and starts to serve. An address that is taken is an error at once.
    ///
    /// Must be called within a tokio runtime. `log` is where the access log's lines go.
    pub async fn start(config: Config, log: Option<NonBlocking>) -> io::Result<Self> {
        let traffic = bind("[server] listen", config.server.listen)?;
        let probes = bind("[admin] listen", config.admin)?;
        let (address, admin) = (traffic.local_addr()?, probes.local_addr()?);
        let secure = config.tls.as_ref();
        let secure = secure.map(|tls| bind("[tls] listen", tls.listen));
        let secure = secure.transpose()?;
        let tls_address = secure.as_ref().map(TcpListener::local_addr).transpose()?;

        let metrics = Arc::new(Metrics::new().map_err(io::Error::other)?);
        let tls = config.tls.as_ref().map(|tls| {
            let read = Terminator::new(tls, config.server.http2, metrics.clone());
            read.map(Arc::new)
        });
        let tls = tls.transpose()?;
        let life = Arc::new(Life::new());
        let open = Open::new(metrics.connections.clone());
        let store: &'static Store = Box::leak(Box::new(Store::new(
            config.cache.memory,
            config.cache.object,
        )));
        let lost = log.as_ref().map(NonBlocking::error_counter);
        let reload = Reload::start(config, metrics.clone(), log).await;
        let plan = reload.plan();
        let (stop, _) = watch::channel(false);
        let (stop_admin, _) = watch::channel(false);
        let sockets = Arc::new(Sockets::default());

        let fetcher = Arc::new(Fetcher {
            store,
            flights: Flights::new(),
            connector: Connector::new(Some(ConnectorOptions::new(POOL))),
            metrics: metrics.clone(),
        });
        let gateway = Gateway {
            started: Instant::now(),
            plan: plan.clone(),
            fetcher: fetcher.clone(),
            connector: TransportConnector::new(None),
            sockets: sockets.clone(),
            metrics: metrics.clone(),
            nowhere: Arc::default(),
            draining: life.draining(),
        };
        let proxy = http_proxy(&Arc::new(server_conf()), gateway);
        let door = Door::new(proxy, open.clone(), plan.clone(), metrics.clone());
        let mut tasks = Vec::new();
        if let (Some(listener), Some(tls)) = (secure, &tls) {
            let door = door.secure(tls.clone());
            tasks.push(listen(listener, door, stop.subscribe())?);
            tasks.push(tokio::spawn(follow_for_ever(tls.clone(), plan.clone())));
        }
        tasks.push(listen(traffic, door, stop.subscribe())?);

        let probe = Admin {
            life: life.clone(),
            metrics,
            store,
            plan: plan.clone(),
            lost,
        };
        let mut service = Service::new("admin".to_owned(), HttpServer::new_app(probe));
        service.add_tcp(&admin.to_string());
        tasks.push(run(service, probes, admin, stop_admin.subscribe()));

        life.start();
        let tls_address_text = tls_address.map(|address| address.to_string());
        tracing::info!(%address, tls = tls_address_text, %admin, version = env!("CARGO_PKG_VERSION"), "started");
        Ok(Self {
            address,
            tls_address,
            admin,
            life,
            open,
            reload,
            stop,
            stop_admin,
            sockets,
            tls,
            tasks,
        })
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where clients connect that come through TLS, if they may.
    pub fn tls_address(&self) -> Option<SocketAddr> {
        self.tls_address
    }

    /// Where probes and metrics are.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Reads this file and puts it in force, as [`Edge::reload`] does. With a fault in it nothing
    /// changes; all its faults are logged.
    pub async fn reload_file(&self, file: &Path) {
        self.reload.read(file).await;
        self.follow_tls().await;
    }

    /// Puts this configuration in force for all that comes from now on; what is open ends by the
    /// rules that it began with. What only a start can change stays as it is, and is logged.
    pub async fn reload(&self, config: Config) {
        self.reload.put(config).await;
        self.follow_tls().await;
    }

    /// Takes the certificates over that are in force now.
    async fn follow_tls(&self) {
        if let Some(tls) = &self.tls {
            follow(tls, self.reload.plan()).await;
        }
    }

    /// Ends in order: not ready at once, new requests for the delay still, then none, and what is
    /// open finishes within the drain. Returns as soon as nothing is open. `hurry` skips the
    /// delay.
    pub async fn end(self, hurry: bool) {
        let Server {
            drain, drain_delay, ..
        } = self.reload.plan().load().config.server;
        self.life.drain();
        tracing::info!(open = self.open.count(), "draining");
        if !hurry {
            tokio::time::sleep(drain_delay).await;
        }
        self.stop.send_replace(true);
        // What is told last still has a tenth of the time to say goodbye.
        let finishing = async {
            tokio::select! {
                () = self.sockets.close_within(drain.mul_f64(0.9)) => self.nothing_open().await,
                () = self.nothing_open() => {}
            }
        };
        let finished = tokio::time::timeout(drain, finishing).await;
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
        // Each connection takes it over. Where the system does not know it, more memory is held.
        #[cfg(target_os = "linux")]
        let _ = socket2::SockRef::from(&listener).set_tcp_notsent_lowat(UNSENT);
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    bound.map_err(|error| io::Error::new(error.kind(), format!("{what} {address}: {error}")))
}

/// Looks at the certificates' files again and again.
async fn follow_for_ever(tls: Arc<Terminator>, plan: Arc<InForce>) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        follow(&tls, &plan).await;
    }
}

/// Looks at the certificates' files, off the workers: whoever is served does not wait for a disk.
async fn follow(tls: &Arc<Terminator>, plan: &Arc<InForce>) {
    let (tls, plan) = (tls.clone(), plan.load_full());
    let following = spawn_blocking(move || {
        if let Some(settings) = &plan.config.tls {
            tls.follow(settings, plan.config.server.http2);
        }
    });
    // A panic has been told, and nothing has changed.
    let _ = following.await;
}

/// Serves clients.
fn listen(
    listener: TcpListener,
    door: Door,
    stop: watch::Receiver<bool>,
) -> io::Result<JoinHandle<()>> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    Ok(tokio::spawn(Arc::new(door).accept(listener, stop)))
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
