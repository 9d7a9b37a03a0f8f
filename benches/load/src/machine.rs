//! What the load costs the processes under it, where they run beside it, and how busy the machine is.

use std::fs;
use std::str::FromStr;
use std::time::Duration;

use tokio::time::{Instant, interval_at, sleep_until};

use crate::process::Process;

/// A process that is looked at, by a name.
#[derive(Debug, Clone)]
pub struct Named {
    name: String,
    process: Process,
}

/// What it took while everything was under way.
#[derive(Debug, Clone, PartialEq)]
pub struct Cost {
    /// Its name.
    pub name: String,
    /// Thousandths of one core's time; `None` where that cannot be told.
    pub millicores: Option<f64>,
    /// The most memory that it held, resident, in MiB.
    pub memory: Option<f64>,
}

/// How busy the machine was: its processes that ran or waited to, over the last minute.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Busy {
    /// At the beginning and at the end.
    pub load: (f64, f64),
    /// How many of them can run at once.
    pub cores: usize,
}

/// How often memory is looked at.
const GLANCE: Duration = Duration::from_secs(1);

impl FromStr for Named {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, number) = text
            .split_once('=')
            .ok_or("expected NAME=PID, as edge=123")?;
        let process: Process = number.parse()?;
        if process.resident().is_none() {
            return Err(format!("no process {number} on this machine"));
        }
        Ok(Self {
            name: name.to_owned(),
            process,
        })
    }
}

impl Named {
    /// This program itself.
    pub fn own() -> Option<Self> {
        let process = std::process::id().to_string().parse().ok()?;
        Some(Self {
            name: "load itself".to_owned(),
            process,
        })
    }

    /// Looks at it from then to then.
    pub async fn watch(self, (from, to): (Instant, Instant)) -> Cost {
        sleep_until(from).await;
        let (began, before) = (Instant::now(), self.process.cpu());
        let mut most = self.process.resident();
        let mut glances = interval_at(began + GLANCE, GLANCE);
        while glances.tick().await < to {
            most = most.max(self.process.resident());
        }
        let time = began.elapsed();
        let took = before.zip(self.process.cpu());
        Cost {
            name: self.name,
            millicores: took.map(|(before, after)| millicores(after.saturating_sub(before), time)),
            memory: most.map(mebibytes),
        }
    }
}

fn millicores(cpu: Duration, time: Duration) -> f64 {
    cpu.as_secs_f64() / time.as_secs_f64().max(f64::EPSILON) * 1e3
}

fn mebibytes(kibibytes: u64) -> f64 {
    f64::from(u32::try_from(kibibytes).unwrap_or(u32::MAX)) / 1024.0
}

/// The machine's load of the last minute, where it tells.
pub fn load() -> Option<f64> {
    let text = fs::read_to_string("/proc/loadavg").ok()?;
    text.split(' ').next()?.parse().ok()
}

/// How many cores this program may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_used_all_the_time_is_a_thousand_millicores() {
        let second = Duration::from_secs(1);
        assert_eq!(millicores(second, second), 1_000.0);
        assert_eq!(millicores(second / 4, 2 * second), 125.0);
    }

    #[test]
    fn a_process_has_a_name_and_is_there() {
        let own = std::process::id();
        assert!(format!("edge={own}").parse::<Named>().is_ok());
        for text in ["123", "edge=", "edge=1", "edge=x", "edge=4194305"] {
            assert!(text.parse::<Named>().is_err(), "{text}");
        }
    }

    #[tokio::test]
    async fn a_process_is_looked_at_only_while_it_counts() {
        let start = Instant::now();
        let span = (start, start + Duration::from_millis(10));
        let cost = Named::own().unwrap().watch(span).await;
        assert!(cost.millicores.is_some() && cost.memory.unwrap() > 0.0);
    }
}
