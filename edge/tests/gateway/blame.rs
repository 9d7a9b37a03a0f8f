//! What counts against a peer, and what is not its fault.

use std::net::SocketAddr;

use crate::support::{
    Client, Upstream, edge, edge_with_log, figure, figure_becomes, get, ms, no, ok, request, until,
    upstream_at,
};
use tokio::time::sleep;

const HANDSHAKE: [&str; 4] = [
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
];

/// A route for every path to the upstream `u`, which has these peers and keys.
fn tables(peers: &[SocketAddr], upstream: &str, route: &str) -> String {
    upstream_at(peers) + upstream + "\n[[route]]\npath = \"/*\"\nupstream = \"u\"\n" + route + "\n"
}

fn ejections(peer: SocketAddr) -> String {
    format!("edge_upstream_ejections_total{{peer=\"{peer}\",upstream=\"u\"}}")
}

fn failures(reason: &str) -> String {
    format!("edge_upstream_failures_total{{reason=\"{reason}\",upstream=\"u\"}}")
}

/// Reads a body of five bytes, and answers after this many milliseconds.
async fn reads_five(after: u64) -> Upstream {
    Upstream::serve(move |mut visit| async move {
        while visit.head().await.is_some() {
            if visit.take(5).await.is_none() {
                return;
            }
            sleep(ms(after)).await;
            visit.write(ok("", "a")).await;
        }
    })
    .await
}

/// Never answers.
async fn silent() -> Upstream {
    Upstream::serve(|mut visit| async move {
        visit.head().await;
        std::future::pending::<()>().await;
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_sends_slowly_is_not_its_peers_fault() {
    let peer = reads_five(0).await;
    let keys = "timeout = { try = \"200ms\", response = \"5s\" }";
    let eject = "eject = { failures = 1, time = \"1m\", time_max = \"1m\", share = \"100%\" }";
    let edge = edge(&tables(
        &[peer.address, silent().await.address],
        eject,
        keys,
    ))
    .await;
    for _ in 0..2 {
        // One of the two gets to the peer that answers.
        let mut client = Client::connect(edge.address()).await;
        client.send(request("PUT /", &["Content-Length: 5"])).await;
        client.send("he").await;
        sleep(ms(500)).await;
        client.send("llo").await;
        assert_eq!(client.answer().await.status, 200);
    }
    assert!(figure(&edge, &ejections(peer.address)).await < 0.5);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_time_for_a_try_begins_once_there_is_a_place() {
    let peer = Upstream::serve(|mut visit| async move {
        while visit.head().await.is_some() {
            sleep(ms(150)).await;
            visit.write(ok("", "a")).await;
        }
    })
    .await;
    let keys = "timeout = { try = \"400ms\", response = \"5s\" }";
    let breaker = "breaker = { max_connections = 1 }";
    let edge = edge(&tables(&[peer.address], breaker, keys)).await;
    let to = edge.address();
    let asking: Vec<_> = (0..5)
        .map(|_| tokio::spawn(async move { get(to, "/").await.status }))
        .collect();
    for asking in asking {
        assert_eq!(asking.await.unwrap(), 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_does_not_answer_is_left_out_by_whichever_way_it_was_asked() {
    let ways: [(&str, &[&str]); 3] = [
        ("", &[]),
        ("cache = \"1h\"", &[]),
        ("websocket = true", &HANDSHAKE),
    ];
    for (way, fields) in ways {
        let (dead, other) = (silent().await, silent().await);
        let eject = "eject = { failures = 2, time = \"1m\", time_max = \"1m\", share = \"100%\" }";
        let keys = format!("timeout = \"200ms\"\n{way}");
        let edge = edge(&tables(&[dead.address, other.address], eject, &keys)).await;
        for _ in 0..4 {
            let mut client = Client::connect(edge.address()).await;
            let answer = client.ask("GET /", fields).await;
            assert_eq!(answer.refusal(), no(504, "response_timeout"), "{way}");
        }
        let both = figure(&edge, &ejections(dead.address)).await
            + figure(&edge, &ejections(other.address)).await;
        assert!(both > 0.5, "nobody was left out: {way}");
        figure_becomes(&edge, &failures("response_timeout"), 4.0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_that_is_repeated_is_repeated_by_every_way() {
    let ways: [(&str, &[&str]); 3] = [
        ("", &[]),
        ("cache = \"1h\"", &[]),
        ("websocket = true", &HANDSHAKE),
    ];
    for (way, fields) in ways {
        let bad = Upstream::saying("HTTP/1.1 503 No\r\nContent-Length: 3\r\n\r\nbad").await;
        let good = Upstream::saying(ok("", "good")).await;
        let retry = "retry = { on = [\"503\"] }";
        let edge = edge(&tables(&[bad.address, good.address], retry, way)).await;
        for _ in 0..4 {
            let mut client = Client::connect(edge.address()).await;
            let answer = client.ask("GET /", fields).await;
            assert_eq!(
                (answer.status, answer.text().as_str()),
                (200, "good"),
                "{way}"
            );
        }
        // Where nobody is left, it is passed on as it came.
        let lone = self::edge(&tables(&[bad.address], retry, way)).await;
        let mut client = Client::connect(lone.address()).await;
        let answer = client.ask("GET /", fields).await;
        assert_eq!(
            (answer.status, answer.text().as_str()),
            (503, "bad"),
            "{way}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_on_a_connection_that_had_been_closed_says_nothing_against_the_peer() {
    // Takes one request on a connection, and ends it under the next.
    let peer = Upstream::serve(|mut visit| async move {
        visit.head().await;
        visit.write(ok("", "a")).await;
        visit.head().await;
    })
    .await;
    let other = Upstream::saying(ok("", "b")).await;
    let eject = "eject = { failures = 1, time = \"1m\", time_max = \"1m\" }\nbalance = \"hash\"\nhash = \"client\"";
    let (edge, log) = edge_with_log(&tables(&[peer.address, other.address], eject, "")).await;
    // The client whose peer it is.
    let mut last = 2;
    let mut client = loop {
        let mut client = Client::from(&format!("127.0.0.{last}"), edge.address()).await;
        if client.get("/").await.text() == "a" {
            break client;
        }
        last += 1;
    };
    let before = log.lines(1).await.len();
    let answer = client.ask("POST /", &["Content-Length: 0"]).await;
    assert_eq!(answer.refusal(), no(502, "upstream_closed"));
    let line = &log.lines(before + 1).await[before];
    assert_eq!(line["tries"], 1);
    assert!(figure(&edge, &ejections(peer.address)).await < 0.5);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_breaks_off_is_a_failure_of_its_peer() {
    let length = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello";
    let chunks = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
    let no_chunk = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nwhat?\r\n";
    for (way, bytes) in [
        ("", length),
        ("", chunks),
        ("", no_chunk),
        ("cache = \"1h\"", length),
        ("cache = \"1h\"", chunks),
    ] {
        let peer = Upstream::saying_once(bytes).await;
        let other = Upstream::saying_once(bytes).await;
        let eject = "eject = { failures = 1, time = \"1m\", time_max = \"1m\" }";
        let tables = tables(&[peer.address, other.address], eject, way);
        let (edge, log) = edge_with_log(&tables).await;
        let mut client = Client::connect(edge.address()).await;
        let answer = client.get("/").await;
        assert_eq!(
            (answer.status, answer.complete),
            (200, false),
            "{way} {bytes}"
        );
        assert_eq!(answer.text(), "hello");
        assert!(client.rest().await.is_empty(), "the connection ends");
        let line = &log.lines(1).await[0];
        let reason = line["reason"].as_str().unwrap().to_owned();
        assert!(reason.starts_with("upstream_"), "{line}");
        figure_becomes(&edge, &failures(&reason), 1.0).await;
        let both = figure(&edge, &ejections(peer.address)).await
            + figure(&edge, &ejections(other.address)).await;
        assert!(both > 0.5, "nobody was left out: {way} {bytes}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_circuit_opens_for_answers_that_break_off() {
    let peer = Upstream::saying_once("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello").await;
    let breaker = "breaker = { errors = \"50%\", requests = 2 }\neject = \"off\"";
    let edge = edge(&tables(&[peer.address], breaker, "")).await;
    for _ in 0..2 {
        assert!(!get(edge.address(), "/").await.complete);
    }
    figure_becomes(&edge, "edge_upstream_circuit{upstream=\"u\"}", 2.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_circuit_that_opens_between_two_tries_does_not_hide_what_failed() {
    let closes = Upstream::saying_once("").await;
    let again = Upstream::saying_once("").await;
    let breaker = "breaker = { errors = \"50%\", requests = 1 }";
    let edge = edge(&tables(&[closes.address, again.address], breaker, "")).await;
    let first = get(edge.address(), "/").await;
    assert_eq!(first.refusal(), no(502, "upstream_closed"));
    let second = get(edge.address(), "/").await;
    assert_eq!(second.refusal(), no(503, "circuit_open"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_whose_body_nobody_took_is_not_told_that_it_was_slow() {
    let dead = silent().await;
    let route = "[[route]]\nupstream = \"u\"\n";
    let tables = upstream_at(&[dead.address])
        + &format!(
            "breaker = {{ max_connections = 1 }}\n{route}path = \"/long\"\ntimeout = \"10s\"\n"
        )
        + &format!("{route}path = \"/*\"\ntimeout = \"300ms\"\n");
    let edge = edge(&tables).await;
    let mut first = Client::connect(edge.address()).await;
    first.send(request("GET /long", &[])).await;
    until(|| async { dead.count() == 1 }).await;
    // It waits for a place, and nobody reads what it sends.
    let mut client = Client::connect(edge.address()).await;
    client.send(request("POST /", &["Content-Length: 5"])).await;
    assert_eq!(client.answer().await.refusal(), no(504, "response_timeout"));
}
