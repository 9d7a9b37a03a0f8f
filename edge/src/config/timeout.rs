//! `[timeout]`.

use std::time::Duration;

use super::reader::{Report, Switch, Table};

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
    /// For a client to take something of what is written.
    pub write: Option<Duration>,
    /// For a client's connection on which no request is open.
    pub keepalive: Duration,
}

/// `[timeout]`, and the number of its table.
pub(super) fn read_timeout(mut table: Table<'_, '_>, report: &mut Report<'_>) -> (Timeout, usize) {
    let number = table.number();
    let mut timeout = Timeout {
        connect: Duration::from_secs(1),
        attempt: None,
        response: Some(Duration::from_secs(30)),
        head: read_head(&mut table, report),
        body: table
            .or("body", Switch::On(Duration::from_secs(60)), report)
            .on(),
        write: table
            .or("write", Switch::On(Duration::from_secs(10)), report)
            .on(),
        keepalive: table.or("keepalive", Duration::from_secs(75), report),
    };
    read_way(&mut table, &mut timeout, number, report);
    table.finish(report);
    (timeout, number)
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
