//! A running server, and clients that can be as rude as the test needs.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use echo::{Echo, Settings};
use futures_util::StreamExt;
use ring::hmac;
use serde_json::Value;
use std::{net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::oneshot,
    task::JoinHandle,
    time::timeout,
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream,
    tungstenite::{Message, protocol::CloseFrame},
};

pub(crate) type Client = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// No single step of a test takes this long, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    stop: oneshot::Sender<()>,
    ended: JoinHandle<()>,
}

/// Settings with a port of the system's choice.
pub(crate) fn settings() -> Settings {
    Settings {
        listen: "127.0.0.1:0".parse().unwrap(),
        ..Settings::default()
    }
}

pub(crate) async fn start(settings: Settings) -> Running {
    let echo = Echo::bind(settings).await.unwrap();
    let address = echo.address();
    let (stop, stopped) = oneshot::channel();
    let ended = tokio::spawn(echo.run(async { stopped.await.unwrap_or_default() }));
    Running {
        address,
        stop,
        ended,
    }
}

impl Running {
    pub(crate) async fn client(&self) -> Client {
        let url = format!("ws://{}/ws", self.address);
        let (client, _) = within(tokio_tungstenite::connect_async(url)).await.unwrap();
        client
    }

    pub(crate) async fn raw(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// A WebSocket whose frames the test writes byte by byte.
    pub(crate) async fn raw_socket(&self) -> TcpStream {
        let mut stream = self.raw().await;
        stream.write_all(HANDSHAKE).await.unwrap();
        let head = read_head(&mut stream).await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        stream
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: echo\r\n\r\n"))
            .await
    }

    /// Sends a request as written, but for `Connection: close`, and reads to the end.
    pub(crate) async fn send(&self, request: &str) -> Reply {
        let mut stream = self.raw().await;
        let request = request.replacen("\r\n", "\r\nConnection: close\r\n", 1);
        self.exchange(&mut stream, &request).await
    }

    pub(crate) async fn exchange(&self, stream: &mut TcpStream, request: &str) -> Reply {
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        within(stream.read_to_end(&mut answer)).await.unwrap();
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").expect("a whole head");
        Reply {
            status: head.split(' ').nth(1).unwrap().parse().unwrap(),
            head: head.to_ascii_lowercase(),
            body: body.to_owned(),
        }
    }

    /// Tells the server to stop, without waiting for it.
    pub(crate) fn stop(self) -> JoinHandle<()> {
        self.stop.send(()).unwrap();
        self.ended
    }
}

/// Reads the Close, and then the end of the connection.
pub(crate) async fn closed(client: &mut Client) -> CloseFrame {
    let heard = within(client.next()).await.unwrap().unwrap();
    let Message::Close(Some(close)) = heard else {
        panic!("no Close with a code but {heard:?}");
    };
    // A reset would be an error here.
    assert!(within(client.next()).await.is_none());
    close
}

/// Waits for these lines in the metrics: counters follow the end of a connection by a moment.
pub(crate) async fn counted(echo: &Running, wanted: &[&str]) {
    let mut metrics = String::new();
    let counted = async {
        loop {
            metrics = echo.get("/metrics").await.body;
            if wanted
                .iter()
                .all(|line| metrics.lines().any(|l| l == *line))
            {
                break;
            }
        }
    };
    let counted = timeout(PATIENCE, counted).await;
    assert!(counted.is_ok(), "not all of {wanted:?} in\n{metrics}");
}

pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Reply {
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let line = self
            .head
            .lines()
            .find(|l| l.starts_with(&format!("{name}: ")))?;
        line.split_once(": ").map(|(_, value)| value)
    }
}

pub(crate) const HANDSHAKE: &[u8] = b"GET /ws HTTP/1.1\r\nHost: echo\r\n\
    Connection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// A token, signed with HS256 by hand.
pub(crate) fn signed(claims: &Value, secret: &str) -> String {
    let code = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
    let claims = code(claims.to_string().as_bytes());
    let message = format!("{}.{claims}", code(br#"{"alg":"HS256","typ":"JWT"}"#));
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let signature = hmac::sign(&key, message.as_bytes());
    format!("{message}.{}", code(signature.as_ref()))
}

pub(crate) async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(within(stream.read_u8()).await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

/// A short frame under the mask of zeros, which leaves the payload as it is.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    assert!(length < 126);
    [&[first, 0x80 | length, 0, 0, 0, 0], payload].concat()
}

/// Reads all that the server still sends; an end by reset is an error, hence a panic.
pub(crate) async fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    within(stream.read_to_end(&mut rest)).await.unwrap();
    rest
}

pub(crate) async fn within<F: Future>(future: F) -> F::Output {
    timeout(PATIENCE, future).await.expect("no answer in time")
}
