//! What is in force: all that a configuration decides, made once and then only read.
//!
//! Each request takes the plan that is in force when its head has arrived, and keeps to it. A
//! reload puts another in its place and touches nothing that is open.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use http::HeaderName;
use tracing_appender::non_blocking::NonBlocking;

use crate::access_log::AccessLog;
use crate::authenticator::Authenticator;
use crate::cache;
use crate::client::Addresses;
use crate::compression;
use crate::config::{Auth, Config, Route, RouteAuth, Timeout};
use crate::cors;
use crate::exchange::Exchange;
use crate::headers;
use crate::limit::{Clients, Limits};
use crate::metrics::{Metrics, PerRoute};
use crate::resolver::Resolver;
use crate::route::{Match, Rewrite, Routes};
use crate::shares::{Share, Shares};
use crate::upstream::Upstream;
use crate::websocket::{self, Places};

/// The plan in force; taking it costs one count and no lock.
pub(crate) type InForce = ArcSwap<Plan>;

/// See above.
pub(crate) struct Plan {
    /// What the rest was made of.
    pub(crate) config: Config,
    pub(crate) routes: Routes,
    /// What each route does, in the order of the routes.
    pub(crate) rules: Vec<Rule>,
    pub(crate) upstreams: Vec<Arc<Upstream>>,
    auths: Vec<Arc<Authenticator>>,
    /// The fields that tell peers who asks; no client may say so itself.
    pub(crate) told: Vec<HeaderName>,
    pub(crate) shares: Shares,
    pub(crate) log: AccessLog,
    /// Does any route cache?
    pub(crate) caches: bool,
    /// Who looks the names of peers up.
    resolver: Arc<Resolver>,
    /// The number under which the next route's answers are kept.
    next: u64,
}

/// What a route does with the requests that it takes.
pub(crate) struct Rule {
    pub(crate) name: String,
    pub(crate) upstream: Arc<Upstream>,
    pub(crate) rewrite: Rewrite,
    pub(crate) cache: Option<cache::Policy>,
    /// The number under which its answers are kept: a route that comes to answer otherwise gets
    /// another one, and finds nothing of what it would no longer say.
    pub(crate) kept_under: u64,
    /// Who may use it, and how that is proven; `None`: everybody.
    pub(crate) auth: Option<(Arc<Authenticator>, RouteAuth)>,
    /// How large a request's body may be.
    pub(crate) body: Option<u64>,
    /// Which addresses it lets in.
    pub(crate) addresses: Addresses,
    /// Which pages of other sites may ask.
    pub(crate) cors: Option<cors::Policy>,
    /// What it changes of fields: the file's first, then its own.
    pub(crate) headers: Vec<Arc<headers::Rules>>,
    /// Which answers it compresses; `None`: none.
    pub(crate) compress: Option<compression::Policy>,
    pub(crate) limits: Limits,
    pub(crate) timeout: Timeout,
    pub(crate) websocket: Option<WebSocket>,
    pub(crate) figures: PerRoute,
}

/// What a route lets through of WebSockets, with what has been used of it.
pub(crate) struct WebSocket {
    pub(crate) settings: websocket::Settings,
    pub(crate) places: Places,
    /// Each client's messages.
    pub(crate) messages: Option<Arc<Clients>>,
}

impl Plan {
    /// What the configuration says; what it says as `before` did goes on with what was used of
    /// it. `log` is where the access log's lines go, if it is on.
    pub(crate) fn new(
        config: Config,
        before: Option<&Self>,
        metrics: &Arc<Metrics>,
        log: Option<&NonBlocking>,
    ) -> Self {
        let answers = before.map(Self::answers).unwrap_or_default();
        let mut next = before.map_or(0, |before| before.next);
        let shares = Shares::new(&config, before.map(|before| &before.shares));
        let known = before.map_or(&[][..], |before| &before.upstreams);
        let same = before.filter(|before| before.config.dns == config.dns);
        let resolver = same.map_or_else(
            || Arc::new(Resolver::new(&config.dns)),
            |before| before.resolver.clone(),
        );
        let upstreams: Vec<_> = config
            .upstreams
            .iter()
            .map(|upstream| Upstream::new(upstream, known, &resolver, metrics))
            .collect();
        let known = before.map_or(&[][..], |before| &before.auths);
        let auths: Vec<_> = config
            .auths
            .iter()
            .map(|auth| Authenticator::new(auth, config.clients, known, metrics))
            .collect();
        let mut told: Vec<_> = auths.iter().flat_map(|auth| auth.told()).cloned().collect();
        told.sort_unstable_by(|one, other| one.as_str().cmp(other.as_str()));
        told.dedup();
        let rule = |(route, own): (&Route, &Share)| {
            let auth = match &route.auth {
                Some(wanted) => Some((auths.get(wanted.by)?.clone(), wanted.clone())),
                None => None,
            };
            let upstream = upstreams.get(route.upstream)?.clone();
            let new = Answers::of(route, &upstream.name, &config.auths);
            let same = answers.get(route.name.as_str());
            let same = same.filter(|(answers, _)| *answers == new);
            let kept_under = same.map_or(next, |(_, kept_under)| *kept_under);
            next = next.max(kept_under + 1);
            Some(Rule {
                name: route.name.clone(),
                upstream,
                rewrite: route.rewrite.clone(),
                cache: route.cache.clone(),
                kept_under,
                auth,
                body: route.body,
                addresses: route.addresses.clone(),
                cors: route.cors.clone(),
                compress: route.compress.clone(),
                headers: route.headers.clone(),
                limits: own.limits.clone(),
                timeout: route.timeout,
                websocket: route.websocket.as_ref().map(|websocket| WebSocket {
                    settings: websocket.settings.clone(),
                    places: own.places.clone(),
                    messages: own.messages.clone(),
                }),
                figures: metrics.per_route(&route.name, route.websocket.is_some()),
            })
        };
        // Reading has checked that every route's upstream is there.
        let rules = config.routes.iter().zip(&shares.routes);
        let rules = rules.filter_map(rule).collect();
        let matches = config.routes.iter().map(|route| route.rule.clone());
        Self {
            routes: Routes::new(matches.collect()),
            rules,
            upstreams,
            auths,
            told,
            shares,
            log: AccessLog::new(log.filter(|_| config.log.access).cloned()),
            resolver,
            caches: config.routes.iter().any(|route| route.cache.is_some()),
            next,
            config,
        }
    }

    pub(crate) fn rule(&self, exchange: &Exchange) -> Option<&Rule> {
        exchange.route.and_then(|route| self.rules.get(route))
    }

    /// A route's figures, if it has one.
    pub(crate) fn figures(&self, exchange: &Exchange) -> Option<&PerRoute> {
        self.rule(exchange).map(|rule| &rule.figures)
    }

    /// What each route answers, by its name, and the number under which that is kept.
    fn answers(&self) -> HashMap<&str, (Answers<'_>, u64)> {
        let routes = self.config.routes.iter().zip(&self.rules);
        let answers = routes.map(|(route, rule)| {
            let answers = Answers::of(route, &rule.upstream.name, &self.config.auths);
            (route.name.as_str(), (answers, rule.kept_under))
        });
        answers.collect()
    }
}

/// All of a route that decides what it answers, and for how long that is kept. Who may ask is part
/// of it: what was kept for everybody is not for those alone who prove who they are, nor the
/// other way round.
#[derive(PartialEq)]
struct Answers<'a> {
    auth: Option<(&'a RouteAuth, Option<&'a Auth>)>,
    /// What the peer is told beside what the client says.
    told: Vec<&'a headers::Changes>,
    rule: &'a Match,
    upstream: &'a str,
    rewrite: &'a Rewrite,
    cache: Option<&'a cache::Policy>,
}

impl<'a> Answers<'a> {
    fn of(route: &'a Route, upstream: &'a str, auths: &'a [Auth]) -> Self {
        let auth = route.auth.as_ref();
        Self {
            auth: auth.map(|wanted| (wanted, auths.get(wanted.by))),
            told: route.headers.iter().map(|rules| &rules.request).collect(),
            rule: &route.rule,
            upstream,
            rewrite: &route.rewrite,
            cache: route.cache.as_ref(),
        }
    }
}
