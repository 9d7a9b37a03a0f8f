//! The total deadline, which Pingora does not have.
//!
//! Every request runs inside [`Deadline::keep`]. When its time is over, the connection to the
//! peer is shut down from outside: whatever Pingora was waiting for ends at that moment with an
//! error, which the gateway turns into the answer. Where the head was already sent, the client's
//! connection is cut as well, so that no truncated body can look complete.

use std::future::{Future, poll_fn};
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::time::Sleep;

use crate::connection::Connection;

tokio::task_local! {
    static CURRENT: Arc<Deadline>;
}

/// The clocks that run for one request.
#[derive(Debug, Default)]
pub(crate) struct Deadline(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// By when the request's body must have arrived; `None`: it has, or may take for ever.
    body_by: Option<Instant>,
    /// By when the answer must be complete.
    answer_by: Option<Instant>,
    /// The connection to the peer, while this request has one.
    peer: Option<OwnedFd>,
    /// The client's connection, to be cut once the head of the answer is on its way.
    client: Option<Arc<Connection>>,
    expired: Option<Expired>,
}

/// Which clock ran out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expired {
    /// The client did not send its body in time.
    Body,
    /// The answer was not complete in time.
    Answer,
}

impl Deadline {
    /// The deadline of the request that this task is working on.
    pub(crate) fn current() -> Arc<Self> {
        CURRENT.try_with(Arc::clone).unwrap_or_default()
    }

    /// Runs `request`, of which the hooks reach the deadline through [`Deadline::current`].
    pub(crate) async fn keep<F: Future>(request: F) -> F::Output {
        let deadline = Arc::new(Self::default());
        let mut request = pin!(CURRENT.scope(deadline.clone(), request));
        let mut alarm = pin!(None::<Sleep>);
        poll_fn(|context| {
            loop {
                if let Poll::Ready(output) = request.as_mut().poll(context) {
                    return Poll::Ready(output);
                }
                let Some(at) = deadline.next() else {
                    return Poll::Pending;
                };
                if alarm
                    .as_ref()
                    .as_pin_ref()
                    .is_none_or(|alarm| alarm.deadline() != at.into())
                {
                    alarm.set(Some(tokio::time::sleep_until(at.into())));
                }
                let rings = alarm
                    .as_mut()
                    .as_pin_mut()
                    .is_some_and(|alarm| alarm.poll(context).is_ready());
                if !rings {
                    return Poll::Pending;
                }
                deadline.expire(at);
            }
        })
        .await
    }

    /// Starts the clocks of a request that arrived at `began`.
    pub(crate) fn start(&self, began: Instant, answer: Option<Duration>, body: Option<Duration>) {
        let mut state = self.0.lock();
        state.answer_by = answer.map(|time| began + time);
        state.body_by = body.map(|time| began + time);
    }

    /// How long until the answer must be complete; `None`: no limit.
    pub(crate) fn left(&self) -> Option<Duration> {
        self.0
            .lock()
            .answer_by
            .map(|at| at.saturating_duration_since(Instant::now()))
    }

    /// Which clock ran out, if one did.
    pub(crate) fn expired(&self) -> Option<Expired> {
        self.0.lock().expired
    }

    /// The whole body of the request has arrived.
    pub(crate) fn body_arrived(&self) {
        self.0.lock().body_by = None;
    }

    /// The request is now served through this connection to a peer.
    pub(crate) fn watch_peer(&self, peer: RawFd) {
        self.0.lock().peer = duplicate(peer);
    }

    /// The head of the answer is on its way to this client.
    pub(crate) fn head_sent(&self, client: Option<Arc<Connection>>) {
        self.0.lock().client = client;
    }

    /// The peer has answered: its connection may serve another request from now on.
    pub(crate) fn peer_done(&self) {
        self.0.lock().peer = None;
    }

    /// The exchange is over: no clock runs until the next one.
    pub(crate) fn stop(&self) {
        let mut state = self.0.lock();
        *state = State {
            expired: state.expired,
            ..State::default()
        };
    }

    fn next(&self) -> Option<Instant> {
        let state = self.0.lock();
        match state.expired {
            None => state.body_by.into_iter().chain(state.answer_by).min(),
            Some(_) => None,
        }
    }

    fn expire(&self, at: Instant) {
        let mut state = self.0.lock();
        let body_is_late = state.body_by.is_some_and(|by| by <= at);
        state.expired = Some(if body_is_late {
            Expired::Body
        } else {
            Expired::Answer
        });
        if let Some(peer) = &state.peer {
            shut_down(peer);
        }
        if let Some(client) = &state.client {
            client.cut();
        }
    }
}

/// A second descriptor for the same connection: it stays valid, and stays this connection, even
/// if Pingora closes its own in the meantime.
#[expect(
    unsafe_code,
    reason = "Pingora names the peer's connection only by its raw descriptor"
)]
fn duplicate(fd: RawFd) -> Option<OwnedFd> {
    if fd < 0 {
        return None;
    }
    // SAFETY: called from `connected_to_upstream`, while Pingora holds the connection open.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    borrowed.try_clone_to_owned().ok()
}

fn shut_down(peer: &OwnedFd) {
    // A peer that has gone already needs no shutting down.
    let _ = rustix::net::shutdown(peer, rustix::net::Shutdown::Both);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;

    #[tokio::test(start_paused = true)]
    async fn when_time_is_over_the_peers_connection_ends() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let began = Instant::now();
        let expired = Deadline::keep(async {
            let deadline = Deadline::current();
            deadline.start(
                tokio::time::Instant::now().into_std(),
                Some(Duration::from_secs(3)),
                None,
            );
            deadline.watch_peer(peer.as_raw_fd());
            tokio::time::sleep(Duration::from_secs(60)).await;
            deadline.expired()
        });
        assert_eq!(expired.await, Some(Expired::Answer));
        assert_eq!(
            peer.read(&mut [0; 8]).unwrap(),
            0,
            "the connection was shut down"
        );
        assert!(
            began.elapsed() < Duration::from_secs(50),
            "no time passed in earnest"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_is_done_is_left_alone() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        Deadline::keep(async {
            let deadline = Deadline::current();
            deadline.start(
                tokio::time::Instant::now().into_std(),
                Some(Duration::from_secs(3)),
                None,
            );
            deadline.watch_peer(peer.as_raw_fd());
            deadline.peer_done();
            tokio::time::sleep(Duration::from_secs(60)).await;
        })
        .await;
        peer.set_nonblocking(true).unwrap();
        let still_open = (&peer).read(&mut [0; 8]).unwrap_err();
        assert_eq!(still_open.kind(), std::io::ErrorKind::WouldBlock);
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_body_is_told_from_a_late_answer() {
        let expired = Deadline::keep(async {
            let deadline = Deadline::current();
            let now = tokio::time::Instant::now().into_std();
            deadline.start(
                now,
                Some(Duration::from_secs(3)),
                Some(Duration::from_secs(2)),
            );
            tokio::time::sleep(Duration::from_secs(60)).await;
            deadline.expired()
        });
        assert_eq!(expired.await, Some(Expired::Body));
    }
}
