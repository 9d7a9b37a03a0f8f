//! Requests that are none, and clients that mean no good.

use std::time::{Duration, Instant};

use edge::serve::Edge;

use crate::support::{
    Answer, Client, Upstream, edge, edge_with, edge_with_log, figure_becomes, ms, no, nobody, ok,
    request, route_to, soon,
};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpSocket;
use tokio::time::{sleep, timeout};

/// What edge says to these bytes, and how often a peer was asked.
async fn answer_to(bytes: &str) -> (Answer, usize) {
    let upstream = Upstream::mirror().await;
    let edge = edge(&route_to(upstream.address, "")).await;
    let mut client = Client::connect(edge.address()).await;
    client.send(bytes).await;
    let answer = client.answer().await;
    (answer, upstream.count())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_request_is_400_and_counted() {
    let upstream = Upstream::mirror().await;
    let edge = edge(&route_to(upstream.address, "")).await;
    let faults = [
        ("GET\r\n\r\n", (400, "bad_request")),
        ("\x16\x03\x01\x02\r\n\r\n", (400, "bad_request")),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nNo colon\r\n\r\n",
            (400, "bad_message"),
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nBad name: 1\r\n\r\n",
            (400, "bad_message"),
        ),
        ("GET / HTTP/9.9\r\nHost: a\r\n\r\n", (505, "http_version")),
    ];
    for (fault, (status, reason)) in faults {
        let mut client = Client::connect(edge.address()).await;
        client.send(fault).await;
        let answer = client.answer().await;
        assert_eq!(answer.refusal(), no(status, reason), "{fault:?}");
        assert_eq!(client.rest().await, b"", "and the connection ends");
    }
    assert_eq!(upstream.count(), 0);
    for (reason, count) in [
        ("bad_request", 2.0),
        ("bad_message", 2.0),
        ("http_version", 1.0),
    ] {
        let name = format!("edge_malformed_total{{reason=\"{reason}\"}}");
        figure_becomes(&edge, &name, count).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_ways_to_say_the_length_are_never_both_believed() {
    for fault in [
        "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        "Content-Length: 5, 6\r\n\r\nhello",
        "Content-Length: +5\r\n\r\nhello",
        "Content-Length: -1\r\n\r\nhello",
        "Content-Length: 0x5\r\n\r\nhello",
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: identity\r\n\r\nhello",
        "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    ] {
        let asked = format!("POST / HTTP/1.1\r\nHost: a\r\n{fault}");
        let upstream = Upstream::mirror().await;
        let edge = edge(&route_to(upstream.address, "")).await;
        let mut client = Client::connect(edge.address()).await;
        client.send(asked).await;
        client.finish().await;
        let first = client.answer_to("POST").await;
        let heads = upstream.heads();
        for head in heads.iter().filter(|head| head.starts_with("POST ")) {
            // Where it passes, it must pass with one unmistakable framing.
            let head = head.to_ascii_lowercase();
            let framings = head.matches("content-length:").count()
                + head.matches("transfer-encoding:").count();
            assert_eq!(framings, 1, "{fault:?} reached the peer as\n{head}");
            assert!(
                !head.contains("identity") && !head.contains("xchunked"),
                "{head}"
            );
        }
        // Or it is refused, which is as well.
        let passed = heads.iter().filter(|head| head.starts_with("POST "));
        let status = first.map(|answer| answer.status);
        assert!(
            passed.count() == 1 || matches!(status, Some(400) | None),
            "{fault:?}: {status:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_hidden_in_a_body_is_never_answered() {
    let hidden = "GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n";
    let asked = format!(
        "POST /seen HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{hidden}",
        5 + hidden.len()
    );
    let upstream = Upstream::mirror().await;
    let edge = edge(&route_to(upstream.address, "")).await;
    let mut client = Client::connect(edge.address()).await;
    client.send(asked).await;
    client.finish().await;
    client.rest().await;
    sleep(ms(200)).await;
    assert!(
        !upstream
            .heads()
            .iter()
            .any(|head| head.starts_with("GET /hidden")),
        "{:?}",
        upstream.heads()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn who_speaks_http_2_where_it_is_off_is_told_so() {
    let tables = route_to(nobody().await, "websocket = true");
    let (edge, _log) = edge_with(&tables, |config| config.server.http2 = false).await;
    let mut client = Client::connect(edge.address()).await;
    client.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    let answer = client.answer().await;
    assert_eq!(answer.refusal(), no(505, "http_version"));
    figure_becomes(&edge, "edge_malformed_total{reason=\"http_version\"}", 1.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connect_is_405() {
    let (answer, asked) =
        answer_to("CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\n").await;
    assert_eq!(answer.refusal(), no(405, "method_not_allowed"));
    assert!(answer.header("allow").unwrap().contains("GET"));
    assert_eq!(asked, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn trace_is_405() {
    let (answer, asked) = answer_to(&request("TRACE /", &[])).await;
    assert_eq!(
        (answer.refusal(), asked),
        (no(405, "method_not_allowed"), 0)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_without_a_host_or_with_a_bad_one_is_400() {
    for asked in [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost:\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n",
    ] {
        let (answer, reached) = answer_to(asked).await;
        assert_eq!(answer.refusal(), no(400, "bad_host"), "{asked:?}");
        assert_eq!(reached, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hosts_are_400() {
    let (answer, reached) = answer_to("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n").await;
    assert_eq!(answer.status, 400);
    assert!(answer.refusal().1.starts_with("bad_"));
    assert_eq!(reached, 0);
}

async fn client_of(edge: &edge::serve::Edge) -> Client {
    Client::connect(edge.address()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_is_no_path_is_400() {
    for target in ["a", "a/b", "*", "?a"] {
        let (answer, reached) = answer_to(&request(&format!("GET {target}"), &[])).await;
        assert_eq!(
            (answer.status, reached),
            (400, 0),
            "{target}: {}",
            answer.text()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_names_another_host_than_host_does_not_fool_the_cache_or_the_peer() {
    let upstream = Upstream::mirror().await;
    let edge = edge(&route_to(upstream.address, "cache = \"1h\"")).await;
    let mut client = client_of(&edge).await;
    let odd = client.ask("GET http://a.test/", &["Host: b.test"]).await;
    assert_eq!(odd.status, 400, "RFC 9110 7.2: {}", odd.head);
    let user = client_of(&edge)
        .await
        .ask("GET /", &["Host: user@b.test"])
        .await;
    assert_eq!(user.status, 400, "{}", user.head);
    let mut client = client_of(&edge).await;
    let honest = client.ask("GET /", &["Host: b.test"]).await;
    assert_eq!(crate::support::fields(&honest.text(), "host"), ["b.test"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn dot_segments_are_400() {
    for path in [
        "/a/../b",
        "/./a",
        "/%2e%2e/a",
        "/a%2f..%2fb",
        "/a/..",
        "/a/.%2E/b",
    ] {
        let (answer, reached) = answer_to(&request(&format!("GET {path}"), &[])).await;
        assert_eq!(answer.refusal(), no(400, "bad_path"), "{path}");
        assert_eq!(reached, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_asterisk_is_a_target_of_options_only_and_breaks_nothing() {
    let (answer, _) = answer_to(&request("OPTIONS *", &[])).await;
    assert!((200..500).contains(&answer.status), "{}", answer.head);
}

/// Head timeouts of these tests.
const HEAD: &str = "[timeout]\nhead = \"400ms\"\nkeepalive = \"10s\"\n";

fn in_time(began: Instant) {
    let took = began.elapsed();
    assert!(took >= ms(395) && took < ms(2_000), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_drips_is_given_up() {
    let upstream = Upstream::mirror().await;
    let edge = edge(&(HEAD.to_owned() + &route_to(upstream.address, ""))).await;
    let mut client = Client::connect(edge.address()).await;
    let began = Instant::now();
    let dripped = timeout(Duration::from_secs(10), async {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n").await;
        loop {
            client.send("X: y\r\n").await;
            // The answer, if there is one, or the end.
            if timeout(ms(50), client.take(1)).await.is_ok() {
                break;
            }
        }
    });
    dripped.await.expect("it may drip for ever");
    in_time(began);
    assert_eq!(upstream.count(), 0);
    figure_becomes(
        &edge,
        "edge_malformed_total{reason=\"request_timeout\"}",
        1.0,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_head_is_given_up() {
    let upstream = Upstream::mirror().await;
    let edge = edge(&(HEAD.to_owned() + &route_to(upstream.address, ""))).await;
    let mut client = Client::connect(edge.address()).await;
    let began = Instant::now();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n").await;
    client.rest().await;
    in_time(began);
    figure_becomes(
        &edge,
        "edge_malformed_total{reason=\"request_timeout\"}",
        1.0,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_second_head_is_given_up_too() {
    let upstream = Upstream::mirror().await;
    let edge = edge(&(HEAD.to_owned() + &route_to(upstream.address, ""))).await;
    let mut client = Client::connect(edge.address()).await;
    assert_eq!(client.get("/").await.status, 200);
    sleep(ms(600)).await;
    assert_eq!(client.get("/").await.status, 200, "waiting is no crime");
    sleep(ms(100)).await;
    let began = Instant::now();
    client.send("GET / HTTP/1.1\r\n").await;
    client.rest().await;
    in_time(began);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_says_nothing_is_closed_and_is_no_malformed_request() {
    let upstream = Upstream::mirror().await;
    let edge = edge(&(HEAD.to_owned() + &route_to(upstream.address, ""))).await;
    let mut client = Client::connect(edge.address()).await;
    let began = Instant::now();
    assert_eq!(client.rest().await, b"");
    in_time(began);
    figure_becomes(&edge, "edge_connections", 0.0).await;
    figure_becomes(
        &edge,
        "edge_malformed_total{reason=\"request_timeout\"}",
        0.0,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_waits_too_long_for_its_next_request_is_closed() {
    let upstream = Upstream::mirror().await;
    let tables = "[timeout]\nkeepalive = \"1s\"\n".to_owned() + &route_to(upstream.address, "");
    let edge = edge(&tables).await;
    let mut client = Client::connect(edge.address()).await;
    assert_eq!(client.get("/").await.status, 200);
    let began = Instant::now();
    assert_eq!(client.rest().await, b"");
    let took = began.elapsed();
    assert!(took >= ms(900) && took < ms(3_000), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_connections_wait_and_those_open_live_on() {
    let upstream = Upstream::saying(ok("", "a")).await;
    let tables = "[server]\nconnections = 2\n".to_owned() + &route_to(upstream.address, "");
    let edge = edge(&tables).await;
    let mut first = Client::connect(edge.address()).await;
    let mut second = Client::connect(edge.address()).await;
    assert_eq!(first.get("/").await.status, 200);
    assert_eq!(second.get("/").await.status, 200);
    let mut third = Client::connect(edge.address()).await;
    third.send(request("GET /third", &[])).await;
    figure_becomes(&edge, "edge_connections_full_total", 1.0).await;
    assert_eq!(first.get("/").await.status, 200);
    assert!(
        !upstream.heads().iter().any(|head| head.contains("/third")),
        "it waits"
    );
    figure_becomes(&edge, "edge_connections", 2.0).await;
    drop(second);
    assert_eq!(third.answer().await.status, 200, "and then it is served");
    assert_eq!(first.get("/").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn edge_ends_while_connections_wait() {
    let upstream = Upstream::saying(ok("", "a")).await;
    let tables = "[server]\nconnections = 1\ndrain_delay = \"off\"\n".to_owned()
        + &route_to(upstream.address, "");
    let edge = edge(&tables).await;
    let mut first = Client::connect(edge.address()).await;
    assert_eq!(first.get("/").await.status, 200);
    let mut waiting = Client::connect(edge.address()).await;
    figure_becomes(&edge, "edge_connections_full_total", 1.0).await;
    let began = Instant::now();
    soon(edge.end(true)).await;
    assert!(began.elapsed() < ms(4_000), "{:?}", began.elapsed());
    assert_eq!(waiting.rest().await, b"", "nobody is left waiting");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_without_end_is_refused_before_it_fills_the_memory() {
    let upstream = Upstream::mirror().await;
    let edge = edge(&route_to(upstream.address, "")).await;
    let mut client = Client::connect(edge.address()).await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n").await;
    for _ in 0..2_000 {
        client
            .send(format!("X-Long: {}\r\n", "x".repeat(1_000)))
            .await;
    }
    let answer = client.answer_to("GET").await;
    assert!(answer.is_none_or(|answer| answer.status == 400 || answer.status == 431));
    assert_eq!(upstream.count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_body_that_is_refused_costs_the_connection_and_nothing_more() {
    let upstream = Upstream::mirror().await;
    let tables =
        "[limit]\nper_client = \"1/h\"\nburst = 1\n".to_owned() + &route_to(upstream.address, "");
    let edge = edge(&tables).await;
    let mut client = Client::connect(edge.address()).await;
    assert_eq!(client.get("/").await.status, 200);
    client
        .send(request("POST /", &["Content-Length: 10000000"]))
        .await;
    let answer = client.answer().await;
    assert_eq!(answer.refusal(), no(429, "client_limit"));
    client.finish().await;
    assert_eq!(client.rest().await, b"");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_without_end_and_reads_nothing_gives_its_place_back() {
    let upstream = Upstream::mirror().await;
    let tables = crate::support::upstream_at(&[upstream.address])
        + "[[route]]\npath = \"/a\"\nupstream = \"u\"\n";
    let edge = edge(&tables).await;
    let took = until_cut(&edge, &request("GET /nope", &[])).await;
    assert!(took >= Duration::from_secs(9), "{took:?}");
    figure_becomes(&edge, "edge_connections", 0.0).await;
    assert_eq!(upstream.count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_handshake_that_nobody_reads_gives_its_place_back_too() {
    let edge = edge(&route_to(nobody().await, "websocket = true")).await;
    let handshake = [
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ];
    until_cut(&edge, &request("GET /ws", &handshake)).await;
    figure_becomes(&edge, "edge_connections", 0.0).await;
}

/// Asks without end and reads nothing, until edge has had enough.
async fn until_cut(edge: &Edge, ask: &str) -> Duration {
    let socket = TcpSocket::new_v4().unwrap();
    // Little room for answers that nobody reads.
    socket.set_recv_buffer_size(4_096).unwrap();
    let mut client = soon(socket.connect(edge.address())).await.unwrap();
    let asked = ask.repeat(1_000);
    let began = Instant::now();
    soon(async { while client.write_all(asked.as_bytes()).await.is_ok() {} }).await;
    began.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_that_is_none_is_the_clients_fault_and_said_so() {
    for (early, late) in [("zz\r\n", ""), ("", "zz\r\n"), ("5\r\nhello\r\n", "zz\r\n")] {
        let upstream = Upstream::serve(|mut visit| async move {
            visit.head().await;
            std::future::pending::<()>().await;
        })
        .await;
        let (edge, log) = edge_with_log(&route_to(upstream.address, "timeout = \"10s\"")).await;
        let mut client = client_of(&edge).await;
        let head = request("POST /", &["Transfer-Encoding: chunked"]);
        client.send(head + early).await;
        sleep(ms(100)).await;
        client.send(late).await;
        let line = &log.lines(1).await[0];
        assert_eq!(
            (line["status"].as_u64(), line["reason"].as_str()),
            (Some(400), Some("bad_message")),
            "{early:?} {late:?}"
        );
        let answer = client.answer().await;
        assert_eq!(
            answer.refusal(),
            no(400, "bad_message"),
            "{early:?} {late:?}"
        );
    }
}
