//! Clients that send and do not read: edge must hold them up, not hold their messages; and once
//! they read again, each echo must come.

use std::time::Duration;

use clap::Args;
use futures_util::{SinkExt, StreamExt};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_tungstenite::tungstenite::Message;

use crate::opening;
use crate::process::{Process, SETTLE};
use crate::report::{Counts, Report, add, count};
use crate::talk::numbered;
use crate::target::{Failure, Way};
use crate::websocket::{self, Socket};

/// See the module.
#[derive(Args, Debug, Clone)]
pub(crate) struct Flood {
    #[command(flatten)]
    way: Way,
    /// How many do so at once.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    count: u32,
    /// Bytes in a message.
    #[arg(long, default_value_t = 65_536, value_parser = clap::value_parser!(u32).range(20..=16_777_216))]
    size: u32,
    /// How long they send without reading; echo lets go of those that do not read for 30 s.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(2..=25))]
    seconds: u64,
    /// The process whose memory is read (edge's).
    #[arg(long)]
    pid: Process,
}

/// What the system holds of unread echoes: little, so that they are soon stuck.
const UNREAD: u32 = 32 << 10;

/// A socket is stuck where for so long nothing of a message could be sent.
const STUCK: Duration = Duration::from_secs(1);

/// How often memory is read meanwhile.
const GLANCE: Duration = Duration::from_millis(100);

/// What edge may hold for each of them, on top of what it holds for an open socket.
const MOST: f64 = 256.0;

/// How long the echoes may take once they are read again.
const REST: Duration = Duration::from_secs(60);

/// What one of them has met.
#[derive(Default)]
struct Tally {
    sent: u64,
    echoes: u64,
    free: bool,
    failures: Counts,
}

impl Flood {
    pub(crate) async fn run(mut self) -> Report {
        let mut report = Report::default();
        self.way.unread = Some(UNREAD);
        report.memory(self.pid, "before");
        let opened = opening::open_many(&self.way, self.count, None).await;
        let (sockets, _) = opened.report(&mut report);
        sleep(SETTLE).await;
        let open = report.memory(self.pid, "open");
        let size = usize::try_from(self.size).unwrap_or(usize::MAX);
        let until = Instant::now() + Duration::from_secs(self.seconds);
        let mut pouring: JoinSet<_> = sockets
            .into_iter()
            .map(|socket| pour(socket, size, until))
            .collect();
        let mut highest = self.pid.resident();
        while Instant::now() < until {
            sleep(GLANCE).await;
            highest = highest.max(self.pid.resident());
        }
        let mut all = Tally::default();
        let mut free = 0;
        while let Some(poured) = pouring.join_next().await {
            let Ok(tally) = poured else {
                count(&mut all.failures, "broken off".to_owned());
                continue;
            };
            all.sent += tally.sent;
            all.echoes += tally.echoes;
            free += u64::from(tally.free);
            add(&mut all.failures, tally.failures);
        }
        report.row("memory KiB stuck, highest", highest);
        let grown = open
            .zip(highest)
            .map(|(open, highest)| highest.saturating_sub(open));
        let each = grown.map(|grown| grown as f64 / f64::from(self.count));
        report.at_most("memory KiB each while stuck", each, MOST);
        report.fault("never stuck", free);
        report.row("sent", all.sent);
        report.fault("lost", all.sent - all.echoes);
        report.failures("failed", &all.failures);
        sleep(SETTLE).await;
        report.memory(self.pid, "after");
        report
    }
}

/// Sends until then without reading, then reads all that is owed.
async fn pour(socket: Socket, size: usize, until: Instant) -> Tally {
    let mut tally = Tally::default();
    if let Err(failure) = pour_and_read(socket, size, until, &mut tally).await {
        count(&mut tally.failures, failure);
    }
    tally
}

async fn pour_and_read(
    socket: Socket,
    size: usize,
    until: Instant,
    tally: &mut Tally,
) -> Result<(), Failure> {
    let (mut to, mut from) = socket.split();
    let mut moved = Instant::now();
    loop {
        let message = Message::text(numbered(tally.sent, size));
        tally.sent += 1;
        let sent = to.feed(message).await;
        sent.map_err(|error| websocket::failure("send", &error))?;
        match timeout_at(until, to.flush()).await {
            Ok(Ok(())) if Instant::now() < until => moved = Instant::now(),
            Ok(Err(error)) => return Err(websocket::failure("send", &error)),
            // What is left of the last one is sent while the echoes are read.
            Ok(Ok(())) | Err(_) => break,
        }
    }
    tally.free = moved.elapsed() < STUCK;
    let left = async {
        let sent = to.flush().await;
        sent.map_err(|error| websocket::failure("send", &error))
    };
    let echoes = async {
        while tally.echoes < tally.sent {
            let text = numbered(tally.echoes, size);
            websocket::heard_text(from.next().await, &text)?;
            tally.echoes += 1;
        }
        Ok(())
    };
    let rest = timeout(REST, async { tokio::try_join!(left, echoes) }).await;
    rest.map_err(|_| "echo: timeout")??;
    let socket = from.reunite(to).map_err(|error| error.to_string())?;
    websocket::close(socket).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::{TcpListener, TcpStream};
    use tokio_tungstenite::tungstenite::protocol::Role;

    /// Two seconds of messages to a server that echoes all but the one of this number.
    async fn against(left_out: usize) -> Tally {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await;
        let (stream, _) = listener.accept().await.unwrap();
        tokio::spawn(async move {
            let mut socket = Socket::from_raw_socket(stream, Role::Server, None).await;
            let mut number = 0;
            while let Some(Ok(heard)) = socket.next().await {
                if heard.is_text() && number != left_out {
                    socket.send(heard).await.unwrap();
                }
                number += 1;
            }
        });
        let socket = Socket::from_raw_socket(client.unwrap(), Role::Client, None).await;
        pour(socket, 1 << 20, Instant::now() + Duration::from_secs(2)).await
    }

    #[tokio::test]
    async fn who_does_not_read_gets_stuck_and_loses_nothing() {
        let tally = against(usize::MAX).await;
        assert!(!tally.free && tally.failures.is_empty());
        assert!(tally.sent > 1 && tally.echoes == tally.sent);
    }

    #[tokio::test]
    async fn a_missing_echo_is_lost() {
        let tally = against(1).await;
        assert_eq!(tally.echoes, 1);
        assert!(tally.failures.contains_key("echo: another message"));
    }
}
