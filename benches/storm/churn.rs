//! Peers that fail one after the other under a paced load: what becomes of the requests?

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use clap::{Args, ValueEnum};
use rustix::process::Signal;
use serde_json::Value;
use tokio::time::{Instant, sleep, sleep_until};

use crate::child::{Child, Edge, Program, config, own};
use crate::report::Report;
use crate::tally::{Tally, pace};
use crate::target::{Failure, Target, Way};

/// See the module.
#[derive(Args, Debug, Clone)]
pub(crate) struct Churn {
    #[command(flatten)]
    program: Program,
    /// edge's configuration; the bounds are reckoned for the settings of this file's own.
    #[arg(long, value_name = "FILE", default_value_os_t = config("churn.toml"))]
    config: PathBuf,
    /// How the peers fail.
    #[arg(long, default_value = "kill")]
    fault: Fault,
    /// How many requests a second.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    rate: u32,
    /// For how long.
    #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u64).range(15..=3_600))]
    seconds: u64,
}

#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// The process is killed, and another one started.
    Kill,
    /// The process is stopped, and goes on later.
    Stop,
    /// It answers 500 for a while.
    Errors,
}

/// What edge has logged.
#[derive(Default)]
struct Told {
    more_tries: u64,
    most_tries: u64,
    ejected: u64,
    returned: u64,
    recovered: u64,
}

/// How the peers fare; one fails at a time.
struct Peers {
    own: PathBuf,
    peers: Vec<Child>,
    faults: u32,
}

const EDGE: &str = "http://127.0.0.1:19110/";
const ADMIN: &str = "http://127.0.0.1:19111";
/// As in the configuration, as are the next ones.
const PEERS: [&str; 3] = ["127.0.0.1:19112", "127.0.0.1:19113", "127.0.0.1:19114"];
const TRY: Duration = Duration::from_secs(1);
const EJECT_FAILURES: u32 = 3;
const EJECT_TIME: Duration = Duration::from_secs(2);

/// An answer that took longer is slow.
const SLOW: Duration = Duration::from_millis(100);
/// How long all is well before each fault, and how long it lasts.
const WELL: Duration = Duration::from_secs(4);
const ILL: Duration = Duration::from_secs(4);

impl Churn {
    pub(crate) async fn run(self) -> Report {
        let mut report = Report::default();
        let loaded = self.load(&mut report).await;
        report.done(loaded);
        report
    }

    async fn load(&self, report: &mut Report) -> Result<(), Failure> {
        let mut peers = Peers::start()?;
        let edge = Edge::start(&self.program, &self.config, ADMIN).await?;
        let way = Way::from(EDGE.parse::<Target>()?);
        let until = Instant::now() + Duration::from_secs(self.seconds);
        let (tally, failing) = tokio::join!(
            pace(&way, self.rate, until),
            peers.fail(self.fault, until - WELL)
        );
        failing?;
        let retries = edge.admin().sum("edge_upstream_retries_total").await?;
        let denied = edge
            .admin()
            .sum("edge_upstream_retries_denied_total")
            .await?;
        let ejections = edge.admin().sum("edge_upstream_ejections_total").await?;
        let told = Told::of(&edge.end().await?);
        report.row("requests", tally.requests());
        report.counts("answered", &tally.statuses);
        report.counts("lost", &tally.lost);
        report.row("faults", peers.faults);
        report.row("slow (over 100 ms)", tally.over(SLOW));
        report.row("over timeout.try", tally.over(TRY));
        report.row("tries beyond the first", told.more_tries);
        report.number("retries (metric)", retries);
        report.number("retries denied (metric)", denied);
        report.number("ejections (metric)", ejections);
        report.row("ejected (log)", told.ejected);
        report.row("returned (log)", told.returned);
        report.row("recovered by probes (log)", told.recovered);
        self.judge(&tally, &told, peers.faults, report);
        report.times("answer", tally.times);
        Ok(())
    }

    /// What the settings allow.
    fn judge(&self, tally: &Tally, told: &Told, faults: u32, report: &mut Report) {
        let share = |count: f64| 100.0 * count / tally.requests().max(1) as f64;
        match self.fault {
            Fault::Kill => {
                report.fault("failed", tally.failed);
                report.at_most(
                    "most tries of one request",
                    Some(told.most_tries as f64),
                    2.0,
                );
            }
            Fault::Stop => {
                report.row("failed", tally.failed);
                report.row("most tries of one request", told.most_tries);
                let met = share((tally.failed + tally.over(TRY)) as f64);
                let allowed = share(f64::from(faults) * self.stuck());
                report.at_most("failed or over timeout.try %", Some(met), round_up(allowed));
            }
            Fault::Errors => {
                report.row("most tries of one request", told.most_tries);
                let met = share(tally.failed as f64);
                let allowed = share(f64::from(faults * errors()));
                report.at_most("failed %", Some(met), round_up(allowed));
            }
        }
    }

    /// How many requests a peer takes that has stopped: its share until the first of them have
    /// waited for `timeout.try` and as many have failed as eject it. Before that is over it fails
    /// its probes.
    fn stuck(&self) -> f64 {
        let share = f64::from(self.rate) / PEERS.len() as f64;
        share * TRY.as_secs_f64() + f64::from(EJECT_FAILURES)
    }
}

/// How many errors a peer answers in one fault: as many as eject it, each time that it comes back,
/// and as many again that are on their way then. It is out for `eject.time`, then for twice as long.
fn errors() -> u32 {
    let (mut times, mut out, mut at) = (0, EJECT_TIME, Duration::ZERO);
    while at < ILL {
        times += 1;
        at += out;
        out *= 2;
    }
    times * 2 * EJECT_FAILURES
}

/// To two digits, as what is compared with it.
fn round_up(percent: f64) -> f64 {
    (percent * 100.0).ceil() / 100.0
}

impl Peers {
    fn start() -> Result<Self, Failure> {
        let own = own()?;
        let peers = PEERS.iter().map(|peer| start(&own, peer));
        Ok(Self {
            peers: peers.collect::<Result<_, _>>()?,
            own,
            faults: 0,
        })
    }

    /// One fails after the other, until then.
    async fn fail(&mut self, fault: Fault, until: Instant) -> Result<(), Failure> {
        for number in (0..PEERS.len()).cycle() {
            sleep(WELL).await;
            if Instant::now() + ILL > until {
                break;
            }
            self.faults += 1;
            let over = Instant::now() + ILL;
            self.begin(number, fault)?;
            sleep_until(over).await;
            self.end(number, fault)?;
        }
        Ok(())
    }

    fn begin(&mut self, number: usize, fault: Fault) -> Result<(), Failure> {
        let Some(peer) = self.peers.get_mut(number) else {
            return Ok(());
        };
        match fault {
            Fault::Kill => peer.kill(),
            Fault::Stop => peer.process().signal(Signal::STOP)?,
            Fault::Errors => peer.process().signal(Signal::USR1)?,
        }
        Ok(())
    }

    fn end(&mut self, number: usize, fault: Fault) -> Result<(), Failure> {
        let (Some(peer), Some(address)) = (self.peers.get_mut(number), PEERS.get(number)) else {
            return Ok(());
        };
        match fault {
            Fault::Kill => *peer = start(&self.own, address)?,
            Fault::Stop => peer.process().signal(Signal::CONT)?,
            Fault::Errors => peer.process().signal(Signal::USR2)?,
        }
        Ok(())
    }
}

fn start(own: &std::path::Path, peer: &str) -> Result<Child, Failure> {
    Child::start(own, &["peer", "--listen", peer], Stdio::null())
}

impl Told {
    fn of(lines: &[Value]) -> Self {
        let mut told = Self::default();
        for line in lines {
            let text = |name| line.get(name).and_then(Value::as_str);
            if text("event") == Some("request") {
                let tries = line.get("tries").and_then(Value::as_u64).unwrap_or(0);
                told.more_tries += tries.saturating_sub(1);
                told.most_tries = told.most_tries.max(tries);
            }
            match text("message") {
                Some("peer_ejected") => told.ejected += 1,
                Some("peer_returned") => told.returned += 1,
                Some("peer_recovered") => told.recovered += 1,
                _ => {}
            }
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use edge::config::Config;

    #[test]
    fn the_bounds_are_reckoned_for_the_settings_of_the_file() {
        let config = Config::read("churn.toml", include_str!("churn.toml")).unwrap();
        let upstream = &config.upstreams[0];
        let eject = upstream.eject.as_ref().unwrap();
        assert_eq!((eject.failures, eject.time), (EJECT_FAILURES, EJECT_TIME));
        assert_eq!(config.timeout.attempt, Some(TRY));
        assert_eq!(upstream.peers.len(), PEERS.len());
        // Out at 0 s and again at 2 s; not before 6 s once more.
        assert_eq!(errors(), 2 * 2 * 3);
    }

    #[test]
    fn tries_beyond_the_first_are_counted() {
        let line = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        let told = Told::of(&[
            line(r#"{"event":"request","tries":1}"#),
            line(r#"{"event":"request","tries":3}"#),
            line(r#"{"event":"request"}"#),
            line(r#"{"message":"peer_ejected"}"#),
        ]);
        assert_eq!((told.more_tries, told.most_tries, told.ejected), (2, 3, 1));
    }
}
