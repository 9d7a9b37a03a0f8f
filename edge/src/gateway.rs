//! The way of a request through edge, from top to bottom: a method a phase, a line a step, in the
//! order in which Pingora calls them.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use http::{StatusCode, Version, header};
use pingora::cache::key::HashBinary;
use pingora::cache::lock::CacheKeyLockImpl;
use pingora::cache::{
    CacheKey, CacheMeta, CacheOptionOverrides, CachePhase, NoCacheReason, RespCacheable,
    VarianceBuilder,
};
use pingora::connectors::TransportConnector;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::modules::http::HttpModules;
use pingora::protocols::Digest;
use pingora::proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorSource, ErrorType, Result};

use crate::access_log::{AccessLog, Line};
use crate::client::{Client, Trust};
use crate::config::Timeout;
use crate::connection::Connection;
use crate::deadline::{Deadline, Expired};
use crate::exchange::{CacheState, Exchange};
use crate::handshake::{self, Answer};
use crate::limit::{Decision, Limits};
use crate::metrics::Metrics;
use crate::refusal::Refusal;
use crate::route::{Path, Rewrite, Routes};
use crate::store::Store;
use crate::tunnel::{End, Open, Tunnel};
use crate::upstream::{self, Upstream, http_peer};
use crate::{cache, forward, limit, respond, websocket};

/// All that the steps need: policies, upstreams, and the record.
pub(crate) struct Gateway {
    /// Limits count their time from here.
    pub(crate) started: Instant,
    pub(crate) trust: Trust,
    pub(crate) routes: Routes,
    /// What each route does, in the order of the routes.
    pub(crate) rules: Vec<Rule>,
    pub(crate) upstreams: Arc<[Upstream]>,
    pub(crate) keepalive: Duration,
    pub(crate) store: &'static Store,
    pub(crate) lock: &'static CacheKeyLockImpl,
    /// For WebSockets, whose connections are never shared.
    pub(crate) connector: TransportConnector,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) log: AccessLog,
    /// Is edge ending?
    pub(crate) draining: tokio::sync::watch::Receiver<bool>,
}

/// What a route does with the requests that it takes.
pub(crate) struct Rule {
    pub(crate) name: String,
    pub(crate) upstream: usize,
    pub(crate) rewrite: Rewrite,
    pub(crate) cache: Option<cache::Policy>,
    pub(crate) limits: Limits,
    pub(crate) timeout: Timeout,
    pub(crate) websocket: bool,
}

/// What edge holds for one request while Pingora works on it.
pub(crate) struct Context {
    exchange: Exchange,
    deadline: Arc<Deadline>,
    connection: Option<Arc<Connection>>,
}

/// How an admitted request goes on.
enum Passage {
    Forward,
    Upgrade,
}

impl Gateway {
    /// The door. An `Err` is the answer that edge gives itself.
    fn admit(&self, session: &Session, exchange: &mut Exchange) -> Result<Passage, Refusal> {
        let request = session.req_header();
        let host = host_of(request).ok_or(Refusal::BadHost)?;
        let path = Path::read(request.uri.path())?;
        let place = self.routes.find(host, &path, &request.method)?;
        exchange.route = Some(place);
        let rule = self.rules.get(place).ok_or(Refusal::Internal)?;
        if !limit::is_preflight(&request.method, &request.headers) {
            let now = self.started.elapsed();
            let decision = rule.limits.take(exchange.client, now)?;
            if decision == Decision::Allowed {
                self.metrics.limit_allowed(place);
            }
        }
        if !websocket::asks(request.version, &request.headers) {
            return Ok(Passage::Forward);
        }
        websocket::permit(rule.websocket, &request.method, &request.headers)?;
        if *self.draining.borrow() {
            return Err(Refusal::Draining);
        }
        Ok(Passage::Upgrade)
    }

    fn rule(&self, exchange: &Exchange) -> Option<&Rule> {
        exchange.route.and_then(|route| self.rules.get(route))
    }

    fn upstream(&self, exchange: &Exchange) -> Option<&Upstream> {
        self.rule(exchange)
            .and_then(|rule| self.upstreams.get(rule.upstream))
    }

    /// The head as the peer sees it.
    fn forward(&self, request: &mut RequestHeader, exchange: &Exchange) -> Result<()> {
        let trusted = self.trust.trusts(exchange.peer);
        request.insert_header(
            "X-Forwarded-For",
            forward::forwarded_for(&request.headers, exchange.peer),
        )?;
        if !(trusted && request.headers.contains_key("x-forwarded-proto")) {
            request.insert_header("X-Forwarded-Proto", exchange.scheme)?;
        }
        if !(trusted && request.headers.contains_key("x-forwarded-host")) {
            match request.headers.get(header::HOST).cloned() {
                Some(host) => request.insert_header("X-Forwarded-Host", host)?,
                None => drop(request.remove_header("X-Forwarded-Host")),
            }
        }
        request.insert_header("X-Request-Id", &exchange.id)?;
        request.insert_header(header::VIA, forward::via(&request.headers, request.version))?;
        let rewrite = self
            .rule(exchange)
            .map_or(&Rewrite::Keep, |rule| &rule.rewrite);
        if *rewrite != Rewrite::Keep || request.uri.authority().is_some() {
            let path = rewrite.apply(request.uri.path());
            let target = match request.uri.query() {
                Some(query) => format!("{path}?{query}"),
                None => path.into_owned(),
            };
            request.set_raw_path(target.as_bytes())?;
        }
        Ok(())
    }

    /// Asks a peer to become a WebSocket; the client learns 101 only after the peer has said so.
    async fn upgrade(&self, session: &mut Session, context: &mut Context) -> Result<()> {
        let mut request = Box::new(session.req_header().clone());
        for name in forward::hop_by_hop(&request.headers) {
            request.remove_header(&name);
        }
        self.forward(&mut request, &context.exchange)?;
        request.insert_header(header::CONNECTION, "Upgrade")?;
        request.insert_header(header::UPGRADE, "websocket")?;
        match self.ask_peer(request, context).await {
            Ok(Answer::Switched { head, peer, early }) => {
                self.open(session, context, head, peer, early).await
            }
            Ok(Answer::Other {
                head,
                session: peer,
            }) => pass_through(session, context, head, peer).await,
            Err(refusal) => {
                if let Some(upstream) = self.upstream(&context.exchange) {
                    self.metrics.count_failure(&upstream.name, &refusal);
                }
                respond::refuse(session, refusal, &mut context.exchange).await
            }
        }
    }

    async fn ask_peer(
        &self,
        request: Box<RequestHeader>,
        context: &mut Context,
    ) -> Result<Answer, Refusal> {
        let exchange = &mut context.exchange;
        let rule = self.rule(exchange).ok_or(Refusal::Internal)?;
        let upstream = self.upstreams.get(rule.upstream).ok_or(Refusal::Internal)?;
        exchange.upstream.began = Some(Instant::now());
        let left = context.deadline.left();
        let connect = left.map_or(rule.timeout.connect, |left| left.min(rule.timeout.connect));
        let asking = handshake::ask(
            &self.connector,
            upstream,
            &mut exchange.upstream.tried,
            request,
            connect,
        );
        let answer = match left {
            Some(left) => tokio::time::timeout(left, asking)
                .await
                .unwrap_or(Err(Refusal::ResponseTimeout)),
            None => asking.await,
        };
        exchange.upstream_done();
        answer
    }

    /// Tells the client 101 and hands both streams over to the tunnel.
    async fn open(
        &self,
        session: &mut Session,
        context: &mut Context,
        mut head: Box<ResponseHeader>,
        peer: pingora::protocols::Stream,
        early: Bytes,
    ) -> Result<()> {
        let Some(connection) = context.connection.clone() else {
            return respond::refuse(session, Refusal::Internal, &mut context.exchange).await;
        };
        context.deadline.stop();
        context.exchange.status = StatusCode::SWITCHING_PROTOCOLS.as_u16();
        context.exchange.upstream.status = Some(StatusCode::SWITCHING_PROTOCOLS.as_u16());
        head.insert_header("X-Request-Id", &context.exchange.id)?;
        session.write_response_header(head, false).await?;
        let from_client = handshake::if_ready(session.downstream_session.read_request_body()).await;
        let from_client = from_client
            .and_then(Result::ok)
            .flatten()
            .unwrap_or_default();
        if let Some(tunnel) = self.tunnel(session, &context.exchange, peer, early, from_client) {
            connection.hand_over(tunnel);
        }
        Ok(())
    }

    fn tunnel(
        &self,
        session: &Session,
        exchange: &Exchange,
        peer: pingora::protocols::Stream,
        from_peer: Bytes,
        from_client: Bytes,
    ) -> Option<Tunnel> {
        let rule = self.rule(exchange)?;
        let figures = self.metrics.route(exchange.route)?;
        figures.websockets_opened.inc();
        let open = Open::new(figures.websockets.clone());
        let lifetime = figures.websocket_lifetime.clone();
        let record = Record::new(self, session, exchange);
        let log = self.log.clone();
        let closed = Box::new(move |end: End| {
            drop(open);
            lifetime.observe(end.lasted.as_secs_f64());
            log.write(&record.closed(end));
        });
        Some(Tunnel {
            peer,
            from_peer,
            from_client,
            idle: rule.timeout.idle,
            bytes_in: figures.websocket_bytes_in.clone(),
            bytes_out: figures.websocket_bytes_out.clone(),
            closed,
        })
    }

    /// What failed, as a refusal: the deadline first, for it ends things by making them fail.
    fn refusal(&self, error: &Error, context: &Context) -> Refusal {
        if let Some(refusal) = &context.exchange.refusal {
            return refusal.clone();
        }
        match context.deadline.expired() {
            Some(Expired::Body) => return Refusal::RequestTimeout,
            Some(Expired::Answer) if !context.exchange.body_arrived => {
                return Refusal::RequestTimeout;
            }
            Some(Expired::Answer) => return Refusal::ResponseTimeout,
            None => {}
        }
        match error.esource() {
            ErrorSource::Upstream => upstream::refusal(error),
            ErrorSource::Downstream if *error.etype() == ErrorType::ReadTimedout => {
                Refusal::RequestTimeout
            }
            ErrorSource::Downstream if *error.etype() == ErrorType::InvalidHTTPHeader => {
                Refusal::BadRequest
            }
            ErrorSource::Downstream => Refusal::ClientClosed,
            ErrorSource::Internal | ErrorSource::Unset => Refusal::Internal,
        }
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
        Context {
            exchange,
            deadline: Deadline::current(),
            connection: None,
        }
    }

    /// Pingora's modules (compression) are not used; each would cost a call for each request.
    fn init_downstream_modules(&self, _: &mut HttpModules) {}

    /// 1. A head has arrived: who asks, and which clocks run.
    async fn early_request_filter(
        &self,
        session: &mut Session,
        context: &mut Context,
    ) -> Result<()> {
        context.connection = Connection::of(session.stream());
        if let Some(connection) = &context.connection {
            connection.exchange_begins();
        }
        let exchange = &mut context.exchange;
        if let Some(peer) = session.client_addr().and_then(|address| address.as_inet()) {
            exchange.peer = peer.ip().to_canonical();
        }
        let headers = &session.req_header().headers;
        exchange.client = self.trust.identify(exchange.peer, headers);
        let received = forward::received_id(headers).filter(|_| self.trust.trusts(exchange.peer));
        exchange.id = match received.and_then(|id| id.to_str().ok()) {
            Some(id) => id.to_owned(),
            None => format!("{:032x}", fastrand::u128(..)),
        };
        exchange.body_arrived = session.downstream_session.is_body_empty();
        let keepalive = if *self.draining.borrow() {
            None
        } else {
            Some(self.keepalive.as_secs().max(1))
        };
        if session.get_keepalive().is_some() {
            session.set_keepalive(keepalive);
        }
        one_content_length(session);
        Ok(())
    }

    /// 2. The door: route, limits, upgrades. What is refused is answered here.
    async fn request_filter(&self, session: &mut Session, context: &mut Context) -> Result<bool> {
        let admitted = self.admit(session, &mut context.exchange);
        if let Some(rule) = self.rule(&context.exchange) {
            let body = rule.timeout.body.filter(|_| !context.exchange.body_arrived);
            context
                .deadline
                .start(context.exchange.began, rule.timeout.response, body);
            session.set_write_timeout(rule.timeout.response);
        }
        match admitted {
            Ok(Passage::Forward) => return Ok(false),
            Ok(Passage::Upgrade) => self.upgrade(session, context).await?,
            Err(refusal) => respond::refuse(session, refusal, &mut context.exchange).await?,
        }
        Ok(true)
    }

    /// 3. May the cache answer?
    fn request_cache_filter(&self, session: &mut Session, context: &mut Context) -> Result<()> {
        if self
            .rule(&context.exchange)
            .is_none_or(|rule| rule.cache.is_none())
        {
            return Ok(());
        }
        let request = session.req_header();
        match cache::admit(&request.method, &request.headers) {
            Ok(()) => {
                let mut wait = CacheOptionOverrides::default();
                wait.wait_timeout = context.deadline.left();
                session
                    .cache
                    .enable(self.store, None, None, Some(self.lock), Some(wait));
                session.cache.set_max_file_size_bytes(self.store.object());
                context.exchange.cache = CacheState::Miss;
            }
            Err(reason) => {
                context.exchange.cache = CacheState::Bypass;
                context.exchange.cache_reason = Some(reason.as_str());
            }
        }
        Ok(())
    }

    fn cache_key_callback(&self, session: &Session, context: &mut Context) -> Result<CacheKey> {
        let request = session.req_header();
        let host = host_and_port(request).unwrap_or_default();
        let trusted = self.trust.trusts(context.exchange.peer);
        let proto = request.headers.get("x-forwarded-proto").filter(|_| trusted);
        let scheme = proto
            .and_then(|proto| proto.to_str().ok())
            .unwrap_or(context.exchange.scheme);
        Ok(CacheKey::new(
            cache::key(scheme, host, request.uri.path(), request.uri.query()),
            "",
        ))
    }

    fn cache_vary_filter(
        &self,
        meta: &CacheMeta,
        _: &mut Context,
        request: &RequestHeader,
    ) -> Option<HashBinary> {
        let names = cache::vary(meta.headers()).unwrap_or_default();
        let mut variance = VarianceBuilder::new();
        for name in &names {
            // Length before text: two fields are not one field with a comma.
            let mut value = Vec::new();
            for field in request.headers.get_all(name) {
                value.extend_from_slice(&field.len().to_be_bytes());
                value.extend_from_slice(field.as_bytes());
            }
            variance.add_owned_value(name.as_str(), value);
        }
        variance.finalize()
    }

    /// 4. Which peer? Called again for each further try.
    async fn upstream_peer(&self, _: &mut Session, context: &mut Context) -> Result<Box<HttpPeer>> {
        let left = context.deadline.left();
        let exchange = &mut context.exchange;
        let found = match (self.rule(exchange), self.upstream(exchange)) {
            _ if left.is_some_and(|left| left.is_zero()) => Err(Refusal::ResponseTimeout),
            (Some(rule), Some(upstream)) => upstream
                .choose(&exchange.upstream.tried)
                .map(|found| (rule, found))
                .ok_or(Refusal::NoPeer),
            _ => Err(Refusal::Internal),
        };
        match found {
            Ok((rule, (place, address))) => {
                exchange.upstream.began.get_or_insert_with(Instant::now);
                exchange.upstream.tried.push(place);
                let connect =
                    left.map_or(rule.timeout.connect, |left| left.min(rule.timeout.connect));
                Ok(Box::new(http_peer(address, connect)))
            }
            Err(refusal) => {
                exchange.refusal = Some(refusal);
                Error::e_explain(ErrorType::InternalError, "no peer to ask")
            }
        }
    }

    /// No connection: nothing was sent, so any request may go to the next peer.
    fn fail_to_connect(
        &self,
        _: &mut Session,
        _: &HttpPeer,
        context: &mut Context,
        mut error: Box<Error>,
    ) -> Box<Error> {
        if let Some(upstream) = self.upstream(&context.exchange) {
            self.metrics
                .count_failure(&upstream.name, &upstream::refusal(&error));
            let another = upstream.peers.len() > context.exchange.upstream.tried.len();
            error.set_retry(another && context.deadline.expired().is_none());
        }
        error
    }

    async fn connected_to_upstream(
        &self,
        _: &mut Session,
        _: bool,
        _: &HttpPeer,
        fd: RawFd,
        _: Option<&Digest>,
        context: &mut Context,
    ) -> Result<()> {
        context.deadline.watch_peer(fd);
        Ok(())
    }

    /// 5. The head as the peer sees it; Pingora has removed the hop-by-hop fields.
    async fn upstream_request_filter(
        &self,
        _: &mut Session,
        request: &mut RequestHeader,
        context: &mut Context,
    ) -> Result<()> {
        self.forward(request, &context.exchange)
    }

    /// 6. The request's body, chunk by chunk.
    async fn request_body_filter(
        &self,
        _: &mut Session,
        body: &mut Option<Bytes>,
        end: bool,
        context: &mut Context,
    ) -> Result<()> {
        if end {
            context.exchange.body_arrived = true;
            context.deadline.body_arrived();
        }
        // Pingora's #935: an empty last chunk would be written as a second end of the body, and
        // the peer's answer to what follows would reach another client. Must be the last step.
        if end && body.as_ref().is_some_and(Bytes::is_empty) {
            *body = None;
        }
        Ok(())
    }

    /// 7. The peer's head, before the cache sees it.
    async fn upstream_response_filter(
        &self,
        _: &mut Session,
        answer: &mut ResponseHeader,
        context: &mut Context,
    ) -> Result<()> {
        if answer.status == StatusCode::SWITCHING_PROTOCOLS {
            // Nobody asked for it: upgrades take another way.
            return Err(Error::explain(
                ErrorType::InvalidHTTPHeader,
                "an upgrade that nobody asked for",
            )
            .into_up());
        }
        if answer.status.is_informational() {
            return Ok(());
        }
        context.exchange.upstream.status = Some(answer.status.as_u16());
        for name in forward::hop_by_hop(&answer.headers) {
            answer.remove_header(&name);
        }
        Ok(())
    }

    fn response_cache_filter(
        &self,
        _: &Session,
        answer: &ResponseHeader,
        context: &mut Context,
    ) -> Result<RespCacheable> {
        let uncacheable = RespCacheable::Uncacheable(NoCacheReason::OriginNotCache);
        let Some(policy) = self.rule(&context.exchange).and_then(|rule| rule.cache) else {
            return Ok(uncacheable);
        };
        if answer.status.is_informational() {
            return Ok(uncacheable);
        }
        let now = SystemTime::now();
        match cache::keep(policy, answer.status, &answer.headers, now) {
            Ok(left) => {
                let created = now
                    .checked_sub(cache::age(&answer.headers, now))
                    .unwrap_or(now);
                Ok(RespCacheable::Cacheable(CacheMeta::new(
                    now + left,
                    created,
                    0,
                    0,
                    answer.clone(),
                )))
            }
            Err(reason) => {
                context.exchange.cache_reason = Some(reason.as_str());
                Ok(uncacheable)
            }
        }
    }

    /// 8. The peer's body, chunk by chunk.
    fn upstream_response_body_filter(
        &self,
        _: &mut Session,
        _: &mut Option<Bytes>,
        end: bool,
        context: &mut Context,
    ) -> Result<Option<Duration>> {
        if context.deadline.expired().is_some() {
            // An end that the deadline made is not the end of the body.
            return Err(
                Error::explain(ErrorType::ReadTimedout, "the deadline has passed").into_up(),
            );
        }
        if end {
            context.exchange.upstream_done();
            context.deadline.peer_done();
        }
        Ok(None)
    }

    /// 9. The head as the client sees it, from the peer or from the cache.
    async fn response_filter(
        &self,
        session: &mut Session,
        answer: &mut ResponseHeader,
        context: &mut Context,
    ) -> Result<()> {
        if answer.status.is_informational() {
            return Ok(());
        }
        let exchange = &mut context.exchange;
        if exchange.cache != CacheState::Off {
            exchange.cache = cache_state(&session.cache.phase(), exchange.cache);
        }
        let meta = session.cache.maybe_cache_meta();
        let left = meta.map(|meta| {
            meta.fresh_until()
                .duration_since(SystemTime::now())
                .unwrap_or_default()
        });
        let ttl = left.map(|left| (left + Duration::from_millis(500)).as_secs());
        respond::dress(answer, exchange, respond::cache_status(exchange, ttl))?;
        exchange.status = answer.status.as_u16();
        context.deadline.head_sent(context.connection.clone());
        Ok(())
    }

    /// A connection from the pool may have been closed by the peer meanwhile: that says nothing
    /// against the peer, and a request that may be repeated is.
    fn error_while_proxy(
        &self,
        _: &HttpPeer,
        session: &mut Session,
        mut error: Box<Error>,
        context: &mut Context,
        reused: bool,
    ) -> Box<Error> {
        let repeatable = session.req_header().method.is_idempotent()
            && !session.as_ref().retry_buffer_truncated();
        if repeatable && context.deadline.expired().is_none() {
            error.retry.decide_reuse(reused);
        } else {
            error.set_retry(false);
        }
        if error.retry() {
            context.exchange.upstream.tried.pop();
        } else if let (ErrorSource::Upstream, Some(upstream)) =
            (error.esource(), self.upstream(&context.exchange))
        {
            self.metrics
                .count_failure(&upstream.name, &self.refusal(&error, context));
        }
        error
    }

    /// 10. It failed: the one place where that becomes an answer.
    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &Error,
        context: &mut Context,
    ) -> FailToProxy {
        let refusal = self.refusal(error, context);
        tracing::debug!(id = context.exchange.id, reason = refusal.reason(), %error, "exchange_failed");
        context.exchange.upstream_done();
        let head_sent = session
            .response_written()
            .is_some_and(|head| !head.status.is_informational());
        let error_code = refusal.status().as_u16();
        // Whoever is not there is told nothing, and a body that is cut off must not look complete.
        if head_sent || refusal == Refusal::ClientClosed {
            if !head_sent {
                context.exchange.status = error_code;
            }
            context.exchange.refusal = Some(refusal);
            return FailToProxy {
                error_code,
                can_reuse_downstream: false,
            };
        }
        session.set_keepalive(None);
        if let Err(error) = respond::refuse(session, refusal, &mut context.exchange).await {
            tracing::debug!(id = context.exchange.id, %error, "answer_not_sent");
        }
        FailToProxy {
            error_code,
            can_reuse_downstream: false,
        }
    }

    /// 11. The record.
    async fn logging(&self, session: &mut Session, _: Option<&Error>, context: &mut Context) {
        context.deadline.stop();
        if let Some(connection) = &context.connection {
            connection.exchange_ends();
        }
        let exchange = &mut context.exchange;
        exchange.upstream_done();
        let (bytes_in, bytes_out) = (
            session.body_bytes_read() as u64,
            session.body_bytes_sent() as u64,
        );
        self.metrics
            .count(exchange, &session.req_header().method, bytes_in, bytes_out);
        if self.log.is_on() {
            self.log.write(&Line {
                bytes_in,
                bytes_out,
                ..self.line(session.req_header(), exchange)
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

impl Gateway {
    fn line<'a>(&'a self, request: &'a RequestHeader, exchange: &'a Exchange) -> Line<'a> {
        let times = exchange.times();
        let upstream = self
            .upstream(exchange)
            .filter(|_| exchange.upstream.began.is_some());
        Line {
            time: exchange.time,
            event: "request",
            id: &exchange.id,
            client: exchange.client.address,
            method: request.method.as_str(),
            host: host_and_port(request).unwrap_or_default(),
            path: request.uri.path(),
            route: self.rule(exchange).map_or("", |rule| &rule.name),
            status: exchange.status,
            reason: exchange.reason(),
            bytes_in: 0,
            bytes_out: 0,
            upstream: upstream.map_or("", |upstream| &upstream.name),
            peer: upstream.map_or("", |upstream| {
                upstream.peer_name(exchange.upstream.tried.last())
            }),
            tries: exchange.upstream.tried.len(),
            total_ms: times.total,
            upstream_ms: times.upstream,
            gateway_ms: times.gateway,
            cache: exchange.cache.as_str(),
            cache_reason: exchange.cache_reason,
            user_agent: request
                .headers
                .get(header::USER_AGENT)
                .and_then(|agent| agent.to_str().ok())
                .unwrap_or_default(),
        }
    }
}

/// What the last line of a WebSocket needs of the request that it began as.
struct Record {
    request: RequestHeader,
    id: String,
    client: IpAddr,
    route: String,
    upstream: String,
    peer: String,
}

impl Record {
    fn new(gateway: &Gateway, session: &Session, exchange: &Exchange) -> Self {
        let line = gateway.line(session.req_header(), exchange);
        Self {
            id: line.id.to_owned(),
            client: line.client,
            route: line.route.to_owned(),
            upstream: line.upstream.to_owned(),
            peer: line.peer.to_owned(),
            request: session.req_header().clone(),
        }
    }

    fn closed(&self, end: End) -> Line<'_> {
        Line {
            time: SystemTime::now(),
            event: "websocket_closed",
            id: &self.id,
            client: self.client,
            method: self.request.method.as_str(),
            host: host_and_port(&self.request).unwrap_or_default(),
            path: self.request.uri.path(),
            route: &self.route,
            status: StatusCode::SWITCHING_PROTOCOLS.as_u16(),
            reason: end.reason,
            bytes_in: end.bytes_in,
            bytes_out: end.bytes_out,
            upstream: &self.upstream,
            peer: &self.peer,
            tries: 1,
            total_ms: end.lasted,
            upstream_ms: None,
            gateway_ms: Duration::ZERO,
            cache: CacheState::Off.as_str(),
            cache_reason: None,
            user_agent: "",
        }
    }
}

/// A refused upgrade is an answer like any other: it passes through, within the deadline.
async fn pass_through(
    session: &mut Session,
    context: &mut Context,
    mut head: Box<ResponseHeader>,
    mut peer: Box<pingora::protocols::http::v1::client::HttpSession>,
) -> Result<()> {
    for name in forward::hop_by_hop(&head.headers) {
        head.remove_header(&name);
    }
    context.exchange.upstream.status = Some(head.status.as_u16());
    context.exchange.status = head.status.as_u16();
    respond::dress(&mut head, &context.exchange, None)?;
    let left = context.deadline.left();
    let passing = async {
        session.write_response_header(head, false).await?;
        while let Some(chunk) = peer
            .read_body_bytes()
            .await
            .map_err(|error| error.into_up())?
        {
            session.write_response_body(Some(chunk), false).await?;
        }
        session.write_response_body(None, true).await
    };
    let passed = match left {
        Some(left) => tokio::time::timeout(left, passing)
            .await
            .unwrap_or_else(|_| Err(Error::new(ErrorType::ReadTimedout).into_up())),
        None => passing.await,
    };
    context.exchange.upstream_done();
    passed
}

/// The host and port that a request names: the authority of its target, or `Host`.
fn host_and_port(request: &RequestHeader) -> Option<&str> {
    let authority = request.uri.authority().map(http::uri::Authority::as_str);
    authority.or_else(|| request.headers.get(header::HOST)?.to_str().ok())
}

fn host_of(request: &RequestHeader) -> Option<&str> {
    if request.version != Version::HTTP_2 && !request.headers.contains_key(header::HOST) {
        return None;
    }
    host_and_port(request).and_then(forward::host)
}

/// Equal lengths, said twice, are one length; Pingora has refused unequal ones. The peer gets it
/// once, so that it cannot read it otherwise.
fn one_content_length(session: &mut Session) {
    let mut lengths = session
        .req_header()
        .headers
        .get_all(header::CONTENT_LENGTH)
        .iter();
    let Some(first) = lengths.next() else { return };
    if lengths.next().is_none() && !first.as_bytes().contains(&b',') {
        return;
    }
    let one = first
        .as_bytes()
        .split(|&b| b == b',')
        .next()
        .unwrap_or_default()
        .trim_ascii()
        .to_vec();
    // What was a valid field value stays one when it is shortened.
    let _ = session
        .req_header_mut()
        .insert_header(header::CONTENT_LENGTH, one);
}

fn cache_state(phase: &CachePhase, before: CacheState) -> CacheState {
    match phase {
        CachePhase::Hit => CacheState::Hit,
        CachePhase::Miss => CacheState::Miss,
        CachePhase::Expired => CacheState::Expired,
        CachePhase::Revalidated | CachePhase::RevalidatedNoCache(_) => CacheState::Revalidated,
        CachePhase::Stale | CachePhase::StaleUpdating => CacheState::Stale,
        CachePhase::Bypass => CacheState::Bypass,
        CachePhase::Disabled(_) | CachePhase::Uninit | CachePhase::CacheKey => before,
    }
}
