//! Many WebSockets at once: how fast do their echoes come, and what memory do they hold?

use std::time::Duration;

use clap::Args;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::opening;
use crate::process::{Process, SETTLE};
use crate::report::{Counts, Report, count};
use crate::signals::Signals;
use crate::talk::{Pace, Talk, talk};
use crate::target::{MOST_CLIENTS, Way};
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
    /// The process whose memory is read (edge's), and that signals go to.
    #[arg(long)]
    pid: Option<Process>,
    #[command(flatten)]
    signals: Signals,
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

#[derive(Default)]
struct Tally {
    sockets: Vec<Socket>,
    sent: u64,
    echoes: Vec<Duration>,
    lost: Counts,
    late: u64,
    strange: u64,
    ended: Counts,
}

impl Tally {
    fn note(&mut self, talk: Talk) {
        let how = match talk.ended {
            Some(ended) => {
                let how = ended.bare.unwrap_or_else(|| ended.code.to_string());
                count(&mut self.ended, how.clone());
                how
            }
            None => "echo: timeout".to_owned(),
        };
        // Whatever was under way is lost with the socket.
        if !talk.waiting.is_empty() {
            *self.lost.entry(how).or_default() += talk.waiting.len() as u64;
        }
        self.sockets.extend(talk.socket);
        self.sent += talk.sent;
        self.echoes.extend(talk.echoes.iter().map(|echo| echo.took));
        self.late += talk.late;
        self.strange += talk.strange;
    }
}

impl Sockets {
    pub(crate) async fn run(self) -> Report {
        let mut report = Report::default();
        let before = self.memory("before", &mut report);
        let opened = opening::open_many(&self.way, self.count, self.clients).await;
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

    /// Paces messages over all sockets, each at its own moments; signals the process meanwhile.
    async fn load(&self, sockets: Vec<Socket>, report: &mut Report) -> Vec<Socket> {
        let start = Instant::now();
        let time = Duration::from_secs(self.seconds).max(self.signals.last());
        let signals = tokio::spawn(self.signals.send(start, self.pid));
        let rate = self.messages_per_second;
        let all = self.talk(sockets, rate, start + time).await;
        if let Ok(Some(signals)) = signals.await {
            signals.report(report);
        }
        let rate = all.echoes.len() as f64 / time.as_secs_f64();
        report.row("sent", all.sent);
        report.failures("lost", &all.lost);
        report.fault("out of order", all.late);
        report.fault("not asked for", all.strange);
        report.failures("ended", &all.ended);
        report.number("echoes a second", rate);
        report.times("echo", all.echoes.clone());
        self.promise("echo", &all.echoes, ECHO, report);
        all.sockets
    }

    /// Sends nothing; reads only, so that pings are answered.
    async fn idle(&self, sockets: Vec<Socket>, report: &mut Report) -> Vec<Socket> {
        let end = Instant::now() + Duration::from_secs(self.hold);
        let all = self.talk(sockets, 0, end).await;
        self.memory("held", report);
        report.failures("ended while held", &all.ended);
        all.sockets
    }

    async fn talk(&self, sockets: Vec<Socket>, messages_per_second: u32, end: Instant) -> Tally {
        let span = (Instant::now(), end);
        let paces = Pace::all(sockets.len(), messages_per_second, span, self.size.into());
        let mut talking: JoinSet<_> = sockets
            .into_iter()
            .zip(paces)
            .map(|(socket, pace)| talk(socket, pace))
            .collect();
        let mut all = Tally::default();
        while let Some(talk) = talking.join_next().await {
            match talk {
                Ok(talk) => all.note(talk),
                Err(_) => count(&mut all.ended, "broken off".to_owned()),
            }
        }
        all
    }

    async fn end(&self, sockets: Vec<Socket>, report: &mut Report) {
        let mut closing: JoinSet<_> = sockets.into_iter().map(websocket::close).collect();
        let mut failures = Counts::new();
        while let Some(closed) = closing.join_next().await {
            if let Err(failure) = closed.unwrap_or_else(|_| Err("broken off".to_owned())) {
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
        report.memory(self.pid?, when)
    }
}
