//! `echo-server`: flags, log, signals, and the exit code.

use clap::Parser;
use echo::{Echo, Settings};
use std::{
    io::{self, Write},
    process::ExitCode,
};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// A WebSocket server that answers what it hears.
#[derive(Parser)]
#[command(name = "echo-server", version)]
struct Flags {
    #[command(flatten)]
    settings: Settings,

    /// What to log: error, warn, info, debug or trace, also by module as in `info,echo=debug`
    #[arg(long, env = "ECHO_LOG", default_value = "info", value_parser = filter)]
    log: String,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_target(false)
        .with_env_filter(EnvFilter::new(&flags.log))
        .init();
    match run(flags.settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // With stderr gone too, the exit code still tells.
            drop(writeln!(io::stderr(), "echo-server: {error}"));
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn run(settings: Settings) -> io::Result<()> {
    // As PID 1 a process has no default for these: without a handler they would do nothing.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let listen = settings.listen;
    let echo = Echo::bind(settings).await.map_err(|error| {
        io::Error::new(error.kind(), format!("cannot listen on {listen}: {error}"))
    })?;
    echo.run(async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
    .await;
    Ok(())
}

/// The filter as written, if it can be read.
fn filter(text: &str) -> Result<String, String> {
    match EnvFilter::try_new(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(error.to_string()),
    }
}
