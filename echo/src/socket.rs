//! One WebSocket's life: it answers what it hears, and always says goodbye.

use crate::{
    ending::{Cause, Ending},
    json,
    rate::Bucket,
    record::{Record, Visitor},
    shared::Shared,
    stream::Stream,
    vigil::{Due, Patience, Sign, Vigil},
};
use bytes::Bytes;
use futures_util::{FutureExt, SinkExt, StreamExt};
use std::{
    convert::Infallible,
    pin::pin,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep_until, timeout},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error, Message,
        protocol::{Role, WebSocketConfig},
    },
};

/// What an idle WebSocket holds for reading, and how many echoes are gathered into one write.
/// Small, since most WebSockets are idle most of the time; a larger message grows it.
const BUFFER: usize = 4 << 10;
/// The longest message of our own: a greeting, or what is wrong with a peer's.
const ANSWER: usize = 512;
/// The frame's own bytes and one queued pong, on top of the message that waits to be written.
const FRAMING: usize = 256;
/// How long a peer may not read what it is sent.
const WRITE_WAIT: Duration = Duration::from_secs(30);
/// How long to wait for the peer's Close, and then for its end of the connection.
const FAREWELL: Duration = Duration::from_secs(2);

type Socket = WebSocketStream<Stream>;

/// Lives one WebSocket, from the 101 to its last byte.
/// `early` is what the client sent right behind its request.
pub(crate) async fn live(
    stream: TcpStream,
    early: &[u8],
    visitor: Visitor,
    expires: Option<Instant>,
    shared: &Shared,
) {
    let mut record = Record::open(&shared.metrics, visitor);
    let limits = Some(limits(shared.settings.max_message));
    let mut socket =
        Socket::from_partially_read(Stream::new(stream), early.to_vec(), Role::Server, limits)
            .await;
    let Err(ending) = converse(&mut socket, expires, shared, &mut record).await;
    record.ending = ending;
    part(&mut socket, &record.ending).await;
}

fn limits(max_message: usize) -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(BUFFER)
        .write_buffer_size(BUFFER)
        // One message beyond the threshold is all that ever waits: `feed` writes before it takes more.
        .max_write_buffer_size(BUFFER + max_message.max(ANSWER) + FRAMING)
        .max_message_size(Some(max_message))
        .max_frame_size(Some(max_message))
}

/// Echoes until one side has had enough.
async fn converse(
    socket: &mut Socket,
    expires: Option<Instant>,
    shared: &Shared,
    record: &mut Record<'_>,
) -> Result<Infallible, Ending> {
    let settings = &shared.settings;
    let began = Instant::now();
    let patience = Patience {
        idle: settings.idle,
        ping: settings.ping,
        pong: settings.pong,
    };
    let mut vigil = Vigil::new(patience, expires, began);
    let mut bucket = settings.message_rate.map(|rate| Bucket::new(rate, began));
    let mut sign = None;
    let mut turn = pin!(shared.turn());
    // One timer for all that can be due. It is set anew when it rings, not with each message.
    let mut alarm = pin!(sleep_until(vigil.next().into()));
    if settings.greet {
        tell(socket, record, welcome(record.id())).await?;
    }
    loop {
        // If more has arrived already, its echo shares a write with the ones before.
        let heard = match socket.next().now_or_never() {
            Some(heard) => heard,
            None => {
                in_time(socket.flush()).await?;
                if let Some(sign) = sign.take() {
                    vigil.heard(sign, Instant::now());
                    // What came so far is told by that.
                    socket.get_mut().came();
                }
                tokio::select! {
                    // The peer last: one that never pauses must not put off what is due.
                    biased;
                    stay = turn.as_mut(), if !vigil.is_leaving() => {
                        vigil.leave(Instant::now() + stay);
                        alarm.as_mut().reset(vigil.next().into());
                        continue;
                    }
                    () = alarm.as_mut() => {
                        look(socket, &mut vigil, record).await?;
                        alarm.as_mut().reset(vigil.next().into());
                        continue;
                    }
                    heard = socket.next() => heard,
                }
            }
        };
        let message = heard.unwrap_or(Err(Error::ConnectionClosed))?;
        record.received(&message);
        sign = sign.max(Some(match message {
            Message::Pong(_) => Sign::Bytes,
            _ => Sign::Word,
        }));
        if let Some(bucket) = &mut bucket
            && !matches!(message, Message::Pong(_) | Message::Close(_))
            && !bucket.take(Instant::now())
        {
            // A pong that tungstenite has queued must not come behind the Close.
            in_time(socket.flush()).await?;
            return Err(Ending::Said(Cause::TooFast));
        }
        match message {
            Message::Text(_) | Message::Binary(_) => {
                let answer = match settings.json_only.then(|| json::verify(&message)) {
                    Some(Err(fault)) => {
                        shared.metrics.rejected(fault.error);
                        fault.answer()
                    }
                    Some(Ok(())) | None => message,
                };
                record.sent(&answer);
                in_time(socket.feed(answer)).await?;
            }
            // tungstenite has queued the pong. It leaves before more is read, so that pongs
            // for a peer that only pings cannot pile up.
            Message::Ping(payload) => {
                record.sent(&Message::Pong(payload));
                in_time(socket.flush()).await?;
            }
            Message::Close(frame) => return Err(Ending::Heard(frame)),
            Message::Pong(_) | Message::Frame(_) => {}
        }
    }
}

/// Does what is due, if anything is: the peer may have been heard since the alarm was set.
async fn look(
    socket: &mut Socket,
    vigil: &mut Vigil,
    record: &mut Record<'_>,
) -> Result<(), Ending> {
    let now = Instant::now();
    if socket.get_mut().came() {
        vigil.heard(Sign::Bytes, now);
    }
    match vigil.due(now) {
        Some(Due::Close(cause)) => return Err(Ending::Said(cause)),
        Some(Due::Ping) => {
            tell(socket, record, Message::Ping(Bytes::new())).await?;
            vigil.asked(Instant::now());
        }
        None => {}
    }
    Ok(())
}

/// Says something unasked, at once.
async fn tell(
    socket: &mut Socket,
    record: &mut Record<'_>,
    message: Message,
) -> Result<(), Ending> {
    record.sent(&message);
    in_time(socket.send(message)).await
}

/// The greeting: the number is the one under which the log tells of this WebSocket.
fn welcome(id: u64) -> Message {
    Message::text(format!(r#"{{"type":"welcome","id":{id}}}"#))
}

/// A write that the peer must take in time: while it does not, nothing more is read from it.
async fn in_time(write: impl Future<Output = Result<(), Error>>) -> Result<(), Ending> {
    match timeout(WRITE_WAIT, write).await {
        Ok(written) => written.map_err(Ending::from),
        Err(_) => Err(Ending::Dropped("write_timeout")),
    }
}

/// Says Close, waits for the peer's, and ends the connection such that the peer can read all of it.
async fn part(socket: &mut Socket, ending: &Ending) {
    if let Ending::Lost(_) | Ending::Dropped(_) = ending {
        return;
    }
    let closing = async {
        if let Some(frame) = ending.close() {
            socket.send(Message::Close(Some(frame))).await?;
        }
        // Reading sends a queued answer to the peer's Close, or finds the peer's answer to ours.
        // After a failure the stream has ended already, and this returns at once.
        while let Some(heard) = socket.next().await {
            heard?;
        }
        Ok::<_, Error>(())
    };
    if !matches!(timeout(FAREWELL, closing).await, Ok(Ok(()))) {
        tracing::debug!(?ending, "no_farewell");
    }
    // RFC 6455, section 7.1.1: end our half, then read to the end of theirs. Closing with bytes
    // unread would reset the connection, and the peer might never see our Close.
    let stream = socket.get_mut();
    let ended = async {
        stream.shutdown().await?;
        let mut rest = [0; 1024];
        while stream.read(&mut rest).await? > 0 {}
        Ok::<_, std::io::Error>(())
    };
    if !matches!(timeout(FAREWELL, ended).await, Ok(Ok(()))) {
        tracing::debug!(?ending, "no_end");
    }
}
