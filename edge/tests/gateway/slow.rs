//! Clients that take or send too little, or are too many.

use std::time::{Duration, Instant};

use crate::http2_client::{Http2, to};
use crate::support::{
    Client, Log, Upstream, edge_with, figure_becomes, get, ms, ok, request, route_to, soon, until,
};
use edge::serve::Edge;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};

/// More than the buffers between edge and a client take.
const LARGE: usize = 32 << 20;

async fn large() -> Upstream {
    Upstream::saying(ok("", &"x".repeat(LARGE))).await
}

/// A gateway that waits so long for a client to take something, and for answers without end.
async fn patient(upstream: &Upstream, keys: &str) -> (Edge, Log) {
    let keys = format!("timeout = \"off\"\n{keys}");
    edge_with(&route_to(upstream.address, &keys), |config| {
        config.timeout.write = Some(ms(400));
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
        assert!(took >= ms(400) && took < Duration::from_secs(4), "{took:?}");
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
