//! Listens to a peer and to the client at once, against the clocks.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{StatusCode, Version};
use pingora::http::ResponseHeader;
use pingora::proxy::Session;
use pingora::{Error, ErrorType, Result};
use tokio::time::{Instant, sleep_until};

use super::Held;
use super::upload::Upload;
use crate::connection::Connection;
use crate::conversation::{Conversation, Event};
use crate::metrics::Metrics;
use crate::upstream::{self, Attempt, Verdict};

/// Why a conversation broke off.
pub(super) enum Broken {
    /// The peer's doing.
    Peer(Box<Error>),
    /// The client's.
    Client(Box<Error>),
    /// The time for a try is over.
    Late,
    /// The time for the whole exchange is; who was waited for.
    Over(Turn),
}

/// Who is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    Client,
    Peer,
}

impl Broken {
    /// The head is on its way: what failed ends the client's connection, too.
    pub(super) fn after_the_head(self, attempt: &mut Attempt, metrics: &Metrics) -> Box<Error> {
        match self {
            Self::Client(error) => error.into_down(),
            Self::Peer(error) => {
                attempt.judge(Verdict::Bad);
                metrics.count_failure(&attempt.upstream.name, &upstream::refusal(&error));
                error.into_up()
            }
            Self::Late | Self::Over(_) => {
                // Who says no more in time has not answered well, if he has not failed either.
                attempt.forget();
                Error::explain(ErrorType::ReadTimedout, "the deadline has passed").into_up()
            }
        }
    }
}

/// The clocks of one try: the exchange's own deadline, and the time for this try.
pub(super) struct Clock {
    connection: Arc<Connection>,
    time: Option<Duration>,
    by: Option<Instant>,
}

impl Clock {
    pub(super) fn of(context: &Held) -> Self {
        let time = context.rule().and_then(|rule| rule.timeout.attempt);
        Self {
            connection: context.connection.clone(),
            time,
            by: time.map(|time| Instant::now() + time),
        }
    }

    /// The exchange's deadline alone.
    pub(super) fn of_exchange(context: &Held) -> Self {
        Self {
            connection: context.connection.clone(),
            time: None,
            by: None,
        }
    }

    /// What is left for this try.
    pub(super) fn left(&self) -> Option<Duration> {
        self.by
            .map(|by| by.saturating_duration_since(Instant::now()))
    }

    /// The client has just sent more: nobody else is slow.
    fn start_again(&mut self) {
        self.by = self.time.map(|time| Instant::now() + time);
    }

    /// What the future comes to, unless time is over before. While the client is waited for, no
    /// time passes for the peer.
    pub(super) async fn run<F: Future>(&self, turn: Turn, future: F) -> Result<F::Output, Broken> {
        let by = self.by.filter(|_| turn == Turn::Peer);
        let late = async {
            match by {
                Some(by) => sleep_until(by).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            output = future => Ok(output),
            () = self.connection.deadline.passes() => Err(Broken::Over(turn)),
            () = late => Err(Broken::Late),
        }
    }
}

/// Waits for the head of the answer; interim answers are passed on.
pub(super) async fn hear_head(
    session: &mut Session,
    context: &mut Held,
    conversation: &mut Conversation,
    clock: &mut Clock,
    upload: &mut Upload,
) -> Result<Box<ResponseHeader>, Broken> {
    loop {
        match next(session, context, conversation, clock, upload).await? {
            None => {}
            Some(Event::Head(head)) => return Ok(head),
            Some(Event::Interim(head)) => {
                if head.status == StatusCode::CONTINUE {
                    upload.invite();
                }
                let passing = pass_interim(session, head);
                clock.run(Turn::Client, passing).await??;
            }
            Some(_) => {
                let error = Error::explain(ErrorType::InvalidHTTPHeader, "no head");
                return Err(Broken::Peer(error));
            }
        }
    }
}

/// A client of HTTP/1.0 does not know them (RFC 9110 15.2), and Pingora cannot say them over HTTP/2.
async fn pass_interim(session: &mut Session, mut head: Box<ResponseHeader>) -> Result<(), Broken> {
    if session.req_header().version == Version::HTTP_11 {
        head.set_version(Version::HTTP_11);
        let written = session.write_response_header(head, false).await;
        written.map_err(Broken::Client)?;
    }
    Ok(())
}

/// Either side.
enum Next {
    Heard(Result<Event>),
    Read(Result<Option<Bytes>>),
}

/// What the peer says next; `None`: the client said something, and the peer has been told, or
/// can be told more.
pub(super) async fn next(
    session: &mut Session,
    context: &mut Held,
    conversation: &mut Conversation,
    clock: &mut Clock,
    upload: &mut Upload,
) -> Result<Option<Event>, Broken> {
    let listens = upload.has_ended() || conversation.takes_more();
    // A small body is sent before an answer is looked for: a peer that does not wait for it must
    // not cost the client its connection. A large one does not keep an early answer waiting.
    let client_first = listens && !upload.has_ended() && upload.is_small();
    let turn = match listens && upload.is_awaited() {
        true => Turn::Client,
        false => Turn::Peer,
    };
    let either = async {
        if client_first {
            tokio::select! {
                biased;
                part = upload.read(session) => Next::Read(part),
                event = conversation.hear() => Next::Heard(event),
            }
        } else {
            tokio::select! {
                biased;
                event = conversation.hear() => Next::Heard(event),
                part = upload.read(session), if listens => Next::Read(part),
            }
        }
    };
    let said = match clock.run(turn, either).await? {
        // There is room again for what the client says.
        Next::Heard(Ok(Event::Ready)) => return Ok(None),
        Next::Heard(event) => return event.map(Some).map_err(Broken::Peer),
        Next::Read(Err(error)) => return Err(Broken::Client(error)),
        Next::Read(Ok(part)) => {
            clock.start_again();
            let ends = part.is_none() || upload.ends_here();
            if ends {
                context.exchange.body_arrived = true;
                context.deadline().body_arrived();
            }
            let saying = async {
                if let Some(part) = part {
                    conversation.say(part).await?;
                }
                match ends {
                    true => conversation.finish().await,
                    false => Ok(()),
                }
            };
            clock.run(Turn::Peer, saying).await?
        }
    };
    if said.is_err() {
        // Why it takes no more, it may say in its answer.
        conversation.fall_silent();
    }
    Ok(None)
}

/// Waits until the client has gone; where its body is still to come, that is told elsewhere.
pub(super) async fn gone(session: &mut Session, arrived: bool) -> Box<Error> {
    if !arrived {
        return std::future::pending().await;
    }
    loop {
        let idle = session.downstream_session.read_body_or_idle(true);
        if let Err(error) = idle.await {
            return error;
        }
    }
}
