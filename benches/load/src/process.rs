//! Another process on this machine: its memory, its signals and its end, as Linux tells them.

use std::io;
use std::str::FromStr;
use std::time::Duration;

use rustix::io::Errno;
use rustix::param::clock_ticks_per_second;
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, sleep};

use crate::target::Failure;

/// A process, by its number.
#[derive(Debug, Clone, Copy)]
pub struct Process(Pid);

/// How long the process gets to settle before its memory is read.
pub const SETTLE: Duration = Duration::from_secs(1);

/// How often a process is asked whether it is gone.
const GLANCE: Duration = Duration::from_millis(10);

impl FromStr for Process {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // 0 and what is below stand for groups, 1 is the system's own.
        let number = text.parse().ok().filter(|number| *number > 1);
        let pid = number.and_then(Pid::from_raw);
        pid.map(Self)
            .ok_or_else(|| "no process's number".to_owned())
    }
}

impl Process {
    /// Resident KiB; `None` where that cannot be told.
    pub fn resident(self) -> Option<u64> {
        let status = self.read("status")?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.trim().strip_suffix(" kB")?.parse().ok()
    }

    /// How many files it has open; `None` where that cannot be told.
    pub fn files(self) -> Option<u64> {
        let files = std::fs::read_dir(format!("/proc/{}/fd", self.0.as_raw_pid())).ok()?;
        u64::try_from(files.count()).ok()
    }

    /// The CPU time it has taken since its start; `None` where that cannot be told.
    pub fn cpu(self) -> Option<Duration> {
        let stat = self.read("stat")?;
        // The name may hold blanks and brackets; utime and stime are the 14th and 15th field.
        let (_, fields) = stat.rsplit_once(") ")?;
        let ticks = fields.split(' ').skip(11).take(2);
        let ticks: Vec<u64> = ticks.map_while(|ticks| ticks.parse().ok()).collect();
        let [user, system] = ticks[..] else {
            return None;
        };
        let second = clock_ticks_per_second();
        Some(Duration::from_secs_f64(
            (user + system) as f64 / second as f64,
        ))
    }

    /// Sends a signal.
    pub fn signal(self, signal: Signal) -> Result<(), Failure> {
        kill_process(self.0, signal).map_err(|error| match error {
            Errno::SRCH => "signal: gone".to_owned(),
            error => format!("signal: {}", io::Error::from(error).kind()),
        })
    }

    /// Has it ended? It has, too, where only its parent has not noticed yet (a zombie).
    pub fn is_gone(self) -> bool {
        let Some(stat) = self.read("stat") else {
            return true;
        };
        // The state follows the name, which may hold brackets itself.
        let state = stat.rsplit_once(") ").map(|(_, rest)| rest);
        state.is_some_and(|state| state.starts_with(['Z', 'X']))
    }

    /// Waits for its end; tells when that was, if it was in time.
    pub async fn gone(self, latest: Instant) -> Option<Instant> {
        while !self.is_gone() {
            if Instant::now() > latest {
                return None;
            }
            sleep(GLANCE).await;
        }
        Some(Instant::now())
    }

    fn read(self, file: &str) -> Option<String> {
        std::fs::read_to_string(format!("/proc/{}/{file}", self.0.as_raw_pid())).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_group_or_init_is_no_process() {
        for text in ["-1", "0", "1", "4294967297", "x"] {
            assert!(text.parse::<Process>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_process_that_works_takes_time() {
        let process: Process = std::process::id().to_string().parse().unwrap();
        let before = process.cpu().unwrap();
        let start = std::time::Instant::now();
        while process.cpu().unwrap() <= before {
            assert!(start.elapsed() < Duration::from_secs(10));
        }
    }

    #[tokio::test]
    async fn a_zombie_is_gone() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let process: Process = child.id().to_string().parse().unwrap();
        assert!(!process.is_gone() && process.resident().is_some());
        assert!(process.gone(Instant::now()).await.is_none());
        process.signal(Signal::KILL).unwrap();
        let latest = Instant::now() + Duration::from_secs(5);
        assert!(process.gone(latest).await.is_some());
        child.wait().unwrap();
        assert!(process.is_gone());
        assert_eq!(process.signal(Signal::HUP), Err("signal: gone".to_owned()));
    }
}
