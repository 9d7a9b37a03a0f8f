//! One WebSocket that sends numbered messages at their moments, until it has said all or is ended.

use std::collections::VecDeque;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::time::{Instant, interval_at, sleep_until, timeout};
use tokio_tungstenite::tungstenite::Message;

use crate::target::{Failure, PATIENCE};
use crate::websocket::{self, Socket};

/// When a socket says something, and how much.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    start: Instant,
    /// From one message to the next; without it none is sent.
    period: Option<Duration>,
    /// After this none is sent; echoes under way are still waited for.
    end: Instant,
    size: usize,
}

/// What one socket has said and heard.
#[derive(Default)]
pub struct Talk {
    /// The socket, where it has not ended.
    pub socket: Option<Socket>,
    /// How it ended, where it did.
    pub ended: Option<Ended>,
    /// How many messages were sent.
    pub sent: u64,
    /// Those that came.
    pub echoes: Vec<Echo>,
    /// Those without an echo: number, and the moment at which they were due.
    pub waiting: VecDeque<(u64, Instant)>,
    /// Echoes that came after that of a later message.
    pub late: u64,
    /// The last number of which an echo came.
    last: Option<u64>,
    /// What was never sent, or echoed already.
    pub strange: u64,
}

/// An echo that came.
#[derive(Debug, Clone, Copy)]
pub struct Echo {
    /// When its message was due.
    pub due: Instant,
    /// From then to the echo: a message that is sent late has waited, too.
    pub took: Duration,
}

/// How a socket ended that we did not end.
pub struct Ended {
    /// When.
    pub at: Instant,
    /// What the Close frame says: 1005 where it says nothing, 1006 where there was none.
    pub code: u16,
    /// Why, as the Close frame has it.
    pub reason: String,
    /// What there was instead of a Close frame.
    pub bare: Option<Failure>,
    /// What went wrong once both had said Close.
    pub after: Option<Failure>,
}

impl Pace {
    /// The paces of all, for so many messages a second together; the first is sent at `start`.
    pub fn all(
        sockets: usize,
        messages_per_second: u32,
        (start, end): (Instant, Instant),
        size: usize,
    ) -> impl Iterator<Item = Self> {
        let each = Duration::from_secs(1).checked_div(messages_per_second);
        let sockets = u32::try_from(sockets).unwrap_or(u32::MAX).max(1);
        (0..sockets).map(move |number| Self {
            start: start + each.unwrap_or_default() * number,
            period: each.map(|each| each * sockets),
            end,
            size,
        })
    }

    /// The same, without what was due before this moment.
    #[must_use]
    pub fn after(self, moment: Instant) -> Self {
        let Some(period) = self.period else {
            return self;
        };
        let mut pace = self;
        let late = moment.saturating_duration_since(self.start).as_nanos();
        let skipped = late.div_ceil(period.as_nanos().max(1));
        pace.start += period * u32::try_from(skipped).unwrap_or(u32::MAX);
        pace
    }
}

/// Sends at its moments whether or not the echoes come, and measures each from its moment.
pub async fn talk(mut socket: Socket, pace: Pace) -> Talk {
    let mut talk = Talk::default();
    let mut moments = interval_at(pace.start, pace.period.unwrap_or(Duration::MAX / 4));
    let mut sending = pace.period.is_some();
    let mut until = pace.end;
    loop {
        let past = Instant::now() >= pace.end;
        if past && talk.waiting.is_empty() {
            break;
        }
        tokio::select! {
            due = moments.tick(), if sending && !past => {
                // Where sending fails there may still be a Close to read.
                sending = due < pace.end
                    && talk.say(&mut socket, pace.size, due).await.is_ok();
            }
            heard = socket.next() => {
                let bare = match heard {
                    Some(Ok(Message::Close(frame))) => {
                        let (code, reason) = frame.map_or((1005, String::new()), |frame| {
                            (frame.code.into(), frame.reason.as_str().to_owned())
                        });
                        talk.ended = Some(Ended::said(code, reason, &mut socket).await);
                        return talk;
                    }
                    Some(Ok(message)) => {
                        talk.hear(&message, pace.size);
                        continue;
                    }
                    Some(Err(error)) => websocket::failure("read", &error),
                    None => "read: end".to_owned(),
                };
                talk.ended = Some(Ended::bare(bare));
                return talk;
            }
            () = sleep_until(until) => {
                if until > pace.end {
                    break;
                }
                until = pace.end + PATIENCE;
            }
        }
    }
    talk.socket = Some(socket);
    talk
}

impl Talk {
    async fn say(&mut self, socket: &mut Socket, size: usize, due: Instant) -> Result<(), Failure> {
        let number = self.sent;
        self.sent += 1;
        self.waiting.push_back((number, due));
        websocket::send(socket, &numbered(number, size)).await
    }

    fn hear(&mut self, message: &Message, size: usize) {
        let number = match message {
            Message::Text(text) if text.len() == size => text.parse().ok(),
            Message::Ping(_) | Message::Pong(_) => return,
            _ => None,
        };
        let place = self
            .waiting
            .iter()
            .position(|(waiting, _)| Some(*waiting) == number);
        match place.and_then(|place| self.waiting.remove(place)) {
            Some((_, due)) => self.echoes.push(Echo {
                due,
                took: due.elapsed(),
            }),
            None => return self.strange += 1,
        }
        self.late += u64::from(number < self.last);
        self.last = self.last.max(number);
    }
}

impl Ended {
    fn bare(failure: Failure) -> Self {
        Self {
            at: Instant::now(),
            code: 1006,
            reason: String::new(),
            bare: Some(failure),
            after: None,
        }
    }

    /// The Close has been heard: reading on answers it, and the other side ends the connection.
    async fn said(code: u16, reason: String, socket: &mut Socket) -> Self {
        let at = Instant::now();
        let rest = async {
            while let Some(message) = socket.next().await {
                message?;
            }
            Ok(())
        };
        let after = match timeout(PATIENCE, rest).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(websocket::failure("read", &error)),
            Err(_) => Some("left open".to_owned()),
        };
        Self {
            at,
            code,
            reason,
            bare: None,
            after,
        }
    }
}

/// The message of this number: zeros lead it to its size.
pub fn numbered(number: u64, size: usize) -> String {
    let digits = number.to_string();
    let mut text = "0".repeat(size.saturating_sub(digits.len()));
    text.push_str(&digits);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::SinkExt;
    use tokio::net::{TcpListener, TcpStream};
    use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};

    /// Ten messages to a server that does this with the first few of them.
    async fn against<S>(server: impl FnOnce(Socket) -> S) -> Talk
    where
        S: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await;
        let (stream, _) = listener.accept().await.unwrap();
        tokio::spawn(server(
            Socket::from_raw_socket(stream, Role::Server, None).await,
        ));
        let socket = Socket::from_raw_socket(client.unwrap(), Role::Client, None).await;
        let start = Instant::now();
        let end = start + Duration::from_millis(90);
        let mut paces = Pace::all(1, 100, (start, end), 10);
        talk(socket, paces.next().unwrap()).await
    }

    async fn hear(socket: &mut Socket) -> Message {
        socket.next().await.unwrap().unwrap()
    }

    #[test]
    fn a_message_has_its_size() {
        assert_eq!(numbered(120, 10), "0000000120");
        assert_eq!(numbered(7, 1 << 20).len(), 1 << 20);
    }

    #[tokio::test]
    async fn who_comes_late_keeps_step_and_catches_up_on_nothing() {
        let start = Instant::now();
        let ms = Duration::from_millis;
        let mut paces = Pace::all(2, 20, (start, start + ms(500)), 10);
        let pace = paces.nth(1).unwrap();
        for (late, first) in [(0, 50), (50, 50), (51, 150), (250, 250)] {
            assert_eq!(pace.after(start + ms(late)).start, start + ms(first));
        }
    }

    #[tokio::test]
    async fn a_close_frame_is_answered() {
        let (told, answered) = tokio::sync::oneshot::channel();
        let talk = against(|mut socket| async move {
            let frame = CloseFrame {
                code: 1012.into(),
                reason: "".into(),
            };
            let first = hear(&mut socket).await;
            socket.send(first).await.unwrap();
            hear(&mut socket).await;
            socket.send(Message::Close(Some(frame))).await.unwrap();
            while let Some(Ok(heard)) = socket.next().await {
                if heard.is_close() {
                    told.send(()).unwrap();
                    return;
                }
            }
        })
        .await;
        answered.await.unwrap();
        let ended = talk.ended.unwrap();
        assert_eq!((ended.code, ended.bare, ended.after), (1012, None, None));
        assert_eq!((talk.echoes.len(), talk.waiting.len()), (1, 1));
    }

    #[tokio::test]
    async fn an_end_without_a_close_frame_is_1006() {
        let talk = against(|mut socket| async move {
            hear(&mut socket).await;
        })
        .await;
        let ended = talk.ended.unwrap();
        assert_eq!((ended.code, ended.bare.is_some()), (1006, true));
        assert_eq!(talk.waiting.len(), usize::try_from(talk.sent).unwrap());
    }

    #[tokio::test]
    async fn another_order_and_doubles_are_told_apart() {
        let talk = against(|mut socket| async move {
            let (first, second) = (hear(&mut socket).await, hear(&mut socket).await);
            for echo in [second, first.clone(), first] {
                socket.send(echo).await.unwrap();
            }
            while let Some(Ok(heard)) = socket.next().await {
                if socket.send(heard).await.is_err() {
                    return;
                }
            }
        })
        .await;
        assert_eq!((talk.late, talk.strange, talk.waiting.len()), (1, 1, 0));
        assert!(talk.socket.is_some() && talk.ended.is_none());
        assert_eq!(talk.echoes.len(), usize::try_from(talk.sent).unwrap());
    }
}
