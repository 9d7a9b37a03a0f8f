//! How often a request is sent, and what of it may be sent again.

use std::net::SocketAddr;

use crate::support::{Client, Upstream, edge_with_log, nobody, ok, request, upstream_at};

const OFF: &str = "eject = \"off\"\n";

/// One request to an upstream with these peers and keys; how the log tells it: status and tries.
async fn told(peers: &[SocketAddr], upstream: &str, said: &[u8]) -> (u64, u64) {
    let route = "\n[[route]]\npath = \"/*\"\nupstream = \"u\"\ntimeout = \"10s\"\n";
    let (edge, log) = edge_with_log(&(upstream_at(peers) + OFF + upstream + route)).await;
    let mut client = Client::connect(edge.address()).await;
    client.send(said).await;
    client.answer().await;
    let line = log.lines(1).await.swap_remove(0);
    (
        line["status"].as_u64().unwrap(),
        line["tries"].as_u64().unwrap(),
    )
}

/// Closes once it has read so much of a request.
async fn closing(after: usize) -> SocketAddr {
    let upstream = Upstream::serve(move |mut visit| async move {
        visit.head().await;
        visit.take(after).await;
    });
    upstream.await.address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_sent_as_often_as_the_upstream_says_and_once_to_each_peer() {
    let peers = [
        closing(0).await,
        closing(0).await,
        closing(0).await,
        closing(0).await,
    ];
    let get = request("GET /", &[]);
    for (retry, tries) in [
        ("", 3),
        ("retry = { attempts = 2 }", 2),
        ("retry = { attempts = 4 }", 4),
        ("retry = \"off\"", 1),
        ("retry = { on = \"connect\" }", 1),
    ] {
        let seen = told(&peers, retry, get.as_bytes()).await;
        assert_eq!(seen, (502, tries), "{retry}");
    }
    let seen = told(&peers[..2], "retry = { attempts = 4 }", get.as_bytes()).await;
    assert_eq!(seen, (502, 2), "each peer once");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_what_nobody_got_all_may_be_sent_again_however_large() {
    let good = Upstream::serve(|mut visit| async move {
        visit.head().await;
        let body = visit.take(1_000_000).await.unwrap();
        assert!(body.iter().all(|byte| *byte == 7));
        visit.write(ok("", "well")).await;
    })
    .await;
    let mut said = request("POST /", &["Content-Length: 1000000"]).into_bytes();
    said.resize(said.len() + 1_000_000, 7);
    // The first turn is drawn by lot.
    let mut tries = 1;
    for _ in 0..50 {
        let peers = [nobody().await, good.address];
        let seen = told(&peers, "", &said).await;
        assert_eq!(seen.0, 200);
        tries = seen.1;
        if tries == 2 {
            break;
        }
    }
    assert_eq!(tries, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_what_is_too_large_to_keep_nothing_is_sent_again() {
    let peers = [closing(200_000).await, closing(200_000).await];
    let mut said = request("PUT /", &["Content-Length: 300000"]).into_bytes();
    said.resize(said.len() + 300_000, 7);
    assert_eq!(told(&peers, "", &said).await, (502, 1));
    // It is, where more is kept.
    let keeps = "retry = { body = \"512KiB\" }";
    assert_eq!(told(&peers, keeps, &said).await, (502, 2));
}
