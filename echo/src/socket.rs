//! One WebSocket's life: it answers what it hears, and always says goodbye.

use crate::{
    ending::Ending,
    record::{Record, Visitor},
    shared::Shared,
};
use futures_util::{FutureExt, SinkExt, StreamExt};
use std::{pin::pin, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep, timeout},
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
/// The frame's own bytes and one queued pong, on top of the message that waits to be written.
const FRAMING: usize = 256;
/// How long a peer may not read what it is sent.
const WRITE_WAIT: Duration = Duration::from_secs(30);
/// How long to wait for the peer's Close, and then for its end of the connection.
const FAREWELL: Duration = Duration::from_secs(2);

type Socket = WebSocketStream<TcpStream>;

/// Lives one WebSocket, from the 101 to its last byte.
/// `early` is what the client sent right behind its request.
pub(crate) async fn live(stream: TcpStream, early: &[u8], visitor: Visitor, shared: &Shared) {
    let mut record = Record::open(&shared.metrics, visitor);
    let limits = Some(limits(shared.settings.max_message));
    let mut socket =
        Socket::from_partially_read(stream, early.to_vec(), Role::Server, limits).await;
    record.ending = converse(&mut socket, shared, &mut record).await;
    part(&mut socket, &record.ending).await;
}

fn limits(max_message: usize) -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(BUFFER)
        .write_buffer_size(BUFFER)
        // One message beyond the threshold is all that ever waits: `feed` writes before it takes more.
        .max_write_buffer_size(BUFFER + max_message + FRAMING)
        .max_message_size(Some(max_message))
        .max_frame_size(Some(max_message))
}

/// Echoes until one side has had enough.
async fn converse(socket: &mut Socket, shared: &Shared, record: &mut Record<'_>) -> Ending {
    let mut draining = pin!(shared.draining());
    let mut idle = pin!(sleep(shared.settings.idle));
    loop {
        // If more has arrived already, its echo shares a write with the ones before.
        let heard = match socket.next().now_or_never() {
            Some(heard) => heard,
            None => {
                if let Err(ending) = in_time(socket.flush()).await {
                    return ending;
                }
                idle.as_mut().reset(Instant::now() + shared.settings.idle);
                tokio::select! {
                    // The drain first: a peer that never pauses must not put it off.
                    biased;
                    () = draining.as_mut() => return Ending::draining(),
                    heard = socket.next() => heard,
                    () = idle.as_mut() => return Ending::idle(),
                }
            }
        };
        let message = match heard.unwrap_or(Err(Error::ConnectionClosed)) {
            Ok(message) => message,
            Err(error) => return error.into(),
        };
        record.received(&message);
        match message {
            Message::Text(_) | Message::Binary(_) => {
                record.sent(&message);
                if let Err(ending) = in_time(socket.feed(message)).await {
                    return ending;
                }
            }
            // tungstenite has queued the pong. It leaves before more is read, so that pongs
            // for a peer that only pings cannot pile up.
            Message::Ping(payload) => {
                record.sent(&Message::Pong(payload));
                if let Err(ending) = in_time(socket.flush()).await {
                    return ending;
                }
            }
            Message::Close(frame) => return Ending::Heard(frame),
            Message::Pong(_) | Message::Frame(_) => {}
        }
    }
}

/// A write that the peer must take in time: while it does not, nothing more is read from it.
async fn in_time(write: impl Future<Output = Result<(), Error>>) -> Result<(), Ending> {
    match timeout(WRITE_WAIT, write).await {
        Ok(written) => written.map_err(Ending::from),
        Err(_) => Err(Ending::Dropped("peer does not read")),
    }
}

/// Says Close, waits for the peer's, and ends the connection such that the peer can read all of it.
async fn part(socket: &mut Socket, ending: &Ending) {
    let close = match ending {
        Ending::Lost(_) | Ending::Dropped(_) => return,
        Ending::Heard(_) => None,
        Ending::Said(frame) | Ending::Failed(frame) => Some(frame.clone()),
    };
    let closing = async {
        if let Some(frame) = close {
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
