//! How edge begins and ends.

use std::time::{Duration, Instant};

use crate::frames::{BINARY, CLOSE, End, HANDSHAKE, Relay, TEXT, masked, why};
use crate::support::{Client, Upstream, edge, get, ms, no, ok, request, route_to, soon, until};
use edge::config::Config;
use edge::serve::Edge;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

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
async fn a_client_that_does_not_answer_its_close_is_cut_when_the_drain_is_over() {
    let mut relay = Relay::made("[server]\ndrain = \"1s\"\n", "", "").await;
    let (mut client, mut peer) = relay.open().await;
    let began = Instant::now();
    let ending = tokio::spawn(relay.edge.end(true));
    peer.hears(CLOSE, why(1012, "draining")).await;
    peer.say_frame(CLOSE, why(1012, "")).await;
    client.hears(CLOSE, why(1012, "draining")).await;
    assert!(began.elapsed() < ms(500), "{:?}", began.elapsed());
    assert_eq!(client.rest().await, b"");
    soon(ending).await.unwrap();
    let took = began.elapsed();
    assert!(took >= ms(990) && took < ms(3_000), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_asked_before_the_drain_is_answered_before_the_close() {
    let mut relay = Relay::with("").await;
    let (mut client, mut peer) = relay.open().await;
    client.say_frame(TEXT, "question").await;
    peer.hears(TEXT, "question").await;
    let ending = tokio::spawn(relay.edge.end(true));
    peer.hears(CLOSE, why(1012, "draining")).await;
    client.hears_nothing().await;
    peer.say_frame(TEXT, "answer").await;
    peer.say_frame(CLOSE, why(1012, "")).await;
    drop(peer);
    client.hears(TEXT, "answer").await;
    client.is_told(1012, "draining").await;
    assert_eq!(client.end().await, b"");
    soon(ending).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn while_it_drains_no_websocket_begins_and_none_is_disturbed_before_its_time() {
    let mut relay = Relay::made("[server]\ndrain_delay = \"2s\"\n", "", "").await;
    let (mut client, mut peer) = relay.open().await;
    let (address, admin) = (relay.edge.address(), relay.edge.admin());
    let ending = tokio::spawn(relay.edge.end(false));
    until(|| async { get(admin, "/readyz").await.status == 503 }).await;
    let refused = Client::connect(address)
        .await
        .ask("GET /ws", &HANDSHAKE)
        .await;
    assert_eq!(refused.refusal(), no(503, "draining"));
    assert!(refused.header("retry-after").is_some());
    let figures = get(admin, "/metrics").await.text();
    let counted = "edge_websockets_refused_total{reason=\"draining\",route=\"/*\"} 1";
    assert!(figures.contains(counted), "{figures}");
    client.say_frame(TEXT, "still here").await;
    peer.hears(TEXT, "still here").await;
    peer.say_frame(TEXT, "so am I").await;
    client.hears(TEXT, "so am I").await;
    peer.is_told(1012, "draining").await;
    client.is_told(1012, "draining").await;
    drop((client, peer));
    soon(ending).await.unwrap();
    assert_eq!(relay.host.upstream.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn at_the_end_websockets_are_closed_one_after_the_other() {
    let mut relay = Relay::made("[server]\ndrain = \"2s\"\n", "", "").await;
    let mut told = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let (mut client, mut peer) = relay.open().await;
        told.spawn(async move {
            peer.is_told(1012, "draining").await;
            drop(peer);
            client.is_told(1012, "draining").await;
            let at = Instant::now();
            assert_eq!(client.end().await, b"");
            at
        });
    }
    let began = Instant::now();
    soon(relay.edge.end(true)).await;
    let took = began.elapsed();
    let mut told = told.join_all().await;
    told.sort_unstable();
    let told: Vec<_> = told.iter().map(|at| at.duration_since(began)).collect();
    // One each 90 ms, the first at once.
    assert!(told[0] < ms(400), "{told:?}");
    assert!(told[19] - told[0] > ms(1_400), "{told:?}");
    assert!(
        (5..15).contains(&told.partition_point(|&at| at < ms(900))),
        "{told:?}"
    );
    assert!(
        took >= told[19] && took < told[19] + ms(500),
        "{took:?} {told:?}"
    );
    let lines = relay.log.ended(20).await;
    assert!(
        lines
            .iter()
            .all(|line| line["code"] == 1012 && line["by"] == "edge")
    );
    assert!(lines.iter().all(|line| line["reason"] == "draining"));
}

#[tokio::test(flavor = "multi_thread")]
async fn once_all_websockets_have_closed_by_themselves_it_ends() {
    let mut relay = Relay::made("[server]\ndrain = \"15s\"\n", "", "").await;
    let mut open = Vec::new();
    for _ in 0..5 {
        open.push(relay.open().await);
    }
    let began = Instant::now();
    let ending = tokio::spawn(relay.edge.end(true));
    sleep(ms(100)).await;
    drop(open);
    soon(ending).await.unwrap();
    let took = began.elapsed();
    assert!(took < ms(3_000), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_says_no_more_is_told_of_the_end_too() {
    let mut relay = Relay::made("[server]\ndrain = \"10s\"\n", "", "").await;
    let (mut client, mut peer) = relay.open().await;
    client.finish().await;
    assert_eq!(peer.next_frame().await, None);
    peer.say_frame(TEXT, "still here").await;
    client.hears(TEXT, "still here").await;
    let began = Instant::now();
    let ending = tokio::spawn(relay.edge.end(true));
    client.hears(CLOSE, why(1012, "draining")).await;
    assert_eq!(client.end().await, b"");
    drop(peer);
    soon(ending).await.unwrap();
    assert!(began.elapsed() < ms(5_000), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_hangs_does_not_keep_the_close_from_its_client() {
    let tables = "[server]\ndrain = \"3s\"\n";
    let mut relay = Relay::made(tables, "messages_per_client = \"off\"", "").await;
    let (client, peer) = relay.open().await;
    let (from, mut to) = client.into_stream().into_split();
    let flood = tokio::spawn(async move {
        let many = masked(BINARY, vec![7; 60_000]);
        while timeout(ms(1_000), to.write_all(&many))
            .await
            .is_ok_and(|sent| sent.is_ok())
        {}
        to
    });
    let to = soon(flood).await.unwrap();
    let began = Instant::now();
    let ending = tokio::spawn(relay.edge.end(true));
    let mut client = Client::on(from.reunite(to).unwrap());
    client.hears(CLOSE, why(1012, "draining")).await;
    assert!(began.elapsed() < ms(2_500), "{:?}", began.elapsed());
    soon(ending).await.unwrap();
    assert!(began.elapsed() < ms(4_500), "{:?}", began.elapsed());
    drop(peer);
}

#[tokio::test(flavor = "multi_thread")]
async fn however_short_the_drain_nobody_goes_without_a_close() {
    let mut relay = Relay::made("[server]\ndrain = \"300ms\"\n", "", "").await;
    let mut open = Vec::new();
    for _ in 0..5 {
        open.push(relay.open().await);
    }
    let ending = tokio::spawn(relay.edge.end(true));
    for (client, _peer) in &mut open {
        client.hears(CLOSE, why(1012, "draining")).await;
    }
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
