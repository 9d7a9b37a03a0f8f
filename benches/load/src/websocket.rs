//! WebSockets, each from its upgrade to its end.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use http::HeaderValue;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use crate::reason;
use crate::target::{Failure, PATIENCE, Way};

/// An open WebSocket.
pub type Socket = WebSocketStream<TcpStream>;

/// What one socket reads at once; by default it would hold 128 KiB.
const READ: usize = 8 << 10;

/// Opens a WebSocket; tells also how long that took, from connecting to the 101.
pub async fn open(way: &Way, client: Option<Ipv4Addr>) -> Result<(Socket, Duration), Failure> {
    let start = Instant::now();
    let url = format!("ws://{}{}", way.target.authority, way.target.path);
    let mut request = url
        .into_client_request()
        .map_err(|error| failure("request", &error))?;
    let client = client.map(|client| HeaderValue::try_from(client.to_string()));
    if let Some(Ok(client)) = client {
        request.headers_mut().insert("x-forwarded-for", client);
    }
    for (name, value) in &way.fields {
        request.headers_mut().insert(name, value.clone());
    }
    let stream = way.connect().await?;
    let config = WebSocketConfig::default().read_buffer_size(READ);
    let opened = timeout(
        PATIENCE,
        client_async_with_config(request, stream, Some(config)),
    )
    .await;
    let opened = opened.map_err(|_| "upgrade: timeout")?;
    let (socket, _) = opened.map_err(|error| failure("upgrade", &error))?;
    Ok((socket, start.elapsed()))
}

/// Sends a message and waits for its echo.
pub async fn echo(socket: &mut Socket, text: &str) -> Result<(), Failure> {
    send(socket, text).await?;
    let heard = timeout(PATIENCE, socket.next()).await;
    heard_text(heard.map_err(|_| "echo: timeout")?, text)
}

/// Sends a text.
pub async fn send(socket: &mut Socket, text: &str) -> Result<(), Failure> {
    let sent = timeout(PATIENCE, socket.send(Message::text(text))).await;
    let sent = sent.map_err(|_| "send: timeout")?;
    sent.map_err(|error| failure("send", &error))
}

/// Is what was heard the echo of this text?
pub fn heard_text(heard: Option<Result<Message, Error>>, text: &str) -> Result<(), Failure> {
    match heard {
        Some(Ok(Message::Text(echo))) if echo.as_str() == text => Ok(()),
        Some(Ok(Message::Close(_))) | None => Err("echo: closed".to_owned()),
        Some(Ok(_)) => Err("echo: another message".to_owned()),
        Some(Err(error)) => Err(failure("echo", &error)),
    }
}

/// Says goodbye and waits for the other side's.
pub async fn close(mut socket: Socket) -> Result<(), Failure> {
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

/// The words for what failed in this step.
pub fn failure(step: &str, error: &Error) -> Failure {
    match error {
        Error::Http(answer) => {
            let reason = reason::of(answer.headers(), answer.body().as_deref());
            format!("{step}: {}", reason::word(answer.status().as_u16(), reason))
        }
        Error::Io(error) => format!("{step}: {}", error.kind()),
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => format!("{step}: end"),
        error => format!("{step}: {error}"),
    }
}
