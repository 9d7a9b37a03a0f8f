//! The table that is printed.

use std::fmt::Write;

use crate::counts::Counts;
use crate::measured::Measured;
use crate::quantile::Quantiles;

/// All of it, with a line for each promise.
pub fn table(measured: &Measured) -> String {
    let mut table = Table(String::new());
    let verdict = &measured.verdict;
    table.line(&format!("{}, {}", measured.place, offered(measured)));
    table.row("", ["p50", "p95", "p99", "max", "p95 below"], "");
    for timed in &verdict.times {
        let times = timed.times.map_or([const { String::new() }; 4], cells);
        let [p50, p95, p99, max] = times.each_ref().map(String::as_str);
        let below = format!("{} ms", timed.below);
        table.row(
            &timed.name,
            [p50, p95, p99, max, &below],
            word(timed.kept()),
        );
    }
    table.row("", ["", "", "offered", "achieved", "at least"], "");
    for number in &verdict.numbers {
        let [offered, achieved, least] =
            [number.offered, number.achieved, number.least].map(rounded);
        let cells = ["", "", &offered, &achieved, &least];
        table.row(&number.name, cells, word(number.kept()));
    }
    let errors = verdict.errors.values().sum::<u64>().to_string();
    let cells = ["", "", "", &errors, "none"];
    table.row("errors", cells, word(verdict.errors.is_empty()));
    table.counts(&verdict.errors);
    if !verdict.limited.is_empty() {
        let limited = verdict.limited.values().sum::<u64>().to_string();
        table.row(
            "refused by limits",
            ["", "", "", &limited, ""],
            "no error, but missing above",
        );
        table.counts(&verdict.limited);
    }
    table.beside(measured);
    table.line(if verdict.kept() { "PASS" } else { "FAIL" });
    table.0
}

/// What was offered, in one line.
pub fn offered(measured: &Measured) -> String {
    let offer = &measured.offer;
    let mut parts = Vec::new();
    if offer.rate > 0 {
        parts.push(format!("{} requests/s", offer.rate));
    }
    if offer.sockets > 0 {
        parts.push(format!("{} WebSockets", offer.sockets));
    }
    if offer.sockets > 0 && offer.messages > 0 {
        parts.push(format!("{} messages/s", offer.messages));
    }
    format!("{}, {} s", parts.join(", "), offer.seconds)
}

/// What it cost and how busy the machine was, a line each.
pub fn beside(measured: &Measured) -> Vec<String> {
    let mut lines = Vec::new();
    for cost in &measured.costs {
        let millicores = cost
            .millicores
            .map_or("?".to_owned(), |cpu| format!("{cpu:.0}"));
        let memory = cost
            .memory
            .map_or("?".to_owned(), |memory| format!("{memory:.1}"));
        let name = &cost.name;
        lines.push(format!("{name}: {millicores} millicores, {memory} MiB"));
    }
    if let Some(busy) = measured.busy {
        let ((before, after), cores) = (busy.load, busy.cores);
        lines.push(format!(
            "machine: load average {before} before, {after} after, {cores} cores"
        ));
    }
    if let Some(late) = measured.late.quantiles() {
        let [p50, p95, p99, max] = cells(late);
        lines.push(format!(
            "load itself late: p50 {p50}, p95 {p95}, p99 {p99}, max {max} ms, within the times above"
        ));
    }
    if measured.requests.queued > 0 {
        let queued = measured.requests.queued;
        lines.push(format!("found all connections busy: {queued} requests"));
    }
    lines
}

struct Table(String);

impl Table {
    fn row(&mut self, name: &str, cells: [&str; 5], end: &str) {
        let mut line = format!("{name:<27}");
        for cell in cells {
            // A text takes whatever is written to it.
            let _ = write!(line, "{cell:>10}");
        }
        self.line(format!("{line}  {end}").trim_end());
    }

    fn counts(&mut self, counts: &Counts) {
        for (word, number) in counts {
            self.line(&format!("  {number:>8}  {word}"));
        }
    }

    fn beside(&mut self, measured: &Measured) {
        for line in beside(measured) {
            self.line(&line);
        }
    }

    fn line(&mut self, line: &str) {
        self.0.push_str(line);
        self.0.push('\n');
    }
}

fn word(kept: bool) -> &'static str {
    if kept { "pass" } else { "FAIL" }
}

fn cells(times: Quantiles<f64>) -> [String; 4] {
    [times.p50, times.p95, times.p99, times.max].map(|time| format!("{time:.2}"))
}

/// A whole number, or one digit behind the point.
fn rounded(number: f64) -> String {
    let tenths = (number * 10.0).round() / 10.0;
    tenths.to_string()
}
