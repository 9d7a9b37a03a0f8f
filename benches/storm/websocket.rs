//! WebSockets, each from its upgrade to its end.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use http::HeaderValue;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::report::{Counts, Report, count};
use crate::target::{Failure, PATIENCE, Way, client};

pub(crate) type Socket = WebSocketStream<TcpStream>;

/// Opens a WebSocket; tells also how long that took, from connecting to the 101.
pub(crate) async fn open(
    way: &Way,
    client: Option<Ipv4Addr>,
) -> Result<(Socket, Duration), Failure> {
    let start = Instant::now();
    let url = format!("ws://{}{}", way.target.authority, way.target.path);
    let mut request = url
        .into_client_request()
        .map_err(|error| failure("request", &error))?;
    let client = client.map(|client| HeaderValue::try_from(client.to_string()));
    if let Some(Ok(client)) = client {
        request.headers_mut().insert("x-forwarded-for", client);
    }
    let stream = way.connect().await?;
    let opened = timeout(PATIENCE, client_async(request, stream)).await;
    let opened = opened.map_err(|_| "upgrade: timeout")?;
    let (socket, _) = opened.map_err(|error| failure("upgrade", &error))?;
    Ok((socket, start.elapsed()))
}

/// What came of opening many.
#[derive(Default)]
pub(crate) struct Opened {
    sockets: Vec<Socket>,
    times: Vec<Duration>,
    refused: Counts,
}

/// How many are opened at the same time.
const OPENING: usize = 32;

/// Opens so many, which say that they come from so many clients.
pub(crate) async fn open_many(way: &Way, number: u32, clients: Option<u32>) -> Opened {
    let places = Arc::new(Semaphore::new(OPENING));
    let mut opening = JoinSet::new();
    for number in 0..number {
        let (way, places) = (way.clone(), places.clone());
        let client = clients.map(|clients| client(number % clients));
        opening.spawn(async move {
            let _place = places.acquire().await;
            open(&way, client).await
        });
    }
    let mut all = Opened::default();
    while let Some(opened) = opening.join_next().await {
        match opened.unwrap_or_else(|_| Err("broken off".to_owned())) {
            Ok((socket, time)) => {
                all.sockets.push(socket);
                all.times.push(time);
            }
            Err(failure) => count(&mut all.refused, failure),
        }
    }
    all
}

impl Opened {
    /// Tells how it went; the sockets, and what each upgrade took.
    pub(crate) fn report(self, report: &mut Report) -> (Vec<Socket>, Vec<Duration>) {
        report.row("opened", self.sockets.len());
        report.failures("not opened", &self.refused);
        report.times("upgrade", self.times.clone());
        (self.sockets, self.times)
    }
}

/// Sends a message and waits for its echo.
pub(crate) async fn echo(socket: &mut Socket, text: &str) -> Result<(), Failure> {
    send(socket, text).await?;
    let heard = timeout(PATIENCE, socket.next()).await;
    heard_text(heard.map_err(|_| "echo: timeout")?, text)
}

pub(crate) async fn send(socket: &mut Socket, text: &str) -> Result<(), Failure> {
    let sent = timeout(PATIENCE, socket.send(Message::text(text))).await;
    let sent = sent.map_err(|_| "send: timeout")?;
    sent.map_err(|error| failure("send", &error))
}

/// Is what was heard the echo of this text?
pub(crate) fn heard_text(heard: Option<Result<Message, Error>>, text: &str) -> Result<(), Failure> {
    match heard {
        Some(Ok(Message::Text(echo))) if echo.as_str() == text => Ok(()),
        Some(Ok(Message::Close(_))) | None => Err("echo: closed".to_owned()),
        Some(Ok(_)) => Err("echo: another message".to_owned()),
        Some(Err(error)) => Err(failure("echo", &error)),
    }
}

/// Says goodbye and waits for the other side's.
pub(crate) async fn close(mut socket: Socket) -> Result<(), Failure> {
    let goodbye = async {
        socket.close(None).await?;
        while let Some(message) = socket.next().await {
            message?;
        }
        Ok(())
    };
    let closed = timeout(PATIENCE, goodbye).await;
    let closed = closed.map_err(|_| "close: timeout")?;
    closed.map_err(|error: Error| failure("close", &error))
}

pub(crate) fn failure(step: &str, error: &Error) -> Failure {
    match error {
        Error::Http(answer) => format!("{step}: answered {}", answer.status().as_u16()),
        Error::Io(error) => format!("{step}: {}", error.kind()),
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => format!("{step}: end"),
        error => format!("{step}: {error}"),
    }
}
