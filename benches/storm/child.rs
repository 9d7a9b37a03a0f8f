//! Processes that a load starts, and ends with itself: edge, and its peers.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{self, Command, Stdio};
use std::time::Duration;

use clap::Args;
use rustix::process::Signal;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::admin::Admin;
use crate::process::Process;
use crate::target::{Failure, PATIENCE, Target};

/// Which edge is loaded.
#[derive(Args, Debug, Clone)]
pub(crate) struct Program {
    /// edge's binary; by default the one beside storm's.
    #[arg(long, value_name = "FILE")]
    edge: Option<PathBuf>,
}

/// A process that ends where this is dropped.
pub(crate) struct Child {
    child: process::Child,
    process: Process,
}

/// A gateway, and what it has logged.
pub(crate) struct Edge {
    child: Child,
    admin: Admin,
    log: PathBuf,
}

/// How often a process is asked whether it is there.
const GLANCE: Duration = Duration::from_millis(20);

impl Child {
    pub(crate) fn start(program: &Path, arguments: &[&str], log: Stdio) -> Result<Self, Failure> {
        let started = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log)
            .spawn();
        let child = started.map_err(|error| format!("{}: {}", program.display(), error.kind()))?;
        let process = child.id().to_string().parse()?;
        Ok(Self { child, process })
    }

    pub(crate) fn process(&self) -> Process {
        self.process
    }

    /// Ends it at once.
    pub(crate) fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Edge {
    /// A gateway with this configuration, as soon as it is ready.
    pub(crate) async fn start(
        program: &Program,
        config: &Path,
        admin: &str,
    ) -> Result<Self, Failure> {
        let program = match &program.edge {
            Some(edge) => edge.clone(),
            None => own()?.with_file_name("edge"),
        };
        let log = std::env::temp_dir().join(format!("storm-{}.log", process::id()));
        let wrong = |error: std::io::Error| format!("log: {}", error.kind());
        let file = File::create(&log).map_err(wrong)?;
        let config = config.to_str().ok_or("config: no text")?;
        let mut edge = Self {
            child: Child::start(&program, &["-c", config], file.into())?,
            admin: admin.parse::<Target>()?.into(),
            log,
        };
        let latest = Instant::now() + PATIENCE;
        while let Err(failure) = edge.admin.ready().await {
            let ended = edge.child.child.try_wait();
            if ended.is_ok_and(|ended| ended.is_some()) || Instant::now() > latest {
                return Err(format!("edge: {failure}"));
            }
            sleep(GLANCE).await;
        }
        Ok(edge)
    }

    pub(crate) fn admin(&self) -> &Admin {
        &self.admin
    }

    pub(crate) fn process(&self) -> Process {
        self.child.process
    }

    /// Ends it, and hands over what it has logged.
    pub(crate) async fn end(self) -> Result<Vec<Value>, Failure> {
        self.child.process.signal(Signal::TERM)?;
        let gone = self.child.process.gone(Instant::now() + PATIENCE).await;
        gone.ok_or("edge: does not end")?;
        let text = fs::read_to_string(&self.log);
        let text = text.map_err(|error| format!("log: {}", error.kind()))?;
        let lines = text.lines().map(serde_json::from_str);
        Ok(lines.map_while(Result::ok).collect())
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.log);
    }
}

/// This program itself.
pub(crate) fn own() -> Result<PathBuf, Failure> {
    std::env::current_exe().map_err(|error| format!("storm: {}", error.kind()))
}

/// A file beside this source, by its place in the repository.
pub(crate) fn config(name: &str) -> PathBuf {
    Path::new("benches/storm").join(name)
}
