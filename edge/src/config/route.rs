//! `[[route]]`: which requests, to which upstream, how.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use ipnet::IpNet;
use toml::Spanned;
use toml::de::DeValue;

use super::auth::{self, Proof, RouteAuth, read_route_auth};
use super::cache::{Bound, check_methods, read_policy};
use super::compress::read_compress;
use super::cors::read_cors;
use super::fault::nearest;
use super::forms::distinct;
use super::headers::read_headers;
use super::limits::{Own, RouteLimit, read_limit_keys};
use super::reader::{FILE, Read, Report, Switch, Table, parsed};
use super::request::read_body;
use super::timeout::{self, Timeout};
use super::websocket::{WebSocket, read_route_websocket};
use crate::cache::Policy;
use crate::client::Addresses;
use crate::compression;
use crate::cors;
use crate::headers::{self, Variable};
use crate::limit::{self, By, Quota};
use crate::route::{Host, Match, Pattern, Rewrite};
use crate::websocket;

/// One rule: which requests, to which upstream, how.
#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    /// Its name in log and metrics: its path, numbered where two routes share one.
    pub name: String,
    /// Which requests it takes.
    pub rule: Match,
    /// The place of its upstream among the upstreams.
    pub upstream: usize,
    /// How the peer sees the path.
    pub rewrite: Rewrite,
    /// How answers are cached; `None`: not at all.
    pub cache: Option<Policy>,
    /// How large a request's body may be; `None`: as large as it likes.
    pub body: Option<u64>,
    /// Which addresses it lets in.
    pub addresses: Addresses,
    /// Which pages of other sites may ask; `None`: that is left to the peer.
    pub cors: Option<cors::Policy>,
    /// What is changed of fields: by the file, then by the route.
    pub headers: Vec<Arc<headers::Rules>>,
    /// Which answers are compressed, and how; `None`: none.
    pub compress: Option<compression::Policy>,
    /// Who may use it; `None`: everybody.
    pub auth: Option<RouteAuth>,
    /// How much it lets through.
    pub limit: RouteLimit,
    /// Its times, those of the file filled in.
    pub timeout: Timeout,
    /// May a request become a WebSocket, and what then? `None`: it may not.
    pub websocket: Option<WebSocket>,
}

impl RouteLimit {
    /// What one address may ask where nobody else counts before signatures are looked at, unless
    /// the file says otherwise.
    const PER_ADDRESS: (u64, Duration) = (100, Duration::from_secs(1));

    /// Whoever counts must be known; and before it is proven who asks, his address counts.
    fn settle(
        &mut self,
        proof: Option<&Proof>,
        span: Option<Range<usize>>,
        route: usize,
        report: &mut Report<'_>,
    ) {
        let settings = &mut self.settings;
        let fault = match (&settings.by, proof) {
            (By::Identity | By::Claim(_), None) => {
                Some("nobody proves here who he is: write `auth`, or `by = \"address\"`")
            }
            (By::Claim(_), Some(Proof::ApiKey { .. } | Proof::Certificate { .. })) => {
                Some("only a token has claims: write `by = \"identity\"`")
            }
            _ => None,
        };
        if let Some(help) = fault {
            match span.filter(|_| self.own_per_client) {
                Some(span) => {
                    let message = format!("`by = \"{}\"` cannot be told here", settings.by);
                    report.lacks((route, "auth"), &span, message, help);
                }
                // The file speaks of those routes that know.
                None if proof.is_some() => settings.by = By::Identity,
                None => settings.by = By::Address,
            }
        }
        let by_address = settings.by == By::Address && settings.per_client.is_some();
        let needed = proof.is_some() || settings.by != By::Address;
        if needed && !by_address && settings.per_address.is_none() {
            let (count, per) = Self::PER_ADDRESS;
            settings.per_address = Some(Quota::new(count, per, count));
        }
    }
}

/// What holds for a route that says nothing else.
pub(super) struct Defaults<'a> {
    /// `[request] body`
    pub(super) body: Option<u64>,
    /// What `[headers]` says, if it is there.
    pub(super) headers: Option<&'a Arc<headers::Rules>>,
    pub(super) auths: &'a auth::Auths,
    pub(super) limit: &'a limit::Settings,
    pub(super) timeout: &'a Timeout,
    /// The number of the table that says so.
    pub(super) timeout_table: usize,
    pub(super) websocket: &'a websocket::Settings,
    pub(super) object: Bound,
}

pub(super) type Placed = (Option<Route>, Range<usize>);

pub(super) fn read_routes(
    value: Option<&Spanned<DeValue<'_>>>,
    upstreams: &[&str],
    defaults: &Defaults<'_>,
    report: &mut Report<'_>,
) -> Vec<Placed> {
    let list = value.and_then(|value| value.get_ref().as_array());
    let span = value.map_or(0..0, Spanned::span);
    if list.is_none_or(|list| list.is_empty()) {
        report.lacks(
            (FILE, "route"),
            &span,
            "no route: nothing would be answered",
            "write `[[route]]` with `path` and `upstream`",
        );
    }
    let mut routes: Vec<Placed> = Vec::new();
    for value in list.into_iter().flatten() {
        let table = Table::of("[[route]]", Some(value), report);
        let mut placed = read_route(table, upstreams, defaults, report);
        if let Some(route) = &mut placed.0 {
            let base = route.name.clone();
            let taken = |name: &str| {
                routes
                    .iter()
                    .any(|(other, _)| other.as_ref().is_some_and(|other| other.name == name))
            };
            for number in 2.. {
                if !taken(&route.name) {
                    break;
                }
                route.name = format!("{base}#{number}");
            }
        }
        routes.push(placed);
    }
    routes
}

fn read_route(
    mut table: Table<'_, '_>,
    upstreams: &[&str],
    defaults: &Defaults<'_>,
    report: &mut Report<'_>,
) -> Placed {
    let path = table.require::<Pattern>("path", "as `path = \"/api/*\"`", report);
    let name = table.placed::<String>("name", report);
    let hosts = table.or("host", Vec::<Host>::new(), report);
    let methods = table.or("methods", Vec::<Method>::new(), report);
    let upstream = table.require::<String>("upstream", "the name of an `[upstream.NAME]`", report);
    let upstream = upstream.and_then(|(name, span)| find_upstream(&name, &span, upstreams, report));
    let pattern = path.as_ref().map(|(path, _)| path);
    let rewrite = read_rewrite(&mut table, pattern, report);
    let cache = table
        .value("cache", report)
        .map(|value| (read_policy(value, defaults.object, report), value.span()));
    let body = read_body(&mut table, defaults.body, report);
    let addresses = read_addresses(&mut table, report);
    let cors = read_cors(&mut table, &methods, report);
    let own = table.value("headers", report);
    let own = own.map(|value| read_headers("a route's headers", Some(value), report));
    if let (Some(_), Some((rules, span))) = (&cache, &own) {
        one_for_all(rules, span, report);
    }
    if let (Some((Some(_), span)), Some(rules)) = (&cache, defaults.headers) {
        one_for_all(rules, span, report);
    }
    let own = own.map(|(rules, _)| Arc::new(rules));
    let headers: Vec<_> = defaults.headers.cloned().into_iter().chain(own).collect();
    let compress = read_compress(&mut table, report);
    let asks = table.value("auth", report).is_some();
    let auth = read_route_auth(&mut table, defaults.auths, report);
    let limit_span = table.value("limit", report).map(Spanned::span);
    let mut limit = read_route_limit(&mut table, defaults.limit, report);
    let proof = auth
        .as_ref()
        .and_then(|(auth, _)| defaults.auths.good.get(auth.by));
    let proof = proof.map(|(auth, ..)| &auth.proof);
    // What asks for an auth that has faults, which have been told, is no fault of the limit's.
    if auth.is_some() || !asks {
        limit.settle(proof, limit_span, table.number(), report);
    }
    let timeout = read_route_timeout(&mut table, defaults, report);
    let websocket = read_route_websocket(&mut table, defaults.websocket, report);
    if let (Some(_), Some((Some(_), span))) = (&websocket, &cache) {
        report.fault(
            span,
            "a WebSocket cannot be cached",
            "leave out `cache` or `websocket`",
        );
    }
    if let Some((Some(policy), span)) = &cache {
        check_methods(policy, &methods, span, report);
    }
    if websocket.is_some() && !methods.is_empty() && !methods.contains(&Method::GET) {
        report.fault(
            table.span(),
            "a WebSocket begins with GET, which the route does not take",
            "add \"GET\" to `methods`",
        );
    }
    let span = path
        .as_ref()
        .map_or_else(|| table.span().clone(), |(_, span)| span.clone());
    table.finish(report);
    let route = || {
        let path = path?.0;
        let name = name.map_or_else(|| path.text().to_owned(), |(name, _)| name);
        let rule = Match {
            path,
            hosts,
            methods,
        };
        let cache = cache.and_then(|(policy, _)| policy);
        Some(Route {
            name,
            rule,
            upstream: upstream?,
            rewrite,
            cache,
            body,
            addresses,
            cors,
            headers,
            compress,
            auth: auth.map(|(auth, _)| auth),
            limit,
            timeout,
            websocket,
        })
    };
    (route(), span)
}

fn find_upstream(
    name: &str,
    span: &Range<usize>,
    upstreams: &[&str],
    report: &mut Report<'_>,
) -> Option<usize> {
    let found = upstreams.iter().position(|own| *own == name);
    if found.is_none() {
        let help = match nearest(name, upstreams.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None if upstreams.is_empty() => format!("write `[upstream.{name}]` with `peers`"),
            None => format!("known: {}", upstreams.join(", ")),
        };
        let message = format!("no upstream is named `{name}`");
        report.lacks((FILE, "upstream"), span, message, help);
    }
    found
}

fn read_rewrite(
    table: &mut Table<'_, '_>,
    pattern: Option<&Pattern>,
    report: &mut Report<'_>,
) -> Rewrite {
    let rewrite = table.value("rewrite", report);
    let strip = table.value("strip_prefix", report);
    if let (Some(_), Some(strip)) = (rewrite, strip) {
        report.fault(
            &strip.span(),
            "`rewrite` and `strip_prefix` exclude each other",
            "leave one of them out",
        );
    }
    let Some(pattern) = pattern else {
        return Rewrite::Keep;
    };
    let rewrite =
        rewrite.and_then(|value| parsed(value, report, |text| Rewrite::build(text, pattern)));
    let strip = strip.and_then(|value| parsed(value, report, |text| Rewrite::strip(text, pattern)));
    rewrite.or(strip).unwrap_or_default()
}

/// What the cache asks for, it asks for everybody: a peer must not be told of one client then.
fn one_for_all(rules: &headers::Rules, span: &Range<usize>, report: &mut Report<'_>) {
    let mut told = rules.request.templates();
    let own = told.find(|(_, template)| template.variables().any(Variable::is_of_one));
    if let Some((name, _)) = own {
        let message = format!("`{name}` tells the peer of one client, and the cache asks for all");
        report.fault(
            span,
            message,
            "leave `{client}` and `{id}` out of it, or `cache` out",
        );
    }
}

/// `allow` and `deny`: lists of networks.
fn read_addresses(table: &mut Table<'_, '_>, report: &mut Report<'_>) -> Addresses {
    let mut list = |key| distinct::<IpNet>(table, key, MOST_NETWORKS, report).unwrap_or_default();
    Addresses {
        allow: list("allow"),
        deny: list("deny"),
    }
}

/// The most networks in a list.
const MOST_NETWORKS: usize = 1_000;

/// `limit = "off"`, or a table with the words of `[limit]`.
fn read_route_limit(
    table: &mut Table<'_, '_>,
    file: &limit::Settings,
    report: &mut Report<'_>,
) -> RouteLimit {
    let off = limit::Settings {
        status: file.status,
        ..limit::Settings::default()
    };
    let shared = |settings| RouteLimit {
        settings,
        own_per_client: false,
        own_per_address: false,
        own_global: false,
    };
    match table.value("limit", report) {
        None => shared(file.clone()),
        Some(value) if value.get_ref().as_str() == Some("off") => shared(off),
        Some(value) => {
            let own = Table::of("a route's limit", Some(value), report);
            read_limit_keys(own, file, Own::Route, report)
        }
    }
}

/// `timeout = "5s"` for the whole answer, `timeout = "off"`, or a table with the words of
/// `[timeout]`.
fn read_route_timeout(
    table: &mut Table<'_, '_>,
    defaults: &Defaults<'_>,
    report: &mut Report<'_>,
) -> Timeout {
    let file = defaults.timeout;
    let Some(value) = table.value("timeout", report) else {
        return *file;
    };
    if !value.get_ref().is_table() {
        let response = Switch::<Duration>::read(value, report);
        return Timeout {
            response: response.map_or(file.response, Switch::on),
            ..*file
        };
    }
    let mut own = Table::of("a route's timeout", Some(value), report);
    let mut timeout = *file;
    timeout::read_body(&mut own, &mut timeout, report);
    timeout::read_way(&mut own, &mut timeout, defaults.timeout_table, report);
    own.finish(report);
    timeout
}

impl Read for Pattern {
    fn read(value: &Spanned<DeValue<'_>>, report: &mut Report<'_>) -> Option<Self> {
        parsed(value, report, Self::read)
    }
}

impl Read for Host {
    fn read(value: &Spanned<DeValue<'_>>, report: &mut Report<'_>) -> Option<Self> {
        parsed(value, report, Self::read)
    }
}

impl Read for Method {
    fn read(value: &Spanned<DeValue<'_>>, report: &mut Report<'_>) -> Option<Self> {
        parsed(value, report, |text| {
            let method = Self::from_bytes(text.as_bytes())
                .map_err(|_| "expected a method, as \"GET\"".to_owned())?;
            match method {
                Self::CONNECT | Self::TRACE => {
                    Err("edge never forwards CONNECT and TRACE".to_owned())
                }
                _ if text != text.to_ascii_uppercase() => Err(format!(
                    "methods are told apart by case: write \"{}\"",
                    text.to_ascii_uppercase()
                )),
                method => Ok(method),
            }
        })
    }
}
