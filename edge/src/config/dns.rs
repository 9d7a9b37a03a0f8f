//! `[dns]`.

use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use super::forms::{distinct, time, written};
use super::reader::{Report, Table};

/// `[dns]`: how names of peers are looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dns {
    /// Who is asked; empty: those of the system.
    pub servers: Vec<SocketAddr>,
    /// A name is looked up again after its records' time to live, but no sooner than this.
    pub ttl_min: Duration,
    /// And no later than this.
    pub ttl_max: Duration,
    /// For one look-up.
    pub timeout: Duration,
}

impl Default for Dns {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            ttl_min: Duration::from_secs(1),
            ttl_max: Duration::from_secs(30),
            timeout: Duration::from_secs(2),
        }
    }
}

/// More servers than this are a fault: a look-up does not live long enough to ask them all.
const MOST_SERVERS: usize = 8;

/// `[dns]`, and its place if it says anything.
pub(super) fn read_dns(
    mut table: Table<'_, '_>,
    report: &mut Report<'_>,
) -> (Dns, Option<Range<usize>>) {
    let default = Dns::default();
    let said = (!table.is_empty()).then(|| table.span().clone());
    let servers = distinct::<SocketAddr>(&mut table, "servers", MOST_SERVERS, report);
    let hour = Duration::from_secs(3_600);
    let ttl_min = time(
        &mut table,
        "ttl_min",
        Duration::from_millis(100)..=hour,
        report,
    );
    let ttl_max = time(
        &mut table,
        "ttl_max",
        Duration::from_millis(100)..=24 * hour,
        report,
    );
    let timeout = time(
        &mut table,
        "timeout",
        Duration::from_millis(10)..=Duration::from_secs(60),
        report,
    );
    let most = ttl_max.as_ref().map_or(default.ttl_max, |(most, _)| *most);
    if let Some((least, span)) = &ttl_min
        && *least > most
    {
        table.lacks(
            "ttl_max",
            span,
            "`ttl_min` is longer than `ttl_max`",
            format!("expected at most \"{}\"", written(most)),
            report,
        );
    }
    table.finish(report);
    let dns = Dns {
        servers: servers.unwrap_or_default(),
        ttl_min: ttl_min.map_or(default.ttl_min.min(most), |(own, _)| own),
        ttl_max: most,
        timeout: timeout.map_or(default.timeout, |(own, _)| own),
    };
    (dns, said)
}
