//! `[websocket]` and a route's `websocket`.

use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use super::limits::a_second_of;
use super::reader::{Read, Report, Size, Switch, Table, parsed};
use crate::limit::Quota;
use crate::units::Rate;
use crate::websocket::clock::Times;
use crate::websocket::{Origin, Settings, Subprotocol};

/// What a route lets through of WebSockets, the file's words filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebSocket {
    /// What it lets through.
    pub settings: Settings,
    /// Counts the route its clients' messages for itself, or together with the file's?
    pub own_messages: bool,
    /// Has the route places of its own for each client?
    pub own_per_client: bool,
    /// Has the route places of its own for all?
    pub own_global: bool,
}

/// Where the file says nothing.
fn defaults() -> Settings {
    Settings {
        times: Times {
            idle: Some(Duration::from_secs(3_600)),
            ping: Some(Duration::from_secs(30)),
            pong: Some(Duration::from_secs(10)),
            lifetime: None,
        },
        message: Some(4 << 20),
        frame: Some(1 << 20),
        messages_per_client: Some(quota(Rate {
            count: 100,
            per: Duration::from_secs(1),
        })),
        per_client: Some(20),
        global: Some(10_000),
        origins: None,
        subprotocols: None,
    }
}

/// `[websocket]`: for all routes that set none of their own.
pub(super) fn read_websocket(table: Table<'_, '_>, report: &mut Report<'_>) -> Settings {
    read_keys(table, &defaults(), report).settings
}

/// `websocket = true`, or a table with the words of `[websocket]`.
pub(super) fn read_route_websocket(
    table: &mut Table<'_, '_>,
    file: &Settings,
    report: &mut Report<'_>,
) -> Option<WebSocket> {
    let value = table.value("websocket", report)?;
    if value.get_ref().is_table() {
        let own = Table::of("a route's websocket", Some(value), report);
        return Some(read_keys(own, file, report));
    }
    bool::read(value, report)?.then(|| WebSocket {
        settings: file.clone(),
        own_messages: false,
        own_per_client: false,
        own_global: false,
    })
}

fn read_keys(mut table: Table<'_, '_>, file: &Settings, report: &mut Report<'_>) -> WebSocket {
    let mut time = |key, inherited: Option<Duration>, report: &mut Report<'_>| {
        let own = table.placed::<Switch<Duration>>(key, report);
        let span = own.as_ref().map(|(_, span)| span.clone());
        (own.map_or(inherited, |(own, _)| own.on()), span)
    };
    let (idle, _) = time("idle", file.times.idle, report);
    let (ping, _) = time("ping", file.times.ping, report);
    let (pong, pong_span) = time("pong", file.times.pong, report);
    let (lifetime, _) = time("lifetime", file.times.lifetime, report);
    if let (None, Some(_), Some(span)) = (ping, pong, pong_span) {
        let (message, help) = (
            "without `ping` nobody owes a pong",
            "set `ping`, or leave `pong` out",
        );
        table.lacks("ping", &span, message, help, report);
    }
    let message = size(&mut table, "message", file.message, report).0;
    let (frame, frame_span) = size(&mut table, "frame", file.frame, report);
    if let (Some(frame), Some(message), Some(span)) = (frame, message, frame_span)
        && frame > message
    {
        report.fault(
            &span,
            "a frame cannot be larger than a message",
            "expected at most `message`",
        );
    }
    let rate = table.get::<Switch<Rate>>("messages_per_client", report);
    let own_messages = rate.is_some();
    let messages_per_client = match rate {
        Some(rate) => rate.on().map(quota),
        None => file.messages_per_client,
    };
    let (per_client, own_per_client) = places(&mut table, "per_client", file.per_client, report);
    let (global, own_global) = places(&mut table, "global", file.global, report);
    let origins = table.get::<Switch<Vec<Origin>>>("origins", report);
    let subprotocols = table.get::<Switch<Vec<Subprotocol>>>("subprotocols", report);
    table.finish(report);
    WebSocket {
        settings: Settings {
            times: Times {
                idle,
                ping,
                pong,
                lifetime,
            },
            message,
            frame,
            messages_per_client,
            per_client,
            global,
            origins: origins.map_or_else(|| file.origins.clone(), Switch::on),
            subprotocols: subprotocols.map_or_else(|| file.subprotocols.clone(), Switch::on),
        },
        own_messages,
        own_per_client,
        own_global,
    }
}

/// One second's worth may come at once.
fn quota(rate: Rate) -> Quota {
    Quota::new(rate.count, rate.per, a_second_of(rate))
}

fn size(
    table: &mut Table<'_, '_>,
    key: &'static str,
    inherited: Option<u64>,
    report: &mut Report<'_>,
) -> (Option<u64>, Option<std::ops::Range<usize>>) {
    match table.placed::<Switch<Size>>(key, report) {
        Some((size, span)) => (size.on().map(|Size(bytes)| bytes), Some(span)),
        None => (inherited, None),
    }
}

fn places(
    table: &mut Table<'_, '_>,
    key: &'static str,
    inherited: Option<usize>,
    report: &mut Report<'_>,
) -> (Option<usize>, bool) {
    let Some((number, span)) = table.placed::<Switch<u64>>(key, report) else {
        return (inherited, false);
    };
    let number = number.on();
    if number.is_some_and(|number| !(1..=10_000_000).contains(&number)) {
        report.fault(
            &span,
            "so many WebSockets do not fit here",
            "expected 1 to 10000000, or \"off\"",
        );
    }
    (number.and_then(|number| usize::try_from(number).ok()), true)
}

impl Read for Origin {
    fn read(value: &Spanned<DeValue<'_>>, report: &mut Report<'_>) -> Option<Self> {
        parsed(value, report, Self::read)
    }
}

impl Read for Subprotocol {
    fn read(value: &Spanned<DeValue<'_>>, report: &mut Report<'_>) -> Option<Self> {
        parsed(value, report, Self::read)
    }
}
