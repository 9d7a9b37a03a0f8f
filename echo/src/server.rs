//! The server: it accepts, and when told to it drains.

use crate::{
    auth::Gate,
    connection,
    settings::Settings,
    shared::{Place, Shared},
};
use std::{io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    task::{JoinError, JoinSet},
    time::{sleep, timeout},
};
use tracing::{error, info, warn};

/// How long to leave off after an `accept` that failed, as it does without free descriptors.
const BACK_OFF: Duration = Duration::from_millis(100);

/// An echo server that has its port and is yet to run.
pub struct Echo {
    listener: TcpListener,
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Echo {
    /// Takes the port; clients may connect from now on, and are served once it runs.
    ///
    /// # Errors
    /// If the address cannot be listened on, such as when it is taken; of the kind `InvalidInput`
    /// if a secret cannot be read or cannot be right.
    pub async fn bind(settings: Settings) -> io::Result<Self> {
        let gate = Gate::read(&settings);
        let gate = gate.map_err(|told| io::Error::new(io::ErrorKind::InvalidInput, told))?;
        let listener = TcpListener::bind(settings.listen).await?;
        Ok(Self {
            address: listener.local_addr()?,
            listener,
            shared: Arc::new(Shared::new(settings, gate)),
        })
    }

    /// Where it listens, with the port that the system chose if the settings said 0.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown` is ready, then drains: nothing new is accepted, WebSockets are told
    /// 1012 one after the other, requests at hand are finished. Returns once nothing is open, or
    /// when the time to drain is over. Dropped before, it ends every connection at once.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) {
        let Self {
            listener,
            address,
            shared,
        } = self;
        info!(%address, "listening");
        let mut connections = JoinSet::new();
        let mut shutdown = pin!(shutdown);
        loop {
            tokio::select! {
                biased;
                () = shutdown.as_mut() => break,
                Some(ended) = connections.join_next() => note(ended),
                (stream, peer, place) = accept(&listener, &shared) => {
                    let shared = shared.clone();
                    connections.spawn(async move {
                        connection::serve(stream, peer, &shared).await;
                        drop(place);
                    });
                }
            }
        }
        drop(listener);
        info!(open = connections.len(), "draining");
        shared.drain();
        let emptied = async {
            while let Some(ended) = connections.join_next().await {
                note(ended);
            }
        };
        if timeout(shared.settings.drain, emptied).await.is_err() {
            warn!(open = connections.len(), "drain_cut_short");
            connections.shutdown().await;
        }
        info!("stopped");
    }
}

/// The next connection. Waits for a free place first: past the bound, connections queue in the kernel.
async fn accept(listener: &TcpListener, shared: &Shared) -> (TcpStream, SocketAddr, Place) {
    loop {
        let Some(place) = shared.connection_place().await else {
            // Only if the semaphore were closed, which nobody does.
            return std::future::pending().await;
        };
        match listener.accept().await {
            Ok((stream, peer)) => return (stream, peer, place),
            // That client has left already; the next one may be fine.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                shared.metrics.refused("accept");
                warn!(%error, "accept_failed");
                sleep(BACK_OFF).await;
            }
        }
    }
}

/// A connection that panicked ended alone; the log says so.
fn note(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        error!(%error, "connection_panicked");
    }
}
