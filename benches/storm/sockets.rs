//! Many WebSockets at once: how fast do their echoes come, and what memory do they hold?

use std::collections::VecDeque;
use std::time::Duration;

use clap::Args;
use futures_util::StreamExt;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval_at, sleep, sleep_until, timeout_at};

use crate::memory::resident;
use crate::report::{Counts, Report, add, count};
use crate::target::{Failure, MOST_CLIENTS, PATIENCE, Way};
use crate::websocket::{self, Socket};

/// See the module.
#[derive(Args, Debug, Clone)]
pub(crate) struct Sockets {
    #[command(flatten)]
    way: Way,
    /// How many are open at once.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    count: u32,
    /// How many messages a second over all of them.
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    messages_per_second: u32,
    /// How long messages are sent.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Bytes in a message.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(10..))]
    size: u16,
    /// How long they then stay open and say nothing.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=3_600))]
    hold: u64,
    /// The process whose memory is read (edge's).
    #[arg(long)]
    pid: Option<u32>,
    /// Say in X-Forwarded-For that they come from so many clients.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=MOST_CLIENTS))]
    clients: Option<u32>,
    /// Hold edge to what it promises: 95 of 100 upgrades in 100 ms, 95 of 100 echoes in 10 ms.
    #[arg(long)]
    promise: bool,
}

/// How long 95 of 100 upgrades may take.
const UPGRADE: Duration = Duration::from_millis(100);

/// How long 95 of 100 echoes may take.
const ECHO: Duration = Duration::from_millis(10);

/// How long the process gets to settle before its memory is read.
const SETTLE: Duration = Duration::from_secs(1);

#[derive(Default)]
struct Tally {
    sent: u64,
    echoes: Vec<Duration>,
    lost: Counts,
}

impl Sockets {
    pub(crate) async fn run(self) -> Report {
        let mut report = Report::default();
        let before = self.memory("before", &mut report);
        let opened = websocket::open_many(&self.way, self.count, self.clients).await;
        let (sockets, upgrades) = opened.report(&mut report);
        self.promise("upgrade", &upgrades, UPGRADE, &mut report);
        sleep(SETTLE).await;
        let open = self.memory("open", &mut report);
        if let (Some(before), Some(open)) = (before, open) {
            let grown = f64::from(u32::try_from(open.saturating_sub(before)).unwrap_or(u32::MAX));
            report.number("memory KiB each", grown / f64::from(self.count));
        }
        let sockets = self.load(sockets, &mut report).await;
        if self.hold > 0 {
            let sockets = self.idle(sockets, &mut report).await;
            self.end(sockets, &mut report).await;
        } else {
            self.end(sockets, &mut report).await;
        }
        report
    }

    /// Paces messages over all sockets, each at its own moments.
    async fn load(&self, sockets: Vec<Socket>, report: &mut Report) -> Vec<Socket> {
        let each = Duration::from_secs(1) / self.messages_per_second;
        let period = each * u32::try_from(sockets.len()).unwrap_or(u32::MAX).max(1);
        let mut start = Instant::now();
        let end = start + Duration::from_secs(self.seconds);
        let mut talking = JoinSet::new();
        for socket in sockets {
            talking.spawn(talk(socket, start, period, end, usize::from(self.size)));
            start += each;
        }
        let (mut sockets, mut all) = (Vec::new(), Tally::default());
        while let Some(Ok((socket, tally))) = talking.join_next().await {
            sockets.extend(socket);
            all.sent += tally.sent;
            all.echoes.extend(tally.echoes);
            add(&mut all.lost, tally.lost);
        }
        let rate = all.echoes.len() as f64 / self.seconds as f64;
        report.row("sent", all.sent);
        report.failures("lost", &all.lost);
        report.number("echoes a second", rate);
        report.times("echo", all.echoes.clone());
        self.promise("echo", &all.echoes, ECHO, report);
        sockets
    }

    /// Sends nothing; reads only, so that pings are answered.
    async fn idle(&self, sockets: Vec<Socket>, report: &mut Report) -> Vec<Socket> {
        let end = Instant::now() + Duration::from_secs(self.hold);
        let mut holding = JoinSet::new();
        for mut socket in sockets {
            holding.spawn(async move {
                while let Ok(heard) = timeout_at(end, socket.next()).await {
                    heard?.ok()?;
                }
                Some(socket)
            });
        }
        let (mut sockets, mut ended) = (Vec::new(), 0);
        while let Some(Ok(held)) = holding.join_next().await {
            match held {
                Some(socket) => sockets.push(socket),
                None => ended += 1,
            }
        }
        self.memory("held", report);
        report.fault("ended while held", ended);
        sockets
    }

    async fn end(&self, sockets: Vec<Socket>, report: &mut Report) {
        let mut closing: JoinSet<_> = sockets.into_iter().map(websocket::close).collect();
        let mut failures = Counts::new();
        while let Some(Ok(closed)) = closing.join_next().await {
            if let Err(failure) = closed {
                count(&mut failures, failure);
            }
        }
        report.failures("not closed well", &failures);
        if self.pid.is_some() {
            sleep(SETTLE).await;
            self.memory("after", report);
        }
    }

    fn promise(&self, name: &str, times: &[Duration], most: Duration, report: &mut Report) {
        if self.promise {
            report.promise(name, times, most);
        }
    }

    fn memory(&self, when: &str, report: &mut Report) -> Option<u64> {
        let memory = resident(self.pid?)?;
        report.row(&format!("memory KiB {when}"), memory);
        Some(memory)
    }
}

/// Sends at its moments whether or not the echoes come, and measures each from its sending.
async fn talk(
    mut socket: Socket,
    start: Instant,
    period: Duration,
    end: Instant,
    size: usize,
) -> (Option<Socket>, Tally) {
    let mut tally = Tally::default();
    let mut open = VecDeque::new();
    let talked = exchange(&mut socket, start, period, end, size, &mut tally, &mut open).await;
    if let Err(failure) = talked {
        // Whatever was under way is lost with the socket.
        for _ in 0..open.len().max(1) {
            count(&mut tally.lost, failure.clone());
        }
        return (None, tally);
    }
    (Some(socket), tally)
}

async fn exchange(
    socket: &mut Socket,
    start: Instant,
    period: Duration,
    end: Instant,
    size: usize,
    tally: &mut Tally,
    open: &mut VecDeque<Instant>,
) -> Result<(), Failure> {
    let mut moments = interval_at(start, period);
    let mut sending = true;
    while sending || !open.is_empty() {
        tokio::select! {
            _ = moments.tick(), if sending => {
                let now = Instant::now();
                sending = now < end;
                if sending {
                    open.push_back(now);
                    websocket::send(socket, &format!("{:0size$}", tally.sent)).await?;
                    tally.sent += 1;
                }
            }
            heard = socket.next() => {
                let text = format!("{:0size$}", tally.echoes.len());
                websocket::heard_text(heard, &text)?;
                tally.echoes.extend(open.pop_front().map(|sent| sent.elapsed()));
            }
            () = sleep_until(end + PATIENCE) => return Err("echo: timeout".to_owned()),
        }
    }
    Ok(())
}
