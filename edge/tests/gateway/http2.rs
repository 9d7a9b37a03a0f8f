//! Clients that speak HTTP/2: requests as over HTTP/1.1, many at once, each with clocks of its own.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use edge::config::Config;
use edge::serve::Edge;
use h2::Reason;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::http2_client::{Http2, got, to, upload, with};
use crate::support::{
    Client, Log, Upstream, edge, edge_with, edge_with_log, fields, figure, figure_becomes, ms, no,
    ok, route_to, soon, until,
};

/// The deadline of some of these routes.
const DEADLINE: Duration = Duration::from_millis(400);
const SHORT: &str = "timeout = \"400ms\"";

/// At the deadline, give or take what a busy machine takes.
fn in_time(began: Instant) {
    let took = began.elapsed();
    let latest = DEADLINE + ms(1_200);
    assert!(took >= DEADLINE - ms(5) && took < latest, "{took:?}");
}

/// A gateway in front of this peer, and a client of it.
async fn pair(peer: SocketAddr, keys: &str) -> (Edge, Log, Http2) {
    let (edge, log) = edge_with_log(&route_to(peer, keys)).await;
    let client = Http2::connect(edge.address()).await;
    (edge, log, client)
}

/// What the last line of the access log says.
async fn told(log: &Log, lines: usize) -> (u64, String) {
    let lines = log.lines(lines).await;
    let line = lines.last().unwrap();
    let reason = line["reason"].as_str().unwrap_or_default();
    (line["status"].as_u64().unwrap(), reason.to_owned())
}

// ---- requests

#[tokio::test(flavor = "multi_thread")]
async fn both_versions_are_served_on_one_listener() {
    let upstream = Upstream::mirror().await;
    let (edge, _, client) = pair(upstream.address, "").await;
    let over_2 = client.get("/a?b=c").await;
    assert_eq!(over_2.status, 200);
    assert!(
        over_2.text().starts_with("GET /a?b=c HTTP/1.1\r\n"),
        "{}",
        over_2.text()
    );
    let over_1 = Client::connect(edge.address()).await.get("/a").await;
    assert_eq!(over_1.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_comes_byte_by_byte_is_of_the_version_that_it_says() {
    let upstream = Upstream::mirror().await;
    let edge = edge(&route_to(upstream.address, "")).await;
    let mut client = Client::connect(edge.address()).await;
    for byte in b"PUT / HTTP/1.1\r\nHost: edge.test\r\nContent-Length: 0\r\n\r\n" {
        client.send([*byte]).await;
        sleep(ms(1)).await;
    }
    assert_eq!(client.answer().await.status, 200);
    // Shorter than the preface of HTTP/2.
    let mut client = Client::connect(edge.address()).await;
    client.send("GET / HTTP/1.0\r\n\r\n").await;
    assert_eq!(client.answer().await.refusal(), no(400, "bad_host"));
    let (mut end, stream) = tokio::io::duplex(1 << 16);
    let mut to_edge = TcpStream::connect(edge.address()).await.unwrap();
    to_edge.set_nodelay(true).unwrap();
    tokio::spawn(async move {
        let mut preface = [0; 24];
        end.read_exact(&mut preface).await.unwrap();
        for byte in preface {
            to_edge.write_all(&[byte]).await.unwrap();
            sleep(ms(1)).await;
        }
        let _ = tokio::io::copy_bidirectional(&mut end, &mut to_edge).await;
    });
    let client = Http2::on(stream).await;
    assert_eq!(client.get("/").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_peer_gets_one_host_and_all_else_as_from_http_1() {
    let upstream = Upstream::mirror().await;
    let (_edge, _, client) = pair(upstream.address, "").await;
    let request = with(
        "GET",
        "/",
        &[("cookie", "a=1"), ("cookie", "b=2"), ("te", "trailers")],
    );
    let head = client.ask(request).await.text();
    assert_eq!(fields(&head, "host"), ["edge.test"]);
    assert_eq!(fields(&head, "cookie"), ["a=1; b=2"]);
    assert_eq!(fields(&head, "x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(fields(&head, "x-forwarded-proto"), ["http"]);
    assert_eq!(fields(&head, "x-forwarded-host"), ["edge.test"]);
    assert_eq!(fields(&head, "x-request-id").len(), 1);
    assert!(fields(&head, "te").is_empty(), "{head}");
    let agreeing = client.ask(with("GET", "/", &[("host", "edge.test")])).await;
    assert_eq!(fields(&agreeing.text(), "host"), ["edge.test"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hosts_that_differ_are_400_and_disturb_nobody() {
    let upstream = Upstream::mirror().await;
    let (_edge, _, client) = pair(upstream.address, "").await;
    let got = client
        .ask(with("GET", "/", &[("host", "other.test")]))
        .await;
    assert_eq!(got.status, 400);
    assert_eq!(client.get("/").await.status, 200);
    assert_eq!(upstream.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_at_once_share_a_connection() {
    let upstream = Upstream::serve(|mut visit| async move {
        while let Some(head) = visit.head().await {
            sleep(ms(50)).await;
            visit.write(ok("", &head)).await;
        }
    })
    .await;
    let (edge, _, client) = pair(upstream.address, "").await;
    let mut asking = Vec::new();
    let began = Instant::now();
    for number in 0..100 {
        let (answer, _) = client.begin(to("GET", &format!("/{number}")), true).await;
        asking.push((number, answer));
    }
    for (number, answer) in asking {
        let got = got(answer).await.unwrap();
        assert_eq!(got.status, 200);
        assert!(
            got.text().starts_with(&format!("GET /{number} ")),
            "{}",
            got.text()
        );
    }
    assert!(began.elapsed() < ms(4_000), "one after the other");
    figure_becomes(&edge, "edge_connections", 1.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_streams_are_open_than_the_configuration_says() {
    let upstream = Upstream::mirror().await;
    let tables = route_to(upstream.address, "");
    let (edge, _log) = edge_with(&tables, |config| config.server.streams = 7).await;
    let client = Http2::connect(edge.address()).await;
    assert_eq!(client.get("/").await.status, 200);
    assert_eq!(client.send.current_max_send_streams(), 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_pass_whole_both_ways() {
    const SIZE: usize = 8 << 20;
    let upstream = Upstream::serve(|mut visit| async move {
        while visit.head().await.is_some() {
            let body = visit.take(SIZE).await.unwrap();
            visit
                .write(format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n"))
                .await;
            visit.write(body).await;
        }
    })
    .await;
    let (_edge, log, client) = pair(upstream.address, "").await;
    let body: Vec<u8> = (0..SIZE)
        .map(|at| u8::try_from(at / 1_000 % 251).unwrap())
        .collect();
    let length = SIZE.to_string();
    let got = client
        .send(with("POST", "/", &[("content-length", &length)]), &body)
        .await;
    assert_eq!((got.status, got.reset), (200, None));
    assert!(got.body == body, "{} bytes came back", got.body.len());
    let line = &log.lines(1).await[0];
    assert_eq!(line["bytes_in"], SIZE);
    assert_eq!(line["bytes_out"], SIZE);
}

/// What an upstream gets as bodies of unknown length, each answered once.
async fn chunked() -> Upstream {
    Upstream::serve(|mut visit| async move {
        while let Some(head) = visit.head().await {
            let body = match fields(&head, "transfer-encoding").is_empty() {
                true => String::new(),
                false => visit.read_to(b"0\r\n\r\n").await.unwrap(),
            };
            visit.write(ok("", &format!("{head}{body}"))).await;
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_ends_with_an_empty_frame_ends_once() {
    let upstream = chunked().await;
    let (_edge, _, client) = pair(upstream.address, "").await;
    for _ in 0..20 {
        let (answer, mut stream) = client.begin(to("POST", "/up"), false).await;
        stream
            .send_data(Bytes::from_static(b"hello"), false)
            .unwrap();
        stream.send_data(Bytes::new(), true).unwrap();
        let text = got(answer).await.unwrap().text();
        assert!(
            text.ends_with("\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
            "{text:?}"
        );
        assert_eq!(client.get("/next").await.status, 200);
    }
    let heads = upstream.heads();
    assert_eq!(heads.len(), 40, "{heads:?}");
    let good = |head: &String| head.starts_with("POST /up ") || head.starts_with("GET /next ");
    assert!(heads.iter().all(good), "{heads:?}");
}

/// A peer that reads strictly: what is no request is 400, and its connection ends.
async fn strict() -> Upstream {
    Upstream::serve(|mut visit| async move {
        while let Some(head) = visit.head().await {
            if !head.starts_with("POST /up ") && !head.starts_with("GET /victim ") {
                visit
                    .write("HTTP/1.1 400 Stray\r\nContent-Length: 0\r\n\r\n")
                    .await;
                return;
            }
            if !fields(&head, "transfer-encoding").is_empty() {
                visit.read_to(b"0\r\n\r\n").await.unwrap();
            }
            visit.write(ok("", head.split(' ').nth(1).unwrap())).await;
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_last_frame_costs_nobody_else_his_answer() {
    let upstream = strict().await;
    let (edge, _, client) = pair(upstream.address, "").await;
    let mut victim = Client::connect(edge.address()).await;
    let bodies: [&[&[u8]]; 4] = [
        &[b"hello", b""],
        &[b""],
        &[b"", b"hello", b""],
        &[b"hello", b"", b"world", b""],
    ];
    for round in 0..20 {
        let parts = bodies[round % bodies.len()];
        let (answer, mut stream) = client.begin(to("POST", "/up"), false).await;
        for (place, part) in parts.iter().enumerate() {
            let last = place + 1 == parts.len();
            stream.send_data(Bytes::from_static(part), last).unwrap();
            // Each in its own time: together they might be read as one.
            sleep(ms(2)).await;
        }
        assert_eq!(got(answer).await.unwrap().status, 200, "{round}");
        let theirs = victim.get("/victim").await;
        assert_eq!(
            (theirs.status, theirs.text().as_str()),
            (200, "/victim"),
            "{round}"
        );
    }
    let strays = upstream.heads();
    assert_eq!(strays.len(), 40, "{strays:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_but_an_empty_frame_is_empty() {
    let upstream = chunked().await;
    let (_edge, _, client) = pair(upstream.address, "").await;
    let (answer, mut stream) = client.begin(to("POST", "/"), false).await;
    stream.send_data(Bytes::new(), true).unwrap();
    assert_eq!(got(answer).await.unwrap().status, 200);
    assert_eq!(client.get("/").await.status, 200);
    assert_eq!(upstream.count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_of_a_request_do_not_disturb_it() {
    let upstream = chunked().await;
    let (_edge, _, client) = pair(upstream.address, "").await;
    let (answer, mut stream) = client.begin(to("POST", "/"), false).await;
    stream
        .send_data(Bytes::from_static(b"hello"), false)
        .unwrap();
    let mut trailers = http::HeaderMap::new();
    trailers.insert("x-sum", "5".parse().unwrap());
    stream.send_trailers(trailers).unwrap();
    let got = got(answer).await.unwrap();
    assert!(
        got.text().ends_with("5\r\nhello\r\n0\r\n\r\n"),
        "{}",
        got.text()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_kept_is_served_over_both_versions() {
    let upstream = Upstream::saying(ok("", "kept")).await;
    let (edge, _, client) = pair(upstream.address, "cache = \"1h\"").await;
    assert_eq!(client.get("/").await.text(), "kept");
    figure_becomes(&edge, "edge_cache_entries", 1.0).await;
    let again = client.get("/").await;
    assert_eq!(again.text(), "kept");
    assert!(
        again
            .header("cache-status")
            .unwrap()
            .starts_with("edge; hit")
    );
    let over_1 = Client::connect(edge.address()).await.get("/").await;
    assert_eq!(over_1.cache(), crate::support::HIT);
    let empty = client.ask(to("HEAD", "/")).await;
    assert_eq!((empty.status, empty.body.len()), (200, 0));
    let heads = upstream.heads();
    assert_eq!(heads.len(), 1);
    assert!(heads[0].starts_with("GET / HTTP/1.1\r\n"), "{}", heads[0]);
    assert_eq!(fields(&heads[0], "host"), ["edge.test"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_access_log_has_everything() {
    let upstream = Upstream::serve(|mut visit| async move {
        visit.head().await;
        visit.take(3).await;
        visit.write(ok("", "hello")).await;
    })
    .await;
    let (_edge, log, client) = pair(upstream.address, "").await;
    let request = with(
        "POST",
        "/path?q",
        &[("user-agent", "test/2"), ("content-length", "3")],
    );
    client.send(request, b"abc").await;
    let line = &log.lines(1).await[0];
    for (key, value) in [
        ("method", "POST"),
        ("host", "edge.test"),
        ("path", "/path"),
        ("route", "/*"),
        ("client", "127.0.0.1"),
        ("upstream", "u"),
        ("user_agent", "test/2"),
        ("reason", ""),
    ] {
        assert_eq!(
            line[key].as_str().unwrap_or_default(),
            value,
            "{key} in {line}"
        );
    }
    assert_eq!(line["status"], 200);
    assert_eq!(
        (&line["bytes_in"], &line["bytes_out"]),
        (&3.into(), &5.into())
    );
}

// ---- refusals

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_too_much_is_told_so_and_keeps_the_connection() {
    let upstream = Upstream::mirror().await;
    let (_edge, log, client) = pair(
        upstream.address,
        "limit = { per_client = \"1/h\", burst = 1 }",
    )
    .await;
    assert_eq!(client.get("/").await.status, 200);
    let refused = client.get("/").await;
    assert_eq!(refused.refusal(), no(429, "client_limit"));
    assert!(refused.header("retry-after").is_some());
    let refused = client
        .send(with("POST", "/", &[("content-length", "5")]), b"hello")
        .await;
    assert_eq!(refused.refusal(), no(429, "client_limit"));
    assert_eq!(told(&log, 3).await, no_line(429, "client_limit"));
}

fn no_line(status: u64, reason: &str) -> (u64, String) {
    (status, reason.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_is_refused_as_over_http_1() {
    let upstream = Upstream::mirror().await;
    let tables = format!(
        "{}[[route]]\npath = \"/only\"\nmethods = [\"GET\"]\nupstream = \"u\"\n",
        crate::support::upstream_at(&[upstream.address])
    );
    let edge = edge(&tables).await;
    let client = Http2::connect(edge.address()).await;
    assert_eq!(client.get("/other").await.refusal(), no(404, "no_route"));
    let method = client.ask(to("DELETE", "/only")).await;
    assert_eq!(method.refusal(), no(405, "method_not_allowed"));
    assert_eq!(method.header("allow"), Some("GET, HEAD"));
    let dots = client.get("/a/../only").await;
    assert_eq!(dots.refusal(), no(400, "bad_path"));
    let empty = client.ask(to("HEAD", "/other")).await;
    assert_eq!((empty.status, empty.body.len()), (404, 0));
    assert_eq!(client.get("/only").await.status, 200);
    assert_eq!(upstream.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_nobody_wants_costs_the_stream_and_nothing_more() {
    let upstream = Upstream::mirror().await;
    let (_edge, _, client) = pair(
        upstream.address,
        "limit = { per_client = \"1/h\", burst = 1 }",
    )
    .await;
    assert_eq!(client.get("/").await.status, 200);
    let (answer, stream) = client.begin(to("POST", "/"), false).await;
    let body = Bytes::from(vec![0; 4 << 20]);
    let sending = tokio::spawn(upload(stream, body, true));
    assert_eq!(
        got(answer).await.unwrap().refusal(),
        no(429, "client_limit")
    );
    sending.await.unwrap();
    assert_eq!(client.get("/").await.refusal(), no(429, "client_limit"));
}

#[tokio::test(flavor = "multi_thread")]
async fn connect_is_405_and_counted() {
    let upstream = Upstream::mirror().await;
    let (edge, _, client) = pair(upstream.address, "").await;
    let request = http::Request::builder()
        .method("CONNECT")
        .uri("edge.test:443")
        .body(())
        .unwrap();
    let (answer, _stream) = client.begin(request, false).await;
    assert_eq!(got(answer).await.unwrap().status, 405);
    let counted = "edge_malformed_total{reason=\"method_not_allowed\"}";
    figure_becomes(&edge, counted, 1.0).await;
    assert_eq!(client.get("/").await.status, 200);
}

// ---- clocks

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_does_not_come_is_504_at_the_deadline() {
    let upstream = Upstream::serve(|mut visit| async move {
        visit.head().await;
        std::future::pending::<()>().await;
    })
    .await;
    let (_edge, log, client) = pair(upstream.address, SHORT).await;
    let began = Instant::now();
    let answer = client.get("/").await;
    in_time(began);
    assert_eq!(answer.refusal(), no(504, "response_timeout"));
    assert_eq!(told(&log, 1).await, no_line(504, "response_timeout"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_drips_is_visibly_cut_at_the_deadline_and_its_neighbour_is_not() {
    let upstream = Upstream::serve(|mut visit| async move {
        let head = visit.head().await.unwrap_or_default();
        if head.starts_with("GET /quick") {
            return visit.write(ok("", "quick")).await;
        }
        visit
            .write("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
            .await;
        loop {
            visit.write("hello").await;
            sleep(ms(50)).await;
        }
    })
    .await;
    let (_edge, log, client) = pair(upstream.address, SHORT).await;
    let began = Instant::now();
    let cut = client.get("/").await;
    in_time(began);
    assert_eq!(cut.status, 200);
    assert!(
        cut.reset.is_some() && cut.text().starts_with("hello"),
        "{cut:?}"
    );
    assert_eq!(told(&log, 1).await, no_line(200, "response_timeout"));
    assert_eq!(client.get("/quick").await.text(), "quick");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_the_client_does_not_read_ends_at_the_deadline() {
    let upstream = Upstream::saying(ok("", &"x".repeat(1 << 20))).await;
    let (edge, log, client) = pair(upstream.address, SHORT).await;
    let began = Instant::now();
    let (answer, _) = client.begin(to("GET", "/"), true).await;
    let (_, body) = soon(answer).await.unwrap().into_parts();
    let (status, reason) = told(&log, 1).await;
    in_time(began);
    assert_eq!(status, 200);
    assert!(
        ["response_timeout", "client_closed"].contains(&reason.as_str()),
        "{reason}"
    );
    drop(body);
    assert_eq!(client.get("/nothing").await.status, 200);
    drop(edge);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_that_the_client_does_not_read_ends_too() {
    let upstream = Upstream::mirror().await;
    let tables = route_to(upstream.address, "methods = [\"GET\"]");
    let (edge, log) = edge_with_log(&tables).await;
    let mut builder = h2::client::Builder::new();
    let stream = TcpStream::connect(edge.address()).await.unwrap();
    let client = Http2::with(builder.initial_window_size(0), stream).await;
    let (answer, _) = client.begin(to("DELETE", "/"), true).await;
    let (_, body) = soon(answer).await.unwrap().into_parts();
    let began = Instant::now();
    let lines = log.lines(1).await;
    assert!(began.elapsed() < ms(12_000), "{:?}", began.elapsed());
    assert_eq!(lines[0]["status"], 405);
    drop(body);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_does_not_come_is_408_in_its_time() {
    let upstream = chunked().await;
    let (_edge, log, client) = pair(upstream.address, "timeout = { body = \"400ms\" }").await;
    let began = Instant::now();
    let (answer, mut stream) = client.begin(to("POST", "/"), false).await;
    stream
        .send_data(Bytes::from_static(b"half"), false)
        .unwrap();
    assert_eq!(
        got(answer).await.unwrap().refusal(),
        no(408, "request_timeout")
    );
    in_time(began);
    assert_eq!(told(&log, 1).await, no_line(408, "request_timeout"));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_resets_a_stream_is_499_and_the_peer_is_given_up() {
    let (gone, mut closed) = tokio::sync::mpsc::unbounded_channel();
    let upstream = Upstream::serve(move |mut visit| {
        let gone = gone.clone();
        async move {
            visit.head().await;
            visit.head().await;
            let _ = gone.send(());
        }
    })
    .await;
    let (_edge, log, client) = pair(upstream.address, "").await;
    let (answer, mut stream) = client.begin(to("GET", "/"), true).await;
    until(|| async { upstream.count() == 1 }).await;
    stream.send_reset(Reason::CANCEL);
    assert!(got(answer).await.is_err());
    soon(closed.recv())
        .await
        .expect("the peer's connection lives on");
    assert_eq!(told(&log, 1).await, no_line(499, "client_closed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_goes_away_with_streams_open_is_499_on_each() {
    let upstream = Upstream::serve(|mut visit| async move {
        visit.head().await;
        std::future::pending::<()>().await;
    })
    .await;
    let (edge, log, client) = pair(upstream.address, "").await;
    let mut asking = Vec::new();
    for _ in 0..3 {
        asking.push(client.begin(to("GET", "/"), true).await);
    }
    until(|| async { upstream.count() == 3 }).await;
    client.ended.abort();
    let lines = log.lines(3).await;
    assert!(lines.iter().all(|line| line["status"] == 499), "{lines:?}");
    figure_becomes(&edge, "edge_connections", 0.0).await;
}

// ---- connections

/// A gateway with these clocks.
async fn patient(peer: SocketAddr, head: u64, keepalive: u64) -> Edge {
    let change = |config: &mut Config| {
        config.timeout.head = ms(head);
        config.timeout.keepalive = ms(keepalive);
    };
    let (edge, _) = edge_with(&route_to(peer, ""), change).await;
    edge
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
const PING: &[u8] = &[0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];

#[tokio::test(flavor = "multi_thread")]
async fn who_begins_and_sends_no_request_is_let_go_in_time() {
    let upstream = Upstream::mirror().await;
    let edge = patient(upstream.address, 400, 60_000).await;
    for begin in [&b""[..], &PREFACE[..1], &PREFACE[..23], PREFACE] {
        let began = Instant::now();
        let mut client = Client::connect(edge.address()).await;
        client.send(begin).await;
        client.rest().await;
        in_time(began);
    }
    let began = Instant::now();
    let mut client = Client::connect(edge.address()).await;
    client.send([PREFACE, SETTINGS].concat()).await;
    client.rest().await;
    in_time(began);
    figure_becomes(&edge, "edge_connections", 0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_sends_bytes_but_no_request_is_let_go_in_time() {
    let upstream = Upstream::mirror().await;
    let edge = patient(upstream.address, 400, 60_000).await;
    let began = Instant::now();
    dripping(&edge, &[], PING).await;
    in_time(began);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_never_ends_is_let_go_at_the_latest_in_time() {
    let upstream = Upstream::mirror().await;
    let edge = patient(upstream.address, 400, 60_000).await;
    // HEADERS without END_HEADERS, and empty CONTINUATION frames.
    let headers = [0, 0, 1, 1, 1, 0, 0, 0, 1, 0x82];
    let continuation = [0, 0, 0, 9, 0, 0, 0, 0, 1];
    let began = Instant::now();
    dripping(&edge, &headers, &continuation).await;
    assert!(began.elapsed() < ms(1_600), "{:?}", began.elapsed());
    assert_eq!(upstream.count(), 0);
}

/// Sends this, and then more of that until it is let go.
async fn dripping(edge: &Edge, first: &[u8], more: &[u8]) {
    let mut client = Client::connect(edge.address()).await;
    client.send([PREFACE, SETTINGS, first].concat()).await;
    let (mut read, mut write) = client.into_stream().into_split();
    let dripping = async {
        while write.write_all(more).await.is_ok() {
            sleep(ms(20)).await;
        }
    };
    let mut all = Vec::new();
    tokio::select! {
        _ = soon(read.read_to_end(&mut all)) => {}
        () = dripping => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_nothing_more_is_told_to_go_in_time() {
    let upstream = Upstream::mirror().await;
    let edge = patient(upstream.address, 5_000, 400).await;
    let client = Http2::connect(edge.address()).await;
    assert_eq!(client.get("/").await.status, 200);
    sleep(ms(200)).await;
    let began = Instant::now();
    assert_eq!(client.get("/").await.status, 200);
    // No error: it was told so (GOAWAY, no error).
    soon(client.ended).await.unwrap().unwrap();
    in_time(began);
    figure_becomes(&edge, "edge_connections", 0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_takes_longer_than_silence_may_is_not_cut() {
    let upstream = Upstream::serve(|mut visit| async move {
        visit.head().await;
        sleep(ms(1_000)).await;
        visit.write(ok("", "late")).await;
    })
    .await;
    let edge = patient(upstream.address, 300, 300).await;
    let client = Http2::connect(edge.address()).await;
    assert_eq!(client.get("/").await.text(), "late");
}

#[tokio::test(flavor = "multi_thread")]
async fn at_the_end_open_streams_finish_and_idle_connections_do_not_hold_it_up() {
    let upstream = Upstream::serve(|mut visit| async move {
        visit.head().await;
        sleep(ms(500)).await;
        visit.write(ok("", "finished")).await;
    })
    .await;
    let tables = route_to(upstream.address, "");
    let (edge, log) = edge_with(&tables, |config| {
        config.server.drain_delay = Duration::ZERO;
    })
    .await;
    let (silent, busy) = (
        TcpStream::connect(edge.address()).await.unwrap(),
        Http2::connect(edge.address()).await,
    );
    let mut begun = Client::connect(edge.address()).await;
    begun.send([PREFACE, SETTINGS].concat()).await;
    let (answer, _) = busy.begin(to("GET", "/"), true).await;
    until(|| async { upstream.count() == 1 }).await;
    assert!(figure(&edge, "edge_connections").await >= 3.0);
    let began = Instant::now();
    let ending = tokio::spawn(edge.end(false));
    assert_eq!(got(answer).await.unwrap().text(), "finished");
    soon(busy.ended).await.unwrap().unwrap();
    soon(ending).await.unwrap();
    assert!(began.elapsed() < ms(4_000), "{:?}", began.elapsed());
    assert_eq!(log.lines(1).await[0]["status"], 200);
    drop((silent, begun));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_opens_streams_only_to_reset_them_is_cut_off() {
    let upstream = Upstream::mirror().await;
    let edge = edge(&route_to(upstream.address, "")).await;
    let mut client = Client::connect(edge.address()).await;
    let mut bytes = [PREFACE, SETTINGS].concat();
    // GET http://a/ on each stream, then RST_STREAM: CANCEL.
    let head = [0x82, 0x86, 0x84, 0x41, 0x01, b'a'];
    for stream in (1..20_000_u32).step_by(2) {
        bytes.extend_from_slice(&[0, 0, 6, 1, 5]);
        bytes.extend_from_slice(&stream.to_be_bytes());
        bytes.extend_from_slice(&head);
        bytes.extend_from_slice(&[0, 0, 4, 3, 0]);
        bytes.extend_from_slice(&stream.to_be_bytes());
        bytes.extend_from_slice(&[0, 0, 0, 8]);
    }
    client.send(bytes).await;
    let rest = client.rest().await;
    // GOAWAY with ENHANCE_YOUR_CALM (RFC 9113 7).
    let calm = |part: &[u8]| part[0] == 7 && part[part.len() - 4..] == [0, 0, 0, 11];
    assert!(rest.windows(14).any(calm), "{rest:?}");
    assert!(upstream.count() < 2_000, "{}", upstream.count());
}
