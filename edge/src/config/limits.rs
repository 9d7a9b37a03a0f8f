//! `[limit]` and a route's `limit`.

use std::ops::Range;

use http::{HeaderName, StatusCode};
use toml::Spanned;
use toml::de::DeValue;

use super::at_least_one;
use super::reader::{Read, Report, Switch, Table, parsed};
use crate::limit::{self, By, Quota};
use crate::units::Rate;

/// A route's limits, those of the file filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteLimit {
    /// The limits that apply.
    pub settings: limit::Settings,
    /// Has the route buckets of its own for each client, or does it share the file's?
    pub own_per_client: bool,
    /// Has the route buckets of its own for each address?
    pub own_per_address: bool,
    /// Has the route a bucket of its own for all, or does it share the file's?
    pub own_global: bool,
}

pub(super) fn read_limit(
    mut table: Table<'_, '_>,
    report: &mut Report<'_>,
) -> (limit::Settings, usize) {
    let clients = at_least_one(&mut table, "clients", limit::DEFAULT_CLIENTS, report);
    let read = read_limit_keys(table, &limit::Settings::default(), Own::File, report);
    (read.settings, clients)
}

/// Whose limit is read: what it does not set it takes from the file.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Own {
    File,
    Route,
}

/// The keys that `[limit]` and a route's `limit` share. Also tells which of the limits were set
/// here.
pub(super) fn read_limit_keys(
    mut table: Table<'_, '_>,
    file: &limit::Settings,
    own: Own,
    report: &mut Report<'_>,
) -> RouteLimit {
    let by = table.get::<By>("by", report);
    let per_address = table.get::<Rate>("per_address", report);
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
    let own_client = per_client.is_some() || client_burst.is_some() || by.is_some();
    let own_global = global.is_some() || global_burst.is_some();
    let own_address = per_address.is_some();
    let settings = limit::Settings {
        by: by.unwrap_or_else(|| file.by.clone()),
        per_address: match per_address {
            Some(rate) => Some(quota(rate, None)),
            None => file.per_address,
        },
        per_client: settle(per_client, client_burst, file.per_client),
        global: settle(global, global_burst, file.global),
        status: chosen,
    };
    table.finish(report);
    RouteLimit {
        settings,
        own_per_client: own_client,
        own_per_address: own_address,
        own_global,
    }
}

/// One second's worth, at least one.
pub(super) fn a_second_of(rate: Rate) -> u64 {
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

impl Read for By {
    fn read(value: &Spanned<DeValue<'_>>, report: &mut Report<'_>) -> Option<Self> {
        parsed(value, report, |text| match text.split_once(':') {
            None if text == "address" => Ok(Self::Address),
            None if text == "identity" => Ok(Self::Identity),
            Some(("claim", path)) => path.parse().map(Self::Claim),
            Some(("header", name)) => HeaderName::try_from(name)
                .map(Self::Header)
                .map_err(|_| format!("`{name}` is no name of a field")),
            _ => Err(
                "expected \"address\", \"identity\", \"claim:NAME\" or \"header:NAME\"".to_owned(),
            ),
        })
    }
}
