//! Upgrades: none is lost, nothing is lost, and nobody gets one who may not.

use std::time::Instant;

use crate::frames::{
    BINARY, CLOSE, End, HANDSHAKE, KEY, OPEN, Relay, SWITCHED, TEXT, frame, masked, why,
};
use crate::support::{
    Client, Upstream, echo_server, edge, fields, figure_becomes, ms, no, nobody, request, route_to,
    soon,
};
use edge::serve::Edge;
use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio::time::sleep;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

/// For tests that send more than one client should.
const MANY: &str = "websocket = { messages_per_client = \"off\", per_client = \"off\" }";

/// An upstream that accepts every upgrade at once, says `early`, and sends each frame back.
async fn switching(early: &'static str) -> Upstream {
    Upstream::serve(move |mut visit| async move {
        visit.head().await;
        let early = match early {
            "" => Vec::new(),
            early => frame(TEXT, early),
        };
        visit.write([SWITCHED.as_bytes(), &early].concat()).await;
        visit.echo_frames().await;
    })
    .await
}

async fn websocket(edge: &Edge) -> WebSocketStream<TcpStream> {
    let stream = Client::connect(edge.address()).await.into_stream();
    let opening = tokio_tungstenite::client_async("ws://edge.test/ws", stream);
    soon(opening).await.unwrap().0
}

/// A connection that was upgraded, byte by byte.
async fn upgraded(edge: &Edge) -> Client {
    let mut client = Client::connect(edge.address()).await;
    let answer = client.ask("GET /ws", &HANDSHAKE).await;
    assert_eq!(answer.status, 101, "{}", answer.head);
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn text_and_binary_come_back() {
    let edge = edge(&route_to(echo_server().await, OPEN)).await;
    let mut socket = websocket(&edge).await;
    for message in [
        Message::text("hello"),
        Message::binary(vec![0, 255, 1]),
        Message::text("x".repeat(100_000)),
        Message::binary(vec![7; 1_000_000]),
    ] {
        socket.send(message.clone()).await.unwrap();
        assert!(soon(socket.next()).await.unwrap().unwrap() == message);
    }
    socket.close(None).await.unwrap();
    while let Some(Ok(_)) = soon(socket.next()).await {}
    drop(socket);
    figure_becomes(&edge, "edge_websockets{route=\"/*\"}", 0.0).await;
    figure_becomes(&edge, "edge_websockets_opened_total{route=\"/*\"}", 1.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_messages_come_back_in_their_order() {
    let edge = edge(&route_to(echo_server().await, MANY)).await;
    let (mut to, mut from) = websocket(&edge).await.split();
    let sending = tokio::spawn(async move {
        for number in 0..2_000 {
            to.send(Message::text(number.to_string())).await.unwrap();
        }
        to
    });
    for number in 0..2_000 {
        let message = soon(from.next()).await.unwrap().unwrap();
        assert_eq!(message, Message::text(number.to_string()));
    }
    soon(sending).await.unwrap().close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_close_passes_with_its_code() {
    use tokio_tungstenite::tungstenite::protocol::{CloseFrame, frame::coding::CloseCode};
    let edge = edge(&route_to(echo_server().await, OPEN)).await;
    let mut socket = websocket(&edge).await;
    let bye = CloseFrame {
        code: CloseCode::Normal,
        reason: "done".into(),
    };
    socket.close(Some(bye)).await.unwrap();
    let Some(Ok(Message::Close(Some(answer)))) = soon(socket.next()).await else {
        panic!("no close came back");
    };
    assert_eq!(answer.code, CloseCode::Normal);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_peer_says_together_with_its_101_arrives() {
    let upstream = switching("early").await;
    let edge = edge(&route_to(upstream.address, OPEN)).await;
    for _ in 0..20 {
        let mut client = upgraded(&edge).await;
        client.hears(TEXT, "early").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_client_says_right_behind_its_handshake_arrives() {
    let upstream = switching("").await;
    let edge = edge(&route_to(upstream.address, OPEN)).await;
    for _ in 0..20 {
        let mut client = Client::connect(edge.address()).await;
        let handshake = request("GET /ws", &HANDSHAKE).into_bytes();
        client
            .send([handshake, masked(TEXT, "eager")].concat())
            .await;
        assert_eq!(client.answer().await.status, 101);
        client.say_frame(TEXT, "and more").await;
        client.hears(TEXT, "eager").await;
        client.hears(TEXT, "and more").await;
    }
}

/// More than any buffer of edge's, each frame with its number.
fn much(make: fn(u8, Vec<u8>) -> Vec<u8>) -> Vec<u8> {
    let frames = (0..200_u8).map(|number| make(BINARY, vec![number; 1_500]));
    frames.collect::<Vec<_>>().concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn much_right_behind_the_handshake_and_the_101_arrives() {
    let outward = much(frame);
    let said = [SWITCHED.as_bytes(), &outward].concat();
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let inward = much(masked);
    let length = inward.len();
    let upstream = Upstream::serve(move |mut visit| {
        let (said, tell) = (said.clone(), tell.clone());
        async move {
            visit.head().await;
            visit.write(said).await;
            let _ = tell.send(visit.take(length).await.unwrap());
        }
    })
    .await;
    let edge = edge(&route_to(upstream.address, MANY)).await;
    let mut client = Client::connect(edge.address()).await;
    let handshake = request("GET /ws", &HANDSHAKE).into_bytes();
    client.send([&handshake, &inward[..]].concat()).await;
    assert_eq!(client.answer().await.status, 101);
    assert!(client.take(outward.len()).await.unwrap() == outward);
    assert!(soon(told.recv()).await.unwrap() == inward);
    client.is_told(1011, "upstream_closed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_client_says_before_the_101_has_come_arrives() {
    let upstream = Upstream::serve(|mut visit| async move {
        visit.head().await;
        sleep(ms(200)).await;
        visit.write(SWITCHED).await;
        visit.echo_frames().await;
    })
    .await;
    let edge = edge(&route_to(upstream.address, OPEN)).await;
    let mut client = Client::connect(edge.address()).await;
    client.send(request("GET /ws", &HANDSHAKE)).await;
    sleep(ms(50)).await;
    client.say_frame(TEXT, "eager").await;
    assert_eq!(client.answer().await.status, 101);
    client.hears(TEXT, "eager").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_handshake_passes_whole_with_the_ways_marks() {
    let upstream = switching("").await;
    let edge = edge(&route_to(upstream.address, OPEN)).await;
    let mut client = Client::connect(edge.address()).await;
    let mut fields = HANDSHAKE.to_vec();
    fields.extend([
        "Sec-WebSocket-Protocol: chat, v2",
        "Cookie: a=b",
        "X-Forwarded-For: 1.2.3.4",
    ]);
    let answer = client.ask("GET /ws?room=1", &fields).await;
    assert_eq!(
        answer.header("sec-websocket-accept"),
        Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
    );
    assert_eq!(answer.header("upgrade"), Some("websocket"));
    assert!(
        answer
            .header("connection")
            .unwrap()
            .eq_ignore_ascii_case("upgrade")
    );
    let head = &upstream.heads()[0];
    assert!(head.starts_with("GET /ws?room=1 HTTP/1.1\r\n"), "{head}");
    for (name, value) in [
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("sec-websocket-version", "13"),
        ("sec-websocket-protocol", "chat, v2"),
        ("cookie", "a=b"),
        ("x-forwarded-for", "1.2.3.4, 127.0.0.1"),
        ("upgrade", "websocket"),
        ("connection", "Upgrade"),
        ("x-request-id", answer.header("x-request-id").unwrap()),
        ("via", "1.1 edge"),
    ] {
        assert_eq!(crate::support::fields(head, name), [value], "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn three_hundred_upgrades_and_none_is_lost() {
    let upstream = switching("early").await;
    let edge = edge(&route_to(upstream.address, MANY)).await;
    for number in 0..300 {
        let mut client = upgraded(&edge).await;
        let number = format!("number {number}");
        client.say_frame(TEXT, &number).await;
        client.hears(TEXT, "early").await;
        client.hears(TEXT, &number).await;
    }
    figure_becomes(&edge, "edge_websockets_opened_total{route=\"/*\"}", 300.0).await;
    figure_becomes(&edge, "edge_websockets{route=\"/*\"}", 0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_stays_open_beyond_the_deadline_of_answers() {
    let keys = "websocket = true\ntimeout = \"300ms\"";
    let edge = edge(&route_to(echo_server().await, keys)).await;
    let mut socket = websocket(&edge).await;
    for _ in 0..3 {
        sleep(ms(400)).await;
        socket.send(Message::text("still here")).await.unwrap();
        let answer = soon(socket.next()).await.unwrap().unwrap();
        assert_eq!(answer, Message::text("still here"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_other_than_101_passes_through() {
    let refused = "HTTP/1.1 403 Forbidden\r\nX-Why: x\r\nContent-Length: 9\r\n\r\nnot today";
    let upstream = Upstream::saying(refused).await;
    let edge = edge(&route_to(upstream.address, OPEN)).await;
    let mut client = Client::connect(edge.address()).await;
    let answer = client.ask("GET /ws", &HANDSHAKE).await;
    assert_eq!((answer.status, answer.text().as_str()), (403, "not today"));
    assert_eq!(answer.header("x-why"), Some("x"));
    assert!(answer.header("x-request-id").is_some() && answer.header("via").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunked_refusal_of_the_peer_passes_whole_and_a_cut_one_looks_cut() {
    let whole =
        "HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nnot today\r\n0\r\n\r\n";
    let cut = "HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nnot today\r\n";
    let short = "HTTP/1.1 403 Forbidden\r\nContent-Length: 20\r\n\r\nnot today";
    for (said, complete) in [(whole, true), (cut, false), (short, false)] {
        let upstream = Upstream::saying_once(said).await;
        let edge = edge(&route_to(upstream.address, OPEN)).await;
        let mut client = Client::connect(edge.address()).await;
        let answer = client.ask("GET /ws", &HANDSHAKE).await;
        assert_eq!(
            (answer.status, answer.complete),
            (403, complete),
            "{said:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_route_without_websockets_it_is_refused_and_the_connection_stays() {
    let upstream = switching("").await;
    let edge = edge(&route_to(upstream.address, "")).await;
    let mut client = Client::connect(edge.address()).await;
    for _ in 0..2 {
        let answer = client.ask("GET /ws", &HANDSHAKE).await;
        assert_eq!(answer.refusal(), no(403, "upgrade_not_allowed"));
    }
    assert_eq!(upstream.count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_faulty_handshake_is_400() {
    let upstream = switching("").await;
    let edge = edge(&route_to(upstream.address, OPEN)).await;
    let faulty = [
        ("GET /ws", vec![HANDSHAKE[0], HANDSHAKE[1], HANDSHAKE[2]]),
        (
            "GET /ws",
            vec![
                HANDSHAKE[0],
                HANDSHAKE[1],
                HANDSHAKE[2],
                "Sec-WebSocket-Key: short",
            ],
        ),
        (
            "GET /ws",
            vec![HANDSHAKE[0], HANDSHAKE[1], HANDSHAKE[2], KEY, KEY],
        ),
        ("POST /ws", HANDSHAKE.to_vec()),
    ];
    for (start, fields) in faulty {
        let mut client = Client::connect(edge.address()).await;
        let answer = client.ask(start, &fields).await;
        assert_eq!(
            answer.refusal(),
            no(400, "bad_handshake"),
            "{start} {fields:?}"
        );
    }
    assert_eq!(upstream.count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_version_is_refused_and_told_which_one_is_spoken() {
    let upstream = switching("").await;
    let edge = edge(&route_to(upstream.address, OPEN)).await;
    let mut client = Client::connect(edge.address()).await;
    let fields = [HANDSHAKE[0], HANDSHAKE[1], "Sec-WebSocket-Version: 8", KEY];
    let answer = client.ask("GET /ws", &fields).await;
    assert_eq!(answer.refusal(), no(400, "handshake_version"));
    assert_eq!(answer.header("sec-websocket-version"), Some("13"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_upstream_is_502_and_one_that_hangs_504() {
    let edge_to_nobody = edge(&route_to(nobody().await, OPEN)).await;
    let mut client = Client::connect(edge_to_nobody.address()).await;
    let dead = client.ask("GET /ws", &HANDSHAKE).await;
    assert_eq!(dead.refusal(), no(502, "connect_refused"));

    let closing = Upstream::saying_once("").await;
    let edge_to_closing = edge(&route_to(closing.address, OPEN)).await;
    let mut client = Client::connect(edge_to_closing.address()).await;
    let closed = client.ask("GET /ws", &HANDSHAKE).await;
    assert_eq!(closed.refusal(), no(502, "upstream_closed"));

    let silent = Upstream::serve(|mut visit| async move {
        visit.head().await;
        std::future::pending::<()>().await;
    })
    .await;
    let keys = "websocket = true\ntimeout = \"300ms\"";
    let edge_to_silent = edge(&route_to(silent.address, keys)).await;
    let mut client = Client::connect(edge_to_silent.address()).await;
    let began = Instant::now();
    let late = client.ask("GET /ws", &HANDSHAKE).await;
    assert_eq!(late.refusal(), no(504, "response_timeout"));
    let took = began.elapsed();
    assert!(took >= ms(295) && took < ms(1_500), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_101_that_is_none_is_502() {
    for said in [
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    ] {
        let upstream = Upstream::saying(said).await;
        let edge = edge(&route_to(upstream.address, OPEN)).await;
        let mut client = Client::connect(edge.address()).await;
        let answer = client.ask("GET /ws", &HANDSHAKE).await;
        assert_eq!(answer.refusal(), no(502, "upstream_invalid"), "{said:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_has_finished_still_hears_the_peer() {
    let mut relay = Relay::with("").await;
    let (mut client, mut peer) = relay.open().await;
    client.say_frame(TEXT, "hello").await;
    client.finish().await;
    peer.hears(TEXT, "hello").await;
    assert_eq!(peer.next_frame().await, None, "it learns of it");
    for word in ["hello", "and", "bye"] {
        sleep(ms(50)).await;
        peer.say_frame(TEXT, word).await;
        client.hears(TEXT, word).await;
    }
    drop(peer);
    client.hears(CLOSE, why(1011, "upstream_closed")).await;
    assert_eq!(client.end().await, b"");
    relay.ended_with(1006, "client", "client_closed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_peer_that_ends_without_a_word_the_client_is_told() {
    let mut relay = Relay::with("").await;
    let (mut client, mut peer) = relay.open().await;
    peer.say_frame(TEXT, "bye").await;
    drop(peer);
    client.hears(TEXT, "bye").await;
    client.is_told(1011, "upstream_closed").await;
    assert_eq!(client.end().await, b"");
    relay.ended_with(1011, "upstream", "upstream_closed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_costs_one_request_of_the_limit() {
    let upstream = switching("").await;
    let tables =
        "[limit]\nper_client = \"2/h\"\nburst = 2\n".to_owned() + &route_to(upstream.address, OPEN);
    let edge = edge(&tables).await;
    let _first = upgraded(&edge).await;
    let _second = upgraded(&edge).await;
    let mut third = Client::connect(edge.address()).await;
    let refused = third.ask("GET /ws", &HANDSHAKE).await;
    assert_eq!(refused.refusal(), no(429, "client_limit"));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_peer_takes_the_upgrade_over() {
    let well = switching("").await;
    let tables = crate::support::upstream_at(&[nobody().await, well.address])
        + "[[route]]\npath = \"/*\"\nupstream = \"u\"\nwebsocket = true\n";
    let edge = edge(&tables).await;
    for _ in 0..4 {
        upgraded(&edge).await;
    }
    assert_eq!(well.count(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_has_served_requests_may_still_be_upgraded() {
    let upstream = Upstream::serve(|mut visit| async move {
        while let Some(head) = visit.head().await {
            if head.contains("Upgrade") {
                visit.write(SWITCHED).await;
                return visit.echo_frames().await;
            }
            visit.write(crate::support::ok("", "a")).await;
        }
    })
    .await;
    let keys = "websocket = true\ntimeout = \"500ms\"";
    let edge = edge(&route_to(upstream.address, keys)).await;
    let mut client = Client::connect(edge.address()).await;
    assert_eq!(client.get("/").await.status, 200);
    assert_eq!(client.ask("GET /ws", &HANDSHAKE).await.status, 101);
    sleep(ms(700)).await;
    client.say_frame(TEXT, "hello").await;
    client.hears(TEXT, "hello").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_of_the_peer_that_drips_is_cut_at_the_deadline() {
    let upstream = Upstream::serve(|mut visit| async move {
        visit.head().await;
        visit
            .write("HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n")
            .await;
        loop {
            visit.write("1\r\nx\r\n").await;
            sleep(ms(50)).await;
        }
    })
    .await;
    let keys = "websocket = true\ntimeout = \"400ms\"";
    let edge = edge(&route_to(upstream.address, keys)).await;
    let mut client = Client::connect(edge.address()).await;
    let began = Instant::now();
    let answer = client.ask("GET /ws", &HANDSHAKE).await;
    let took = began.elapsed();
    assert_eq!((answer.status, answer.complete), (403, false));
    assert!(took >= ms(395) && took < ms(1_600), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_that_connection_does_not_name_is_an_ordinary_request() {
    let upstream = Upstream::mirror().await;
    let edge = edge(&route_to(upstream.address, OPEN)).await;
    let mut client = Client::connect(edge.address()).await;
    let answer = client.ask("GET /ws", &HANDSHAKE[1..]).await;
    assert_eq!(answer.status, 200, "{}", answer.head);
    let head = answer.text();
    assert!(fields(&head, "upgrade").is_empty(), "{head}");
    let connection = fields(&head, "connection").join(",").to_ascii_lowercase();
    assert!(!connection.contains("upgrade"), "{head}");
    assert_eq!(client.get("/").await.status, 200, "it goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_that_ends_with_the_peers_connection_is_chunked_and_whole() {
    for version in ["1.0", "1.1"] {
        let said = format!("HTTP/{version} 403 Forbidden\r\n\r\nnot today");
        let upstream = Upstream::saying_once(said).await;
        let edge = edge(&route_to(upstream.address, OPEN)).await;
        let mut client = Client::connect(edge.address()).await;
        let answer = client.ask("GET /ws", &HANDSHAKE).await;
        assert_eq!((answer.status, answer.text().as_str()), (403, "not today"));
        assert_eq!(answer.header("transfer-encoding"), Some("chunked"));
        assert!(answer.complete, "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_without_a_length_that_drips_is_visibly_cut_at_the_deadline() {
    for head in [
        "HTTP/1.0 403 Forbidden\r\n\r\n",
        "HTTP/1.1 403 Forbidden\r\nConnection: close\r\n\r\n",
    ] {
        let upstream = Upstream::serve(move |mut visit| async move {
            visit.head().await;
            visit.write(head).await;
            loop {
                visit.write("not today").await;
                sleep(ms(50)).await;
            }
        })
        .await;
        let keys = "websocket = true\ntimeout = \"400ms\"";
        let edge = edge(&route_to(upstream.address, keys)).await;
        let mut client = Client::connect(edge.address()).await;
        let began = Instant::now();
        let answer = client.ask("GET /ws", &HANDSHAKE).await;
        let took = began.elapsed();
        assert_eq!((answer.status, answer.complete), (403, false), "{answer:?}");
        assert!(answer.text().starts_with("not today"), "{answer:?}");
        assert!(took >= ms(395) && took < ms(1_600), "{took:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_101_bears_the_ways_marks_and_nothing_of_the_peers_connection() {
    let said = SWITCHED.replacen("\r\n", "\r\nKeep-Alive: timeout=5\r\n", 1);
    let upstream = Upstream::saying(said).await;
    let edge = edge(&route_to(upstream.address, OPEN)).await;
    let mut client = Client::connect(edge.address()).await;
    let answer = client.ask("GET /ws", &HANDSHAKE).await;
    assert_eq!(answer.status, 101, "{}", answer.head);
    assert_eq!(answer.header("keep-alive"), None, "{}", answer.head);
    assert_eq!(answer.header("via"), Some("1.1 edge"));
    let id = answer.header("x-request-id").unwrap();
    assert_eq!(fields(&upstream.heads()[0], "x-request-id"), [id]);
    let connection = answer.header("connection").unwrap();
    assert!(connection.eq_ignore_ascii_case("upgrade"), "{connection}");
    assert_eq!(answer.header("upgrade"), Some("websocket"));
}
