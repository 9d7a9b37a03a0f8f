//! A peer as a process of its own, which may be killed, stopped, or told to fail.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Args;
use rustix::process::{Signal, set_parent_process_death_signal};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;

use crate::origin::{listen, place, read_path};
use crate::report::Report;
use crate::target::Failure;

/// Answers until it is ended. SIGUSR1 has it answer 500, and SIGUSR2 has it answer well again; to
/// `/health` it always does.
#[derive(Args, Debug, Clone)]
pub(crate) struct Peer {
    /// Where: a loopback address.
    #[arg(long, value_name = "ADDRESS", value_parser = place)]
    listen: SocketAddr,
}

/// It does not outlive the longest load.
const LIFE: Duration = Duration::from_secs(2 * 3_600);

impl Peer {
    pub(crate) async fn run(self) -> Report {
        let mut report = Report::default();
        let served = self.serve().await;
        report.done(served);
        report
    }

    async fn serve(self) -> Result<(), Failure> {
        let wrong = |error: std::io::Error| format!("peer: {}", error.kind());
        // It ends with the load.
        set_parent_process_death_signal(Some(Signal::KILL)).map_err(|error| wrong(error.into()))?;
        let mut bad = signal(SignalKind::user_defined1()).map_err(wrong)?;
        let mut good = signal(SignalKind::user_defined2()).map_err(wrong)?;
        let listener = listen(self.listen).map_err(wrong)?;
        let fails = Arc::new(AtomicBool::new(false));
        let end = sleep(LIFE);
        tokio::pin!(end);
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    let (stream, _) = accepted.map_err(wrong)?;
                    tokio::spawn(answer(stream, fails.clone()));
                }
                _ = bad.recv() => fails.store(true, Ordering::Relaxed),
                _ = good.recv() => fails.store(false, Ordering::Relaxed),
                () = &mut end => return Ok(()),
            }
        }
    }
}

async fn answer(mut stream: TcpStream, fails: Arc<AtomicBool>) {
    let _ = stream.set_nodelay(true);
    let mut buffer = Vec::new();
    while let Some(path) = read_path(&mut stream, &mut buffer).await {
        let status = match fails.load(Ordering::Relaxed) && path != "/health" {
            true => "500 Internal Server Error",
            false => "200 OK",
        };
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\n\r\n.\n");
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}
