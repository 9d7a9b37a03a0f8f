//! How a request becomes a WebSocket: the peer is asked first, and the client learns 101 only
//! after the peer has said so.

use std::time::Instant;

use bytes::Bytes;
use http::StatusCode;
use http::header::{self, HeaderName};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::http::v1::client::HttpSession;
use pingora::proxy::Session;
use pingora::{Error, ErrorType, Result};
use prometheus::IntGauge;

use super::record::Record;
use super::serving::frame;
use super::{Context, Gateway, Held, in_time, request};
use crate::handshake::{self, Answer, Asked, Opened};
use crate::metrics::WebSockets;
use crate::refusal::Refusal;
use crate::tunnel::{End, MessageLimit, Tunnel};
use crate::upstream::Attempt;
use crate::websocket::{Offers, Place, Settings};
use crate::{forward, respond};

impl Gateway {
    /// Asks a peer to become a WebSocket; the client learns 101 only after the peer has said so.
    pub(super) async fn upgrade(
        &self,
        session: &mut Session,
        context: &mut Context,
        place: Place,
    ) -> Result<()> {
        let mut request = Box::new(session.req_header().clone());
        for name in forward::hop_by_hop(&request.headers) {
            if !is_of_handshake(&name) {
                request.remove_header(&name);
            }
        }
        request::forward(&mut request, context)?;
        request.insert_header(header::CONNECTION, "Upgrade")?;
        request.insert_header(header::UPGRADE, "websocket")?;
        match self.ask_peer(request, context).await {
            Ok((attempt, Answer::Switched { head, opened })) => {
                let held = (place, attempt);
                self.open(session, context, head, opened, held).await
            }
            Ok((
                _attempt,
                Answer::Other {
                    head,
                    session: peer,
                },
            )) => pass_through(session, context, head, peer).await,
            Err(refusal) => {
                let route = context.plan.figures(&context.exchange);
                self.metrics.websocket_refused(route, &refusal);
                context.refuse(session, refusal).await
            }
        }
    }

    async fn ask_peer(
        &self,
        mut request: Box<RequestHeader>,
        context: &mut Context,
    ) -> Result<(Attempt, Answer), Refusal> {
        let left = context.deadline().left();
        let timeout = &context.rule().ok_or(Refusal::Internal)?.timeout;
        let connect = context.connect_within(timeout);
        let Held { exchange, plan, .. } = &mut **context;
        let rule = plan.rule(exchange).ok_or(Refusal::Internal)?;
        let websocket = rule.websocket.as_ref().ok_or(Refusal::Internal)?;
        let offers = websocket.settings.offers(&request.headers);
        offer(&mut request, &offers).map_err(|_| Refusal::Internal)?;
        let upstream = &rule.upstream;
        exchange.upstream.began = Some(Instant::now());
        let key = upstream.key(&exchange.client, &request.headers);
        let mut asked = Asked {
            tried: &mut exchange.upstream.tried,
            key: key.as_deref(),
            connect,
            attempt: rule.timeout.attempt,
            by: left.map(|left| Instant::now() + left),
            metrics: &self.metrics,
        };
        let asking = handshake::ask(&self.connector, upstream, &mut asked, &request, &offers);
        let answer = in_time(left, asking).await;
        let answer = answer.unwrap_or(Err(Refusal::ResponseTimeout));
        exchange.upstream_done();
        answer
    }

    /// Tells the client 101 and hands both streams over to the tunnel.
    async fn open(
        &self,
        session: &mut Session,
        context: &mut Context,
        mut head: Box<ResponseHeader>,
        opened: Opened,
        held: (Place, Attempt),
    ) -> Result<()> {
        // What a client does not take ends at the deadline, its connection with it.
        context.deadline().head_sent();
        context.exchange.status = StatusCode::SWITCHING_PROTOCOLS.as_u16();
        for name in forward::hop_by_hop(&head.headers) {
            head.remove_header(&name);
        }
        respond::dress(&mut head, &context.exchange, None)?;
        head.insert_header(header::CONNECTION, "Upgrade")?;
        head.insert_header(header::UPGRADE, "websocket")?;
        // An interim answer has no body (RFC 9110 8.6, RFC 9112 6.1).
        head.remove_header(&header::CONTENT_LENGTH);
        head.remove_header(&header::TRANSFER_ENCODING);
        session
            .write_response_header(head, false)
            .await
            .map_err(Error::into_down)?;
        context.deadline().stop();
        let from_client = handshake::if_ready(session.downstream_session.read_request_body()).await;
        let from_client = from_client
            .and_then(Result::ok)
            .flatten()
            .unwrap_or_default();
        let tunnel = self.tunnel(session, context, opened, from_client, held);
        if let Some(tunnel) = tunnel {
            context.connection.hand_over(tunnel);
        }
        Ok(())
    }

    fn tunnel(
        &self,
        session: &Session,
        context: &Held,
        opened: Opened,
        from_client: Bytes,
        held: (Place, Attempt),
    ) -> Option<Tunnel> {
        let rule = context.rule()?;
        let websocket = rule.websocket.as_ref()?;
        let figures = rule.figures.websockets.clone()?;
        let messages = websocket.messages.clone();
        Some(Tunnel {
            peer: opened.peer,
            from_client,
            from_peer: opened.early,
            client_rules: websocket.settings.client_rules(opened.compressed),
            upstream_rules: Settings::upstream_rules(opened.compressed),
            times: websocket.settings.times,
            limit: messages.map(|clients| MessageLimit {
                clients,
                key: context.exchange.client.key,
                epoch: self.started,
            }),
            closed: self.closed(session, context, &figures, held),
            figures,
            entered: self.sockets.enter(),
        })
    }

    /// Counts a WebSocket as open, and what is to be done when it has ended.
    fn closed(
        &self,
        session: &Session,
        context: &Held,
        figures: &WebSockets,
        held: (Place, Attempt),
    ) -> Box<dyn FnOnce(End) + Send + Sync> {
        figures.opened.inc();
        let open = Open::new(figures.open.clone());
        let lifetime = figures.lifetime.clone();
        let record = Record::new(session, context);
        let (log, metrics) = (context.plan.log.clone(), self.metrics.clone());
        Box::new(move |end: End| {
            drop((open, held));
            lifetime.observe(end.lasted.as_secs_f64());
            metrics.websocket_closed(&record.route, end.ending);
            log.write(&record.closed(end));
        })
    }
}

/// Fields that were judged when the handshake was let in: `Connection` must not hide them from
/// the upstream.
fn is_of_handshake(name: &HeaderName) -> bool {
    name == header::ORIGIN || name.as_str().starts_with("sec-websocket-")
}

/// The request offers the upstream this, and no other subprotocol and extension.
fn offer(request: &mut RequestHeader, offers: &Offers) -> Result<()> {
    for (name, offer) in [
        (header::SEC_WEBSOCKET_PROTOCOL, &offers.subprotocols),
        (header::SEC_WEBSOCKET_EXTENSIONS, &offers.extensions),
    ] {
        match offer {
            Some(offer) => request.insert_header(name, offer)?,
            None => drop(request.remove_header(&name)),
        }
    }
    Ok(())
}

/// Counts a WebSocket as open for as long as it lives.
struct Open(IntGauge);

impl Open {
    fn new(count: IntGauge) -> Self {
        count.inc();
        Self(count)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// A refused upgrade is an answer like any other: it passes through, within the deadline.
async fn pass_through(
    session: &mut Session,
    context: &mut Context,
    mut head: Box<ResponseHeader>,
    mut peer: Box<HttpSession>,
) -> Result<()> {
    for name in forward::hop_by_hop(&head.headers) {
        head.remove_header(&name);
    }
    context.exchange.status = head.status.as_u16();
    respond::dress(&mut head, &context.exchange, None)?;
    frame(session, &mut head)?;
    context.deadline().head_sent();
    let left = context.deadline().left();
    let passing = async {
        session
            .write_response_header(head, false)
            .await
            .map_err(Error::into_down)?;
        while let Some(chunk) = peer
            .read_body_bytes()
            .await
            .map_err(|error| error.into_up())?
        {
            session
                .write_response_body(Some(chunk), false)
                .await
                .map_err(Error::into_down)?;
        }
        session
            .write_response_body(None, true)
            .await
            .map_err(Error::into_down)
    };
    let late = || Err(Error::new(ErrorType::ReadTimedout).into_up());
    let passed = in_time(left, passing).await.unwrap_or_else(late);
    context.exchange.upstream_done();
    passed
}
