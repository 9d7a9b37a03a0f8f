//! Peers that are names: who comes, who goes, and what nobody notices.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::dns::Dns;
use crate::support::{Client, Upstream, edge, figure, figure_becomes, get, ms, no, ok, until};
use tokio::net::TcpListener;
use tokio::time::sleep;

/// Peers at 127.0.0.2 and further, all on one port; each answers with its own address.
async fn peers(count: u8) -> Vec<Upstream> {
    'ports: loop {
        let mut listeners = vec![TcpListener::bind("127.0.0.2:0").await.unwrap()];
        let port = listeners[0].local_addr().unwrap().port();
        for last in 3..2 + count {
            match TcpListener::bind((Ipv4Addr::new(127, 0, 0, last), port)).await {
                Ok(listener) => listeners.push(listener),
                Err(_) => continue 'ports,
            }
        }
        let serve = |listener: TcpListener| {
            let own = listener.local_addr().unwrap().to_string();
            Upstream::serve_on(listener, move |mut visit| {
                let own = own.clone();
                async move {
                    while let Some(head) = visit.head().await {
                        if head.starts_with("GET /slow") {
                            sleep(ms(1_500)).await;
                        }
                        visit.write(ok("", &own)).await;
                    }
                }
            })
        };
        return listeners.into_iter().map(serve).collect();
    }
}

fn tables(dns: &Dns, port: u16, more: &str) -> String {
    format!(
        "[dns]\nservers = [\"{}\"]\nttl_min = \"100ms\"\nttl_max = \"100ms\"\n\
         [upstream.u]\npeers = [\"users.test:{port}\"]\n{more}\n\
         [[route]]\npath = \"/*\"\nupstream = \"u\"\n",
        dns.address()
    )
}

/// The name stands for these.
fn publish(dns: &Dns, peers: &[Upstream]) {
    let addresses: Vec<_> = peers
        .iter()
        .map(|peer| peer.address.ip().to_string())
        .collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    dns.set("users.test", 1, &addresses);
}

/// How often each peer answers.
async fn counts(to: SocketAddr, requests: usize) -> HashMap<String, usize> {
    let mut client = Client::connect(to).await;
    let mut counts = HashMap::new();
    for _ in 0..requests {
        let answer = client.get("/").await;
        assert_eq!(answer.status, 200, "{}", answer.head);
        *counts.entry(answer.text()).or_default() += 1;
    }
    counts
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_gets_an_even_part_who_goes_none_and_no_request_fails() {
    let peers = peers(5).await;
    let dns = Dns::start().await;
    publish(&dns, &peers[..1]);
    let edge = edge(&tables(&dns, peers[0].address.port(), "")).await;
    let to = edge.address();
    let ends = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..3)
        .map(|_| {
            let ends = ends.clone();
            tokio::spawn(async move {
                let mut client = Client::connect(to).await;
                let mut asked = 0;
                while !ends.load(Ordering::Relaxed) {
                    assert_eq!(client.get("/").await.status, 200);
                    asked += 1;
                }
                asked
            })
        })
        .collect();
    for now in [1, 5, 2] {
        publish(&dns, &peers[..now]);
        figure_becomes(&edge, "edge_upstream_peers{upstream=\"u\"}", now as f64).await;
        let before: Vec<_> = peers.iter().map(Upstream::count).collect();
        let parts = || {
            let counts = peers.iter().zip(&before);
            counts
                .map(|(peer, before)| peer.count() - before)
                .collect::<Vec<_>>()
        };
        until(|| async { parts().iter().sum::<usize>() >= 1_000 }).await;
        let parts = parts();
        let even = parts.iter().sum::<usize>() / now;
        let is_even = |part: &usize| part.abs_diff(even) <= even / 10;
        assert!(parts[..now].iter().all(is_even), "{parts:?}");
        // One that was chosen before the change may still be on its way.
        assert!(parts[now..].iter().sum::<usize>() <= 3, "{parts:?}");
    }
    ends.store(true, Ordering::Relaxed);
    for client in clients {
        assert!(client.await.unwrap() > 100, "no request failed");
    }
    let gone = format!(
        "edge_upstream_up{{peer=\"{}\",upstream=\"u\"}}",
        peers[4].address
    );
    let left = crate::support::figures(&edge).await;
    assert!(!left.contains(&gone), "who has gone leaves no figure");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_goes_finishes_what_it_has() {
    let peers = peers(2).await;
    let dns = Dns::start().await;
    publish(&dns, &peers[..1]);
    let edge = edge(&tables(&dns, peers[0].address.port(), "")).await;
    let to = edge.address();
    let slow = tokio::spawn(async move { get(to, "/slow").await });
    until(|| async { peers[0].count() == 1 }).await;
    publish(&dns, &peers[1..]);
    let other = peers[1].address.to_string();
    until(|| async { get(to, "/").await.text() == other }).await;
    assert!(!slow.is_finished());
    assert_eq!(slow.await.unwrap().text(), peers[0].address.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_up_that_fails_keeps_who_was_there_and_is_counted() {
    let peers = peers(2).await;
    let dns = Dns::start().await;
    publish(&dns, &peers);
    let edge = edge(&tables(&dns, peers[0].address.port(), "")).await;
    dns.remove("users.test");
    let failed = "edge_upstream_lookups_failed_total{upstream=\"u\"}";
    until(|| async { figure(&edge, failed).await >= 2.0 }).await;
    assert_eq!(counts(edge.address(), 20).await.len(), 2);
    publish(&dns, &peers[..1]);
    figure_becomes(&edge, "edge_upstream_peers{upstream=\"u\"}", 1.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_nobody_knows_is_unresolved_until_somebody_does() {
    let peers = peers(1).await;
    let dns = Dns::start().await;
    let edge = edge(&tables(&dns, peers[0].address.port(), "")).await;
    let answer = get(edge.address(), "/").await;
    assert_eq!(answer.refusal(), no(503, "unresolved"));
    assert_eq!(answer.header("retry-after"), Some("1"));
    publish(&dns, &peers);
    until(|| async { get(edge.address(), "/").await.status == 200 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_services_weights_are_the_peers_parts() {
    let peers = peers(2).await;
    let port = peers[0].address.port();
    let dns = Dns::start().await;
    let tables = format!(
        "[dns]\nservers = [\"{}\"]\nttl_min = \"100ms\"\nttl_max = \"100ms\"\n\
         [upstream.u]\npeers = [\"_http._tcp.users.test\"]\nresolve = \"srv\"\n\
         [[route]]\npath = \"/*\"\nupstream = \"u\"\n",
        dns.address()
    );
    dns.set("one.test", 1, &["127.0.0.2"]);
    dns.set("two.test", 1, &["127.0.0.3"]);
    let service = "_http._tcp.users.test";
    for (weights, parts) in [((1, 3), [100, 300]), ((3, 1), [300, 100])] {
        let targets = [
            (1, weights.0, port, "one.test"),
            (1, weights.1, port, "two.test"),
        ];
        dns.set_service(service, 1, &targets);
        let edge = edge(&tables).await;
        let counts = counts(edge.address(), 400).await;
        for (peer, part) in peers.iter().zip(parts) {
            let own: usize = counts[&peer.address.to_string()];
            assert!(own.abs_diff(part) <= 2, "{counts:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_stays_with_a_peer_that_has_gone() {
    use futures_util::{SinkExt, StreamExt};
    use tokio_tungstenite::tungstenite::Message;

    let echo = crate::support::echo_server().await;
    let dns = Dns::start().await;
    dns.set("users.test", 1, &["127.0.0.1"]);
    let tables = tables(&dns, echo.port(), "") + "websocket = true\n";
    let edge = edge(&tables).await;
    let stream = Client::connect(edge.address()).await.into_stream();
    let opening = tokio_tungstenite::client_async("ws://edge.test/ws", stream);
    let mut socket = crate::support::soon(opening).await.unwrap().0;
    dns.set("users.test", 1, &["127.0.0.9"]);
    until(|| async { get(edge.address(), "/").await.status == 502 }).await;
    for number in 0..3 {
        let said = Message::text(format!("{number}"));
        socket.send(said.clone()).await.unwrap();
        let heard = crate::support::soon(socket.next()).await.unwrap().unwrap();
        assert_eq!(heard, said);
    }
}
