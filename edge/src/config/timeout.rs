//! `[timeout]`.

use std::time::Duration;

use super::reader::{ByteRate, Report, Switch, Table};

/// `[timeout]`; `None` is "off".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeout {
    /// For a connection to a peer.
    pub connect: Duration,
    /// For one try at a peer, from the connection to the head of the answer.
    pub attempt: Option<Duration>,
    /// For the whole answer, from the request's arrival to the last byte.
    pub response: Option<Duration>,
    /// For a client to send a request's head.
    pub head: Duration,
    /// For a client to send a request's body.
    pub body: Option<Duration>,
    /// The least mean rate of a request's body, in bytes a second, while the client is waited for.
    pub body_rate: Option<u64>,
    /// For a client to take something of what is written.
    pub write: Option<Duration>,
    /// For a client's connection on which no request is open.
    pub keepalive: Duration,
}

/// A body arrives at this rate at least, unless the file says otherwise.
const BODY_RATE: u64 = 256;

/// `[timeout]`, and the number of its table.
pub(super) fn read_timeout(mut table: Table<'_, '_>, report: &mut Report<'_>) -> (Timeout, usize) {
    let number = table.number();
    let mut timeout = Timeout {
        connect: Duration::from_secs(1),
        attempt: None,
        response: Some(Duration::from_secs(30)),
        head: read_head(&mut table, report),
        body: Some(Duration::from_secs(60)),
        body_rate: Some(BODY_RATE),
        write: table
            .or("write", Switch::On(Duration::from_secs(10)), report)
            .on(),
        keepalive: table.or("keepalive", Duration::from_secs(75), report),
    };
    read_body(&mut table, &mut timeout, report);
    read_way(&mut table, &mut timeout, number, report);
    table.finish(report);
    (timeout, number)
}

/// `body` and `body_rate`. A body that may take for ever is a stream, on which silence is no fault,
/// unless a rate is named beside it.
pub(super) fn read_body(table: &mut Table<'_, '_>, timeout: &mut Timeout, report: &mut Report<'_>) {
    let switch = timeout.body.map_or(Switch::Off, Switch::On);
    timeout.body = table.or("body", switch, report).on();
    let rate = table.placed::<Switch<ByteRate>>("body_rate", report);
    timeout.body_rate = match rate {
        Some((rate, _)) => rate.on().map(|ByteRate(rate)| rate),
        None => timeout.body_rate.filter(|_| timeout.body.is_some()),
    };
}

/// `connect`, `try` and `response`, which end each other: what never comes to its end is a fault.
/// `file` is the number of the table that says what this one does not.
pub(super) fn read_way(
    table: &mut Table<'_, '_>,
    timeout: &mut Timeout,
    file: usize,
    report: &mut Report<'_>,
) {
    let connect = table.placed::<Duration>("connect", report);
    let attempt = table.placed::<Switch<Duration>>("try", report);
    let response = table.placed::<Switch<Duration>>("response", report);
    timeout.connect = connect.as_ref().map_or(timeout.connect, |(own, _)| *own);
    timeout.attempt = attempt
        .as_ref()
        .map_or(timeout.attempt, |(own, _)| own.on());
    timeout.response = response.map_or(timeout.response, |(own, _)| own.on());
    let Some((Switch::On(attempt), span)) = attempt else {
        return;
    };
    if timeout.response.is_some_and(|response| attempt > response) {
        report.lacks_any(
            vec![(table.number(), "response"), (file, "response")],
            &span,
            "one try longer than the whole answer",
            "expected at most `response`",
        );
    }
    if let Some((connect, span)) = connect
        && connect > attempt
    {
        report.fault(
            &span,
            "a connection longer than the try that it is for",
            "expected at most `try`",
        );
    }
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
