//! The way of a request to a peer and of its answer back.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, header};
use pingora::http::ResponseHeader;
use pingora::proxy::Session;
use pingora::{Error, ErrorType, Result};

use super::compressing::{Outlet, at_once};
use super::conversing::{Broken, Clock, Turn, next};
use super::serving::frame;
use super::trying::{Answer, Failure};
use super::upload::Upload;
use super::{Context, Gateway, caching, failing, request};
use crate::conversation::{Conversation, Event};
use crate::refusal::Refusal;
use crate::upstream::Attempt;
use crate::{cache, compression, grpc, respond};

/// A connection from the pool may have been closed meanwhile: so often another one is taken.
const MOST_STALE: usize = 3;
/// A client that is answered before it has sent all may go on for so long, and be heard by nobody.
const LINGER: Duration = Duration::from_secs(1);

impl Gateway {
    /// Asks peers until one answers, and passes its answer on.
    pub(super) async fn proxy(&self, session: &mut Session, context: &mut Context) -> Result<()> {
        let Some(rule) = context.rule() else {
            return context.refuse(session, Refusal::Internal).await;
        };
        let upstream = rule.upstream.clone();
        upstream.budget.request(Instant::now());
        let kept = upstream.config.retry.as_ref().map_or(0, |retry| retry.body);
        let bound = rule.body;
        let mut upload = Upload::new(session, context.connection.clone(), kept, bound);
        let request = request::outgoing(session, context)?;
        let mut stale = 0;
        loop {
            let tried = self.try_peer(session, context, &request, &mut upload);
            let failure = match tried.await {
                Ok(answer) => return self.pass(session, context, answer, upload).await,
                // So many at once are no accident.
                Err(Failure::Stale) if stale == MOST_STALE => Failure::closed(),
                Err(failure) => failure,
            };
            match failure {
                Failure::Stale => {
                    stale += 1;
                    context.exchange.upstream.tried.pop();
                }
                Failure::Unwanted => {}
                failure if self.may_repeat(session, context, &failure, &upload) => {}
                failure => return self.fail(session, context, failure, &upload).await,
            }
            upload.rewind();
        }
    }

    /// No peer has answered: the client is told why.
    async fn fail(
        &self,
        session: &mut Session,
        context: &mut Context,
        failure: Failure,
        upload: &Upload,
    ) -> Result<()> {
        context.exchange.upstream_done();
        let refusal = match failure {
            Failure::Client(error) => return Err(error.into_down()),
            Failure::Peer { refusal, .. } => refusal,
            Failure::Over => failing::late(context),
            Failure::Stale | Failure::Unwanted => Refusal::UpstreamClosed,
        };
        if !upload.has_arrived() {
            session.set_keepalive(None);
        }
        context.refuse(session, refusal).await
    }

    /// Passes an answer on, and what the client still has to say.
    async fn pass(
        &self,
        session: &mut Session,
        context: &mut Context,
        answer: Answer,
        mut upload: Upload,
    ) -> Result<()> {
        let Answer {
            mut attempt,
            mut conversation,
            mut head,
        } = answer;
        upload.forget();
        let bodiless = session.req_header().method == Method::HEAD
            || [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED].contains(&head.status);
        self.dress(session, context, &mut head)?;
        let written = session.write_response_header(head, bodiless).await;
        written.map_err(Error::into_down)?;
        // The time for a try was for the head.
        let mut clock = Clock::of_exchange(context);
        let mut heard: Option<Result<Event>> = None;
        let last = loop {
            let next = match heard.take() {
                Some(event) => event.map(Some).map_err(Broken::Peer),
                None => next(session, context, &mut conversation, &mut clock, &mut upload).await,
            };
            let event = match next {
                Ok(Some(event)) => event,
                Ok(None) => continue,
                Err(broken) => {
                    let error = broken.after_the_head(&mut attempt, &self.metrics);
                    return self.break_off(session, context, error).await;
                }
            };
            match event {
                Event::Body(_) if bodiless => {}
                Event::Body(part) if conversation.is_over() => break Last::Part(part),
                Event::Body(part) => {
                    let writing = context.outlet.write(session, part);
                    let written = clock.run(Turn::Client, writing).await;
                    self.written(written, &mut attempt)?;
                    if context.outlet.holds() {
                        // What follows at once makes it smaller; for more, nobody waits.
                        heard = hear_at_once(&mut conversation).await;
                        if heard.is_none() {
                            let flushing = context.outlet.flush(session);
                            let flushed = clock.run(Turn::Client, flushing).await;
                            self.written(flushed, &mut attempt)?;
                        }
                    }
                }
                Event::Trailers(trailers) if session.downstream_session.is_http2() => {
                    break Last::Trailers(trailers);
                }
                Event::End | Event::Trailers(_) => break Last::Nothing,
                _ => {}
            }
        };
        context.exchange.upstream_done();
        // First, so that the client's next request finds the peer free and its connection in the
        // pool.
        let connector = &self.fetcher.connector;
        conversation.end(connector, &attempt.peer.http).await;
        drop(attempt);
        let late = || Error::explain(ErrorType::ReadTimedout, "the deadline has passed");
        let ending = clock
            .run(
                Turn::Client,
                end(session, &mut context.outlet, last, bodiless),
            )
            .await;
        ending.unwrap_or_else(|_| Err(late().into_up()))?;
        if !upload.has_arrived() {
            linger(session).await;
        }
        Ok(())
    }

    /// What came of a write. Over HTTP/2 nothing but the clock ends one that the client does not
    /// take.
    fn written(&self, written: Result<Result<()>, Broken>, attempt: &mut Attempt) -> Result<()> {
        written.map_err(|broken| broken.after_the_head(attempt, &self.metrics))?
    }

    /// An answer cannot be completed. A call of gRPC is told why, after what it has got already; of
    /// anything else the end must not look like one.
    async fn break_off(
        &self,
        session: &mut Session,
        context: &mut Context,
        error: Box<Error>,
    ) -> Result<()> {
        let is_call = grpc::is_grpc(&session.req_header().headers);
        let refusal = self.refusal(&error, context);
        if !is_call || !session.downstream_session.is_http2() || refusal == Refusal::ClientClosed {
            return Err(error);
        }
        let trailers = respond::trailers(&refusal);
        context.exchange.upstream_done();
        context.exchange.refusal = Some(refusal);
        let written = session.downstream_session.write_response_trailers(trailers);
        written.await.map_err(Error::into_down)
    }

    /// The head as the client sees it. What it says has changed is kept no longer.
    fn dress(
        &self,
        session: &mut Session,
        context: &mut Context,
        head: &mut ResponseHeader,
    ) -> Result<()> {
        self.invalidate(session, context, head);
        let cache_status = caching::passed_by(context);
        if cache_status.is_some() {
            // What the cache kept from clients on its own way is kept from them on this one, too.
            for name in cache::TAG_FIELDS {
                head.remove_header(&name);
            }
        }
        respond::dress(head, &context.exchange, cache_status)?;
        context.compress(session, head, None)?;
        frame(session, head)?;
        context.exchange.status = head.status.as_u16();
        context.connection.keep_date(head.headers.get(header::DATE));
        context.deadline().head_sent();
        Ok(())
    }
}

/// What the peer has said already. That there is room for more of the request, it will say again.
async fn hear_at_once(conversation: &mut Conversation) -> Option<Result<Event>> {
    let heard = at_once(conversation.hear()).await;
    heard.filter(|event| !matches!(event, Ok(Event::Ready)))
}

/// What goes out last.
enum Last {
    Part(Bytes),
    Trailers(HeaderMap),
    Nothing,
}

async fn end(session: &mut Session, outlet: &mut Outlet, last: Last, bodiless: bool) -> Result<()> {
    match last {
        _ if bodiless => Ok(()),
        Last::Part(part) => outlet.finish(session, Some(part)).await,
        Last::Nothing => outlet.finish(session, None).await,
        Last::Trailers(mut trailers) => {
            if outlet.finish_for_trailers(session).await? {
                compression::forget_digests(&mut trailers);
            }
            let written = session.downstream_session.write_response_trailers(trailers);
            written.await.map_err(Error::into_down)
        }
    }
}

/// A connection that is closed while its client sends would lose the answer on its way.
async fn linger(session: &mut Session) {
    if !session.downstream_session.is_http2() {
        session.set_total_drain_timeout(Some(LINGER));
        // What does not come is not missed.
        let _ = session.drain_request_body().await;
    }
}
