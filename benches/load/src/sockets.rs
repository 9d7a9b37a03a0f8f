//! WebSockets that are opened one after the other, and then all speak until the end.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::offer::{Offer, SETTLE};
use crate::schedule::Schedule;
use crate::series::Series;
use crate::talk::{Pace, Talk, talk};
use crate::target::Way;
use crate::websocket;

/// What came of the WebSockets.
#[derive(Debug, Default)]
pub struct Sockets {
    /// The handshakes.
    pub upgrades: Series,
    /// The messages.
    pub echoes: Series,
    /// When each was open, from and to, since the beginning.
    pub spans: Vec<(Duration, Duration)>,
    /// How many were open to the end.
    pub stayed: u32,
}

/// One of them.
#[derive(Debug, Clone, Copy)]
struct One {
    start: Instant,
    /// When it is opened, since the beginning.
    due: Duration,
    pace: Pace,
    /// When it is closed: not all at once, and not while the last echoes are on their way.
    leave: Instant,
}

impl Sockets {
    /// Opens all, lets them speak, and closes them.
    pub async fn open(way: &Way, offer: &Offer, start: Instant) -> Self {
        let mut all = Self::default();
        let Some(schedule) = Schedule::new(offer.upgrades) else {
            return all;
        };
        let span = (start + offer.opening(), start + offer.total());
        let number = usize::try_from(offer.sockets).unwrap_or(usize::MAX);
        let paces = Pace::all(number, offer.messages, span, offer.size.into());
        let lives = (0..offer.sockets).zip(paces).map(|(number, pace)| {
            let one = One {
                start,
                due: schedule.moment(number.into()),
                pace,
                leave: span.1 + SETTLE / 2 + SETTLE * number / offer.sockets,
            };
            one.live(way.clone())
        });
        let mut lives: JoinSet<_> = lives.collect();
        while let Some(life) = lives.join_next().await {
            match life {
                Ok(life) => all.add(life),
                Err(_) => all.upgrades.complain("broken off".to_owned()),
            }
        }
        all
    }

    /// How many were open at this time.
    pub fn open_at(&self, time: Duration) -> usize {
        let open = |(from, to): &&(Duration, Duration)| *from <= time && time < *to;
        self.spans.iter().filter(open).count()
    }

    fn add(&mut self, other: Self) {
        self.upgrades.add(other.upgrades);
        self.echoes.add(other.echoes);
        self.spans.extend(other.spans);
        self.stayed += other.stayed;
    }
}

impl One {
    /// From its handshake to its Close.
    async fn live(self, way: Way) -> Sockets {
        let mut life = Sockets::default();
        let moment = self.start + self.due;
        sleep_until(moment).await;
        let socket = match websocket::open(&way, None).await {
            Ok((socket, _)) => socket,
            Err(failure) => {
                life.upgrades.lose(self.due, failure);
                return life;
            }
        };
        life.upgrades.note(self.due, moment.elapsed());
        let from = self.start.elapsed();
        let talk = talk(socket, self.pace.after(Instant::now())).await;
        let to = talk.ended.as_ref().map_or(Instant::now(), |ended| ended.at);
        life.spans.push((from, to - self.start));
        life.hear(&talk, self.start);
        if let Some(socket) = talk.socket {
            life.stayed += 1;
            sleep_until(self.leave).await;
            if let Err(failure) = websocket::close(socket).await {
                life.upgrades.complain(failure);
            }
        }
        life
    }
}

impl Sockets {
    /// What became of one socket's messages.
    fn hear(&mut self, talk: &Talk, start: Instant) {
        for echo in &talk.echoes {
            self.echoes.note(echo.due - start, echo.took);
        }
        let why = match &talk.ended {
            Some(ended) => {
                let said = format!("closed: {} {}", ended.code, ended.reason);
                let why = ended.bare.clone().unwrap_or(said.trim_end().to_owned());
                self.upgrades.complain(why);
                "lost with its socket"
            }
            None => "echo: timeout",
        };
        for (_, due) in &talk.waiting {
            self.echoes.lose(*due - start, why.to_owned());
        }
        for (word, number) in [
            ("echo: out of order", talk.late),
            ("echo: not asked for", talk.strange),
        ] {
            for _ in 0..number {
                self.echoes.complain(word.to_owned());
            }
        }
    }
}

/// All ought to have been open together from here.
pub fn all_open(offer: &Offer) -> Duration {
    offer.opening().saturating_sub(SETTLE / 2)
}
