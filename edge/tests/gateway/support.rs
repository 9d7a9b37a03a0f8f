//! A gateway, upstreams that do as they are told, and a client that sees every byte.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use edge::config::Config;
use edge::serve::Edge;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tracing_appender::non_blocking::{NonBlocking, WorkerGuard};

/// Nothing in these tests takes so long, on however busy a machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Waits, but not for ever.
pub(crate) async fn soon<F: Future>(future: F) -> F::Output {
    timeout(PATIENCE, future).await.expect("it hangs")
}

/// Waits until it is so.
pub(crate) async fn until<F: Future<Output = bool>>(mut so: impl FnMut() -> F) {
    soon(async {
        while !so().await {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

pub(crate) fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

// ---- the gateway

/// A gateway with these tables; it chooses its own ports.
pub(crate) async fn edge(tables: &str) -> Edge {
    start(tables, None).await
}

async fn start(tables: &str, log: Option<NonBlocking>) -> Edge {
    Edge::start(config(tables), log).await.unwrap()
}

/// The same, after a change of what these tables say.
pub(crate) async fn edge_with(tables: &str, change: impl FnOnce(&mut Config)) -> (Edge, Log) {
    let mut config = config(tables);
    change(&mut config);
    let (out, log) = log();
    (Edge::start(config, Some(out)).await.unwrap(), log)
}

/// What these tables say, on ports that are free.
pub(crate) fn config(tables: &str) -> Config {
    let (server, rest) = match tables.trim_start().strip_prefix("[server]") {
        Some(tables) => tables.split_once("\n[").map_or_else(
            || (tables.to_owned(), String::new()),
            |(server, rest)| (server.to_owned(), format!("[{rest}")),
        ),
        None => (String::new(), tables.to_owned()),
    };
    let text = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\n{server}\n\
         [admin]\nlisten = \"127.0.0.1:0\"\n{rest}"
    );
    Config::read("test.toml", &text).unwrap_or_else(|faults| panic!("{faults}"))
}

/// A gateway that writes an access log, and the log.
pub(crate) async fn edge_with_log(tables: &str) -> (Edge, Log) {
    let (out, log) = log();
    (start(tables, Some(out)).await, log)
}

fn log() -> (NonBlocking, Log) {
    let lines = Lines::default();
    let (out, guard) = tracing_appender::non_blocking(lines.clone());
    let log = Log {
        lines,
        _guard: guard,
    };
    (out, log)
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(crate) struct Log {
    lines: Lines,
    _guard: WorkerGuard,
}

impl Log {
    pub(crate) fn read(&self) -> Vec<Value> {
        let text = self.lines.0.lock().unwrap().clone();
        let text = String::from_utf8(text).unwrap();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// All lines, as soon as there are so many.
    pub(crate) async fn lines(&self, count: usize) -> Vec<Value> {
        until(|| async { self.read().len() >= count }).await;
        self.read()
    }
}

/// `[upstream.u]` with these peers.
pub(crate) fn upstream_at(peers: &[SocketAddr]) -> String {
    let peers: Vec<String> = peers.iter().map(SocketAddr::to_string).collect();
    format!("\n[upstream.u]\npeers = {peers:?}\n")
}

/// One route, for every path, to the upstream `u` at this peer; `keys` are more keys of it.
pub(crate) fn route_to(peer: SocketAddr, keys: &str) -> String {
    format!(
        "{}[[route]]\npath = \"/*\"\nupstream = \"u\"\n{keys}\n",
        upstream_at(&[peer])
    )
}

/// What Cache-Status says of an answer from the cache, and of one that goes into it.
pub(crate) const HIT: &str = "edge; hit";
pub(crate) const MISS: &str = "edge; fwd=uri-miss; fwd-status=200; stored";

/// A gateway that keeps for an hour what this upstream says nothing of the time of.
pub(crate) async fn caching(upstream: &Upstream) -> Edge {
    edge(&route_to(upstream.address, "cache = \"1h\"")).await
}

/// The same in front of an upstream that always says this.
pub(crate) async fn cached(answer: impl Into<Vec<u8>>) -> (Edge, Upstream) {
    let upstream = Upstream::saying(answer).await;
    (caching(&upstream).await, upstream)
}

/// Asks for `/`, the first thing that this gateway keeps, and waits until it does: the last part
/// of an answer is sent before it is kept.
pub(crate) async fn keep(edge: &Edge) {
    get(edge.address(), "/").await;
    figure_becomes(edge, "edge_cache_entries", 1.0).await;
}

/// So many ask for the same at once, each on a connection of its own.
pub(crate) async fn all_at_once(count: usize, to: SocketAddr, path: &'static str) -> Vec<Answer> {
    let asking: Vec<_> = (0..count)
        .map(|_| tokio::spawn(async move { get(to, path).await }))
        .collect();
    let mut answers = Vec::new();
    for asking in asking {
        answers.push(asking.await.unwrap());
    }
    answers
}

/// A figure on the admin listener; zero if it is not there.
pub(crate) async fn figure(edge: &Edge, name: &str) -> f64 {
    let text = figures(edge).await;
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.map_or(0.0, |value| value.parse().unwrap())
}

/// All figures on the admin listener.
pub(crate) async fn figures(edge: &Edge) -> String {
    get(edge.admin(), "/metrics").await.text()
}

/// Waits until the figure has this value: it is counted after the answer was sent.
pub(crate) async fn figure_becomes(edge: &Edge, name: &str, value: f64) {
    let mut last = f64::NAN;
    let reached = timeout(ms(5_000), async {
        while last.to_bits() != value.to_bits() {
            last = figure(edge, name).await;
            sleep(ms(10)).await;
        }
    })
    .await;
    if reached.is_err() {
        panic!("{name} is {last}, not {value}:\n{}", figures(edge).await);
    }
}

// ---- the client

/// A client's connection.
pub(crate) struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// An answer as it came.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
    /// Does the body look complete to whoever reads it?
    pub(crate) complete: bool,
}

impl Client {
    pub(crate) async fn connect(to: SocketAddr) -> Self {
        Self::from("127.0.0.1", to).await
    }

    /// A connection from this address; all of 127.0.0.0/8 is here.
    pub(crate) async fn from(own: &str, to: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket
            .bind(SocketAddr::new(own.parse().unwrap(), 0))
            .unwrap();
        let stream = soon(socket.connect(to)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self::on(stream)
    }

    /// The client's end of this connection.
    pub(crate) fn on(stream: TcpStream) -> Self {
        Self {
            stream,
            buffer: Vec::new(),
        }
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        // Who was cut off meanwhile sees so when it reads.
        let _ = soon(self.stream.write_all(bytes.as_ref())).await;
    }

    /// Sends a request, `start` being method and target, and reads the answer.
    pub(crate) async fn ask(&mut self, start: &str, fields: &[&str]) -> Answer {
        self.send(request(start, fields)).await;
        let method = start.split(' ').next().unwrap();
        self.answer_to(method).await.expect("no answer")
    }

    pub(crate) async fn get(&mut self, path: &str) -> Answer {
        self.ask(&format!("GET {path}"), &[]).await
    }

    /// The next answer; it must come.
    pub(crate) async fn answer(&mut self) -> Answer {
        self.answer_to("GET").await.expect("no answer")
    }

    /// The next answer; `None` if the connection ends before its head.
    pub(crate) async fn answer_to(&mut self, method: &str) -> Option<Answer> {
        let head = loop {
            let head = self.head().await?;
            // 100 and its like are not the answer yet.
            if head.starts_with("HTTP/1.1 101") || !head.starts_with("HTTP/1.1 1") {
                break head;
            }
        };
        let mut answer = Answer {
            status: head[9..12].parse().unwrap(),
            head,
            body: Vec::new(),
            complete: true,
        };
        let bodiless = method == "HEAD" || matches!(answer.status, 101 | 204 | 304);
        if bodiless {
        } else if answer.all("transfer-encoding") == ["chunked"] {
            answer.complete = self.chunks(&mut answer.body).await.is_some();
        } else if let Some(length) = answer.header("content-length") {
            let length: usize = length.parse().unwrap();
            match self.take(length).await {
                Some(body) => answer.body = body,
                None => {
                    answer.complete = false;
                    answer.body = std::mem::take(&mut self.buffer);
                }
            }
        } else {
            // Framed by the end of the connection: only a reset shows that something is missing.
            answer.complete = loop {
                match self.more().await {
                    Ok(0) => break true,
                    Ok(_) => {}
                    Err(_) => break false,
                }
            };
            answer.body = std::mem::take(&mut self.buffer);
        }
        Some(answer)
    }

    /// Reads past the end of a head of which a part has been read.
    pub(crate) async fn rest_of_head(&mut self) {
        self.head().await.expect("half a head");
    }

    async fn head(&mut self) -> Option<String> {
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                let head = self.buffer.drain(..end + 4).collect();
                return Some(String::from_utf8(head).unwrap());
            }
            self.more().await.ok().filter(|&read| read > 0)?;
        }
    }

    async fn chunks(&mut self, body: &mut Vec<u8>) -> Option<()> {
        loop {
            let line = loop {
                if let Some(end) = find(&self.buffer, b"\r\n") {
                    break self.take(end + 2).await?;
                }
                self.more().await.ok().filter(|&read| read > 0)?;
            };
            let line = String::from_utf8(line).unwrap();
            let size = usize::from_str_radix(line.trim_end(), 16).unwrap();
            let chunk = self.take(size + 2).await?;
            body.extend_from_slice(&chunk[..size]);
            if size == 0 {
                return Some(());
            }
        }
    }

    /// Exactly so many bytes; `None` if the connection ends before.
    pub(crate) async fn take(&mut self, count: usize) -> Option<Vec<u8>> {
        while self.buffer.len() < count {
            self.more().await.ok().filter(|&read| read > 0)?;
        }
        Some(self.buffer.drain(..count).collect())
    }

    async fn more(&mut self) -> io::Result<usize> {
        soon(self.stream.read_buf(&mut self.buffer)).await
    }

    /// Reads to the end of the connection; what came before it.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        while self.more().await.is_ok_and(|read| read > 0) {}
        std::mem::take(&mut self.buffer)
    }

    /// Reads to the end of the connection, which must be no reset, and ends it on this side,
    /// too; what came before it.
    pub(crate) async fn end(mut self) -> Vec<u8> {
        while self.more().await.expect("a reset") > 0 {}
        self.buffer
    }

    /// Sends no more, but goes on reading.
    pub(crate) async fn finish(&mut self) {
        self.stream.shutdown().await.unwrap();
    }

    /// For tokio-tungstenite.
    pub(crate) fn into_stream(self) -> TcpStream {
        self.stream
    }
}

impl Answer {
    /// The field's only value.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() <= 1, "{name} stands twice:\n{}", self.head);
        all.first().copied()
    }

    /// The values of all fields of this name.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        fields(&self.head, name)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.text()))
    }

    /// Status and reason of a problem body, after a look at all that must agree with them.
    pub(crate) fn refusal(&self) -> (u16, String) {
        let kind = self.header("content-type");
        assert_eq!(kind, Some("application/problem+json"), "{}", self.head);
        let problem = self.json();
        let reason = problem["reason"].as_str().unwrap().to_owned();
        assert_eq!(problem["status"], self.status);
        assert_eq!(problem["type"], format!("urn:edge:problem:{reason}"));
        let proxy_status = self.header("proxy-status").unwrap();
        assert!(proxy_status.starts_with("edge; error="), "{proxy_status}");
        assert!(proxy_status.contains(&reason), "{proxy_status}");
        if let Some(id) = self.header("x-request-id") {
            assert_eq!(problem["instance"], id);
        }
        (self.status, reason)
    }

    /// What Cache-Status says, without the time left. It is a structured field (RFC 9211 2).
    pub(crate) fn cache(&self) -> String {
        let status = self.header("cache-status").unwrap_or("none");
        let list = sfv::Parser::parse_list(status.as_bytes());
        assert_eq!(list.map(|list| list.len()), Ok(1), "{status}");
        let members = status.split("; ").filter(|one| !one.starts_with("ttl="));
        members.collect::<Vec<_>>().join("; ")
    }

    /// The seconds left that Cache-Status tells.
    pub(crate) fn ttl(&self) -> Option<i64> {
        let status = self.header("cache-status")?;
        let ttl = status.split("; ").find_map(|one| one.strip_prefix("ttl="));
        ttl.map(|ttl| ttl.parse().unwrap())
    }
}

/// `refusal()` as it is compared with.
pub(crate) fn no(status: u16, reason: &str) -> (u16, String) {
    (status, reason.to_owned())
}

/// One request on a connection of its own.
pub(crate) async fn get(to: SocketAddr, path: &str) -> Answer {
    Client::connect(to).await.get(path).await
}

/// A request's head; `Host` is `edge.test` unless the fields name one.
pub(crate) fn request(start: &str, fields: &[&str]) -> String {
    let named = fields.iter().any(|field| field.starts_with("Host:"));
    let host = if named { "" } else { "Host: edge.test\r\n" };
    let fields: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
    format!("{start} HTTP/1.1\r\n{host}{fields}\r\n")
}

/// The values of all fields of this name in a head.
pub(crate) fn fields<'a>(head: &'a str, name: &str) -> Vec<&'a str> {
    let fields = head.lines().filter_map(|line| line.split_once(':'));
    fields
        .filter(|(own, _)| own.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
        .collect()
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|part| part == what)
}

// ---- upstreams

/// An upstream that does as it is told, and what it has heard.
#[derive(Clone)]
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    heard: Arc<Heard>,
    life: AbortHandle,
}

#[derive(Default)]
struct Heard {
    heads: Mutex<Vec<String>>,
    connections: AtomicUsize,
}

/// One connection to an upstream.
pub(crate) struct Visit {
    pub(crate) stream: TcpStream,
    buffer: Vec<u8>,
    heard: Arc<Heard>,
}

impl Upstream {
    /// Serves each connection so.
    pub(crate) async fn serve<F>(serve: impl Fn(Visit) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::serve_on(listener, serve)
    }

    /// Serves each connection of this listener so.
    pub(crate) fn serve_on<F>(
        listener: TcpListener,
        serve: impl Fn(Visit) -> F + Send + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let address = listener.local_addr().unwrap();
        let heard = Arc::new(Heard::default());
        let own = heard.clone();
        let living = tokio::spawn(async move {
            let mut visits = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).unwrap();
                heard.connections.fetch_add(1, Ordering::SeqCst);
                visits.spawn(serve(Visit {
                    stream,
                    buffer: Vec::new(),
                    heard: heard.clone(),
                }));
            }
        });
        Self {
            address,
            heard: own,
            life: living.abort_handle(),
        }
    }

    /// Dies, and every connection with it: nobody listens there any more.
    pub(crate) async fn dies(&self) {
        self.life.abort();
        until(|| async { TcpStream::connect(self.address).await.is_err() }).await;
    }

    /// Answers every request with these bytes, on connections that stay open.
    pub(crate) async fn saying(answer: impl Into<Vec<u8>>) -> Self {
        let answer: Arc<[u8]> = answer.into().into();
        Self::serve(move |mut visit| {
            let answer = answer.clone();
            async move {
                while visit.head().await.is_some() {
                    visit.write(&answer).await;
                }
            }
        })
        .await
    }

    /// Answers every request with these bytes and closes.
    pub(crate) async fn saying_once(answer: impl Into<Vec<u8>>) -> Self {
        let answer: Arc<[u8]> = answer.into().into();
        Self::serve(move |mut visit| {
            let answer = answer.clone();
            async move {
                visit.head().await;
                visit.write(&answer).await;
            }
        })
        .await
    }

    /// Answers every request with its own head.
    pub(crate) async fn mirror() -> Self {
        Self::serve(|mut visit| async move {
            while let Some(head) = visit.head().await {
                visit.write(ok("", &head)).await;
            }
        })
        .await
    }

    /// How many requests have come.
    pub(crate) fn count(&self) -> usize {
        self.heard.heads.lock().unwrap().len()
    }

    /// How many connections have come.
    pub(crate) fn connections(&self) -> usize {
        self.heard.connections.load(Ordering::SeqCst)
    }

    /// The heads of all requests that have come.
    pub(crate) fn heads(&self) -> Vec<String> {
        self.heard.heads.lock().unwrap().clone()
    }
}

impl Visit {
    /// The next request's head; `None` when the connection ends.
    pub(crate) async fn head(&mut self) -> Option<String> {
        let head = self.read_to(b"\r\n\r\n").await?;
        self.heard.heads.lock().unwrap().push(head.clone());
        Some(head)
    }

    /// Reads to the end of these bytes; `None` if the connection ends before.
    pub(crate) async fn read_to(&mut self, end: &[u8]) -> Option<String> {
        loop {
            if let Some(at) = find(&self.buffer, end) {
                let read = self.buffer.drain(..at + end.len()).collect();
                return Some(String::from_utf8(read).unwrap());
            }
            let read = self.stream.read_buf(&mut self.buffer).await;
            read.ok().filter(|&read| read > 0)?;
        }
    }

    /// Exactly so many bytes; `None` if the connection ends before.
    pub(crate) async fn take(&mut self, count: usize) -> Option<Vec<u8>> {
        while self.buffer.len() < count {
            let read = self.stream.read_buf(&mut self.buffer).await;
            read.ok().filter(|&read| read > 0)?;
        }
        Some(self.buffer.drain(..count).collect())
    }

    /// What comes within this time.
    pub(crate) async fn read_for(&mut self, time: Duration) -> Vec<u8> {
        let _ = timeout(time, async {
            while self
                .stream
                .read_buf(&mut self.buffer)
                .await
                .is_ok_and(|read| read > 0)
            {}
        })
        .await;
        std::mem::take(&mut self.buffer)
    }

    pub(crate) async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        // Whoever asked may be gone.
        let _ = self.stream.write_all(bytes.as_ref()).await;
    }
}

/// A 200 with these fields, each ended by CRLF, and this body.
pub(crate) fn ok(fields: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\n{fields}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// echo itself, with WebSockets and all.
pub(crate) async fn echo_server() -> SocketAddr {
    let settings = echo::Settings {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        ..echo::Settings::default()
    };
    let echo = echo::Echo::bind(settings).await.unwrap();
    let address = echo.address();
    tokio::spawn(echo.run(std::future::pending()));
    address
}

/// An address where nobody listens.
pub(crate) async fn nobody() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap()
}
