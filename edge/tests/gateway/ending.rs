//! How edge begins and ends.

use std::time::{Duration, Instant};

use crate::support::{Client, Upstream, edge, get, ms, no, ok, request, route_to, soon, until};
use edge::config::Config;
use edge::serve::Edge;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

/// An upstream that takes its time.
async fn slow(time: Duration) -> Upstream {
    Upstream::serve(move |mut visit| async move {
        while visit.head().await.is_some() {
            sleep(time).await;
            visit.write(ok("", "hello")).await;
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn with_nothing_open_it_ends_at_once() {
    let upstream = slow(ms(0)).await;
    let edge = edge(&route_to(upstream.address, "")).await;
    get(edge.address(), "/").await;
    let (address, admin) = (edge.address(), edge.admin());
    let began = Instant::now();
    soon(edge.end(true)).await;
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "{:?}",
        began.elapsed()
    );
    until(|| async { TcpStream::connect(address).await.is_err() }).await;
    until(|| async { TcpStream::connect(admin).await.is_err() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_on_which_nothing_is_open_do_not_hold_it_up() {
    let upstream = slow(ms(0)).await;
    let edge = edge(&route_to(upstream.address, "")).await;
    let mut idle = Client::connect(edge.address()).await;
    assert_eq!(idle.get("/").await.status, 200);
    let mut silent = Client::connect(edge.address()).await;
    sleep(ms(100)).await;
    let began = Instant::now();
    soon(edge.end(true)).await;
    assert!(
        began.elapsed() < Duration::from_secs(3),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(idle.rest().await, b"");
    assert_eq!(silent.rest().await, b"");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_open_finishes_and_then_edge_ends() {
    let upstream = slow(ms(800)).await;
    let edge = edge(&route_to(upstream.address, "")).await;
    let address = edge.address();
    let mut client = Client::connect(address).await;
    client.send(request("GET /", &[])).await;
    until(|| async { upstream.count() == 1 }).await;
    let began = Instant::now();
    let ending = tokio::spawn(edge.end(true));
    let answer = client.answer().await;
    assert_eq!((answer.text().as_str(), answer.complete), ("hello", true));
    soon(ending).await.unwrap();
    let took = began.elapsed();
    assert!(took < Duration::from_secs(4), "{took:?}");
    assert_eq!(client.rest().await, b"");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_it_drains_nobody_new_is_let_in_and_it_says_that_it_is_not_ready() {
    let upstream = slow(ms(1_500)).await;
    let edge = edge(&route_to(upstream.address, "")).await;
    let (address, admin) = (edge.address(), edge.admin());
    assert_eq!(get(admin, "/readyz").await.status, 200);
    let mut client = Client::connect(address).await;
    client.send(request("GET /", &[])).await;
    until(|| async { upstream.count() == 1 }).await;
    let ending = tokio::spawn(edge.end(true));
    until(|| async { get(admin, "/readyz").await.status == 503 }).await;
    assert_eq!(get(admin, "/livez").await.status, 200);
    assert_eq!(get(admin, "/startupz").await.status, 200);
    until(|| async { TcpStream::connect(address).await.is_err() }).await;
    assert_eq!(client.answer().await.text(), "hello");
    soon(ending).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn at_first_it_goes_on_serving_so_that_the_balancer_can_notice() {
    let upstream = slow(ms(0)).await;
    let tables = "[server]\ndrain_delay = \"1s\"\n".to_owned() + &route_to(upstream.address, "");
    let edge = edge(&tables).await;
    let (address, admin) = (edge.address(), edge.admin());
    let mut kept = Client::connect(address).await;
    assert_eq!(kept.get("/").await.status, 200);
    let began = Instant::now();
    let ending = tokio::spawn(edge.end(false));
    until(|| async { get(admin, "/readyz").await.status == 503 }).await;
    assert_eq!(get(address, "/").await.status, 200);
    let last = kept.get("/").await;
    assert_eq!(last.status, 200);
    let connection = last.header("connection").unwrap_or_default();
    assert_eq!(connection.to_ascii_lowercase(), "close");
    soon(ending).await.unwrap();
    assert!(began.elapsed() >= ms(990), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_finish_within_the_drain_is_cut() {
    let upstream = slow(Duration::from_secs(15)).await;
    let tables = "[server]\ndrain = \"500ms\"\n".to_owned() + &route_to(upstream.address, "");
    let edge = edge(&tables).await;
    let mut client = Client::connect(edge.address()).await;
    client.send(request("GET /", &[])).await;
    until(|| async { upstream.count() == 1 }).await;
    let began = Instant::now();
    soon(edge.end(true)).await;
    let took = began.elapsed();
    assert!(took >= ms(490) && took < ms(3_000), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_may_go_on_until_the_drain_is_over() {
    let upstream = Upstream::serve(|mut visit| async move {
        visit.head().await;
        visit
            .write("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\n")
            .await;
        visit.echo().await;
    })
    .await;
    let tables =
        "[server]\ndrain = \"1s\"\n".to_owned() + &route_to(upstream.address, "websocket = true");
    let edge = edge(&tables).await;
    let mut client = Client::connect(edge.address()).await;
    let handshake = [
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ];
    assert_eq!(client.ask("GET /ws", &handshake).await.status, 101);
    let began = Instant::now();
    let ending = tokio::spawn(edge.end(true));
    sleep(ms(300)).await;
    client.send("still here").await;
    assert_eq!(client.take(10).await.unwrap(), b"still here");
    assert_eq!(client.rest().await, b"");
    soon(ending).await.unwrap();
    let took = began.elapsed();
    assert!(took >= ms(990) && took < ms(4_000), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_it_drains_no_websocket_begins() {
    let upstream = slow(ms(0)).await;
    let tables = "[server]\ndrain_delay = \"2s\"\n".to_owned()
        + &route_to(upstream.address, "websocket = true");
    let edge = edge(&tables).await;
    let (address, admin) = (edge.address(), edge.admin());
    let ending = tokio::spawn(edge.end(false));
    until(|| async { get(admin, "/readyz").await.status == 503 }).await;
    let mut client = Client::connect(address).await;
    let handshake = [
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ];
    let refused = client.ask("GET /ws", &handshake).await;
    assert_eq!(refused.refusal(), no(503, "draining"));
    assert!(refused.header("retry-after").is_some());
    soon(ending).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_taken_is_an_error_at_once() {
    let occupant = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let taken = occupant.local_addr().unwrap();
    for (listen, admin, name) in [
        (
            taken.to_string(),
            "127.0.0.1:0".to_owned(),
            "[server] listen",
        ),
        (
            "127.0.0.1:0".to_owned(),
            taken.to_string(),
            "[admin] listen",
        ),
    ] {
        let text = format!(
            "[server]\nlisten = \"{listen}\"\n[admin]\nlisten = \"{admin}\"\n{}",
            route_to(taken, "")
        );
        let config = Config::read("test.toml", &text).unwrap();
        let Err(error) = soon(Edge::start(config, None)).await else {
            panic!("it started");
        };
        assert!(error.to_string().contains(name), "{error}");
        assert!(error.to_string().contains(&taken.to_string()), "{error}");
    }
}
