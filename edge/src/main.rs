//! The command line of edge.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use edge::ask::{Cache, Failure};
use edge::config::Config;
use edge::serve::{self, Edge};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::spawn_blocking;

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// An API gateway that does what its configuration says, refuses what it does not understand,
/// and can tell why it answered as it did.
#[derive(Parser)]
#[command(
    version,
    args_conflicts_with_subcommands = true,
    arg_required_else_help = true
)]
struct Cli {
    /// The configuration to serve.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Read it again whenever it has changed, as on SIGHUP.
    #[arg(long, requires = "config")]
    follow: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Read a configuration, start nothing, and tell what each route will get.
    Check {
        /// The configuration to read.
        file: PathBuf,
    },
    /// Ask an edge that runs about its cache, or have it purged.
    Cache(Cache),
    /// Start the gateway with an echo server behind it, to try both.
    #[cfg(feature = "demo")]
    Demo(DemoArgs),
}

#[derive(Args)]
#[cfg_attr(
    not(feature = "demo"),
    expect(dead_code, reason = "only `edge demo` has addresses")
)]
struct DemoArgs {
    /// Where the gateway listens.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Where probes and metrics are.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9090")]
    admin: SocketAddr,
    /// Where echo listens.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8081")]
    echo: SocketAddr,
}

/// The configuration is at fault.
const FAULTY: u8 = 2;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match (cli.command, cli.config) {
        (Some(Command::Check { file }), _) => check(&file),
        (Some(Command::Cache(cache)), _) => ask(&cache),
        #[cfg(feature = "demo")]
        (Some(Command::Demo(args)), _) => demo(&args),
        (None, Some(file)) => run(&file, cli.follow),
        (None, None) => ExitCode::from(FAULTY),
    }
}

fn check(file: &Path) -> ExitCode {
    match Config::load(file) {
        Ok(config) => {
            say(
                &mut io::stdout(),
                &format!("{}: ok\n{config}", file.display()),
            );
            ExitCode::SUCCESS
        }
        Err(faults) => faulty(&faults),
    }
}

fn ask(cache: &Cache) -> ExitCode {
    match cache.ask() {
        Ok(told) => {
            say(&mut io::stdout(), &told);
            ExitCode::SUCCESS
        }
        Err(Failure::Config(faults)) => faulty(&faults),
        Err(failure) => {
            say(&mut io::stderr(), &format!("edge: {failure}\n"));
            ExitCode::FAILURE
        }
    }
}

fn run(file: &Path, follow: bool) -> ExitCode {
    // Before it is read: what changes from here on is a change.
    let mut seen = std::fs::read(file).unwrap_or_default();
    let config = match Config::load(file) {
        Ok(config) => config,
        Err(faults) => return faulty(&faults),
    };
    let (out, _guard) = edge::log::start(&config.log.level);
    in_runtime(async {
        // Heard from the very first, or it would end edge.
        let mut hup = signal(SignalKind::hangup())?;
        let edge = Edge::start(config, Some(out)).await?;
        let reloading = async {
            loop {
                tokio::select! {
                    heard = hup.recv() => if heard.is_none() { break },
                    () = changed(file, &mut seen), if follow => {}
                }
                edge.reload_file(file).await;
            }
        };
        let hurry = end_of(reloading).await?;
        let ignored = ignoring(&mut hup, "draining");
        end_or_be_ended(edge.end(hurry), ignored).await
    })
}

#[cfg(feature = "demo")]
fn demo(args: &DemoArgs) -> ExitCode {
    use edge::demo::{Addresses, Demo};

    let (out, _guard) = edge::log::start("info");
    in_runtime(async {
        let addresses = Addresses {
            listen: args.listen,
            admin: args.admin,
            echo: args.echo,
        };
        let mut hup = signal(SignalKind::hangup())?;
        let demo = Demo::start(addresses, Some(out)).await?;
        say(&mut io::stderr(), &demo.welcome());
        let why = "the demo has no file to read";
        let hurry = end_of(ignoring(&mut hup, why)).await?;
        end_or_be_ended(demo.end(hurry), ignoring(&mut hup, why)).await
    })
}

fn in_runtime(work: impl Future<Output = io::Result<()>>) -> ExitCode {
    raise_open_files();
    let runtime = match serve::threads() {
        // Its queue is first come, first served. That of several threads holds 256 tasks, and
        // who is not among them waits: with 500 busy WebSockets the slowest hundredth waited
        // ten times as long as the others.
        1 => tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build(),
        threads => tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .enable_all()
            .build(),
    };
    match runtime.and_then(|runtime| runtime.block_on(work)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&mut io::stderr(), &format!("edge: {error}\n"));
            ExitCode::FAILURE
        }
    }
}

/// Waits for SIGTERM or Ctrl-C; tells whether there is a hurry: a person waits, a cluster does not.
async fn told_to_end() -> io::Result<bool> {
    let (mut term, mut interrupt) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    Ok(tokio::select! {
        _ = term.recv() => false,
        _ = interrupt.recv() => true,
    })
}

/// Does this until edge is told to end; tells whether there is a hurry.
async fn end_of(meanwhile: impl Future<Output = ()>) -> io::Result<bool> {
    let forever = async {
        meanwhile.await;
        std::future::pending().await
    };
    tokio::select! {
        hurry = told_to_end() => hurry,
        never = forever => never,
    }
}

/// Who asks a second time does not want to wait for what is still open.
async fn end_or_be_ended(
    ending: impl Future<Output = ()>,
    meanwhile: impl Future<Output = ()>,
) -> io::Result<()> {
    tokio::select! {
        () = ending => Ok(()),
        again = end_of(meanwhile) => again.map(drop),
    }
}

/// How often a file that is followed is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Waits until the file holds something else than was `seen`. Two looks must find the same, or
/// somebody is still writing it.
async fn changed(file: &Path, seen: &mut Vec<u8>) {
    let mut before = None;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let path = file.to_owned();
        let Ok(Ok(now)) = spawn_blocking(move || std::fs::read(path)).await else {
            continue;
        };
        if now == *seen {
            before = None;
        } else if before.as_ref() == Some(&now) {
            *seen = now;
            return;
        } else {
            before = Some(now);
        }
    }
}

/// SIGHUP comes at the wrong time or to the wrong place: nothing changes, and nothing ends.
async fn ignoring(hup: &mut Signal, why: &str) {
    while hup.recv().await.is_some() {
        tracing::warn!(why, "reload_ignored");
    }
}

/// Each connection takes a descriptor; what the system allows at most is taken.
fn raise_open_files() {
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    // Where it cannot be raised, the lower limit is what there is.
    let _ = rustix::process::setrlimit(rustix::process::Resource::Nofile, limit);
}

fn faulty(faults: &dyn std::error::Error) -> ExitCode {
    say(&mut io::stderr(), &format!("{faults}\n"));
    ExitCode::from(FAULTY)
}

/// Whoever has closed the other end does not want to know.
fn say(to: &mut dyn Write, text: &str) {
    let _ = to.write_all(text.as_bytes());
}
