//! Clients that take or send too little, or are too many.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::frames::{BINARY, HANDSHAKE, SWITCHED, frame as message};
use crate::http2_client::{Http2, to};
use crate::identities::Authority;
use crate::support::{
    Client, Log, Upstream, edge_with, figure, figure_becomes, get, ms, ok, request, route_to, soon,
    until,
};
use edge::serve::Edge;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::sleep;

/// More than the buffers between edge and a client take.
const LARGE: usize = 32 << 20;

async fn large() -> Upstream {
    Upstream::saying(ok("", &"x".repeat(LARGE))).await
}

/// A gateway that waits so long for a client to take something, and for answers without end.
async fn patient(upstream: &Upstream, keys: &str) -> (Edge, Log) {
    let keys = format!("timeout = \"off\"\n{keys}");
    edge_with(&route_to(upstream.address, &keys), |config| {
        config.timeout.write = Some(ms(1_000));
    })
    .await
}

async fn with_room(room: u32, to: std::net::SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(room).unwrap();
    soon(socket.connect(to)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_nothing_is_let_go_whatever_time_the_answer_has() {
    let upstream = large().await;
    for keys in ["", "cache = { ttl = \"1h\", max_object = \"1MiB\" }"] {
        let (edge, log) = patient(&upstream, keys).await;
        let began = Instant::now();
        let mut client = with_room(4_096, edge.address()).await;
        client
            .write_all(request("GET /", &[]).as_bytes())
            .await
            .unwrap();
        let line = &log.lines(1).await[0];
        assert_eq!(line["reason"], "client_stalled", "{line}");
        let took = began.elapsed();
        assert!(
            took >= ms(1_000) && took < ms(1_900),
            "once, not twice: {took:?}"
        );
        figure_becomes(&edge, "edge_connections", 0.0).await;
        assert_eq!(
            get(edge.address(), "/").await.body.len(),
            LARGE,
            "others are served"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_opens_no_window_is_let_go() {
    let upstream = large().await;
    let (edge, log) = patient(&upstream, "").await;
    let client = Http2::connect(edge.address()).await;
    let (answer, _) = client.begin(to("GET", "/"), true).await;
    // The head and the first window come; nothing more is asked for.
    let _held = soon(answer).await.unwrap();
    let line = &log.lines(1).await[0];
    assert_eq!(line["reason"], "client_stalled", "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_slowly_but_reads_gets_all() {
    let upstream = Upstream::saying(ok("", &"x".repeat(4 << 20))).await;
    let (edge, _log) = patient(&upstream, "").await;
    let mut client = Client::on(with_room(65_536, edge.address()).await);
    client.send(request("GET /", &[])).await;
    client.rest_of_head().await;
    for _ in 0..5 {
        tokio::time::sleep(ms(200)).await;
        assert!(client.take(100_000).await.is_some());
    }
    assert!(client.take((4 << 20) - 500_000).await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_client_has_its_share_of_connections_and_others_theirs() {
    let upstream = Upstream::saying(ok("", "a")).await;
    let (edge, _log) = edge_with(&route_to(upstream.address, ""), |config| {
        config.server.connections_per_client = Some(2);
    })
    .await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut client = Client::connect(edge.address()).await;
        assert_eq!(client.get("/").await.status, 200);
        held.push(client);
    }
    let mut third = Client::connect(edge.address()).await;
    assert_eq!(third.rest().await, b"", "closed at once");
    let refused = "edge_connections_refused_total{reason=\"connection_client_limit\"}";
    figure_becomes(&edge, refused, 1.0).await;
    let mut other = Client::from("127.0.0.2", edge.address()).await;
    assert_eq!(other.get("/").await.status, 200);
    drop(held);
    until(|| async {
        let mut client = Client::connect(edge.address()).await;
        client.send(request("GET /", &[])).await;
        client
            .answer_to("GET")
            .await
            .is_some_and(|answer| answer.status == 200)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trusted_proxy_has_as_many_as_there_may_be() {
    let upstream = Upstream::saying(ok("", "a")).await;
    let tables = format!(
        "[server]\ntrusted_proxies = [\"127.0.0.1\"]\n{}",
        route_to(upstream.address, "")
    );
    let (edge, _log) = edge_with(&tables, |config| {
        config.server.connections_per_client = Some(1);
    })
    .await;
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut client = Client::connect(edge.address()).await;
        assert_eq!(client.get("/").await.status, 200);
        held.push(client);
    }
}

// ---- each kind of slow client, and the clock that ends it

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
/// HEADERS of a POST for the host `a` on the first stream, without the end of the stream.
const POST: &[u8] = &[0, 0, 6, 1, 4, 0, 0, 0, 1, 0x83, 0x86, 0x84, 0x41, 1, b'a'];

const CLOCK: u64 = 600;

/// Answers a GET; of a POST it waits for the end of the body, which never comes.
async fn swallowing() -> Upstream {
    Upstream::serve(|mut visit| async move {
        while let Some(head) = visit.head().await {
            if head.starts_with("POST") {
                // The end of the body never comes.
                while visit.take(1).await.is_some() {}
                return;
            }
            visit.write(ok("", "a")).await;
        }
    })
    .await
}

/// A gateway whose clocks all run for as long as [`CLOCK`] says, in front of a peer that waits.
async fn with_clocks() -> (Edge, Log, Upstream, Authority) {
    let upstream = swallowing().await;
    let authority = Authority::new();
    let (edge, log) = edge_with(&route_to(upstream.address, ""), |config| {
        config.timeout.head = ms(CLOCK);
        config.timeout.keepalive = ms(CLOCK);
        config.timeout.write = Some(ms(CLOCK));
        config.tls = Some(authority.tls());
        config.server.proxy_protocol = vec!["127.0.0.9/32".parse().unwrap()];
        for route in &mut config.routes {
            route.timeout.body = Some(ms(CLOCK));
        }
    })
    .await;
    (edge, log, upstream, authority)
}

/// Sends this, and then more of that, until edge is done with it; how long that took, and what it said.
async fn drip(stream: TcpStream, first: &[u8], more: &[u8]) -> (Duration, Vec<u8>) {
    let began = Instant::now();
    let (mut read, mut write) = stream.into_split();
    let first = first.to_vec();
    let more = more.to_vec();
    let dripping = tokio::spawn(async move {
        let _ = write.write_all(&first).await;
        while !more.is_empty() && write.write_all(&more).await.is_ok() {
            sleep(ms(50)).await;
        }
        // A client that is silent stays.
        std::future::pending::<()>().await;
    });
    let mut told = Vec::new();
    // A reset is an end as well.
    let _ = soon(read.read_to_end(&mut told)).await;
    dripping.abort();
    (began.elapsed(), told)
}

async fn from(own: &str, to: std::net::SocketAddr) -> TcpStream {
    Client::from(own, to).await.into_stream()
}

fn within_its_clock(what: &str, took: Duration) {
    let most = ms(CLOCK) + ms(1_500);
    assert!(took >= ms(CLOCK - 50) && took < most, "{what}: {took:?}");
}

/// What it is, from where and to where, how it begins and goes on, and the figure that counts it.
type Dripping<'a> = (&'a str, &'a str, SocketAddr, &'a [u8], &'a [u8], String);

#[tokio::test(flavor = "multi_thread")]
async fn whoever_drips_before_a_request_is_there_is_let_go_within_the_clock_of_the_head() {
    let (edge, log, upstream, _) = with_clocks().await;
    let malformed = |reason: &str| format!("edge_malformed_total{{reason=\"{reason}\"}}");
    let clear = edge.address();
    let secure = edge.tls_address().unwrap();
    let kinds: [Dripping<'_>; 6] = [
        ("silence", "127.0.0.1", clear, b"", b"", String::new()),
        (
            "a head",
            "127.0.0.1",
            clear,
            b"GET / HTTP/1.1\r\nHost: a\r\n",
            b"X: y\r\n",
            malformed("request_timeout"),
        ),
        (
            "a PROXY header",
            "127.0.0.9",
            clear,
            b"PROXY TCP4 1",
            b"2",
            malformed("bad_proxy_header"),
        ),
        (
            "a handshake of TLS",
            "127.0.0.1",
            secure,
            &[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3],
            &[0],
            "edge_tls_handshakes_failed_total{reason=\"timeout\"}".to_owned(),
        ),
        (
            "a preface",
            "127.0.0.1",
            clear,
            &PREFACE[..16],
            b"",
            String::new(),
        ),
        (
            "HTTP/2 without a request",
            "127.0.0.1",
            clear,
            PREFACE,
            SETTINGS,
            String::new(),
        ),
    ];
    for (what, own, to, first, more, counted) in kinds {
        let (took, told) = drip(from(own, to).await, first, more).await;
        within_its_clock(what, took);
        if what == "a head" {
            assert!(told.starts_with(b"HTTP/1.1 408 "), "{told:?}");
        }
        if !counted.is_empty() {
            figure_becomes(&edge, &counted, 1.0).await;
        }
    }
    figure_becomes(&edge, "edge_connections", 0.0).await;
    assert!(log.read().is_empty(), "none of it was a request");
    assert_eq!(upstream.count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_drips_a_body_is_told_so_and_the_peer_is_let_go() {
    let (edge, log, upstream, _) = with_clocks().await;
    let post = request("POST /", &["Transfer-Encoding: chunked"]);
    let stream = from("127.0.0.1", edge.address()).await;
    let (took, told) = drip(stream, post.as_bytes(), b"1\r\nx\r\n").await;
    within_its_clock("chunks", took);
    assert!(told.starts_with(b"HTTP/1.1 408 "), "{told:?}");
    let stream = from("127.0.0.1", edge.address()).await;
    let byte = [0, 0, 1, 0, 0, 0, 0, 0, 1, b'x'];
    let first = [PREFACE, SETTINGS, POST].concat();
    let began = Instant::now();
    let client = tokio::spawn(async move { drip(stream, &first, &byte).await });
    let lines = log.lines(2).await;
    within_its_clock("DATA", began.elapsed());
    for line in &lines {
        assert_eq!(
            (&line["status"], &line["reason"]),
            (&408.into(), &"request_timeout".into())
        );
    }
    // The connection has other streams to carry, but not for ever.
    let (took, _) = client.await.unwrap();
    assert!(took < ms(CLOCK) * 2 + ms(3_000), "{took:?}");
    assert_eq!(upstream.count(), 2);
    figure_becomes(&edge, "edge_connections", 0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_drips_is_cut_by_its_rate_long_before_its_time() {
    let upstream = swallowing().await;
    let keys = "timeout = { body = \"1h\", response = \"off\", body_rate = \"1KiB/s\" }";
    let (edge, log) = edge_with(&route_to(upstream.address, keys), |_| {}).await;
    let post = request("POST /", &["Content-Length: 100000"]);
    let stream = from("127.0.0.1", edge.address()).await;
    let (took, told) = drip(stream, post.as_bytes(), b"xxxxx").await;
    assert!(told.starts_with(b"HTTP/1.1 408 "), "{told:?}");
    assert!(
        took > ms(5_000) && took < ms(8_000),
        "the grace, and what came: {took:?}"
    );
    assert_eq!(log.lines(1).await[0]["reason"], "request_timeout");
    figure_becomes(&edge, "edge_connections", 0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_asks_nothing_more_is_let_go() {
    let (edge, log, ..) = with_clocks().await;
    let get = request("GET /", &[]);
    let stream = from("127.0.0.1", edge.address()).await;
    let (took, told) = drip(stream, get.as_bytes(), b"").await;
    within_its_clock("keep-alive", took);
    assert!(
        told.starts_with(b"HTTP/1.1 200 ") && told.ends_with(b"a"),
        "{told:?}"
    );
    assert_eq!(log.lines(1).await[0]["status"], 200);
    figure_becomes(&edge, "edge_connections", 0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_byte_now_and_then_buys_no_time() {
    let upstream = large().await;
    let (edge, log) = patient(&upstream, "").await;
    let mut client = with_room(4_096, edge.address()).await;
    let get = request("GET /", &[]);
    client.write_all(get.as_bytes()).await.unwrap();
    let began = Instant::now();
    let reading = tokio::spawn(async move {
        while client.read_u8().await.is_ok() {
            sleep(ms(50)).await;
        }
    });
    let line = &log.lines(1).await[0];
    assert_eq!(line["reason"], "client_stalled", "{line}");
    assert!(began.elapsed() < ms(4_000), "{:?}", began.elapsed());
    figure_becomes(&edge, "edge_connections", 0.0).await;
    reading.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_that_opens_by_a_byte_buys_no_time() {
    let upstream = large().await;
    for keys in ["", "cache = { ttl = \"1h\", max_object = \"1MiB\" }"] {
        let (edge, log) = patient(&upstream, keys).await;
        // No window for a stream's answer but a byte at a time (RFC 9113 6.5.2, 6.9).
        let settings = [0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0];
        let get = [0, 0, 6, 1, 5, 0, 0, 0, 1, 0x82, 0x86, 0x84, 0x41, 1, b'a'];
        let byte = [0, 0, 4, 8, 0, 0, 0, 0, 1, 0, 0, 0, 1];
        let first = [PREFACE, &settings, &get].concat();
        let stream = from("127.0.0.1", edge.address()).await;
        let began = Instant::now();
        let client = tokio::spawn(async move { drip(stream, &first, &byte).await });
        let line = &log.lines(1).await[0];
        assert_eq!(line["reason"], "client_stalled", "{line}");
        assert!(began.elapsed() < ms(3_000), "{:?}", began.elapsed());
        client.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_reads_nothing_of_a_connection_with_streams_is_let_go_and_each_is_told_of() {
    let upstream = large().await;
    let (edge, log) = patient(&upstream, "").await;
    let mut stream = with_room(4_096, edge.address()).await;
    // Windows as large as may be: it is the socket that is full.
    let settings = [0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0x7f, 0xff, 0xff, 0xff];
    let window = [0, 0, 4, 8, 0, 0, 0, 0, 0, 0x7f, 0xff, 0, 0];
    let mut bytes = [PREFACE, &settings, &window].concat();
    for number in [1_u8, 3, 5] {
        bytes.extend([
            0, 0, 6, 1, 5, 0, 0, 0, number, 0x82, 0x86, 0x84, 0x41, 1, b'a',
        ]);
    }
    stream.write_all(&bytes).await.unwrap();
    let lines = log.lines(3).await;
    for line in &lines {
        assert_eq!(line["reason"], "client_stalled", "{line}");
    }
    figure_becomes(&edge, "edge_connections", 0.0).await;
    assert_eq!(get(edge.address(), "/").await.body.len(), LARGE);
}

#[tokio::test(flavor = "multi_thread")]
async fn over_http_2_who_reads_slowly_but_reads_gets_all() {
    let upstream = Upstream::saying(ok("", &"x".repeat(300_000))).await;
    for keys in ["", "cache = \"1h\""] {
        let keys = format!("timeout = \"off\"\n{keys}");
        let (edge, _log) = edge_with(&route_to(upstream.address, &keys), |config| {
            config.timeout.write = Some(ms(1_000));
        })
        .await;
        let client = Http2::connect(edge.address()).await;
        let (answer, _) = client.begin(to("GET", "/"), true).await;
        let mut body = soon(answer).await.unwrap().into_body();
        let mut read = 0;
        // Longer than one write may take; a window is opened anew when half of it is used.
        while let Some(part) = soon(body.data()).await {
            let part = part.unwrap();
            read += part.len();
            body.flow_control().release_capacity(part.len()).unwrap();
            sleep(ms(120)).await;
        }
        assert_eq!(read, 300_000);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn through_tls_and_of_a_refusal_nothing_is_held_for_long() {
    let upstream = large().await;
    let authority = Authority::new();
    let keys = "timeout = \"off\"\nmethods = [\"GET\"]";
    let tables = route_to(upstream.address, keys);
    let (edge, log) = edge_with(&tables, |config| {
        config.timeout.write = Some(ms(400));
        config.tls = Some(authority.tls());
    })
    .await;
    let client = std::sync::Arc::new(authority.client(&["http/1.1"]));
    let mut stream = crate::identities::connect(&edge, &client, "edge.test")
        .await
        .unwrap();
    stream
        .write_all(request("GET /", &[]).as_bytes())
        .await
        .unwrap();
    let line = &log.lines(1).await[0];
    assert_eq!(line["reason"], "client_stalled", "{line}");
    figure_becomes(&edge, "edge_connections", 0.0).await;
    // A refusal over HTTP/2 for which there is no window.
    let settings = [0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0];
    let post = [0, 0, 6, 1, 5, 0, 0, 0, 1, 0x83, 0x86, 0x84, 0x41, 1, b'a'];
    let mut stream = from("127.0.0.1", edge.address()).await;
    stream
        .write_all(&[PREFACE, &settings, &post].concat())
        .await
        .unwrap();
    let began = Instant::now();
    let line = &log.lines(2).await[1];
    assert!(began.elapsed() < ms(3_000), "{:?} {line}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_that_never_reads_is_let_go() {
    let upstream = Upstream::serve(|mut visit| async move {
        visit.head().await;
        visit.write(SWITCHED).await;
        let message = message(BINARY, vec![b'x'; 60_000]);
        // Until it is told to go.
        while visit.stream.write_all(&message).await.is_ok() {}
    })
    .await;
    let keys = "websocket = { ping = \"300ms\", pong = \"300ms\" }";
    let (edge, log) = edge_with(&route_to(upstream.address, keys), |_| {}).await;
    let mut client = with_room(4_096, edge.address()).await;
    let began = Instant::now();
    let asked = request("GET /ws", &HANDSHAKE);
    client.write_all(asked.as_bytes()).await.unwrap();
    let closed = |line: &serde_json::Value| line["reason"].is_string();
    until(|| async { log.read().iter().any(closed) }).await;
    assert!(began.elapsed() < ms(9_000), "{:?}", began.elapsed());
    let lines = log.read();
    let reasons: Vec<_> = lines.iter().filter(|line| closed(line)).collect();
    assert_eq!(reasons.len(), 1, "{lines:?}");
    figure_becomes(&edge, "edge_connections", 0.0).await;
    assert!(figure(&edge, "edge_websockets").await < 0.5);
}

// ---- when the system has no room

/// edge in a process of its own, which may have so many files open.
struct Narrow(std::process::Child, std::path::PathBuf);

impl Drop for Narrow {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
        let _ = std::fs::remove_file(&self.1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_file_for_one_more_edge_waits_and_goes_on() {
    let upstream = Upstream::saying(ok("", "a")).await;
    let (address, admin) = (
        crate::support::nobody().await,
        crate::support::nobody().await,
    );
    let text = format!(
        "[server]\nlisten = \"{address}\"\n[admin]\nlisten = \"{admin}\"\n{}",
        route_to(upstream.address, "")
    );
    let file = std::env::temp_dir().join(format!("edge-narrow-{}.toml", std::process::id()));
    std::fs::write(&file, text).unwrap();
    let command = format!(
        "ulimit -n 60; exec {} -c {}",
        env!("CARGO_BIN_EXE_edge"),
        file.display()
    );
    let child = std::process::Command::new("sh")
        .args(["-c", &command])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let process = Narrow(child, file);
    until(|| async { TcpStream::connect(admin).await.is_ok() }).await;
    let mut held = Vec::new();
    // More than there are files: the rest waits with the system.
    for _ in 0..100 {
        held.push(soon(TcpStream::connect(address)).await.unwrap());
    }
    sleep(ms(1_000)).await;
    let before = ticks(process.0.id());
    sleep(ms(1_000)).await;
    let spun = ticks(process.0.id()) - before;
    assert!(spun < 30, "{spun} of 100 ticks: it spins");
    drop(held);
    until(|| async {
        let mut client = Client::connect(address).await;
        client.send(request("GET /", &[])).await;
        client
            .answer_to("GET")
            .await
            .is_some_and(|answer| answer.status == 200)
    })
    .await;
    let figures = get(admin, "/metrics").await.text();
    let failed = figures
        .lines()
        .find_map(|line| line.strip_prefix("edge_accepts_failed_total "));
    assert!(failed.is_some_and(|failed| failed != "0"), "{failed:?}");
}

/// What this process has worked, in hundredths of a second.
fn ticks(process: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let fields = fields.split(' ').skip(11).take(2);
    fields.map(|ticks| ticks.parse::<u64>().unwrap()).sum()
}
