//! What a load has met: a short table, or one JSON object with the same words.

use std::io::{self, Write};
use std::time::Duration;

use load::quantile::quantile;
use serde_json::{Map, Value};

pub(crate) use load::counts::{Counts, add, count};

use crate::process::Process;
use crate::target::Failure;

#[derive(Default)]
pub(crate) struct Report {
    rows: Vec<(String, Value)>,
    bad: bool,
}

impl Report {
    pub(crate) fn row(&mut self, name: &str, value: impl Into<Value>) {
        self.rows.push((name.to_owned(), value.into()));
    }

    /// A number with one digit behind the point.
    pub(crate) fn number(&mut self, name: &str, value: f64) {
        self.row(name, (value * 10.0).round() / 10.0);
    }

    /// A count that ought to be zero.
    pub(crate) fn fault(&mut self, name: &str, count: u64) {
        self.bad |= count > 0;
        self.row(name, count);
    }

    /// How many failed, and how.
    pub(crate) fn failures(&mut self, name: &str, failures: &Counts) {
        self.fault(name, failures.values().sum());
        self.counts(name, failures);
    }

    pub(crate) fn counts(&mut self, name: &str, counts: &Counts) {
        for (word, count) in counts {
            self.row(&format!("{name}: {word}"), *count);
        }
    }

    /// Median and tail, in milliseconds.
    pub(crate) fn times(&mut self, name: &str, mut times: Vec<Duration>) {
        times.sort_unstable();
        for percent in [50, 95, 99, 100] {
            let time = quantile(&times, percent).map_or(Value::Null, |time| {
                ((time.as_secs_f64() * 1e5).round() / 100.0).into()
            });
            self.row(&format!("{name} p{percent} ms"), time);
        }
    }

    /// Resident KiB of a process, where that can be told.
    pub(crate) fn memory(&mut self, process: Process, when: &str) -> Option<u64> {
        let memory = process.resident()?;
        self.row(&format!("memory KiB {when}"), memory);
        Some(memory)
    }

    /// 95 of 100 ought to take no longer than this.
    pub(crate) fn promise(&mut self, name: &str, times: &[Duration], most: Duration) {
        let mut times = times.to_vec();
        times.sort_unstable();
        let time = quantile(&times, 95).map(|time| time.as_secs_f64() * 1e3);
        self.at_most(&format!("{name} p95 ms"), time, most.as_secs_f64() * 1e3);
    }

    /// A number that ought not to be larger than this, nor missing.
    pub(crate) fn at_most(&mut self, name: &str, value: Option<f64>, most: f64) {
        let value = value.map(|value| (value * 100.0).round() / 100.0);
        self.bad |= value.is_none_or(|value| value > most);
        self.row(&format!("{name} (at most {most})"), value);
    }

    /// The last row of a load that could not go on, or that could.
    pub(crate) fn done(&mut self, done: Result<(), Failure>) {
        if let Err(failure) = done {
            self.failures("broken off", &Counts::from([(failure, 1)]));
        }
        self.row("verdict", if self.bad { "FAIL" } else { "PASS" });
    }

    pub(crate) fn is_good(&self) -> bool {
        !self.bad
    }

    pub(crate) fn write(&self, json: bool) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if json {
            let object: Map<_, _> = self.rows.iter().cloned().collect();
            return writeln!(out, "{}", Value::Object(object));
        }
        let width = self
            .rows
            .iter()
            .map(|(name, _)| name.len())
            .max()
            .unwrap_or(0);
        for (name, value) in &self.rows {
            writeln!(out, "{name:width$}  {value:>10}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failure_makes_a_report_bad() {
        let mut report = Report::default();
        report.failures("lost", &Counts::new());
        assert!(report.is_good());
        report.failures("lost", &Counts::from([("echo: timeout".to_owned(), 1)]));
        assert!(!report.is_good());
    }

    #[test]
    fn the_verdict_is_that_of_the_exit() {
        for (done, verdict) in [(Ok(()), "PASS"), (Err("connect".to_owned()), "FAIL")] {
            let mut report = Report::default();
            report.done(done);
            assert_eq!(report.is_good(), verdict == "PASS");
            assert_eq!(report.rows.last().unwrap().1, verdict);
        }
    }

    #[test]
    fn a_promise_is_broken_by_the_tail_and_by_silence() {
        let good = |times: &[u64]| {
            let times: Vec<_> = times.iter().copied().map(Duration::from_millis).collect();
            let mut report = Report::default();
            report.promise("echo", &times, Duration::from_millis(10));
            report.is_good()
        };
        assert!(good(&[10; 20]) && good(&[[10; 19].as_slice(), &[99]].concat()));
        assert!(!good(&[11; 20]) && !good(&[]));
    }
}
