//! One try at a peer, up to the head of its answer, and whether there may be another.

use std::time::{Duration, Instant};

use pingora::RetryType;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::http::client::HttpSession;
use pingora::proxy::Session;
use pingora::{Error, ErrorSource, Result};

use super::conversing::{Broken, Clock, Turn, gone, hear_head};
use super::upload::Upload;
use super::{Context, Gateway, Held, is_over};
use crate::conversation::Conversation;
use crate::deadline::Expired;
use crate::refusal::Refusal;
use crate::retry::{Failed, Sent};
use crate::upstream::{self, Attempt, Verdict};

/// An answer that begins.
pub(super) struct Answer {
    pub(super) attempt: Attempt,
    pub(super) conversation: Conversation,
    pub(super) head: Box<ResponseHeader>,
}

/// Why there is none.
pub(super) enum Failure {
    /// The peer failed, or there is none.
    Peer {
        refusal: Refusal,
        failed: Failed,
        /// Has a byte of the request been sent?
        sent: bool,
    },
    /// The connection came from the pool and had been closed meanwhile: that says nothing against
    /// the peer.
    Stale,
    /// It is to be repeated elsewhere: its status is one of those that are.
    Unwanted,
    /// The client went, or what it sends is no body.
    Client(Box<Error>),
    /// A clock of the request's has run out while the client was waited for.
    Over,
}

impl Failure {
    /// Time is over, and it was not the client who was waited for.
    fn out_of_time(sent: bool) -> Self {
        Self::Peer {
            refusal: Refusal::ResponseTimeout,
            failed: Failed::Other,
            sent,
        }
    }

    /// The peer closed the connection before it answered.
    pub(super) fn closed() -> Self {
        Self::Peer {
            refusal: Refusal::UpstreamClosed,
            failed: Failed::Closed,
            sent: true,
        }
    }
}

impl Gateway {
    /// One try: to the head of an answer.
    pub(super) async fn try_peer(
        &self,
        session: &mut Session,
        context: &mut Context,
        request: &RequestHeader,
        upload: &mut Upload,
    ) -> Result<Answer, Failure> {
        let mut attempt = self.begin(session, context, upload).await?;
        let mut clock = Clock::of(context);
        let (http, reused) = self.connect(context, &clock, &mut attempt).await?;
        let own = Box::new(request.clone());
        let secure = attempt.peer.http.is_tls();
        let beginning = Conversation::begin(http, own, secure, upload.is_empty());
        let conversation = match clock.run(Turn::Peer, beginning).await {
            Ok(Ok(conversation)) => Ok(conversation),
            // What cannot be said to a peer is not its fault.
            Ok(Err(error)) if *error.esource() == ErrorSource::Downstream => {
                Err(Broken::Client(error))
            }
            Ok(Err(error)) => Err(Broken::Peer(error)),
            Err(broken) => Err(broken),
        };
        let heard = match conversation {
            Ok(mut conversation) => {
                let heard = hear_head(session, context, &mut conversation, &mut clock, upload);
                heard.await.map(|head| (conversation, head))
            }
            Err(broken) => Err(broken),
        };
        let (conversation, head) = match heard {
            Ok(heard) => heard,
            Err(broken) => {
                return Err(self.judge(session, context, attempt, broken, reused, upload));
            }
        };
        attempt.answered(head.status);
        let answer = Answer {
            attempt,
            conversation,
            head,
        };
        match self.is_unwanted(session, context, &answer, upload) {
            true => Err(Failure::Unwanted),
            false => Ok(answer),
        }
    }

    /// Chooses a peer, once there is a place for one more request.
    async fn begin(
        &self,
        session: &mut Session,
        context: &mut Context,
        upload: &Upload,
    ) -> Result<Attempt, Failure> {
        let rule = context.rule();
        let upstream = rule.map(|rule| rule.upstream.clone());
        let none = |refusal| Failure::Peer {
            refusal,
            failed: Failed::Other,
            sent: false,
        };
        let upstream = upstream.ok_or_else(|| none(Refusal::Internal))?;
        let key = upstream.key(&context.exchange.client, &session.req_header().headers);
        let tried = &context.exchange.upstream.tried;
        let arrived = upload.has_arrived();
        let attempt = tokio::select! {
            biased;
            attempt = upstream.begin(tried, key.as_deref()) => attempt.map_err(none)?,
            () = context.connection.deadline.passes() => return Err(Failure::out_of_time(false)),
            error = gone(session, arrived) => return Err(Failure::Client(error)),
        };
        let spent = &mut context.exchange.upstream;
        spent.began.get_or_insert_with(Instant::now);
        spent.tried.push(attempt.peer.address);
        Ok(attempt)
    }

    /// Connects, or takes a connection from the pool; tells whether it did.
    async fn connect(
        &self,
        context: &Held,
        clock: &Clock,
        attempt: &mut Attempt,
    ) -> Result<(HttpSession, bool), Failure> {
        let connect = context
            .rule()
            .map_or(Duration::ZERO, |rule| context.connect_within(&rule.timeout));
        let connect = clock.left().map_or(connect, |left| left.min(connect));
        let connecting = self.fetcher.connector.get_http_session(&attempt.peer.http);
        let refusal = match tokio::time::timeout(connect, connecting).await {
            Ok(Ok(connected)) => return Ok(connected),
            Ok(Err(error)) => {
                let upstream = &attempt.upstream.name;
                tracing::debug!(upstream, peer = attempt.peer.name, %error, "connect_failed");
                upstream::refusal(&error)
            }
            Err(_) if is_over(context) => return Err(Failure::out_of_time(false)),
            Err(_) => Refusal::ConnectTimeout,
        };
        attempt.judge(Verdict::without_answer(&refusal));
        self.metrics.count_failure(&attempt.upstream.name, &refusal);
        Err(Failure::Peer {
            refusal,
            failed: Failed::Connect,
            sent: false,
        })
    }

    /// What a conversation that broke off says of the peer, and for the request.
    fn judge(
        &self,
        session: &Session,
        context: &Held,
        mut attempt: Attempt,
        broken: Broken,
        reused: bool,
        upload: &Upload,
    ) -> Failure {
        let (refusal, failed) = match broken {
            Broken::Client(error) => return Failure::Client(error),
            // Whoever waits for the client is not at fault.
            Broken::Over(Turn::Client) => return Failure::Over,
            // Nor is, for certain, whoever was slow when the time for the client's body was over.
            Broken::Over(Turn::Peer) if is_late_body(context) => return Failure::out_of_time(true),
            Broken::Over(Turn::Peer) => (Refusal::ResponseTimeout, Failed::Other),
            Broken::Late => (Refusal::TryTimeout, Failed::Timeout),
            Broken::Peer(mut error) => {
                let untouched = matches!(error.retry, RetryType::Decided(true));
                let idempotent = session.req_header().method.is_idempotent();
                error.retry.decide_reuse(reused);
                let repeatable = (untouched || idempotent) && upload.is_kept();
                if error.retry() && repeatable && !is_over(context) {
                    return Failure::Stale;
                }
                let refusal = upstream::refusal(&error);
                if error.retry() {
                    // That the connection had been closed meanwhile says nothing against the peer.
                    self.metrics.count_failure(&attempt.upstream.name, &refusal);
                    return Failure::closed();
                }
                (refusal, Failed::Closed)
            }
        };
        attempt.judge(Verdict::without_answer(&refusal));
        self.metrics.count_failure(&attempt.upstream.name, &refusal);
        Failure::Peer {
            refusal,
            failed,
            sent: true,
        }
    }

    /// Is this an answer that is asked for again elsewhere?
    fn is_unwanted(
        &self,
        session: &Session,
        context: &Held,
        answer: &Answer,
        upload: &Upload,
    ) -> bool {
        let failed = Failed::Status(answer.head.status.as_u16());
        let wanted = context
            .rule()
            .and_then(|rule| rule.upstream.config.retry.as_ref());
        let status = answer.head.status.as_u16();
        // Asked first: what is repeated is counted.
        wanted.is_some_and(|retry| retry.on.statuses.contains(&status))
            && self.may_send_again(session, context, failed, true, upload)
    }

    /// May the request be sent to another peer after this? If so, that is counted.
    pub(super) fn may_repeat(
        &self,
        session: &Session,
        context: &Held,
        failure: &Failure,
        upload: &Upload,
    ) -> bool {
        match failure {
            Failure::Peer { failed, sent, .. } => {
                self.may_send_again(session, context, *failed, *sent, upload)
            }
            _ => false,
        }
    }

    /// May the request be sent to another peer? If so, that is counted.
    fn may_send_again(
        &self,
        session: &Session,
        context: &Held,
        failed: Failed,
        sent: bool,
        upload: &Upload,
    ) -> bool {
        let Some(rule) = context.rule().filter(|_| !is_over(context)) else {
            return false;
        };
        let sent = Sent {
            idempotent: session.req_header().method.is_idempotent(),
            anything: sent,
            body_kept: upload.is_kept(),
            answered: false,
        };
        rule.upstream
            .may_repeat(failed, &sent, &context.exchange.upstream.tried)
    }
}

/// Has the time for the request's body run out?
fn is_late_body(context: &Held) -> bool {
    context.deadline().expired() == Some(Expired::Body)
}
