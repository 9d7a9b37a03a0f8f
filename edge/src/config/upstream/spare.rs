//! `breaker` and `retry`: how much an upstream is asked for.

use std::ops::Range;
use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use super::SECOND;
use crate::breaker::{self, Trip};
use crate::config::forms::{distinct, number, time};
use crate::config::reader::{Percentage, Read, Report, Size, Switch, Table, text};
use crate::retry::{self, On};

/// The largest number of connections and requests.
const MOST: usize = 1_000_000;
/// The largest body that is kept to be sent again: each open request may hold one.
const MOST_BODY: u64 = 16 << 20;
/// More words than this in `on` are a fault: three, and 100 statuses.
const MOST_ON: usize = 103;

/// `breaker = { .. }`
pub(super) fn read_breaker(
    table: &mut Table<'_, '_>,
    default: breaker::Settings,
    report: &mut Report<'_>,
) -> breaker::Settings {
    let Some(value) = table.value("breaker", report) else {
        return default;
    };
    let mut table = Table::of("an upstream's breaker", Some(value), report);
    let connections = table.value("max_connections", report).is_some();
    let max_connections = number(&mut table, "max_connections", 1..=MOST, report);
    let max_pending = number(&mut table, "max_pending", 0..=MOST, report);
    let max_requests = number(&mut table, "max_requests", 1..=MOST, report);
    if let (false, Some((_, span))) = (connections, &max_pending) {
        table.lacks(
            "max_connections",
            span,
            "without `max_connections` no request ever waits",
            "set `max_connections`, or leave `max_pending` out",
            report,
        );
    }
    if let (Some((connections, _)), Some((requests, span))) = (&max_connections, &max_requests)
        && requests < connections
    {
        report.fault(
            span,
            "fewer requests than connections: so many of these are never in use",
            "expected at least `max_connections`",
        );
    }
    let trip = read_trip(&mut table, report);
    table.finish(report);
    breaker::Settings {
        max_connections: max_connections.map(|(own, _)| own),
        max_pending: max_pending.map_or(default.max_pending, |(own, _)| own),
        max_requests: max_requests.map(|(own, _)| own),
        trip,
    }
}

fn read_trip(table: &mut Table<'_, '_>, report: &mut Report<'_>) -> Option<Trip> {
    let errors = table.value("errors", report);
    let off = errors.is_none_or(|value| value.get_ref().as_str() == Some("off"));
    let errors = errors.and_then(|value| Switch::<Percentage>::read(value, report)?.on());
    let requests = number(table, "requests", 1..=1_000_000, report);
    let window = time(table, "window", SECOND..=3_600 * SECOND, report);
    let open = time(
        table,
        "open",
        Duration::from_millis(100)..=3_600 * SECOND,
        report,
    );
    let span = |own: &Option<(Duration, Range<usize>)>| own.as_ref().map(|(_, span)| span.clone());
    let said = [
        requests.as_ref().map(|(_, span)| span.clone()),
        span(&window),
        span(&open),
    ];
    for span in said.into_iter().flatten().filter(|_| off) {
        table.lacks(
            "errors",
            &span,
            "without `errors` the circuit never opens",
            "set `errors`, as `errors = \"50%\"`, or leave this out",
            report,
        );
    }
    errors.map(|Percentage(errors)| Trip {
        errors,
        requests: requests.map_or(20, |(requests, _)| requests),
        window: window.map_or(10 * SECOND, |(window, _)| window),
        open: open.map_or(5 * SECOND, |(open, _)| open),
    })
}

/// `retry = "off"`, or a table.
pub(super) fn read_retry(
    table: &mut Table<'_, '_>,
    report: &mut Report<'_>,
) -> Option<retry::Settings> {
    let default = retry::Settings::default();
    let Some(value) = table.value("retry", report) else {
        return Some(default);
    };
    if value.get_ref().as_str() == Some("off") {
        return None;
    }
    let mut table = Table::of("an upstream's retry", Some(value), report);
    let attempts = read_attempts(&mut table, report);
    let budget = table.get::<Percentage>("budget", report);
    let body = table.placed::<Size>("body", report);
    let on = distinct::<Word>(&mut table, "on", MOST_ON, report).map(|words| on(&words));
    if let Some((Size(bytes), span)) = &body {
        if *bytes > MOST_BODY {
            report.fault(
                span,
                format!("{bytes} B do not fit here"),
                "expected at most \"16MiB\"",
            );
        }
        let never = |on: &On| !on.closed && !on.timeout && on.statuses.is_empty();
        if on.as_ref().is_some_and(never) {
            report.fault(
                span,
                "without a connection nothing was sent: no body need be kept",
                "leave `body` out, or add to `on`",
            );
        }
    }
    table.finish(report);
    Some(retry::Settings {
        attempts: attempts.unwrap_or(default.attempts),
        budget: budget.map_or(default.budget, |Percentage(budget)| budget),
        body: body.map_or(default.body, |(Size(bytes), _)| bytes),
        on: on.unwrap_or(default.on),
    })
}

fn read_attempts(table: &mut Table<'_, '_>, report: &mut Report<'_>) -> Option<usize> {
    let (attempts, span) = table.placed::<u64>("attempts", report)?;
    let fits = (2..=10).contains(&attempts);
    if !fits {
        report.fault(
            &span,
            format!("{attempts} does not fit here"),
            "expected 2 to 10, the first included; `retry = \"off\"` sends each request once",
        );
    }
    usize::try_from(attempts).ok().filter(|_| fits)
}

/// What is repeated.
#[derive(PartialEq)]
enum Word {
    Connect,
    Closed,
    Timeout,
    Status(u16),
}

impl Read for Word {
    fn read(value: &Spanned<DeValue<'_>>, report: &mut Report<'_>) -> Option<Self> {
        let written = if value.get_ref().is_integer() {
            u64::read(value, report)?.to_string()
        } else {
            text(value, report)?.to_owned()
        };
        let status = |text: &str| {
            let number = text.parse().ok()?;
            (text.len() == 3 && (500..=599).contains(&number)).then_some(Self::Status(number))
        };
        let word = match written.as_str() {
            "connect" => Some(Self::Connect),
            "closed" => Some(Self::Closed),
            "timeout" => Some(Self::Timeout),
            other => status(other),
        };
        if word.is_none() {
            report.fault(
                &value.span(),
                format!("`{written}` does not fit here"),
                "expected \"connect\", \"closed\", \"timeout\", or a status as \"503\"",
            );
        }
        word
    }
}

fn on(words: &[Word]) -> On {
    let status = |word: &Word| match word {
        Word::Status(status) => Some(*status),
        _ => None,
    };
    On {
        connect: words.contains(&Word::Connect),
        closed: words.contains(&Word::Closed),
        timeout: words.contains(&Word::Timeout),
        statuses: words.iter().filter_map(status).collect(),
    }
}
