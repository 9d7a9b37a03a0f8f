//! The configuration file, read strictly: what edge does not understand is a fault, and all
//! faults are told at once.
//!
//! Each key is read in one place, with its default beside it, straight into the type of the
//! policy that obeys it.

mod cache;
mod change;
mod check;
mod describe;
mod fault;
mod reader;
mod route;
mod websocket;

pub use cache::Cache;
pub use change::{Change, Counts};
pub use fault::{Fault, Faults, Unread};
pub use route::{Route, RouteLimit};
pub use websocket::WebSocket;

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use http::StatusCode;
use ipnet::IpNet;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::client::Trust;
use crate::limit::{self, Quota};
use crate::units::Rate;
use reader::{Read, Report, Switch, Table, UrlPath};

/// Where probes and metrics are if the file does not say.
pub const ADMIN: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 9090));

/// All that a file says, with every default filled in.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// `[server]`
    pub server: Server,
    /// `[admin] listen`: where probes and metrics are served, apart from the traffic.
    pub admin: SocketAddr,
    /// `[log]`
    pub log: Log,
    /// `[limit]` for all routes that set none of their own.
    pub limit: limit::Settings,
    /// `[limit] clients`: how many clients are told apart at once.
    pub clients: usize,
    /// `[timeout]`
    pub timeout: Timeout,
    /// `[websocket]` for all routes that set none of their own.
    pub websocket: crate::websocket::Settings,
    /// `[cache]`
    pub cache: Cache,
    /// `[upstream.NAME]`, by name.
    pub upstreams: Vec<Upstream>,
    /// `[[route]]` in the order of the file.
    pub routes: Vec<Route>,
}

/// `[server]`: the traffic's side.
#[derive(Debug, Clone, PartialEq)]
pub struct Server {
    /// Where clients connect.
    pub listen: SocketAddr,
    /// Whom edge believes about the client.
    pub trust: Trust,
    /// How long open requests may take to finish once edge is told to end.
    pub drain: Duration,
    /// How long edge goes on taking new requests after it says "not ready".
    pub drain_delay: Duration,
    /// The most connections open at once.
    pub connections: usize,
}

/// `[log]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// The least level written: error, warn, info, debug or trace.
    pub level: String,
    /// One line for each request?
    pub access: bool,
}

/// `[timeout]`; `None` is "off".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeout {
    /// For a connection to a peer.
    pub connect: Duration,
    /// For the whole answer, from the request's arrival to the last byte.
    pub response: Option<Duration>,
    /// For a client to send a request's head.
    pub head: Duration,
    /// For a client to send a request's body.
    pub body: Option<Duration>,
    /// For a client's connection on which no request is open.
    pub keepalive: Duration,
}

/// `[upstream.NAME]`: a named group that answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// Its name.
    pub name: String,
    /// Its addresses, `host:port`.
    pub peers: Vec<String>,
    /// The path asked to learn whether a peer is well; `None`: nobody asks.
    pub health: Option<String>,
}

impl Config {
    /// Reads the file at `path`.
    pub fn load(path: &Path) -> Result<Self, Unread> {
        let file = path.display().to_string();
        match std::fs::read_to_string(path) {
            Ok(source) => Self::read(&file, &source).map_err(Unread::Faults),
            Err(error) => Err(Unread::File(file, error)),
        }
    }

    /// Reads a configuration; `file` is its name in messages.
    pub fn read(file: &str, source: &str) -> Result<Self, Faults> {
        let mut report = Report::new(source);
        let (root, errors) = DeTable::parse_recoverable(source);
        for error in errors {
            report.fault(
                &error.span().unwrap_or(0..0),
                error.message().replace('\n', "; "),
                "",
            );
        }
        let config = read_all(&root, &mut report);
        match (config, report.finish(file)) {
            (Some(config), None) => Ok(config),
            (_, Some(faults)) => Err(faults),
            // Nothing is left out without a fault; should it happen all the same, say so.
            (None, None) => Err(Faults {
                file: file.to_owned(),
                list: vec![Fault::new(
                    source,
                    &(0..0),
                    "the file cannot be read".to_owned(),
                    String::new(),
                )],
            }),
        }
    }

    /// Every key that a file may hold, as (table, key): what the documents must name.
    pub fn keys() -> Vec<(&'static str, &'static str)> {
        let source = "[upstream.a]\npeers = []\n[[route]]\ncache = {}\nlimit = { burst = {} }\ntimeout = {}\n\
             websocket = {}";
        let mut report = Report::new(source);
        let (root, _) = DeTable::parse_recoverable(source);
        read_all(&root, &mut report);
        report.asked().to_vec()
    }
}

fn read_all(root: &Spanned<DeTable<'_>>, report: &mut Report<'_>) -> Option<Config> {
    let mut file = Table::new("the file", 0..0, Some(root.get_ref()), report);
    let server = read_server(
        Table::of("[server]", file.value("server", report), report),
        report,
    );
    let admin = read_admin(
        Table::of("[admin]", file.value("admin", report), report),
        report,
    );
    let log = read_log(
        Table::of("[log]", file.value("log", report), report),
        report,
    );
    let (limit, clients) = read_limit(
        Table::of("[limit]", file.value("limit", report), report),
        report,
    );
    let timeout = read_timeout(
        Table::of("[timeout]", file.value("timeout", report), report),
        report,
    );
    let websocket = websocket::read_websocket(
        Table::of("[websocket]", file.value("websocket", report), report),
        report,
    );
    let (cache, object) = cache::read_cache(
        Table::of("[cache]", file.value("cache", report), report),
        report,
    );
    let upstreams = read_upstreams(file.value("upstream", report), report);
    let routes = file.value("route", report);
    let names: Vec<&str> = upstreams
        .iter()
        .map(|(upstream, _)| upstream.name.as_str())
        .collect();
    let defaults = route::Defaults {
        limit: &limit,
        timeout: &timeout,
        websocket: &websocket,
        object,
    };
    let routes = route::read_routes(routes, &names, &defaults, report);
    file.finish(report);

    check::upstreams_are_used(&upstreams, &routes, report);
    check::routes_are_reached(&routes, report);
    let (server, listen) = server;
    let (admin, admin_span) = admin;
    check::listeners_differ(server.listen, admin, listen.or(admin_span), report);
    Some(Config {
        server,
        admin,
        log,
        limit,
        clients,
        timeout,
        websocket,
        cache,
        upstreams: upstreams
            .into_iter()
            .map(|(upstream, _)| upstream)
            .collect(),
        routes: routes
            .into_iter()
            .map(|(route, _)| route)
            .collect::<Option<_>>()?,
    })
}

fn read_server(
    mut table: Table<'_, '_>,
    report: &mut Report<'_>,
) -> (Server, Option<Range<usize>>) {
    let listen = table.placed::<SocketAddr>("listen", report);
    let span = listen.as_ref().map(|(_, span)| span.clone());
    let prefix = table.placed::<u64>("ipv6_prefix", report);
    let ipv6_prefix = match &prefix {
        Some((bits, _)) if (1..=128).contains(bits) => u8::try_from(*bits).unwrap_or(64),
        Some((bits, span)) => {
            report.fault(
                span,
                format!("{bits} bits are no IPv6 prefix"),
                "expected 1 to 128",
            );
            64
        }
        None => 64,
    };
    let server = Server {
        listen: listen.map_or(SocketAddr::from(([127, 0, 0, 1], 8080)), |(listen, _)| {
            listen
        }),
        trust: Trust {
            proxies: table.or::<Vec<IpNet>>("trusted_proxies", Vec::new(), report),
            ipv6_prefix,
        },
        drain: table.or("drain", Duration::from_secs(25), report),
        drain_delay: table
            .or("drain_delay", Switch::On(Duration::from_secs(1)), report)
            .on()
            .unwrap_or_default(),
        connections: at_least_one(&mut table, "connections", 20_000, report),
    };
    table.finish(report);
    (server, span)
}

fn read_admin(
    mut table: Table<'_, '_>,
    report: &mut Report<'_>,
) -> (SocketAddr, Option<Range<usize>>) {
    let listen = table.placed::<SocketAddr>("listen", report);
    table.finish(report);
    match listen {
        Some((listen, span)) => (listen, Some(span)),
        None => (ADMIN, None),
    }
}

fn read_log(mut table: Table<'_, '_>, report: &mut Report<'_>) -> Log {
    const LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];
    let mut level = table.or("level", ("info".to_owned(), 0..0), report);
    if !LEVELS.contains(&level.0.as_str()) {
        let help = fault::nearest(&level.0, LEVELS).map_or_else(
            || format!("expected one of {}", LEVELS.join(", ")),
            |near| format!("did you mean `{near}`?"),
        );
        report.fault(&level.1, format!("`{}` is no log level", level.0), help);
        level.0 = "info".to_owned();
    }
    let log = Log {
        level: level.0,
        access: table.or("access", true, report),
    };
    table.finish(report);
    log
}

fn read_limit(mut table: Table<'_, '_>, report: &mut Report<'_>) -> (limit::Settings, usize) {
    let clients = at_least_one(&mut table, "clients", limit::DEFAULT_CLIENTS, report);
    let (settings, _, _) = read_limit_keys(table, &limit::Settings::default(), Own::File, report);
    (settings, clients)
}

/// Whose limit is read: what it does not set it takes from the file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Own {
    File,
    Route,
}

/// The keys that `[limit]` and a route's `limit` share. Also tells which of the two limits were
/// set here.
fn read_limit_keys(
    mut table: Table<'_, '_>,
    file: &limit::Settings,
    own: Own,
    report: &mut Report<'_>,
) -> (limit::Settings, bool, bool) {
    let per_client = table.get::<Switch<Rate>>("per_client", report);
    let global = table.get::<Switch<Rate>>("global", report);
    let (client_burst, global_burst) = read_burst(&mut table, report);
    let mut status = Table::of(
        if own == Own::File {
            "[limit] status"
        } else {
            "a route's limit.status"
        },
        table.value("status", report),
        report,
    );
    let chosen = limit::Status {
        per_client: read_status(&mut status, "per_client", file.status.per_client, report),
        global: read_status(&mut status, "global", file.status.global, report),
    };
    status.finish(report);
    let quota = |rate: Rate, burst: Option<u64>| {
        Quota::new(
            rate.count,
            rate.per,
            burst.unwrap_or_else(|| a_second_of(rate)),
        )
    };
    let settle = |rate: Option<Switch<Rate>>, burst, inherited: Option<Quota>| match rate {
        Some(rate) => rate.on().map(|rate| quota(rate, burst)),
        None => inherited.map(|quota| burst.map_or(quota, |burst| quota.with_burst(burst))),
    };
    for (rate, burst, key) in [
        (&per_client, &client_burst, "per_client"),
        (&global, &global_burst, "global"),
    ] {
        let inherited = if key == "per_client" {
            file.per_client
        } else {
            file.global
        };
        let limited = match rate {
            Some(rate) => *rate != Switch::Off,
            None => inherited.is_some(),
        };
        if let (false, Some((_, span))) = (limited, burst) {
            table.lacks(
                key,
                span,
                format!("a burst without a `{key}` limit does nothing"),
                format!("set `{key}`, or leave the burst out"),
                report,
            );
        }
    }
    let client_burst = client_burst.map(|(burst, _)| burst);
    let global_burst = global_burst.map(|(burst, _)| burst);
    let own_client = per_client.is_some() || client_burst.is_some();
    let own_global = global.is_some() || global_burst.is_some();
    let settings = limit::Settings {
        per_client: settle(per_client, client_burst, file.per_client),
        global: settle(global, global_burst, file.global),
        status: chosen,
    };
    table.finish(report);
    (settings, own_client, own_global)
}

/// One second's worth, at least one.
fn a_second_of(rate: Rate) -> u64 {
    let per_second = u128::from(rate.count) * 1_000_000_000 / rate.per.as_nanos().max(1);
    u64::try_from(per_second).unwrap_or(u64::MAX).max(1)
}

type Burst = Option<(u64, Range<usize>)>;

/// `burst = 20` for each client, or `burst = { per_client = 20, global = 200 }`.
fn read_burst(table: &mut Table<'_, '_>, report: &mut Report<'_>) -> (Burst, Burst) {
    let Some(value) = table.value("burst", report) else {
        return (None, None);
    };
    let (per_client, global) = if value.get_ref().is_table() {
        let mut table = Table::of("burst", Some(value), report);
        let both = (
            table.placed("per_client", report),
            table.placed("global", report),
        );
        table.finish(report);
        both
    } else {
        (
            u64::read(value, report).map(|burst| (burst, value.span())),
            None,
        )
    };
    for (burst, span) in per_client.iter().chain(&global) {
        if *burst == 0 {
            report.fault(
                span,
                "a burst of 0 lets nobody through",
                "expected at least 1",
            );
        }
    }
    (per_client, global)
}

fn read_status(
    table: &mut Table<'_, '_>,
    key: &'static str,
    default: StatusCode,
    report: &mut Report<'_>,
) -> StatusCode {
    let Some((status, span)) = table.placed::<u64>(key, report) else {
        return default;
    };
    let code = u16::try_from(status)
        .ok()
        .filter(|code| (400..600).contains(code));
    match code.and_then(|code| StatusCode::from_u16(code).ok()) {
        Some(code) => code,
        None => {
            report.fault(
                &span,
                format!("{status} is no status of a refusal"),
                "expected 400 to 599, as 429 or 503",
            );
            default
        }
    }
}

fn read_timeout(mut table: Table<'_, '_>, report: &mut Report<'_>) -> Timeout {
    let timeout = Timeout {
        connect: table.or("connect", Duration::from_secs(1), report),
        response: table
            .or("response", Switch::On(Duration::from_secs(30)), report)
            .on(),
        head: read_head(&mut table, report),
        body: table
            .or("body", Switch::On(Duration::from_secs(60)), report)
            .on(),
        keepalive: table.or("keepalive", Duration::from_secs(75), report),
    };
    table.finish(report);
    timeout
}

/// Pingora gives a connection's first head 60 s, and nothing more.
fn read_head(table: &mut Table<'_, '_>, report: &mut Report<'_>) -> Duration {
    let most = Duration::from_secs(60);
    let head = table.placed::<Duration>("head", report);
    if let Some((head, span)) = &head
        && *head > most
    {
        report.fault(
            span,
            "longer than a head may take",
            "expected at most \"60s\"",
        );
    }
    head.map_or(Duration::from_secs(10), |(head, _)| head)
}

fn read_upstreams(
    value: Option<&Spanned<DeValue<'_>>>,
    report: &mut Report<'_>,
) -> Vec<(Upstream, Range<usize>)> {
    let mut upstreams = Vec::new();
    let named = value.and_then(|value| value.get_ref().as_table());
    if let (Some(value), None) = (value, named) {
        report.fault(
            &value.span(),
            "expected a table for each upstream",
            "write `[upstream.NAME]`",
        );
    }
    for (name, value) in named.into_iter().flatten() {
        let mut table = Table::of("[upstream.NAME]", Some(value), report);
        let peers = table.require::<Vec<(String, Range<usize>)>>(
            "peers",
            "as `peers = [\"127.0.0.1:8081\"]`",
            report,
        );
        let upstream = Upstream {
            name: name.get_ref().to_string(),
            peers: peers
                .map(|(peers, span)| check::peers(peers, &span, report))
                .unwrap_or_default(),
            health: table
                .get::<Switch<UrlPath>>("health", report)
                .and_then(Switch::on)
                .map(|UrlPath(path)| path),
        };
        table.finish(report);
        upstreams.push((upstream, name.span()));
    }
    upstreams
}

fn at_least_one(
    table: &mut Table<'_, '_>,
    key: &'static str,
    default: usize,
    report: &mut Report<'_>,
) -> usize {
    let Some((number, span)) = table.placed::<u64>(key, report) else {
        return default;
    };
    if !(1..=10_000_000).contains(&number) {
        report.fault(
            &span,
            format!("{number} does not fit here"),
            "expected 1 to 10000000",
        );
    }
    usize::try_from(number).unwrap_or(default)
}
