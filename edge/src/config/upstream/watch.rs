//! `health` and `eject`: which peers may be asked.

use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use super::SECOND;
use crate::config::forms::{number, time, within, written};
use crate::config::reader::{Percentage, Read, Report, Switch, Table, UrlPath, text};
use crate::standing::{Eject, Probe};

/// More ranges of statuses than this are a fault.
const MOST_STATUSES: usize = 16;

const TENTH: Duration = Duration::from_millis(100);

/// `health = "/health"`, `health = "off"`, or a table.
pub(super) fn read_health(table: &mut Table<'_, '_>, report: &mut Report<'_>) -> Option<Probe> {
    let value = table.value("health", report)?;
    if !value.get_ref().is_table() {
        let path = Switch::<UrlPath>::read(value, report)?.on()?;
        return Some(probe(path));
    }
    let mut table = Table::of("an upstream's health", Some(value), report);
    let path = table.require::<UrlPath>("path", "as `path = \"/health\"`", report);
    let every = time(&mut table, "every", TENTH..=3_600 * SECOND, report);
    let timeout = table.placed::<Duration>("timeout", report);
    let default = probe(path.map_or(UrlPath("/".to_owned()), |(path, _)| path));
    let every = every.map_or(default.every, |(every, _)| every);
    if let Some((timeout, span)) = &timeout
        && *timeout > every
    {
        table.lacks(
            "every",
            span,
            "a peer would be asked again before it has answered",
            format!("expected at most `every`, which is \"{}\"", written(every)),
            report,
        );
    }
    let expect = read_expect(&mut table, report);
    let rise = number(&mut table, "rise", 1..=100, report);
    let fall = number(&mut table, "fall", 1..=100, report);
    table.finish(report);
    Some(Probe {
        every,
        timeout: timeout.map_or(default.timeout.min(every), |(timeout, _)| timeout),
        expect: expect.unwrap_or(default.expect),
        rise: rise.map_or(default.rise, |(rise, _)| rise),
        fall: fall.map_or(default.fall, |(fall, _)| fall),
        path: default.path,
    })
}

fn probe(UrlPath(path): UrlPath) -> Probe {
    Probe {
        path,
        every: 5 * SECOND,
        timeout: SECOND,
        expect: vec![200..=299],
        rise: 1,
        fall: 2,
    }
}

/// One status as `200`, or several as `"200-299"`.
struct Statuses(RangeInclusive<u16>);

impl Read for Statuses {
    fn read(value: &Spanned<DeValue<'_>>, report: &mut Report<'_>) -> Option<Self> {
        let written = if value.get_ref().is_integer() {
            u64::read(value, report)?.to_string()
        } else {
            text(value, report)?.to_owned()
        };
        let (first, last) = written.split_once('-').unwrap_or((&written, &written));
        let status = |text: &str| {
            let number = text.parse::<u16>().ok()?;
            (text.len() == 3 && (200..=599).contains(&number)).then_some(number)
        };
        let range = status(first)
            .zip(status(last))
            .map(|(first, last)| first..=last)
            .filter(|range| !range.is_empty());
        if range.is_none() {
            report.fault(
                &value.span(),
                format!("`{written}` does not fit here"),
                "expected statuses from 200 to 599, as 200 or \"200-299\"",
            );
        }
        range.map(Self)
    }
}

fn read_expect(
    table: &mut Table<'_, '_>,
    report: &mut Report<'_>,
) -> Option<Vec<RangeInclusive<u16>>> {
    let (list, whole) = table.placed::<Vec<(Statuses, Range<usize>)>>("expect", report)?;
    if list.is_empty() || list.len() > MOST_STATUSES {
        report.fault(
            &whole,
            format!("{} members", list.len()),
            format!("expected 1 to {MOST_STATUSES}: with none no peer is ever well"),
        );
    }
    let mut own: Vec<RangeInclusive<u16>> = Vec::new();
    for (Statuses(range), span) in list {
        let meets = |other: &RangeInclusive<u16>| {
            range.start() <= other.end() && other.start() <= range.end()
        };
        if own.iter().any(meets) {
            report.fault(&span, "this stands here twice", "leave one out");
        }
        own.push(range);
    }
    Some(own)
}

/// `eject = "off"`, or a table.
pub(super) fn read_eject(
    table: &mut Table<'_, '_>,
    default: Option<Eject>,
    report: &mut Report<'_>,
) -> Option<Eject> {
    let Some(value) = table.value("eject", report) else {
        return default;
    };
    if value.get_ref().as_str() == Some("off") {
        return None;
    }
    let default = default?;
    let mut table = Table::of("an upstream's eject", Some(value), report);
    let failures = number(&mut table, "failures", 1..=1_000, report);
    let first = table.placed::<Duration>("time", report);
    let most = table.placed::<Duration>("time_max", report);
    for (time, span) in first.iter().chain(&most) {
        within(*time, &(TENTH..=86_400 * SECOND), span, report);
    }
    let most = most.map_or(default.time_max, |(most, _)| most);
    if let Some((first, span)) = &first
        && *first > most
        && *first <= 86_400 * SECOND
    {
        table.lacks(
            "time_max",
            span,
            "`time` is longer than `time_max`",
            format!("expected at most \"{}\"", written(most)),
            report,
        );
    }
    let share = table.get::<Percentage>("share", report);
    table.finish(report);
    Some(Eject {
        failures: failures.map_or(default.failures, |(failures, _)| failures),
        time: first.map_or(default.time.min(most), |(first, _)| first),
        time_max: most,
        share: share.map_or(default.share, |Percentage(share)| share),
    })
}
