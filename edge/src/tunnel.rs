//! A WebSocket that is open: edge owns both streams and moves the frames, unchanged.
//!
//! It begins when Pingora has let go of the client's stream, so nothing of Pingora's is held
//! while it lasts, and no buffer is held while nothing moves.
//!
//! Where edge ends it, the upstream is told first: its answers to what came before still reach
//! the client, and then the client is told.

mod account;
mod pump;

use std::future::poll_fn;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use pingora::protocols::Stream;

pub(crate) use account::{MessageLimit, Moved};

use crate::alarm::Alarm;
use crate::metrics::WebSockets;
use crate::sockets::{Entered, Told};
use crate::websocket::clock::{Due, Times};
use crate::websocket::ending::{By, Cause, Ending, is_sendable};
use crate::websocket::frame::{self, Rules};
use account::Account;
use pump::Pump;

/// What the relay needs to know of the request that became this WebSocket.
pub(crate) struct Tunnel {
    /// The connection to the peer.
    pub(crate) peer: Stream,
    /// What the client sent without waiting for the 101.
    pub(crate) from_client: Bytes,
    /// What the peer sent together with its 101.
    pub(crate) from_peer: Bytes,
    /// What the client may send.
    pub(crate) client_rules: Rules,
    /// What the upstream may send.
    pub(crate) upstream_rules: Rules,
    pub(crate) times: Times,
    pub(crate) limit: Option<MessageLimit>,
    /// The route's figures, which move while it is open.
    pub(crate) figures: WebSockets,
    /// Its place among the open ones.
    pub(crate) entered: Entered,
    /// Called once, when it has ended.
    pub(crate) closed: Box<dyn FnOnce(End) + Send + Sync>,
}

/// How a WebSocket ended, and what it came to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct End {
    pub(crate) ending: Ending,
    /// From the client.
    pub(crate) inward: Moved,
    /// To the client.
    pub(crate) outward: Moved,
    pub(crate) lasted: Duration,
}

/// So long the upstream may answer what came before edge's Close, until the client is told.
const LAST_ANSWERS: Duration = Duration::from_secs(1);
/// So long edge waits for the other side's Close, and then for the end of its connection.
const FAREWELL: Duration = Duration::from_secs(5);
/// A WebSocket whose client says no more is let go after so much silence of the upstream; a client
/// has as long to take what came before the upstream's Close.
const LINGER: Duration = Duration::from_secs(30);

/// Moves the frames until both sides have ended, or one of them takes too long to.
pub(crate) async fn run(client: Stream, tunnel: Tunnel) {
    let Tunnel {
        peer,
        from_client,
        from_peer,
        client_rules,
        upstream_rules,
        times,
        limit,
        figures,
        entered,
        closed,
    } = tunnel;
    let mut relay = Relay {
        client,
        peer,
        inward: Pump::new(client_rules, from_client),
        outward: Pump::new(upstream_rules, from_peer),
        account: Account::new(times, limit, figures),
        ending: None,
        closing: None,
        alarm: Alarm::default(),
    };
    let told = entered.told();
    poll_fn(|context| {
        told.wake(context.waker());
        Poll::Ready(())
    })
    .await;
    poll_fn(|context| relay.poll(context, told)).await;
    relay.account.tick();
    closed(End {
        ending: relay
            .ending
            .map_or(Ending::ClientClosed, |(ending, _)| ending),
        inward: relay.account.inward,
        outward: relay.account.outward,
        lasted: relay.account.age(),
    });
}

struct Relay {
    client: Stream,
    peer: Stream,
    /// From the client to the peer.
    inward: Pump,
    /// From the peer to the client.
    outward: Pump,
    account: Account,
    /// How it ends, and from when on.
    ending: Option<(Ending, Instant)>,
    /// The Close that edge says to the client.
    closing: Option<Closing>,
    alarm: Alarm,
}

struct Closing {
    code: u16,
    reason: &'static str,
    /// Unless the upstream has said Close before, the client is told now.
    by: Instant,
    told: bool,
}

impl Relay {
    fn poll(&mut self, context: &mut Context<'_>, told: &Told) -> Poll<()> {
        loop {
            let now = self.account.tick();
            let (client, peer) = (&mut self.client, &mut self.peer);
            let _ = self.inward.poll(context, client, peer, &mut self.account);
            let _ = self.outward.poll(context, peer, client, &mut self.account);
            if self.react(now, told) {
                continue;
            }
            if told.to_end() {
                self.last_words(context, now);
                return Poll::Ready(());
            }
            if self.is_over(now) {
                return Poll::Ready(());
            }
            let Some(at) = self.wake_at() else {
                return Poll::Pending;
            };
            // A flood must not keep the clock from being looked at.
            if at > now {
                if self.alarm.is_set(now.into(), at.into()) {
                    return Poll::Pending;
                }
                ready!(self.alarm.poll(context, at.into()));
            }
            self.ring();
        }
    }

    /// Draws the conclusions from what has happened; true if there is more to move now.
    fn react(&mut self, now: Instant, told: &Told) -> bool {
        let fault = self.inward.fault.or(self.outward.fault);
        let drain = (told.to_close() && self.is_open()).then_some(Cause::Draining);
        if self.closing.is_none() {
            if let Some(cause) = fault.or(drain) {
                self.say_close(cause, now);
                return true;
            }
            self.notice(now);
        }
        let silent = self.outward.said.is_some() || self.outward.is_mute();
        if let Some(closing) = &mut self.closing
            && !closing.told
            && (silent || closing.by <= now)
        {
            closing.told = true;
            let close = frame::close(closing.code, closing.reason, None);
            self.outward.close(close);
            return true;
        }
        self.finish()
    }

    /// Has nobody said Close yet? A client that only says no more still hears.
    fn is_open(&self) -> bool {
        matches!(self.ending, None | Some((Ending::ClientClosed, _))) && self.closing.is_none()
    }

    /// Has one of the two sides ended it?
    fn notice(&mut self, now: Instant) {
        let ending = if let Some(code) = self.inward.said {
            // Its Close went on to the upstream, whose answer it gets; if need be, edge's.
            let code = if is_sendable(code) { code } else { 1000 };
            self.closing = Some(Closing {
                code,
                reason: "",
                by: now + FAREWELL,
                told: self.outward.said.is_some(),
            });
            Ending::Said(By::Client, self.inward.said.unwrap_or(code))
        } else if let Some(code) = self.outward.said {
            Ending::Said(By::Upstream, code)
        } else if self.outward.ended {
            // A client is never left without a Close, whatever became of its upstream.
            return self.say_close(Cause::UpstreamClosed, now);
        } else if self.inward.ended {
            self.account.gone();
            Ending::ClientClosed
        } else {
            return;
        };
        self.ending.get_or_insert((ending, now));
    }

    /// edge ends it: the upstream is told at once, the client when the upstream has had its say.
    fn say_close(&mut self, cause: Cause, now: Instant) {
        self.ending.get_or_insert((Ending::Edge(cause), now));
        let key = fastrand::u32(..).to_be_bytes();
        let close = frame::close(cause.code(), cause.reason(), Some(key));
        self.inward.close(close);
        self.outward.keep_close = true;
        let gone = matches!(cause, Cause::UpstreamClosed | Cause::PongTimeout);
        self.closing = Some(Closing {
            code: cause.code(),
            reason: cause.reason(),
            by: if gone { now } else { now + LAST_ANSWERS },
            told: false,
        });
    }

    /// There is no time left: who was not told yet is, if that can be done at once.
    fn last_words(&mut self, context: &mut Context<'_>, now: Instant) {
        if self.is_open() {
            self.say_close(Cause::Draining, now);
        }
        if let Some(closing) = &mut self.closing
            && !closing.told
        {
            closing.told = true;
            let close = frame::close(closing.code, closing.reason, None);
            self.outward.close(close);
        }
        let (client, peer) = (&mut self.client, &mut self.peer);
        let _ = self.inward.poll(context, client, peer, &mut self.account);
        let _ = self.outward.poll(context, peer, client, &mut self.account);
    }

    /// Ends the connections to whom all has been said.
    fn finish(&mut self) -> bool {
        // A server ends the connection once both have said Close (RFC 6455 7.1.1).
        let heard_out = self.inward.said.is_some() || self.inward.is_mute();
        let client = self.outward.is_settled() && (heard_out || self.outward.ended);
        let peer = self.inward.ended;
        let more = (client && !self.outward.finish) || (peer && !self.inward.finish);
        self.outward.finish |= client;
        self.inward.finish |= peer;
        more
    }

    fn is_over(&self, now: Instant) -> bool {
        let client = self.inward.ended && (self.outward.finished || self.outward.broken);
        let peer = self.outward.ended;
        // A client that neither speaks nor hears needs no upstream.
        let alone = self.inward.ended && self.outward.broken && self.inward.finished;
        (client && peer) || alone || self.over_at().is_some_and(|at| at <= now)
    }

    /// When edge waits no longer for anybody.
    fn over_at(&self) -> Option<Instant> {
        let (ending, since) = self.ending?;
        Some(match (&self.closing, ending) {
            (Some(closing), _) => closing.by + FAREWELL,
            // It waits for the client's Close, not for what else the client says.
            (None, Ending::Said(..)) if self.outward.is_behind() => since + LINGER,
            (None, Ending::Said(..)) => since + FAREWELL,
            (None, _) => since.max(self.account.moved_at()) + LINGER,
        })
    }

    fn wake_at(&self) -> Option<Instant> {
        let told = match &self.closing {
            Some(closing) if !closing.told => Some(closing.by),
            _ => self.over_at(),
        };
        let clock = self.account.next().filter(|_| self.is_open());
        told.into_iter().chain(clock).min()
    }

    /// Does what the clock asks for.
    fn ring(&mut self) {
        let now = self.account.tick();
        if !self.is_open() {
            return;
        }
        match self.account.due(self.inward.is_behind()) {
            Some(Due::Ping) => {
                let ping = self.account.ping(self.outward.is_behind());
                self.outward.ping(ping);
            }
            Some(Due::Close(cause)) => self.say_close(cause, now),
            None => {}
        }
    }
}
