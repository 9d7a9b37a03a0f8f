//! `[[route]]`: which requests, to which upstream, how.

use std::ops::Range;
use std::time::Duration;

use http::Method;
use toml::Spanned;
use toml::de::DeValue;

use super::cache::{Bound, check_methods, read_policy};
use super::fault::nearest;
use super::limits::{Own, read_limit_keys};
use super::reader::{FILE, Read, Report, Switch, Table, parsed};
use super::request::read_body;
use super::timeout::{self, Timeout};
use super::websocket::{WebSocket, read_route_websocket};
use crate::cache::Policy;
use crate::route::{Host, Match, Pattern, Rewrite};
use crate::{limit, websocket};

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
    /// How much it lets through.
    pub limit: RouteLimit,
    /// Its times, those of the file filled in.
    pub timeout: Timeout,
    /// The largest body of a request; `None`: any.
    pub body: Option<u64>,
    /// May a request become a WebSocket, and what then? `None`: it may not.
    pub websocket: Option<WebSocket>,
}

/// A route's limits, those of the file filled in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteLimit {
    /// The limits that apply.
    pub settings: limit::Settings,
    /// Has the route buckets of its own for each client, or does it share the file's?
    pub own_per_client: bool,
    /// Has the route a bucket of its own for all, or does it share the file's?
    pub own_global: bool,
}

/// What holds for a route that says nothing else.
pub(super) struct Defaults<'a> {
    pub(super) limit: &'a limit::Settings,
    pub(super) timeout: &'a Timeout,
    /// The number of the table that says so.
    pub(super) timeout_table: usize,
    pub(super) websocket: &'a websocket::Settings,
    /// The largest body of a request.
    pub(super) body: Option<u64>,
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
    let limit = read_route_limit(&mut table, defaults.limit, report);
    let timeout = read_route_timeout(&mut table, defaults, report);
    let body = read_body(&mut table, defaults.body, report);
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
            limit,
            timeout,
            body,
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

/// `limit = "off"`, or a table with the words of `[limit]`.
fn read_route_limit(
    table: &mut Table<'_, '_>,
    file: &limit::Settings,
    report: &mut Report<'_>,
) -> RouteLimit {
    let off = limit::Settings {
        per_client: None,
        global: None,
        status: file.status,
    };
    let shared = |settings| RouteLimit {
        settings,
        own_per_client: false,
        own_global: false,
    };
    match table.value("limit", report) {
        None => shared(*file),
        Some(value) if value.get_ref().as_str() == Some("off") => shared(off),
        Some(value) => {
            let own = Table::of("a route's limit", Some(value), report);
            let (settings, own_per_client, own_global) =
                read_limit_keys(own, file, Own::Route, report);
            RouteLimit {
                settings,
                own_per_client,
                own_global,
            }
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
    let switch = |inherited: Option<Duration>| inherited.map_or(Switch::Off, Switch::On);
    let mut timeout = Timeout {
        body: own.or("body", switch(file.body), report).on(),
        ..*file
    };
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
