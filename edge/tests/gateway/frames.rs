//! WebSockets byte by byte: frames as they are written, and both ends of a relay in one hand.

use std::time::Duration;

use crate::support::{
    Client, Log, Upstream, Visit, edge_with_log, figure, figure_becomes, ms, route_to, soon, until,
};
use edge::serve::Edge;
use serde_json::Value;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::timeout;

pub(crate) const OPEN: &str = "websocket = true";
pub(crate) const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
pub(crate) const HANDSHAKE: [&str; 4] = [
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    KEY,
];
pub(crate) const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
     Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

// A frame's first byte: FIN, and the opcode.
pub(crate) const TEXT: u8 = 0x81;
pub(crate) const BINARY: u8 = 0x82;
pub(crate) const CLOSE: u8 = 0x88;
pub(crate) const PING: u8 = 0x89;
pub(crate) const PONG: u8 = 0x8a;
/// The first frame of a message of several.
pub(crate) const FIRST: u8 = 0x01;
/// One in the middle.
pub(crate) const NEXT: u8 = 0x00;
/// The last one.
pub(crate) const LAST: u8 = 0x80;

const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A frame of a server's.
pub(crate) fn frame(first: u8, payload: impl AsRef<[u8]>) -> Vec<u8> {
    let payload = payload.as_ref();
    [&head(first, payload.len(), 0), payload].concat()
}

/// A frame of a client's.
pub(crate) fn masked(first: u8, payload: impl AsRef<[u8]>) -> Vec<u8> {
    let payload = payload.as_ref();
    let head = head(first, payload.len(), 0x80);
    [&head, &MASK[..], &mask(payload, MASK)].concat()
}

fn head(first: u8, length: usize, masked: u8) -> Vec<u8> {
    match length {
        0..126 => vec![first, masked | u8::try_from(length).unwrap()],
        126..65_536 => {
            let length = u16::try_from(length).unwrap();
            [&[first, masked | 126], &length.to_be_bytes()[..]].concat()
        }
        _ => [&[first, masked | 127], &(length as u64).to_be_bytes()[..]].concat(),
    }
}

fn mask(payload: &[u8], key: [u8; 4]) -> Vec<u8> {
    // Much at once: the long messages of these tests are long.
    let [a, b, c, d] = key;
    let wide = u128::from_ne_bytes([a, b, c, d, a, b, c, d, a, b, c, d, a, b, c, d]);
    let (parts, rest) = payload.as_chunks::<16>();
    let mut masked = Vec::with_capacity(payload.len());
    for part in parts {
        masked.extend_from_slice(&(u128::from_ne_bytes(*part) ^ wide).to_ne_bytes());
    }
    masked.extend(
        rest.iter()
            .zip(key.into_iter().cycle())
            .map(|(byte, key)| byte ^ key),
    );
    masked
}

/// What a Close frame says.
pub(crate) fn why(code: u16, reason: &str) -> Vec<u8> {
    [&code.to_be_bytes(), reason.as_bytes()].concat()
}

/// A frame as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) first: u8,
    pub(crate) payload: Vec<u8>,
    /// Every byte of it.
    pub(crate) raw: Vec<u8>,
}

impl Frame {
    pub(crate) fn is(&self, first: u8, payload: impl AsRef<[u8]>) -> bool {
        self.first == first && self.payload == payload.as_ref()
    }
}

/// One end of a WebSocket.
pub(crate) trait End {
    async fn bytes(&mut self, count: usize) -> Option<Vec<u8>>;

    async fn say(&mut self, bytes: impl AsRef<[u8]>);

    /// Does this end mask what it sends?
    const MASKS: bool;

    /// Says one frame.
    async fn say_frame(&mut self, first: u8, payload: impl AsRef<[u8]>) {
        self.say(match Self::MASKS {
            true => masked(first, payload),
            false => frame(first, payload),
        })
        .await;
    }

    /// The next frame; `None` if the connection ends before.
    async fn next_frame(&mut self) -> Option<Frame> {
        let mut raw = self.bytes(2).await?;
        let short = raw[1] & 0x7f;
        let extended = match short {
            126 => self.bytes(2).await?,
            127 => self.bytes(8).await?,
            _ => vec![short],
        };
        let length = extended
            .iter()
            .fold(0, |sum, &byte| sum << 8 | usize::from(byte));
        if short > 125 {
            raw.extend(&extended);
        }
        assert_eq!(raw[1] & 0x80 != 0, !Self::MASKS, "only clients mask");
        let key = match Self::MASKS {
            true => Vec::new(),
            false => self.bytes(4).await?,
        };
        let payload = self.bytes(length).await?;
        raw.extend([&key[..], &payload].concat());
        Some(Frame {
            first: raw[0],
            payload: match key.try_into() {
                Ok(key) => mask(&payload, key),
                Err(_) => payload,
            },
            raw,
        })
    }

    /// The next frame; it must come.
    async fn hear(&mut self) -> Frame {
        self.next_frame().await.expect("no frame")
    }

    /// The next frame is this one.
    async fn hears(&mut self, first: u8, payload: impl AsRef<[u8]>) {
        let (heard, payload) = (self.hear().await, payload.as_ref());
        let length = heard.payload.len();
        assert!(
            heard.is(first, payload),
            "{:x} of {length} bytes: {:?}",
            heard.first,
            String::from_utf8_lossy(&heard.payload[..length.min(125)])
        );
    }

    /// Nothing comes for a while.
    async fn hears_nothing(&mut self) {
        let heard = timeout(ms(150), self.next_frame()).await;
        assert!(heard.is_err(), "{heard:?}");
    }

    /// The next frame is this Close, and is answered.
    async fn is_told(&mut self, code: u16, reason: &str) {
        self.hears(CLOSE, why(code, reason)).await;
        self.say_frame(CLOSE, why(code, "")).await;
    }
}

impl End for Client {
    const MASKS: bool = true;

    async fn bytes(&mut self, count: usize) -> Option<Vec<u8>> {
        self.take(count).await
    }

    async fn say(&mut self, bytes: impl AsRef<[u8]>) {
        self.send(bytes).await;
    }
}

impl End for Visit {
    const MASKS: bool = false;

    async fn bytes(&mut self, count: usize) -> Option<Vec<u8>> {
        self.take(count).await
    }

    async fn say(&mut self, bytes: impl AsRef<[u8]>) {
        self.write(bytes).await;
    }
}

impl Visit {
    /// Sends each frame back as it came, a Close too, which is the last.
    pub(crate) async fn echo_frames(mut self) {
        while let Some(heard) = self.next_frame().await {
            self.say_frame(heard.first, &heard.payload).await;
            if heard.first == CLOSE {
                break;
            }
        }
    }
}

/// An upstream that accepts every upgrade, with these fields, and leaves the rest to the test.
pub(crate) struct Host {
    pub(crate) upstream: Upstream,
    opened: UnboundedReceiver<Visit>,
}

impl Host {
    pub(crate) async fn answering(fields: &str) -> Self {
        let switched = SWITCHED.replacen("\r\n", &format!("\r\n{fields}"), 1);
        let (open, opened) = unbounded_channel();
        let upstream = Upstream::serve(move |mut visit| {
            let (open, switched) = (open.clone(), switched.clone());
            async move {
                if visit.head().await.is_some() {
                    visit.write(switched).await;
                    let _ = open.send(visit);
                }
            }
        })
        .await;
        Self { upstream, opened }
    }

    /// The upstream's end of the WebSocket that was opened last.
    pub(crate) async fn peer(&mut self) -> Visit {
        soon(self.opened.recv()).await.unwrap()
    }
}

impl Log {
    /// The lines of all WebSockets that have ended, as soon as there are so many.
    pub(crate) async fn ended(&self, count: usize) -> Vec<Value> {
        let mut ended = Vec::new();
        until(|| {
            let lines = self.read().into_iter();
            ended = lines
                .filter(|line| line["event"] == "websocket_closed")
                .collect();
            let enough = ended.len() >= count;
            async move { enough }
        })
        .await;
        ended
    }
}

/// A gateway with one route, for WebSockets, and both sides of it.
pub(crate) struct Relay {
    pub(crate) edge: Edge,
    pub(crate) log: Log,
    pub(crate) host: Host,
}

impl Relay {
    /// With these keys in the route's `websocket`.
    pub(crate) async fn with(keys: &str) -> Self {
        Self::made("", keys, "").await
    }

    /// With these tables before the route, and an upstream that accepts with these fields.
    pub(crate) async fn made(tables: &str, keys: &str, accepts: &str) -> Self {
        let host = Host::answering(accepts).await;
        let keys = format!("websocket = {{ {keys} }}");
        let route = route_to(host.upstream.address, &keys);
        let (edge, log) = edge_with_log(&format!("{tables}{route}")).await;
        Self { edge, log, host }
    }

    pub(crate) async fn client(&self) -> Client {
        Client::connect(self.edge.address()).await
    }

    /// Both ends of a new WebSocket.
    pub(crate) async fn open(&mut self) -> (Client, Visit) {
        self.open_from("127.0.0.1").await
    }

    pub(crate) async fn open_from(&mut self, address: &str) -> (Client, Visit) {
        let client = Client::from(address, self.edge.address()).await;
        self.open_on(client, &[]).await
    }

    /// On this connection, with these fields more.
    pub(crate) async fn open_on(&mut self, mut client: Client, fields: &[&str]) -> (Client, Visit) {
        let fields = [&HANDSHAKE[..], fields].concat();
        let answer = client.ask("GET /ws", &fields).await;
        assert_eq!(answer.status, 101, "{}", answer.head);
        (client, self.host.peer().await)
    }

    /// A figure of the route's.
    pub(crate) async fn figure(&self, name: &str) -> f64 {
        figure(&self.edge, &of_route(name)).await
    }

    /// Waits until a figure of the route's has this value.
    pub(crate) async fn becomes(&self, name: &str, value: f64) {
        figure_becomes(&self.edge, &of_route(name), value).await;
    }

    /// The only WebSocket that there was ended so, by the log and the figures.
    pub(crate) async fn ended_with(&self, code: u16, by: &str, reason: &str) -> Value {
        let line = self.log.ended(1).await.remove(0);
        let told = (&line["code"], &line["by"], &line["reason"]);
        assert_eq!(told, (&code.into(), &by.into(), &reason.into()), "{line}");
        let label = match code {
            3000..4000 => "3xxx".to_owned(),
            4000..5000 => "4xxx".to_owned(),
            code => code.to_string(),
        };
        let closed = format!("edge_websockets_closed_total{{by=\"{by}\",code=\"{label}\"}}");
        self.becomes(&closed, 1.0).await;
        self.becomes("edge_websockets", 0.0).await;
        self.becomes("edge_websockets_opened_total", 1.0).await;
        self.becomes("edge_websocket_lifetime_seconds_count", 1.0)
            .await;
        line
    }

    /// edge says this Close to both sides, and log and figures say the same.
    pub(crate) async fn closes(
        &self,
        (mut client, mut peer): (Client, Visit),
        code: u16,
        reason: &str,
    ) -> Value {
        peer.is_told(code, reason).await;
        drop(peer);
        client.is_told(code, reason).await;
        assert_eq!(client.end().await, b"");
        self.ended_with(code, "edge", reason).await
    }
}

/// The figure's labels, in their order, and the route's among them.
fn of_route(name: &str) -> String {
    let (name, labels) = name.split_once('{').unwrap_or((name, "}"));
    let labels = labels.trim_end_matches('}').split(',');
    let mut labels: Vec<_> = labels.chain(["route=\"/*\""]).collect();
    labels.retain(|label| !label.is_empty());
    labels.sort_unstable();
    format!("{name}{{{}}}", labels.join(","))
}

/// Is it over within this time?
pub(crate) async fn within<F: Future>(time: Duration, future: F) -> F::Output {
    timeout(time, future).await.expect("it takes too long")
}
