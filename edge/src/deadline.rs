//! The total deadline, which Pingora does not have.
//!
//! Every connection is served inside [`Deadline::keep`]. When a request's time is over, the
//! connection to the peer is shut down from outside: whatever Pingora was waiting for ends at
//! that moment with an error, which the gateway turns into the answer. Where the head was
//! already sent, the client's connection is cut as well, so that no truncated body can look
//! complete.

use std::future::{Future, poll_fn};
use std::os::fd::{BorrowedFd, RawFd};
use std::pin::pin;
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use pingora::protocols::{Digest, SocketDigest};

use crate::alarm::Alarm;

/// A client has so long to read an answer of edge's own.
const OWN_ANSWER: Duration = Duration::from_secs(10);

/// The clocks that run for the request that a connection is serving.
#[derive(Debug, Default)]
pub(crate) struct Deadline(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// By when the request's body must have arrived; `None`: it has, or may take for ever.
    body_by: Option<Instant>,
    /// By when the answer must be complete.
    answer_by: Option<Instant>,
    /// The connection to the peer, while this request has one.
    peer: Option<Peer>,
    /// The head of the answer is on its way.
    head_sent: bool,
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
    /// Serves a connection; `cut` must end the client's side of it.
    pub(crate) async fn keep<F: Future>(&self, cut: impl Fn(), serving: F) -> F::Output {
        let mut serving = pin!(serving);
        let mut alarm = Alarm::default();
        poll_fn(|context| {
            loop {
                if let Poll::Ready(output) = serving.as_mut().poll(context) {
                    return Poll::Ready(output);
                }
                let Some(at) = self.next() else {
                    return Poll::Pending;
                };
                std::task::ready!(alarm.poll(context, at.into()));
                if self.expire() {
                    cut();
                }
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

    /// edge answers by itself from now on: whoever does not read that is cut.
    pub(crate) fn answer_now(&self) {
        let mut state = self.0.lock();
        state.answer_by = Some(Instant::now() + OWN_ANSWER);
        state.body_by = None;
        state.head_sent = true;
    }

    /// How long until the answer must be complete; `None`: no limit.
    pub(crate) fn left(&self) -> Option<Duration> {
        let answer_by = self.0.lock().answer_by;
        answer_by.map(|at| at.saturating_duration_since(Instant::now()))
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
    pub(crate) fn watch_peer(&self, fd: RawFd, digest: Option<&Digest>) {
        let socket = digest.and_then(|digest| digest.socket_digest.as_ref());
        self.0.lock().peer = socket.map(|socket| Peer {
            fd,
            socket: Arc::downgrade(socket),
        });
    }

    /// The head of the answer is on its way to the client.
    pub(crate) fn head_sent(&self) {
        self.0.lock().head_sent = true;
    }

    /// The peer has answered: its connection may serve another request from now on.
    pub(crate) fn peer_done(&self) {
        self.0.lock().peer = None;
    }

    /// The exchange is over: no clock runs until the next one.
    pub(crate) fn stop(&self) {
        *self.0.lock() = State::default();
    }

    fn next(&self) -> Option<Instant> {
        let state = self.0.lock();
        state.body_by.into_iter().chain(state.answer_by).min()
    }

    /// Ends the peer's side; tells whether the client's must be cut.
    fn expire(&self) -> bool {
        let mut state = self.0.lock();
        let body_is_late = state.body_by.is_some_and(|by| by <= Instant::now());
        let which = if body_is_late {
            Expired::Body
        } else {
            Expired::Answer
        };
        state.expired.get_or_insert(which);
        (state.body_by, state.answer_by) = (None, None);
        if let Some(peer) = state.peer.take() {
            peer.shut_down();
        }
        state.head_sent
    }
}

/// Pingora's connection to a peer, which edge can only name.
#[derive(Debug)]
struct Peer {
    fd: RawFd,
    /// Lives as long as the connection.
    socket: Weak<SocketDigest>,
}

impl Peer {
    #[expect(
        unsafe_code,
        reason = "Pingora names the peer's connection only by its raw descriptor"
    )]
    fn shut_down(&self) {
        // SAFETY: the digest is owned by the connection's stream and session and dropped with
        // them, so as long as it lives the descriptor is open and is this connection's. This
        // runs on the task that serves the request, so nothing is dropped meanwhile. A
        // connection that goes back to the pool is not shut down for this request: between
        // Pingora's release of it and `stop` in the gateway's last step nothing waits.
        let Some(_alive) = self.socket.upgrade().filter(|_| self.fd >= 0) else {
            return;
        };
        let connection = unsafe { BorrowedFd::borrow_raw(self.fd) };
        // A peer that has gone already needs no shutting down.
        let _ = rustix::net::shutdown(connection, rustix::net::Shutdown::Both);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;

    fn connection() -> (TcpListener, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (listener, stream)
    }

    fn digest(stream: &TcpStream) -> Digest {
        let socket_digest = Some(Arc::new(SocketDigest::from_raw_fd(stream.as_raw_fd())));
        Digest {
            socket_digest,
            ..Digest::default()
        }
    }

    fn seconds(number: u64) -> Duration {
        Duration::from_secs(number)
    }

    /// A request of so many seconds, and what became of the client's side.
    async fn cut_after(deadline: &Deadline, length: u64, started: impl FnOnce()) -> bool {
        let cut = Cell::new(false);
        let serving = async {
            started();
            tokio::time::sleep(seconds(length)).await;
        };
        deadline.keep(|| cut.set(true), serving).await;
        cut.get()
    }

    fn now() -> Instant {
        tokio::time::Instant::now().into_std()
    }

    #[tokio::test(start_paused = true)]
    async fn when_time_is_over_the_peers_connection_ends() {
        let (_listener, mut peer) = connection();
        let (deadline, digest) = (Deadline::default(), digest(&peer));
        let cut = cut_after(&deadline, 60, || {
            deadline.start(now(), Some(seconds(3)), None);
            deadline.watch_peer(peer.as_raw_fd(), Some(&digest));
        });
        assert!(!cut.await, "no head was sent: the client gets an answer");
        assert_eq!(deadline.expired(), Some(Expired::Answer));
        assert_eq!(
            peer.read(&mut [0; 8]).unwrap(),
            0,
            "the connection was shut down"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn once_the_head_is_sent_the_client_is_cut() {
        let deadline = Deadline::default();
        let cut = cut_after(&deadline, 60, || {
            deadline.start(now(), Some(seconds(3)), None);
            deadline.head_sent();
        });
        assert!(cut.await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_is_done_is_left_alone() {
        let (_listener, peer) = connection();
        let (deadline, digest) = (Deadline::default(), digest(&peer));
        cut_after(&deadline, 60, || {
            deadline.start(now(), Some(seconds(3)), None);
            deadline.watch_peer(peer.as_raw_fd(), Some(&digest));
            deadline.peer_done();
        })
        .await;
        peer.set_nonblocking(true).unwrap();
        let still_open = (&peer).read(&mut [0; 8]).unwrap_err();
        assert_eq!(still_open.kind(), std::io::ErrorKind::WouldBlock);
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_body_is_told_from_a_late_answer() {
        let deadline = Deadline::default();
        let begin = now() - seconds(5);
        cut_after(&deadline, 60, || {
            deadline.start(begin, Some(seconds(3)), Some(seconds(2)));
        })
        .await;
        assert_eq!(deadline.expired(), Some(Expired::Body));
    }

    #[tokio::test(start_paused = true)]
    async fn an_alarm_of_an_earlier_request_does_not_end_a_later_one() {
        let deadline = Deadline::default();
        let serving = async {
            deadline.start(now(), Some(seconds(3)), None);
            tokio::time::sleep(seconds(2)).await;
            deadline.stop();
            deadline.start(now(), Some(seconds(3)), None);
            tokio::time::sleep(seconds(2)).await;
            let before = deadline.expired();
            tokio::time::sleep(seconds(2)).await;
            (before, deadline.expired())
        };
        let seen = deadline.keep(|| {}, serving).await;
        assert_eq!(seen, (None, Some(Expired::Answer)));
    }
}
