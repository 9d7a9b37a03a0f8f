//! A load for a running system: does it keep what it promises?

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use load::machine::Named;
use load::measured::Measured;
use load::offer::{Offer, Place};
use load::{json, plot, table};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// HTTP and WebSocket load for a running system: does it keep what it promises?
///
/// 95 of 100 requests in less than 50 ms, of WebSocket upgrades 100 ms, of messages 10 ms from
/// sending to the echo, with nothing lost. All go at a constant rate, whether or not answers come, and
/// each time counts from the moment at which it was due. benches/load/README.md tells more.
///
/// Exits with 0 where every promise is kept, 1 where one is not, 2 where it cannot begin.
#[derive(Parser)]
#[command(version)]
struct Line {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    offer: Offer,
    /// Draw the times, second by second.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Write all figures as one JSON object.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// A process on this machine whose CPU and memory are looked at, as edge=123; up to 8.
    #[arg(long = "pid", value_name = "NAME=PID")]
    watched: Vec<Named>,
}

/// So many processes are looked at.
const MOST_WATCHED: usize = 8;

/// Something was promised and not kept.
const BROKEN: u8 = 1;
/// It could not begin, or not tell.
const USAGE: u8 = 2;

#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    match run(Line::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(BROKEN),
        Err(why) => {
            // Where nobody reads it the code still tells.
            let _ = writeln!(io::stderr(), "load: {why}");
            ExitCode::from(USAGE)
        }
    }
}

/// Are all promises kept?
async fn run(line: Line) -> Result<bool, String> {
    line.offer.check()?;
    if line.watched.len() > MOST_WATCHED {
        return Err(format!("at most {MOST_WATCHED} --pid"));
    }
    files(line.offer.files())?;
    let ways = line.place.find().await?;
    let seconds = line.offer.total().as_secs();
    let url = line.place.url();
    let _ = writeln!(io::stderr(), "load: {url} for {seconds} s");
    let measured = Measured::run(url, &ways, line.offer, line.watched).await;
    let told = io::stdout().write_all(table::table(&measured).as_bytes());
    told.map_err(|error| format!("cannot tell: {error}"))?;
    if let Some(file) = &line.svg {
        write(file, &plot::plot(&measured))?;
    }
    if let Some(file) = &line.json {
        write(file, &format!("{}\n", json::json(&measured)))?;
    }
    Ok(measured.verdict.kept())
}

fn write(file: &PathBuf, text: &str) -> Result<(), String> {
    fs::write(file, text).map_err(|error| format!("{}: {error}", file.display()))
}

/// Sees to it that so many files may be open.
fn files(number: u64) -> Result<(), String> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= number) {
        return Ok(());
    }
    let raised = Rlimit {
        current: Some(number),
        ..limit
    };
    setrlimit(Resource::Nofile, raised)
        .map_err(|error| format!("{number} open files are needed (ulimit -n): {error}"))
}
