//! The loop that takes connections in. It is edge's own, for Pingora's takes all that come: where as
//! many are open as may be, the others wait with the system, in the listener's backlog.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use pingora::protocols::l4::stream::Stream;
use pingora::protocols::{GetSocketDigest, SocketDigest};
use rustix::io::Errno;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::Door;
use super::open::Entered;

/// While there is no room, so often the configuration is asked whether there may be more.
const LOOK: Duration = Duration::from_secs(1);
/// Where the system has no file descriptor or no memory for one more, so long until it is asked
/// again: doubled each time, up to the longest.
const PAUSE: Duration = Duration::from_millis(10);
const LONGEST: Duration = Duration::from_secs(1);
/// What goes on for long is told once in so long.
const TELL: Duration = Duration::from_secs(10);

impl Door {
    /// Takes connections in until `stop` says so.
    pub(crate) async fn accept(
        self: Arc<Self>,
        listener: TcpListener,
        stop: watch::Receiver<bool>,
    ) {
        let mut stopping = stop.clone();
        tokio::select! {
            biased;
            _ = stopping.wait_for(|stop| *stop) => {}
            () = self.accept_all(&listener, &stop) => {}
        }
        drop(listener);
        self.cleanup().await;
    }

    async fn accept_all(self: &Arc<Self>, listener: &TcpListener, stop: &watch::Receiver<bool>) {
        let (mut told, mut pause) = (Told::default(), PAUSE);
        loop {
            // Whoever cannot be served is not taken in: he waits, and may go elsewhere.
            self.wait_for_room(&mut told).await;
            match listener.accept().await {
                Ok((stream, peer)) => {
                    pause = PAUSE;
                    let entered = self.place(&mut told).await;
                    let (door, stop) = (self.clone(), stop.clone());
                    let stream = prepared(stream, peer);
                    tokio::spawn(
                        async move { door.serve_connection(stream, entered, &stop).await },
                    );
                }
                Err(error) if concerns_one(&error) => {}
                Err(error) => {
                    if told.may() {
                        tracing::warn!(%error, "accept_failed");
                    }
                    self.metrics.accept_failed();
                    sleep(pause).await;
                    pause = (pause * 2).min(LONGEST);
                }
            }
        }
    }

    fn most(&self) -> usize {
        self.plan.load().config.server.connections
    }

    async fn wait_for_room(&self, told: &mut Told) {
        if self.open.count() < self.most() {
            return;
        }
        self.metrics.connections_full();
        if told.may() {
            tracing::warn!(open = self.open.count(), "connections_full");
        }
        while self.open.count() >= self.most() {
            let _ = timeout(LOOK, self.open.one_leaves()).await;
        }
    }

    /// A place for one that has connected; another listener may have taken the last one meanwhile.
    async fn place(&self, told: &mut Told) -> Entered {
        loop {
            match self.open.enter(self.most()) {
                Some(entered) => return entered,
                None => self.wait_for_room(told).await,
            }
        }
    }
}

/// When it was told last.
#[derive(Default)]
struct Told(Option<Instant>);

impl Told {
    fn may(&mut self) -> bool {
        let may = self.0.is_none_or(|last| last.elapsed() >= TELL);
        if may {
            self.0 = Some(Instant::now());
        }
        may
    }
}

/// The connection as Pingora's streams are.
fn prepared(stream: TcpStream, peer: std::net::SocketAddr) -> Stream {
    // What cannot be set is slower, and served.
    let _ = stream.set_nodelay(true);
    let digest = SocketDigest::from_raw_fd(stream.as_raw_fd());
    let _ = digest.peer_addr.set(Some(peer.into()));
    let mut stream = Stream::from(stream);
    stream.set_socket_digest(digest);
    stream
}

/// Is it the fault of a connection that is gone already (accept(2)), and not of all?
fn concerns_one(error: &io::Error) -> bool {
    let all = [
        Errno::MFILE,
        Errno::NFILE,
        Errno::NOBUFS,
        Errno::NOMEM,
        Errno::INVAL,
        Errno::BADF,
        Errno::NOTSOCK,
        Errno::OPNOTSUPP,
    ];
    Errno::from_io_error(error).is_none_or(|errno| !all.contains(&errno))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ails_one_connection_does_not_hold_up_the_others() {
        let is_one = |errno: Errno| concerns_one(&errno.into());
        for errno in [
            Errno::CONNABORTED,
            Errno::PROTO,
            Errno::NETDOWN,
            Errno::INTR,
        ] {
            assert!(is_one(errno), "{errno:?}");
        }
        for errno in [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM] {
            assert!(!is_one(errno), "{errno:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_goes_on_is_told_now_and_then() {
        let mut told = Told::default();
        assert!(told.may() && !told.may());
        sleep(TELL).await;
        assert!(told.may());
    }
}
