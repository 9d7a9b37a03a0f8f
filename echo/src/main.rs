//! `echo-server`: flags, log, signals, and the exit code.

use clap::Parser;
use echo::{Echo, Secret, Settings};
use std::{
    env,
    io::{self, Write},
    os::unix::ffi::OsStringExt,
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
    let mut flags = Flags::parse();
    flags.settings.jwt_secret = secret("ECHO_JWT_SECRET");
    flags.settings.api_key = secret("ECHO_API_KEY");
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
            match error.kind() {
                // As with flags that cannot be right.
                io::ErrorKind::InvalidInput => ExitCode::from(2),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

#[tokio::main]
async fn run(settings: Settings) -> io::Result<()> {
    // As PID 1 a process has no default for these: without a handler they would do nothing.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let listen = settings.listen;
    let echo = Echo::bind(settings)
        .await
        .map_err(|error| match error.kind() {
            io::ErrorKind::InvalidInput => error,
            kind => io::Error::new(kind, format!("cannot listen on {listen}: {error}")),
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

/// A secret that has no flag, as every user of a machine can see those.
fn secret(variable: &str) -> Option<Secret> {
    env::var_os(variable).map(|text| Secret::from(text.into_vec()))
}

/// The filter as written, if it can be read.
fn filter(text: &str) -> Result<String, String> {
    match EnvFilter::try_new(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(error.to_string()),
    }
}
