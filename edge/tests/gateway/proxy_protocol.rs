//! Clients behind a proxy that says who they are before they say anything (PROXY protocol).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use edge::config::Config;
use edge::serve::Edge;
use ipnet::IpNet;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::http2_client::Http2;
use crate::identities::{Authority, secure};
use crate::support::{
    Client, Log, Upstream, edge_with, fields, figure, figure_becomes, ms, no, request, route_to,
};

const V1: &[u8] = b"PROXY TCP4 198.51.100.7 203.0.113.1 4711 443\r\n";

/// Version 2 (binary) for this client.
fn v2(client: SocketAddr) -> Vec<u8> {
    let IpAddr::V4(address) = client.ip() else {
        panic!("only IPv4 here");
    };
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    header.extend_from_slice(&address.octets());
    header.extend_from_slice(&Ipv4Addr::new(203, 0, 113, 1).octets());
    header.extend_from_slice(&client.port().to_be_bytes());
    header.extend_from_slice(&443_u16.to_be_bytes());
    header
}

/// Whoever connects from 127.0.0.1 says for whom.
fn announced(config: &mut Config) {
    let network: IpNet = "127.0.0.1/32".parse().unwrap();
    config.server.proxy_protocol = vec![network];
}

async fn behind_a_proxy(keys: &str) -> (Edge, Log, Upstream) {
    let upstream = Upstream::mirror().await;
    let (edge, log) = edge_with(&route_to(upstream.address, keys), announced).await;
    (edge, log, upstream)
}

/// Asks after this header; what the peer has got.
async fn seen_after(edge: &Edge, header: &[u8]) -> String {
    let mut client = Client::connect(edge.address()).await;
    client
        .send([header, request("GET /", &[]).as_bytes()].concat())
        .await;
    let first = client.answer().await;
    assert_eq!(first.status, 200);
    // It is said once, for all requests.
    assert_eq!(client.get("/again").await.status, 200);
    first.text()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_is_who_the_proxy_names() {
    let (edge, log, _upstream) = behind_a_proxy("").await;
    let v2 = v2("198.51.100.8:4711".parse().unwrap());
    for (header, client) in [(V1, "198.51.100.7"), (&v2[..], "198.51.100.8")] {
        let head = seen_after(&edge, header).await;
        assert_eq!(fields(&head, "x-forwarded-for"), [client]);
    }
    let lines = log.lines(4).await;
    let mut clients: Vec<_> = lines
        .iter()
        .map(|line| line["client"].as_str().unwrap())
        .collect();
    // Two connections: the lines of one may come between those of the other.
    clients.sort_unstable();
    assert_eq!(
        clients,
        [
            "198.51.100.7",
            "198.51.100.7",
            "198.51.100.8",
            "198.51.100.8"
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_speaks_for_itself_is_the_client() {
    let (edge, _, _upstream) = behind_a_proxy("").await;
    for header in [&b"PROXY UNKNOWN\r\n"[..], b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"] {
        let head = seen_after(&edge, header).await;
        assert_eq!(fields(&head, "x-forwarded-for"), ["127.0.0.1"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_counts_the_client_and_not_the_proxy() {
    let (edge, _, _upstream) = behind_a_proxy("limit = { per_client = \"1/h\", burst = 1 }").await;
    for (port, status) in [(1, 200), (2, 429)] {
        let mut client = Client::connect(edge.address()).await;
        client
            .send(v2(SocketAddr::from(([198, 51, 100, 1], port))))
            .await;
        assert_eq!(client.get("/").await.status, status);
    }
    let mut other = Client::connect(edge.address()).await;
    other
        .send(v2(SocketAddr::from(([198, 51, 100, 2], 1))))
        .await;
    assert_eq!(other.get("/").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_may_come_in_pieces() {
    let (edge, _, _upstream) = behind_a_proxy("").await;
    for header in [V1.to_vec(), v2("198.51.100.7:1".parse().unwrap())] {
        let mut client = Client::connect(edge.address()).await;
        for byte in header {
            client.send([byte]).await;
            sleep(ms(1)).await;
        }
        let head = client.get("/").await.text();
        assert_eq!(fields(&head, "x-forwarded-for"), ["198.51.100.7"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn http_2_and_tls_come_after_it() {
    let authority = Authority::new();
    let upstream = Upstream::mirror().await;
    let (edge, _log) = edge_with(&route_to(upstream.address, ""), |config| {
        announced(config);
        config.tls = Some(authority.tls());
    })
    .await;
    let mut stream = TcpStream::connect(edge.address()).await.unwrap();
    stream.write_all(V1).await.unwrap();
    let head = Http2::on(stream).await.get("/").await.text();
    assert_eq!(fields(&head, "x-forwarded-for"), ["198.51.100.7"]);

    for protocols in [&["h2"][..], &[]] {
        let mut stream = TcpStream::connect(edge.tls_address().unwrap())
            .await
            .unwrap();
        stream.write_all(V1).await.unwrap();
        let config = Arc::new(authority.client(protocols));
        let stream = secure(stream, &config, "edge.test").await.unwrap();
        let head = match protocols {
            [] => crate::tls::ask(stream, "GET /").await,
            _ => Http2::on(stream).await.get("/").await.text(),
        };
        assert_eq!(fields(&head, "x-forwarded-for"), ["198.51.100.7"]);
        assert_eq!(fields(&head, "x-forwarded-proto"), ["https"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_must_say_and_does_not_is_closed_and_counted() {
    let (edge, _, upstream) = behind_a_proxy("").await;
    let wrong = [
        request("GET /", &[]).into_bytes(),
        b"PROXY TCP4 nobody 203.0.113.1 4711 443\r\n".to_vec(),
        [b"PROXY ", &[b'x'; 600][..]].concat(),
        // A length of 65,535.
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff".to_vec(),
        b"\x16\x03\x01\x02\0\x01".to_vec(),
    ];
    for bytes in &wrong {
        let mut client = Client::connect(edge.address()).await;
        client.send(bytes).await;
        assert_eq!(client.rest().await, b"");
    }
    let counted = "edge_malformed_total{reason=\"bad_proxy_header\"}";
    figure_becomes(&edge, counted, 5.0).await;
    assert_eq!(upstream.count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_else_may_say_so() {
    let (edge, _, upstream) = behind_a_proxy("").await;
    for header in [V1.to_vec(), v2("198.51.100.7:1".parse().unwrap())] {
        let mut client = Client::from("127.0.0.2", edge.address()).await;
        client
            .send([header, request("GET /", &[]).into_bytes()].concat())
            .await;
        assert_eq!(client.answer().await.refusal(), no(400, "bad_request"));
    }
    let mut client = Client::from("127.0.0.2", edge.address()).await;
    assert_eq!(client.get("/").await.status, 200);
    assert_eq!(upstream.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_header_is_let_go_in_time() {
    let upstream = Upstream::mirror().await;
    let (edge, _log) = edge_with(&route_to(upstream.address, ""), |config| {
        announced(config);
        config.timeout.head = ms(400);
    })
    .await;
    for half in [&b""[..], b"PROXY TCP4 198."] {
        let began = Instant::now();
        let mut client = Client::connect(edge.address()).await;
        client.send(half).await;
        assert_eq!(client.rest().await, b"");
        let took = began.elapsed();
        assert!(took >= ms(390) && took < ms(1_600), "{took:?}");
    }
    figure_becomes(&edge, "edge_connections", 0.0).await;
    let counted = "edge_malformed_total{reason=\"bad_proxy_header\"}";
    assert!((figure(&edge, counted).await - 1.0).abs() < f64::EPSILON);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_decides_for_those_who_come_after_it() {
    let upstream = Upstream::mirror().await;
    let tables = route_to(upstream.address, "");
    let (edge, _log) = edge_with(&tables, |_| ()).await;
    let mut before = Client::connect(edge.address()).await;
    assert_eq!(before.get("/").await.status, 200);
    let mut config = crate::support::config(&tables);
    announced(&mut config);
    edge.reload(config).await;
    assert_eq!(before.get("/").await.status, 200);
    seen_after(&edge, V1).await;
}
