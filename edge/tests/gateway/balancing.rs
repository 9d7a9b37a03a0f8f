//! Who is asked, who is left out, who waits, and what is repeated.

use std::collections::HashSet;
use std::net::SocketAddr;

use crate::support::{
    Client, Upstream, edge, figure, figure_becomes, get, ms, no, ok, request, until, upstream_at,
};
use tokio::time::sleep;

/// A route for every path to the upstream `u`, which has these peers and keys.
fn tables(peers: &[SocketAddr], upstream: &str, route: &str) -> String {
    upstream_at(peers) + upstream + "\n[[route]]\npath = \"/*\"\nupstream = \"u\"\n" + route + "\n"
}

/// A peer that answers with its address.
async fn named() -> Upstream {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own = listener.local_addr().unwrap().to_string();
    Upstream::serve_on(listener, move |mut visit| {
        let own = own.clone();
        async move {
            while visit.head().await.is_some() {
                visit.write(ok("", &own)).await;
            }
        }
    })
}

/// A peer that says 500.
async fn failing() -> Upstream {
    Upstream::saying("HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n").await
}

fn of(figure: &str, peer: &Upstream) -> String {
    format!("{figure}{{peer=\"{}\",upstream=\"u\"}}", peer.address)
}

async fn asked(to: SocketAddr, times: usize) -> Vec<u16> {
    let mut statuses = Vec::new();
    for _ in 0..times {
        statuses.push(get(to, "/").await.status);
    }
    statuses
}

#[tokio::test(flavor = "multi_thread")]
async fn who_answers_500_is_left_out_and_comes_back_after_its_time() {
    let (bad, good) = (failing().await, named().await);
    let keys = "eject = { failures = 3, time = \"300ms\", time_max = \"300ms\" }";
    let edge = edge(&tables(&[bad.address, good.address], keys, "")).await;
    let failed = asked(edge.address(), 12)
        .await
        .iter()
        .filter(|&&status| status == 500)
        .count();
    assert_eq!(failed, 3);
    figure_becomes(&edge, &of("edge_upstream_ejections_total", &bad), 1.0).await;
    // Back after its time, it fails once more and goes.
    until(|| async { figure(&edge, &of("edge_upstream_up", &bad)).await > 0.5 }).await;
    let failed = asked(edge.address(), 6)
        .await
        .iter()
        .filter(|&&status| status == 500)
        .count();
    assert!(failed >= 1);
    assert!(figure(&edge, &of("edge_upstream_ejections_total", &bad)).await >= 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_all_fail_no_more_than_the_share_is_left_out_and_all_are_asked() {
    let (one, two) = (failing().await, failing().await);
    let keys = "eject = { failures = 1, time = \"1m\", time_max = \"1m\", share = \"100%\" }";
    let edge = edge(&tables(&[one.address, two.address], keys, "")).await;
    assert!(
        asked(edge.address(), 8)
            .await
            .iter()
            .all(|&status| status == 500)
    );
    let up = |peer| {
        let name = of("edge_upstream_up", peer);
        let edge = &edge;
        async move { figure(edge, &name).await }
    };
    assert!(up(&one).await + up(&two).await > 0.5, "the last one stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_could_not_be_reached_is_back_as_soon_as_probes_say_so() {
    let good = named().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let keys = "health = { path = \"/health\", every = \"100ms\", timeout = \"100ms\", rise = 1, fall = 1 }\n\
                eject = { failures = 1, time = \"1m\", time_max = \"1m\" }";
    let edge = edge(&tables(&[address, good.address], keys, "")).await;
    assert!(
        asked(edge.address(), 6)
            .await
            .iter()
            .all(|&status| status == 200)
    );
    let up = format!("edge_upstream_up{{peer=\"{address}\",upstream=\"u\"}}");
    figure_becomes(&edge, &up, 0.0).await;
    let listener = tokio::net::TcpListener::bind(address).await.unwrap();
    let back = Upstream::serve_on(listener, |mut visit| async move {
        while visit.head().await.is_some() {
            visit.write(ok("", "back")).await;
        }
    });
    figure_becomes(&edge, &up, 1.0).await;
    until(|| async { get(edge.address(), "/").await.text() == "back" }).await;
    assert!(back.count() > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_closes_every_connection_is_not_asked_much_more_than_clients_ask() {
    let peers = [
        Upstream::saying_once("").await,
        Upstream::saying_once("").await,
        Upstream::saying_once("").await,
    ];
    let addresses: Vec<_> = peers.iter().map(|peer| peer.address).collect();
    let edge = edge(&tables(&addresses, "eject = \"off\"", "")).await;
    let statuses = asked(edge.address(), 100).await;
    assert!(statuses.iter().all(|&status| status == 502));
    let asked: usize = peers.iter().map(Upstream::count).sum();
    assert!(asked <= 100 + 100 / 5 + 10, "{asked}");
    let denied = "edge_upstream_retries_denied_total{upstream=\"u\"}";
    assert!(figure(&edge, denied).await > 0.5);
}

/// A peer whose answers wait until they are let go.
async fn gated() -> (Upstream, tokio::sync::watch::Sender<bool>) {
    let (gate, watch) = tokio::sync::watch::channel(false);
    let upstream = Upstream::serve(move |mut visit| {
        let mut watch = watch.clone();
        async move {
            while visit.head().await.is_some() {
                watch.wait_for(|open| *open).await.unwrap();
                visit.write(ok("", "a")).await;
            }
        }
    })
    .await;
    (upstream, gate)
}

#[tokio::test(flavor = "multi_thread")]
async fn more_requests_than_may_be_open_are_503_at_once() {
    let (peer, gate) = gated().await;
    let edge = edge(&tables(
        &[peer.address],
        "breaker = { max_requests = 1 }",
        "",
    ))
    .await;
    let mut first = Client::connect(edge.address()).await;
    first.send(request("GET /", &[])).await;
    until(|| async { peer.count() == 1 }).await;
    let busy = get(edge.address(), "/").await;
    assert_eq!(busy.refusal(), no(503, "upstream_busy"));
    assert_eq!(busy.header("retry-after"), Some("1"));
    gate.send_replace(true);
    assert_eq!(first.answer().await.status, 200);
    assert_eq!(get(edge.address(), "/").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_finds_no_connection_waits_and_who_goes_away_leaves_its_place() {
    let (peer, gate) = gated().await;
    let keys = "breaker = { max_connections = 1, max_pending = 1 }";
    let edge = edge(&tables(&[peer.address], keys, "timeout = \"5s\"")).await;
    let pending = "edge_upstream_pending{upstream=\"u\"}";
    let mut clients = Vec::new();
    for waits in [0.0, 1.0] {
        let mut client = Client::connect(edge.address()).await;
        client.send(request("GET /", &[])).await;
        until(|| async { peer.count() == 1 }).await;
        figure_becomes(&edge, pending, waits).await;
        clients.push(client);
    }
    assert_eq!(
        get(edge.address(), "/").await.refusal(),
        no(503, "upstream_busy")
    );
    // It goes, and another may wait in its place.
    drop(clients.pop());
    figure_becomes(&edge, pending, 0.0).await;
    let mut next = Client::connect(edge.address()).await;
    next.send(request("GET /", &[])).await;
    figure_becomes(&edge, pending, 1.0).await;
    gate.send_replace(true);
    assert_eq!(clients[0].answer().await.status, 200);
    assert_eq!(next.answer().await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_place_waits_no_longer_than_for_an_answer() {
    let (peer, _gate) = gated().await;
    let keys = "breaker = { max_connections = 1 }";
    let edge = edge(&tables(&[peer.address], keys, "timeout = \"300ms\"")).await;
    let mut first = Client::connect(edge.address()).await;
    first.send(request("GET /", &[])).await;
    until(|| async { peer.count() == 1 }).await;
    let second = get(edge.address(), "/").await;
    assert_eq!(second.refusal(), no(504, "response_timeout"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_fails_too_often_is_spared_and_tried_again() {
    let well = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let own = well.clone();
    let peer = Upstream::serve(move |mut visit| {
        let well = own.clone();
        async move {
            while visit.head().await.is_some() {
                let answer = match well.load(std::sync::atomic::Ordering::Relaxed) {
                    true => ok("", "a"),
                    false => "HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n".to_owned(),
                };
                visit.write(answer).await;
            }
        }
    })
    .await;
    let keys = "breaker = { errors = \"50%\", requests = 4, open = \"400ms\" }";
    let edge = edge(&tables(&[peer.address], keys, "")).await;
    assert_eq!(asked(edge.address(), 4).await, [500; 4]);
    let spared = get(edge.address(), "/").await;
    assert_eq!(spared.refusal(), no(503, "circuit_open"));
    assert_eq!(spared.header("retry-after"), Some("1"));
    assert_eq!(peer.count(), 4);
    figure_becomes(&edge, "edge_upstream_circuit{upstream=\"u\"}", 2.0).await;
    sleep(ms(450)).await;
    assert_eq!(asked(edge.address(), 2).await, [500, 503], "one finds out");
    well.store(true, std::sync::atomic::Ordering::Relaxed);
    sleep(ms(450)).await;
    assert_eq!(asked(edge.address(), 4).await, [200; 4]);
    figure_becomes(&edge, "edge_upstream_circuit{upstream=\"u\"}", 0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_finds_the_same_peer_by_every_way() {
    let mut peers = Vec::new();
    for _ in 0..5 {
        peers.push(named().await);
    }
    let addresses: Vec<_> = peers.iter().map(|peer| peer.address).collect();
    let keys = "balance = \"hash\"\nhash = \"cookie:sid\"";
    let mut seen = HashSet::new();
    let plain = edge(&tables(&addresses, keys, "")).await;
    let cached = edge(&tables(&addresses, keys, "cache = \"1h\"")).await;
    for number in 0..20 {
        let cookie = format!("Cookie: a=b; sid={number}; c=d");
        let mut own = HashSet::new();
        for edge in [&plain, &cached] {
            for asked in 0..3 {
                let mut client = Client::connect(edge.address()).await;
                let path = format!("GET /{number}/{asked}");
                own.insert(client.ask(&path, &[&cookie]).await.text());
            }
        }
        assert_eq!(own.len(), 1, "{own:?}");
        seen.extend(own);
    }
    assert!(seen.len() >= 4, "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_comes_back_to_the_same_peer() {
    let mut peers = Vec::new();
    for _ in 0..4 {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        peers.push(Upstream::serve_on(listener, |mut visit| async move {
            visit.head().await;
            let accept = "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";
            let switch =
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n";
            visit.write(format!("{switch}{accept}\r\n")).await;
            std::future::pending::<()>().await;
        }));
    }
    let addresses: Vec<_> = peers.iter().map(|peer| peer.address).collect();
    let keys = "balance = \"hash\"\nhash = \"header:X-User\"";
    let edge = edge(&tables(&addresses, keys, "websocket = true")).await;
    let fields = [
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ];
    for user in 0..5 {
        let before: Vec<_> = peers.iter().map(Upstream::count).collect();
        for _ in 0..4 {
            let own = format!("X-User: {user}");
            let fields: Vec<&str> = fields.iter().copied().chain([own.as_str()]).collect();
            let mut client = Client::connect(edge.address()).await;
            assert_eq!(client.ask("GET /", &fields).await.status, 101);
        }
        let counts = peers.iter().zip(before);
        let counts: Vec<_> = counts.map(|(peer, before)| peer.count() - before).collect();
        assert_eq!(
            counts.iter().filter(|&&count| count > 0).count(),
            1,
            "{counts:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_least_busy_peer_is_asked() {
    let (busy, gate) = gated().await;
    let idle = named().await;
    let keys = "balance = \"least_connections\"";
    let edge = edge(&tables(
        &[busy.address, idle.address],
        keys,
        "timeout = \"10s\"",
    ))
    .await;
    let mut waiting = Vec::new();
    while busy.count() == 0 {
        let mut client = Client::connect(edge.address()).await;
        client.send(request("GET /", &[])).await;
        waiting.push(client);
        sleep(ms(50)).await;
    }
    for _ in 0..10 {
        figure_becomes(&edge, &of("edge_upstream_open", &idle), 0.0).await;
        assert_eq!(
            get(edge.address(), "/").await.text(),
            idle.address.to_string()
        );
    }
    gate.send_replace(true);
}
