//! Clients that come through TLS.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use edge::config::{Certificate, Tls};
use edge::serve::Edge;
use futures_util::{SinkExt, StreamExt};
use rustls::{ClientConfig, HandshakeKind};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::Message;

use crate::http2_client::Http2;
use crate::identities::{Authority, connect};
use crate::support::{
    Client, Upstream, config, echo_server, edge_with, fields, figure_becomes, ms, ok, request,
    route_to, soon,
};

/// A gateway with these settings, in front of a peer that shows what it gets.
async fn gateway(tls: Tls) -> (Edge, Upstream) {
    let upstream = Upstream::mirror().await;
    let (edge, _) = edge_with(&route_to(upstream.address, ""), |config| {
        config.tls = Some(tls);
    })
    .await;
    (edge, upstream)
}

/// One request over HTTP/1.1, and the body of its answer.
pub(crate) async fn ask(stream: impl AsyncRead + AsyncWrite + Unpin, start: &str) -> String {
    let answer = whole_answer(stream, start).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    body.to_owned()
}

/// The same, and the whole answer, whatever it says.
pub(crate) async fn whole_answer(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    start: &str,
) -> String {
    let request = request(start, &["Connection: close"]);
    soon(stream.write_all(request.as_bytes())).await.unwrap();
    let mut answer = Vec::new();
    soon(stream.read_to_end(&mut answer)).await.unwrap();
    String::from_utf8(answer).unwrap()
}

/// The names in the certificate that this gateway shows under this name.
async fn shown(edge: &Edge, client: &Arc<ClientConfig>, name: &str) -> Vec<u8> {
    let stream = connect(edge, client, name).await.unwrap();
    leaf(&stream)
}

fn leaf(stream: &TlsStream<TcpStream>) -> Vec<u8> {
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

fn failed(reason: &str) -> String {
    format!("edge_tls_handshakes_failed_total{{reason=\"{reason}\"}}")
}

#[tokio::test(flavor = "multi_thread")]
async fn both_versions_are_spoken_as_the_client_likes() {
    let authority = Authority::new();
    let (edge, _upstream) = gateway(authority.tls()).await;
    for (offered, agreed) in [
        (&["h2", "http/1.1"][..], Some(&b"h2"[..])),
        (&["http/1.1"], Some(b"http/1.1")),
        (&[], None),
    ] {
        let client = Arc::new(authority.client(offered));
        let stream = connect(&edge, &client, "edge.test").await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), agreed);
        let head = match agreed {
            Some(b"h2") => Http2::on(stream).await.get("/").await.text(),
            _ => ask(stream, "GET /").await,
        };
        assert_eq!(fields(&head, "x-forwarded-proto"), ["https"]);
        assert_eq!(fields(&head, "x-forwarded-for"), ["127.0.0.1"]);
    }
    figure_becomes(&edge, "edge_tls_handshakes_total", 3.0).await;
    // The other listener is as it was.
    let clear = Client::connect(edge.address()).await.get("/").await;
    assert_eq!(fields(&clear.text(), "x-forwarded-proto"), ["http"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_http_2_is_off_it_is_not_offered() {
    let authority = Authority::new();
    let upstream = Upstream::mirror().await;
    let (edge, _log) = edge_with(&route_to(upstream.address, ""), |config| {
        config.tls = Some(authority.tls());
        config.server.http2 = false;
    })
    .await;
    let client = Arc::new(authority.client(&["h2", "http/1.1"]));
    let stream = connect(&edge, &client, "edge.test").await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    let only = Arc::new(authority.client(&["h2"]));
    assert!(connect(&edge, &only, "edge.test").await.is_err());
    figure_becomes(&edge, &failed("incompatible"), 1.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_name_chooses_the_certificate() {
    let authority = Authority::new();
    let certificates = vec![
        authority.certify("default", &["edge.test", "fallback.test"]),
        authority.certify("api", &["api.example.com"]),
        authority.certify("all", &["*.example.com", "example.com"]),
    ];
    let der = |one: &Certificate| pem(&fs::read(&one.cert).unwrap());
    let [default, api, all] = [0, 1, 2].map(|place| der(&certificates[place]));
    let (edge, _upstream) = gateway(authority.tls_of(certificates)).await;
    let client = Arc::new(authority.client(&[]));
    for (name, certificate) in [
        ("edge.test", &default),
        ("api.example.com", &api),
        ("API.example.com", &api),
        ("www.example.com", &all),
        ("example.com", &all),
    ] {
        assert!(shown(&edge, &client, name).await == *certificate, "{name}");
    }
    // One label, not two; and a name that nobody knows: the first one, which is none of these.
    for name in ["a.b.example.com", "unknown.test"] {
        let error = connect(&edge, &client, name).await.unwrap_err();
        assert!(error.to_string().contains("certificate"), "{error}");
    }
    figure_becomes(&edge, &failed("alert"), 2.0).await;
}

fn pem(text: &[u8]) -> Vec<u8> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    CertificateDer::from_pem_slice(text).unwrap().to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_tls_1_1_is_refused() {
    let authority = Authority::new();
    let (edge, _upstream) = gateway(authority.tls()).await;
    let mut client = Client::connect(edge.tls_address().unwrap()).await;
    // A ClientHello of TLS 1.1 with one cipher suite.
    let mut hello = vec![3, 2];
    hello.extend_from_slice(&[7; 32]);
    hello.extend_from_slice(&[0, 0, 2, 0x00, 0x2f, 1, 0]);
    let mut message = vec![1, 0, 0, u8::try_from(hello.len()).unwrap()];
    message.extend_from_slice(&hello);
    let mut record = vec![22, 3, 1, 0, u8::try_from(message.len()).unwrap()];
    record.extend_from_slice(&message);
    client.send(record).await;
    let alert = client.rest().await;
    // An alert, fatal: no version that both speak, or nothing else that both could.
    assert_eq!((alert[0], alert[5]), (21, 2), "{alert:?}");
    assert!([70, 40].contains(&alert[6]), "{alert:?}");
    figure_becomes(&edge, &failed("incompatible"), 1.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_tls_or_comes_too_late_is_closed_and_counted() {
    let authority = Authority::new();
    let upstream = Upstream::mirror().await;
    let (edge, _log) = edge_with(&route_to(upstream.address, ""), |config| {
        config.tls = Some(authority.tls());
        config.timeout.head = ms(400);
    })
    .await;
    let to = edge.tls_address().unwrap();
    let mut client = Client::connect(to).await;
    client.send(request("GET /", &[])).await;
    client.rest().await;
    figure_becomes(&edge, &failed("not_tls"), 1.0).await;
    for begin in [&b""[..], &[22, 3, 1]] {
        let began = Instant::now();
        let mut client = Client::connect(to).await;
        client.send(begin).await;
        client.rest().await;
        let took = began.elapsed();
        assert!(took >= ms(390) && took < ms(1_600), "{took:?}");
    }
    figure_becomes(&edge, &failed("timeout"), 2.0).await;
    // Whoever has shaken hands must say something, too.
    let client = Arc::new(authority.client(&[]));
    let mut stream = connect(&edge, &client, "edge.test").await.unwrap();
    let began = Instant::now();
    let mut rest = Vec::new();
    let _ = soon(stream.read_to_end(&mut rest)).await;
    assert!(began.elapsed() < ms(1_600), "{:?}", began.elapsed());
    figure_becomes(&edge, "edge_connections", 0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_must_prove_itself_where_that_is_required() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    for required in [true, false] {
        let tls = Tls {
            client_ca: Some(authority.path()),
            client_required: required,
            ..authority.tls()
        };
        let (edge, upstream) = gateway(tls).await;
        let known = authority.known_client(&authority, &[]);
        let false_one = authority.known_client(&stranger, &[]);
        for (client, welcome) in [
            (known, true),
            (authority.client(&[]), !required),
            (false_one, false),
        ] {
            let before = upstream.count();
            // With TLS 1.3 the client learns only later what became of its certificate.
            let said = async {
                let stream = connect(&edge, &Arc::new(client), "edge.test").await;
                let mut stream = stream.ok()?;
                let request = request("GET /", &["Connection: close"]);
                stream.write_all(request.as_bytes()).await.ok()?;
                let mut answer = String::new();
                stream.read_to_string(&mut answer).await.ok()?;
                answer.starts_with("HTTP/1.1 200").then_some(())
            };
            assert_eq!(soon(said).await.is_some(), welcome, "required: {required}");
            assert_eq!(upstream.count() > before, welcome);
        }
        let refused = if required { 2.0 } else { 1.0 };
        figure_becomes(&edge, &failed("client_certificate"), refused).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_resumed() {
    let authority = Authority::new();
    let (edge, _upstream) = gateway(authority.tls()).await;
    let client = Arc::new(authority.client(&[]));
    let mut kinds = Vec::new();
    for _ in 0..2 {
        let mut stream = connect(&edge, &client, "edge.test").await.unwrap();
        kinds.push(stream.get_ref().1.handshake_kind().unwrap());
        ask(&mut stream, "GET /").await;
    }
    assert_eq!(kinds, [HandshakeKind::Full, HandshakeKind::Resumed]);
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_change_under_load_and_nobody_fails() {
    let authority = Authority::new();
    let tls = authority.tls();
    let tables = route_to(Upstream::mirror().await.address, "");
    let (edge, _log) = edge_with(&tables, |config| config.tls = Some(tls.clone())).await;
    let edge = Arc::new(edge);
    let (done, count) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let mut clients = Vec::new();
    for _ in 0..4 {
        let (edge, done, count) = (edge.clone(), done.clone(), count.clone());
        let config = Arc::new(authority.client(&["h2"]));
        clients.push(tokio::spawn(async move {
            while !done.load(Ordering::SeqCst) {
                let stream = connect(&edge, &config, "edge.test")
                    .await
                    .expect("a handshake failed");
                assert_eq!(Http2::on(stream).await.get("/").await.status, 200);
                count.fetch_add(1, Ordering::SeqCst);
            }
        }));
    }
    let client = Arc::new(authority.client(&[]));
    let mut last = shown(&edge, &client, "edge.test").await;
    for _ in 0..10 {
        authority.certify("edge", &["edge.test"]);
        let mut again = config(&tables);
        again.tls = Some(tls.clone());
        edge.reload(again).await;
        let now = shown(&edge, &client, "edge.test").await;
        assert!(now != last, "it is still the old one");
        last = now;
        tokio::time::sleep(ms(50)).await;
    }
    // One that is faulty changes nothing.
    fs::write(&tls.certificates[0].key, "nothing").unwrap();
    let mut again = config(&tables);
    again.tls = Some(tls);
    edge.reload(again).await;
    assert!(shown(&edge, &client, "edge.test").await == last);
    done.store(true, Ordering::SeqCst);
    for client in clients {
        client.await.unwrap();
    }
    assert!(count.load(Ordering::SeqCst) > 20, "{count:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_at_fault_at_the_start_is_told() {
    let authority = Authority::new();
    let mut tls = authority.tls();
    tls.certificates[0].key = authority.certify("other", &["other.test"]).key;
    let mut config = config(&route_to(crate::support::nobody().await, ""));
    config.tls = Some(tls);
    let error = Edge::start(config, None).await.err().unwrap().to_string();
    assert!(
        error.ends_with("edge.crt: the key belongs to another certificate"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_passes() {
    let authority = Authority::new();
    let echo = echo_server().await;
    let (edge, _log) = edge_with(&route_to(echo, "websocket = true"), |config| {
        config.tls = Some(authority.tls());
    })
    .await;
    let client = Arc::new(authority.client(&["http/1.1"]));
    let stream = connect(&edge, &client, "edge.test").await.unwrap();
    let opening = tokio_tungstenite::client_async("wss://edge.test/ws", stream);
    let (mut socket, _) = soon(opening).await.unwrap();
    let long = "x".repeat(100_000);
    for text in ["hello", &long] {
        socket.send(Message::text(text)).await.unwrap();
        let back = loop {
            match soon(socket.next()).await.unwrap().unwrap() {
                Message::Text(back) if back.contains(text) => break back,
                _ => {}
            }
        };
        assert!(back.len() >= text.len());
    }
    socket.close(None).await.unwrap();
    while let Some(Ok(_)) = soon(socket.next()).await {}
    drop(socket);
    figure_becomes(&edge, "edge_connections", 0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn at_the_end_both_listeners_close_and_what_is_open_finishes() {
    let authority = Authority::new();
    let upstream = Upstream::serve(|mut visit| async move {
        visit.head().await;
        tokio::time::sleep(ms(500)).await;
        visit.write(ok("", "finished")).await;
    })
    .await;
    let (edge, _log) = edge_with(&route_to(upstream.address, ""), |config| {
        config.tls = Some(authority.tls());
        config.server.drain_delay = Duration::ZERO;
    })
    .await;
    let to = edge.tls_address().unwrap();
    let client = Arc::new(authority.client(&[]));
    let idle = connect(&edge, &client, "edge.test").await.unwrap();
    let silent = TcpStream::connect(to).await.unwrap();
    let open = connect(&edge, &client, "edge.test").await.unwrap();
    let asking = tokio::spawn(ask(open, "GET /"));
    crate::support::until(|| async { upstream.count() == 1 }).await;
    let began = Instant::now();
    soon(edge.end(false)).await;
    assert_eq!(asking.await.unwrap(), "finished");
    assert!(began.elapsed() < ms(4_000), "{:?}", began.elapsed());
    assert!(TcpStream::connect(to).await.is_err());
    drop((idle, silent));
}
