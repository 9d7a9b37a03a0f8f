//! What is in force: all that a configuration decides, made once and then only read.
//!
//! Each request takes the plan that is in force when its head has arrived, and keeps to it. A
//! reload puts another in its place and touches nothing that is open.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tracing_appender::non_blocking::NonBlocking;

use crate::access_log::AccessLog;
use crate::cache;
use crate::config::{Config, Route, Timeout};
use crate::exchange::Exchange;
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
    pub(crate) limits: Limits,
    pub(crate) timeout: Timeout,
    /// The largest body.
    pub(crate) body: Option<u64>,
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
        metrics: &Metrics,
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
        let rule = |(route, own): (&Route, &Share)| {
            let upstream = upstreams.get(route.upstream)?.clone();
            let new = Answers::of(route, &upstream.name);
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
                limits: own.limits.clone(),
                timeout: route.timeout,
                body: route.body,
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
            let answers = Answers::of(route, &rule.upstream.name);
            (route.name.as_str(), (answers, rule.kept_under))
        });
        answers.collect()
    }
}

/// All of a route that decides what it answers, and for how long that is kept.
#[derive(PartialEq)]
struct Answers<'a> {
    rule: &'a Match,
    upstream: &'a str,
    rewrite: &'a Rewrite,
    cache: Option<&'a cache::Policy>,
}

impl<'a> Answers<'a> {
    fn of(route: &'a Route, upstream: &'a str) -> Self {
        Self {
            rule: &route.rule,
            upstream,
            rewrite: &route.rewrite,
            cache: route.cache.as_ref(),
        }
    }
}
