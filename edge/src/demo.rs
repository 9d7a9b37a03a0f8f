//! `edge demo`: the gateway and echo together, with the routes of `conf/edge.toml`.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use echo::{Echo, Settings};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tracing_appender::non_blocking::NonBlocking;

use crate::config::Config;
use crate::serve::Edge;

/// The configuration that the repository shows.
const CONFIG: &str = include_str!("../../conf/edge.toml");

/// Where the demo listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// The gateway.
    pub listen: SocketAddr,
    /// Its probes and metrics.
    pub admin: SocketAddr,
    /// The server behind it.
    pub echo: SocketAddr,
}

/// A gateway with echo behind it.
pub struct Demo {
    edge: Edge,
    echo: SocketAddr,
    stop_echo: oneshot::Sender<()>,
    echo_ends: JoinHandle<()>,
}

impl Demo {
    /// Starts both. An address that is taken is an error at once.
    pub async fn start(addresses: Addresses, log: Option<NonBlocking>) -> io::Result<Self> {
        let settings = Settings {
            listen: addresses.echo,
            drain: Duration::from_secs(2),
            ..Settings::default()
        };
        let server = Echo::bind(settings).await;
        let server = server.map_err(|error| {
            io::Error::new(error.kind(), format!("echo {}: {error}", addresses.echo))
        })?;
        let echo = server.address();
        let mut config = Config::read("conf/edge.toml", CONFIG).map_err(io::Error::other)?;
        config.server.listen = addresses.listen;
        config.admin = addresses.admin;
        for upstream in &mut config.upstreams {
            upstream.peers = crate::config::Upstream::of("", &[&echo.to_string()]).peers;
        }
        let (stop_echo, stopped) = oneshot::channel();
        let echo_ends = tokio::spawn(server.run(async {
            // Whoever could say so has gone: that is an end, too.
            let _ = stopped.await;
        }));
        let edge = Edge::start(config, log).await?;
        Ok(Self {
            edge,
            echo,
            stop_echo,
            echo_ends,
        })
    }

    /// What to try, for a person.
    pub fn welcome(&self) -> String {
        let (edge, admin, echo) = (self.edge.address(), self.edge.admin(), self.echo);
        format!(
            "edge   http://{edge}   echo http://{echo}   admin http://{admin}\n\n\
             in a browser     http://{edge}/\n\
             health           curl -i http://{edge}/health\n\
             the cache        curl -i http://{edge}/api/info   (twice: the second says `hit`)\n\
             the limit        for i in $(seq 30); do curl -s -o /dev/null -w '%{{http_code}} ' http://{edge}/api/info; done\n\
             the deadline     curl -i http://{edge}/api/delay/4000\n\
             the figures      curl http://{admin}/metrics\n\n\
             Ctrl-C stops both.\n"
        )
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.edge.address()
    }

    /// Ends both in order.
    pub async fn end(self, hurry: bool) {
        // echo first: its WebSockets hear from it that it goes.
        let _ = self.stop_echo.send(());
        self.edge.end(hurry).await;
        let _ = self.echo_ends.await;
    }
}

/// Where the demo listens unless told otherwise.
impl Default for Addresses {
    fn default() -> Self {
        let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
        Self {
            listen: local(8080),
            admin: local(9090),
            echo: local(8081),
        }
    }
}
