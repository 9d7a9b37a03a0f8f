//! The configuration file, read strictly: what edge does not understand is a fault, and all
//! faults are told at once.
//!
//! Each key is read in one place, with its default beside it, straight into the type of the
//! policy that obeys it.

mod cache;
mod change;
mod check;
mod describe;
mod dns;
mod fault;
mod forms;
mod limits;
mod reader;
mod request;
mod route;
mod server;
mod timeout;
mod tls;
mod upstream;
mod websocket;

pub use cache::Cache;
pub use change::{Change, Counts};
pub use dns::Dns;
pub use fault::{Fault, Faults, Unread};
pub use request::Request;
pub use route::{Route, RouteLimit};
pub use server::Server;
pub use timeout::Timeout;
pub use tls::{Certificate, Tls};
pub use upstream::{Peer, Protocol, Resolve, Upstream, UpstreamTls};
pub use websocket::WebSocket;

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::ops::Range;
use std::path::Path;

use toml::Spanned;
use toml::de::DeTable;

use crate::limit;
use reader::{Report, Table};

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
    /// `[request]`
    pub request: Request,
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
    /// `[tls]`; `None`: nobody connects so.
    pub tls: Option<Tls>,
    /// `[dns]`
    pub dns: Dns,
    /// `[upstream.NAME]`, by name.
    pub upstreams: Vec<Upstream>,
    /// `[[route]]` in the order of the file.
    pub routes: Vec<Route>,
}

/// `[log]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// The least level written: error, warn, info, debug or trace.
    pub level: String,
    /// One line for each request?
    pub access: bool,
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

    /// Reads a configuration; `file` is its name in messages, and the files that it names lie
    /// beside it.
    pub fn read(file: &str, source: &str) -> Result<Self, Faults> {
        let folder = Path::new(file).parent().unwrap_or(Path::new(""));
        let mut report = Report::new(source, folder);
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
        let source = "[tls]\ncertificates = [{}]\n\
             [upstream.a]\npeers = [{}]\nhealth = {}\neject = {}\nbreaker = {}\nretry = {}\ntls = {}\n\
             [[route]]\ncache = {}\nlimit = { burst = {} }\ntimeout = {}\nwebsocket = {}";
        let mut report = Report::new(source, Path::new(""));
        let (root, _) = DeTable::parse_recoverable(source);
        read_all(&root, &mut report);
        report.asked().to_vec()
    }
}

fn read_all(root: &Spanned<DeTable<'_>>, report: &mut Report<'_>) -> Option<Config> {
    let mut file = Table::new("the file", 0..0, Some(root.get_ref()), report);
    let server = server::read_server(
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
    let request = request::read_request(
        Table::of("[request]", file.value("request", report), report),
        report,
    );
    let (limit, clients) = limits::read_limit(
        Table::of("[limit]", file.value("limit", report), report),
        report,
    );
    let tls = tls::read_tls(file.value("tls", report), report);
    let (dns, dns_span) = dns::read_dns(
        Table::of("[dns]", file.value("dns", report), report),
        report,
    );
    let (timeout, timeout_table) = timeout::read_timeout(
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
    let upstreams = upstream::read_upstreams(file.value("upstream", report), report);
    let routes = file.value("route", report);
    let names: Vec<&str> = upstreams
        .iter()
        .map(|(upstream, _)| upstream.name.as_str())
        .collect();
    let defaults = route::Defaults {
        limit: &limit,
        timeout: &timeout,
        timeout_table,
        websocket: &websocket,
        body: request.body,
        object,
    };
    let routes = route::read_routes(routes, &names, &defaults, report);
    file.finish(report);

    check::upstreams_are_used(&upstreams, &routes, report);
    check::routes_are_reached(&routes, report);
    check::websockets_are_spoken(&upstreams, &routes, report);
    let (server, listen) = server;
    let (admin, admin_span) = admin;
    let tls_span = tls.as_ref().map(|(_, span)| span.clone());
    let tls = tls.map(|(tls, _)| tls);
    let listeners = [
        ("[server]", Some(server.listen), listen),
        ("[admin]", Some(admin), admin_span),
        ("[tls]", tls.as_ref().map(|tls| tls.listen), tls_span),
    ];
    check::listeners_differ(&listeners, report);
    check::names_are_looked_up(&upstreams, dns_span, report);
    Some(Config {
        server,
        admin,
        log,
        request,
        limit,
        clients,
        timeout,
        websocket,
        cache,
        tls,
        dns,
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
