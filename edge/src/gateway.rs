//! The way of a request through edge, from top to bottom: a method a phase, a line a step, in the
//! order in which Pingora calls them.

mod authenticating;
mod caching;
mod compressing;
mod conversing;
mod dressing;
mod failing;
mod form;
mod inquiry;
mod proxying;
mod record;
mod request;
mod serving;
mod trying;
mod upgrade;
mod upload;

use std::net::{IpAddr, Ipv4Addr};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use http::Method;
use pingora::connectors::TransportConnector;
use pingora::modules::http::HttpModules;
use pingora::proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorType, Result};

use crate::access_log::Line;
use crate::client::Client;
use crate::config::Timeout;
use crate::connection::Connection;
use crate::deadline::Deadline;
use crate::exchange::Exchange;
use crate::fetch::Fetcher;
use crate::limit::Decision;
use crate::metrics::Metrics;
use crate::plan::{InForce, Plan, Rule};
use crate::refusal::Refusal;
use crate::route::Path;
use crate::sockets::Sockets;
use crate::websocket::Place;
use crate::{cors, forward, grpc, limit, respond, websocket};
use compressing::Outlet;
use request::{host_of, path_of, site};

/// All that the steps need: the plan, what stays whatever the plan says, and the record.
pub(crate) struct Gateway {
    /// Limits count their time from here.
    pub(crate) started: Instant,
    pub(crate) plan: Arc<InForce>,
    /// The cache: what is kept, and what is being fetched for it.
    pub(crate) fetcher: Arc<Fetcher>,
    /// For WebSockets, whose connections are never shared.
    pub(crate) connector: TransportConnector,
    /// The open WebSockets.
    pub(crate) sockets: Arc<Sockets>,
    pub(crate) metrics: Arc<Metrics>,
    /// Stands in for a request's connection until that is known.
    pub(crate) nowhere: Arc<Connection>,
    /// Is edge ending?
    pub(crate) draining: tokio::sync::watch::Receiver<bool>,
}

/// What edge holds for one request while Pingora works on it. Boxed: Pingora moves it about, and
/// its own futures are as large as what they hold.
pub(crate) struct Context(Box<Held>);

/// See [`Context`].
pub(crate) struct Held {
    exchange: Exchange,
    connection: Arc<Connection>,
    /// What was in force when the head had arrived is what holds for this request to its end.
    plan: Arc<Plan>,
    /// Where the answer's body goes.
    outlet: Outlet,
    /// Does it go as it is because too many are being compressed?
    crowded: bool,
}

impl Deref for Context {
    type Target = Held;

    fn deref(&self) -> &Held {
        &self.0
    }
}

impl DerefMut for Context {
    fn deref_mut(&mut self) -> &mut Held {
        &mut self.0
    }
}

impl Held {
    fn deadline(&self) -> &Deadline {
        &self.connection.deadline
    }

    fn rule(&self) -> Option<&Rule> {
        self.plan.rule(&self.exchange)
    }

    /// How long a connection to a peer may take: never longer than is left for the answer.
    fn connect_within(&self, timeout: &Timeout) -> Duration {
        let left = self.deadline().left();
        left.map_or(timeout.connect, |left| left.min(timeout.connect))
    }

    /// Every answer of edge's own: it has a clock of its own, too.
    async fn refuse(&mut self, session: &mut Session, refusal: Refusal) -> Result<()> {
        self.deadline().answer_now();
        if session.is_http2() {
            let left = self.deadline().left();
            let write = self.plan.config.timeout.write;
            session.set_write_timeout(left.into_iter().chain(write).min());
        }
        self.connection.keep_date(None);
        respond::refuse(session, refusal, &mut self.exchange).await
    }
}

/// How an admitted request goes on.
enum Passage {
    /// To its answer, which edge gives.
    Preflight,
    Forward,
    /// With a place among the open WebSockets.
    Upgrade(Place),
}

impl Gateway {
    /// Who asks, under which request id, and for how long the connection may be kept.
    fn receive(&self, session: &mut Session, context: &mut Context) {
        context.connection = Connection::of(session.stream()).unwrap_or_default();
        context.connection.exchange_begins();
        if context.connection.secure {
            context.exchange.scheme = "https";
        }
        let context = &mut **context;
        let exchange = &mut context.exchange;
        if let Some(peer) = session.client_addr().and_then(|address| address.as_inet()) {
            exchange.peer = peer.ip().to_canonical();
        }
        let headers = &session.req_header().headers;
        let trust = &context.plan.config.server.trust;
        exchange.client = trust.identify(exchange.peer, headers);
        let received = forward::received_id(headers).filter(|_| trust.trusts(exchange.peer));
        exchange.id = received.map_or_else(new_id, str::to_owned);
        exchange.body_arrived = session.downstream_session.is_body_empty();
        if *self.draining.borrow() {
            session.set_keepalive(None);
        }
        // A client that sends its next request early must not lose the answer to this one; the
        // requests are still served one after the other (RFC 9112 9.3.2).
        session.downstream_session.set_pipelining_enabled(true);
    }

    fn start_clocks(session: &mut Session, context: &Held) {
        let exchange = &context.exchange;
        if let Some(rule) = context.rule() {
            let body = rule.timeout.body.filter(|_| !exchange.body_arrived);
            let headers = &session.req_header().headers;
            // A client that has given up waits for nothing; but it cannot wait longer than may be.
            let call = grpc::timeout(headers).filter(|_| grpc::is_grpc(headers));
            let response = rule.timeout.response.into_iter().chain(call).min();
            context.deadline().start(exchange.began, response, body);
            let pace = rule.timeout.body_rate.filter(|_| !exchange.body_arrived);
            context.deadline().keep_pace(pace);
            // Of a stream of HTTP/2; what a connection takes, the connection sees itself.
            let write = context.plan.config.timeout.write;
            let write = write.filter(|_| session.is_http2());
            session.set_write_timeout(response.into_iter().chain(write).min());
            // edge's own clocks run from here on.
            session.set_read_timeout(None);
        }
    }

    /// From the cache, or from a peer.
    async fn answer(&self, session: &mut Session, context: &mut Context) -> Result<()> {
        let caches = context.rule().is_some_and(|rule| rule.cache.is_some());
        // Boxed: a request that only passes does not carry what the cache needs.
        if caches && Box::pin(self.answer_cached(session, context)).await? {
            return Ok(());
        }
        self.proxy(session, context).await
    }

    /// The door. An `Err` is the answer that edge gives itself.
    async fn admit(&self, session: &mut Session, context: &mut Held) -> Result<Passage, Refusal> {
        self.find_route(session, context)?;
        Self::choose_dressing(session, context);
        self.let_in(session, context)?;
        if Self::is_own_preflight(session, context)? {
            return Ok(Passage::Preflight);
        }
        self.limit(session, context)?;
        if context.rule().is_some_and(|rule| rule.auth.is_some()) {
            // Boxed: a route that is for everybody does not carry it.
            Box::pin(self.authenticate(session, context)).await?;
        }
        self.pass_on(session, context)
    }

    /// Which route is it for?
    fn find_route(&self, session: &mut Session, context: &mut Held) -> Result<(), Refusal> {
        Self::form(session, context)?;
        Self::disown(session, context);
        let (plan, exchange) = (&context.plan, &mut context.exchange);
        let request = session.req_header();
        let host = host_of(request).ok_or(Refusal::BadHost)?;
        let path = Path::read(path_of(request).ok_or(Refusal::BadPath)?)?;
        let asked_for = |method: &Method| plan.routes.find(host, &path, method);
        // A preflight is for the route of the request that shall follow, if that speaks of CORS.
        let preflight = limit::is_preflight(&request.method, &request.headers);
        let wanted = preflight.then(|| cors::requested_method(&request.headers));
        let wanted = wanted.flatten().and_then(|method| asked_for(&method).ok());
        let speaks = |route: &usize| {
            plan.rules
                .get(*route)
                .is_some_and(|rule| rule.cors.is_some())
        };
        exchange.route = Some(match wanted.filter(speaks) {
            Some(route) => route,
            None => asked_for(&request.method)?,
        });
        Ok(())
    }

    /// Does the route let this address in?
    fn let_in(&self, session: &Session, context: &Held) -> Result<(), Refusal> {
        let rule = context.rule().ok_or(Refusal::Internal)?;
        if form::says_too_much(&session.req_header().headers, rule.body) {
            return Err(Refusal::BodyTooLarge);
        }
        let permitted = rule.addresses.permits(context.exchange.client.address);
        permitted.then_some(()).ok_or(Refusal::AddressNotAllowed)
    }

    /// Within the limits that count before it is known who asks?
    fn limit(&self, session: &Session, context: &Held) -> Result<(), Refusal> {
        let (request, exchange) = (session.req_header(), &context.exchange);
        let rule = context.rule().ok_or(Refusal::Internal)?;
        let now = exchange.began.saturating_duration_since(self.started);
        let taken = rule.limits.take(exchange.client, &request.headers, now)?;
        if taken == Decision::Allowed {
            rule.figures.limit_allowed();
        }
        Ok(())
    }

    /// As a request, or as a WebSocket?
    fn pass_on(&self, session: &Session, context: &Held) -> Result<Passage, Refusal> {
        let (request, exchange) = (session.req_header(), &context.exchange);
        let rule = context.rule().ok_or(Refusal::Internal)?;
        if !websocket::asks(request.version, &request.headers) {
            return Ok(Passage::Forward);
        }
        let websocket = rule.websocket.as_ref();
        let websocket = websocket.ok_or(Refusal::UpgradeNotAllowed)?;
        let (method, headers) = (&request.method, &request.headers);
        let asked = site(request, context);
        websocket.settings.permit(method, headers, asked)?;
        if *self.draining.borrow() {
            return Err(Refusal::Draining);
        }
        let place = websocket.places.take(exchange.client.key)?;
        Ok(Passage::Upgrade(place))
    }
}

#[async_trait]
impl ProxyHttp for Gateway {
    type CTX = Context;

    fn new_ctx(&self) -> Context {
        let nobody = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let exchange = Exchange::begin(
            String::new(),
            nobody,
            Client {
                address: nobody,
                key: 0,
            },
            "http",
        );
        Context(Box::new(Held {
            exchange,
            connection: self.nowhere.clone(),
            plan: self.plan.load_full(),
            outlet: Outlet::default(),
            crowded: false,
        }))
    }

    /// Pingora's modules (compression) are not used; each would cost a call for each request.
    fn init_downstream_modules(&self, _: &mut HttpModules) {}

    /// 1. A head has arrived: the door, then the cache, then a peer.
    async fn request_filter(&self, session: &mut Session, context: &mut Context) -> Result<bool> {
        self.receive(session, context);
        let answered = match self.admit(session, context).await {
            Ok(Passage::Forward) => {
                Self::start_clocks(session, context);
                self.answer(session, context).await
            }
            Ok(Passage::Preflight) => self.answer_preflight(session, context).await,
            Ok(Passage::Upgrade(place)) => {
                Self::start_clocks(session, context);
                // Boxed: every request's future would be as large as an upgrade's.
                Box::pin(self.upgrade(session, context, place)).await
            }
            Err(refusal) => {
                if refusal == Refusal::BodyTooLarge {
                    // It is not waited for.
                    session.set_keepalive(None);
                }
                let request = session.req_header();
                if websocket::asks(request.version, &request.headers) {
                    let route = context.plan.figures(&context.exchange);
                    self.metrics.websocket_refused(route, &refusal);
                }
                context.refuse(session, refusal).await
            }
        };
        answered.map(|()| true)
    }

    /// Never asked: every request has its answer by now.
    async fn upstream_peer(&self, _: &mut Session, _: &mut Context) -> Result<Box<HttpPeer>> {
        Error::e_explain(ErrorType::InternalError, "an answer was forgotten")
    }

    /// 2. It failed: the one place where that becomes an answer.
    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &Error,
        context: &mut Context,
    ) -> FailToProxy {
        let error_code = self.answer_failure(session, error, context).await;
        FailToProxy {
            error_code,
            can_reuse_downstream: false,
        }
    }

    /// 3. The record.
    async fn logging(&self, session: &mut Session, _: Option<&Error>, context: &mut Context) {
        context.deadline().stop();
        context.connection.exchange_ends();
        context.exchange.upstream_done();
        let (bytes_in, bytes_out) = (
            session.body_bytes_read() as u64,
            session.body_bytes_sent() as u64,
        );
        let (plan, exchange) = (&context.plan, &context.exchange);
        let method = &session.req_header().method;
        self.metrics.count(
            plan.figures(exchange),
            exchange,
            method,
            bytes_in,
            bytes_out,
        );
        if context.crowded {
            self.metrics.compression_skipped.inc();
        }
        if let Some(done) = context.outlet.compressed() {
            self.metrics
                .compressed(done.encoding, done.taken, done.given);
        }
        if plan.log.is_on() {
            plan.log.write(&Line {
                bytes_in,
                bytes_out,
                ..record::line(session.req_header(), context)
            });
        }
    }

    /// Pingora's own lines about a failed request: edge's access log says it, once.
    fn suppress_error_log(&self, _: &Session, _: &Context, _: &Error) -> bool {
        true
    }

    fn suppress_proxy_warn_log(
        &self,
        _: &Session,
        _: &Context,
        _: &Error,
        _: ProxyWarnLogContext,
    ) -> bool {
        true
    }
}

/// Is the time for the whole answer over?
fn is_over(context: &Held) -> bool {
    let deadline = context.deadline();
    deadline.expired().is_some() || deadline.left().is_some_and(|left| left.is_zero())
}

/// What the future comes to within what is `left`; `None` if that is not enough.
async fn in_time<F: Future>(left: Option<Duration>, future: F) -> Option<F::Output> {
    match left {
        Some(left) => tokio::time::timeout(left, future).await.ok(),
        None => Some(future.await),
    }
}

/// 128 random bits: two requests never share an id.
fn new_id() -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let bits = fastrand::u128(..);
    let digit = |place| DIGITS.get((bits >> (4 * place)) as usize & 15).copied();
    (0..32).filter_map(digit).map(char::from).collect()
}
