//! How many sockets ended, when, and with which code.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::report::{Counts, Report, add, count};
use crate::talk::{Pace, Talk, talk};
use crate::websocket::Socket;

/// Sockets that are left to end.
pub(crate) struct Ending {
    talking: JoinSet<Talk>,
}

/// How they ended.
#[derive(Default)]
pub(crate) struct Ends {
    /// How long after the event that ended them, and the codes.
    ended: Vec<(Duration, u16)>,
    codes: Counts,
    bare: Counts,
    after: Counts,
    early: u64,
    open: u64,
    sent: u64,
    echoes: Vec<Duration>,
    late: u64,
    strange: u64,
    unanswered: u64,
    lost: u64,
}

/// What was sent so long before the Close ought to have its echo.
const UNDER_WAY: Duration = Duration::from_secs(1);

/// Bytes in a message.
const SIZE: usize = 64;

impl Ending {
    /// Lets messages flow, or none, until each socket is ended.
    pub(crate) fn start(sockets: Vec<Socket>, messages_per_second: u32, end: Instant) -> Self {
        let span = (Instant::now(), end);
        let paces = Pace::all(sockets.len(), messages_per_second, span, SIZE);
        let talks = sockets.into_iter().zip(paces);
        Self {
            talking: talks.map(|(socket, pace)| talk(socket, pace)).collect(),
        }
    }

    /// Waits for the ends of all; `event` is what ought to have ended them.
    pub(crate) async fn all(mut self, event: Instant) -> Ends {
        let mut all = Ends::default();
        while let Some(talk) = self.talking.join_next().await {
            match talk {
                Ok(talk) => all.note(talk, event),
                Err(_) => all.open += 1,
            }
        }
        all.ended.sort_unstable();
        all
    }
}

impl Ends {
    fn note(&mut self, talk: Talk, event: Instant) {
        self.sent += talk.sent;
        self.echoes.extend(talk.echoes.iter().map(|echo| echo.took));
        self.late += talk.late;
        self.strange += talk.strange;
        let waiting = talk.waiting.len() as u64;
        let Some(ended) = talk.ended else {
            self.open += 1;
            self.lost += waiting;
            return;
        };
        let old = |(_, sent): &&(u64, Instant)| ended.at - *sent > UNDER_WAY;
        let lost = talk.waiting.iter().filter(old).count() as u64;
        self.lost += lost;
        self.unanswered += waiting - lost;
        self.early += u64::from(ended.at < event);
        self.ended.push((ended.at - event, ended.code));
        count(&mut self.codes, ended.code.to_string());
        for (counts, failure) in [(&mut self.bare, ended.bare), (&mut self.after, ended.after)] {
            add(counts, failure.into_iter().map(|word| (word, 1)).collect());
        }
    }

    /// What is bad whatever ended them.
    pub(crate) fn report(&self, report: &mut Report) {
        report.counts("closed", &self.codes);
        report.failures("without a Close frame", &self.bare);
        report.failures("after the Close", &self.after);
        report.fault("ended too early", self.early);
        report.fault("not ended", self.open);
    }

    /// What became of the messages.
    pub(crate) fn report_messages(&self, report: &mut Report) {
        report.row("sent", self.sent);
        report.row("under way at the Close", self.unanswered);
        report.fault("lost (sent over 1 s before the Close)", self.lost);
        report.fault("out of order", self.late);
        report.fault("not asked for", self.strange);
        report.times("echo", self.echoes.clone());
    }

    /// How long after the event each socket ended, in order.
    pub(crate) fn times(&self) -> Vec<Duration> {
        self.ended.iter().map(|(time, _)| *time).collect()
    }

    /// The same, of those that ended with a Close frame.
    pub(crate) fn closes(&self) -> Vec<Duration> {
        let said = self.ended.iter().filter(|(_, code)| *code != 1006);
        said.map(|(time, _)| *time).collect()
    }
}
