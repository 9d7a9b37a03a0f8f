//! What a WebSocket goes through while it is open.

use crate::fixture::{closed, counted, frame, rest, settings, start, within};
use echo::Settings;
use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use std::time::{Duration, Instant};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_tungstenite::tungstenite::{Message, protocol::frame::coding::CloseCode};

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// Settings under which a silent client is pinged soon.
fn impatient() -> Settings {
    Settings {
        ping: Some(ms(50)),
        pong: Some(ms(300)),
        ..settings()
    }
}

/// Reads what the server says at last, answers its Close, and reads the end.
async fn farewell(mut stream: TcpStream, last: &[u8]) {
    let mut heard = vec![0; last.len()];
    within(stream.read_exact(&mut heard)).await.unwrap();
    assert_eq!(heard, last);
    stream.write_all(&frame(0x88, b"")).await.unwrap();
    assert_eq!(rest(&mut stream).await, b"");
}

#[tokio::test]
async fn a_greeting_comes_first_if_asked_for() {
    let echo = start(Settings {
        greet: true,
        ..settings()
    })
    .await;
    for id in 1..=2 {
        let mut client = echo.client().await;
        client.send(Message::text("hello")).await.unwrap();
        let heard = within(client.next()).await.unwrap().unwrap();
        let greeting: Value = serde_json::from_str(heard.to_text().unwrap()).unwrap();
        assert_eq!(greeting, serde_json::json!({"type": "welcome", "id": id}));
        let heard = within(client.next()).await.unwrap().unwrap();
        assert_eq!(heard, Message::text("hello"));
    }
}

#[tokio::test]
async fn a_client_that_answers_no_ping_is_closed_with_1001() {
    let echo = start(impatient()).await;
    let mut stream = echo.raw_socket().await;
    let mut ping = [0; 2];
    within(stream.read_exact(&mut ping)).await.unwrap();
    assert_eq!(ping, [0x89, 0]);
    let asked = Instant::now();
    farewell(stream, b"\x88\x0e\x03\xe9pong_timeout").await;
    assert!(asked.elapsed() >= ms(290), "{:?}", asked.elapsed());
    let closed =
        "echo_connections_closed_total{by=\"server\",cause=\"pong_timeout\",code=\"1001\"} 1";
    let asked = "echo_messages_total{direction=\"out\",kind=\"ping\"} 1";
    counted(&echo, &[closed, asked]).await;
}

#[tokio::test]
async fn a_client_that_answers_pings_stays() {
    let echo = start(impatient()).await;
    let mut client = echo.client().await;
    let mut pings = 0;
    while pings < 5 {
        // To read is to answer: the client's pong leaves with the next read.
        let heard = within(client.next()).await.unwrap().unwrap();
        assert_eq!(heard, Message::Ping("".into()));
        pings += 1;
    }
    client.send(Message::text("still here")).await.unwrap();
    let heard = within(client.next()).await.unwrap().unwrap();
    assert_eq!(heard, Message::text("still here"));
}

#[tokio::test]
async fn any_frame_answers_a_ping() {
    let echo = start(impatient()).await;
    let mut stream = echo.raw_socket().await;
    for _ in 0..4 {
        let mut heard = [0; 2];
        within(stream.read_exact(&mut heard)).await.unwrap();
        assert_eq!(heard, [0x89, 0]);
        stream.write_all(&frame(0x81, b"")).await.unwrap();
        within(stream.read_exact(&mut heard)).await.unwrap();
        assert_eq!(heard, [0x81, 0]);
    }
}

#[tokio::test]
async fn the_bytes_of_a_long_message_are_a_sign_of_life() {
    let echo = start(impatient()).await;
    let mut stream = echo.raw_socket().await;
    // Much longer on its way than a ping and its answer may take, and no pong can come within it.
    for byte in frame(0x82, &[7; 30]) {
        stream.write_all(&[byte]).await.unwrap();
        tokio::time::sleep(ms(20)).await;
    }
    let heard = within(async {
        loop {
            let mut head = [0; 2];
            stream.read_exact(&mut head).await.unwrap();
            if head != [0x89, 0] {
                break head;
            }
        }
    })
    .await;
    assert_eq!(heard, [0x82, 30]);
}

#[tokio::test]
async fn a_client_that_speaks_is_not_pinged() {
    let echo = start(Settings {
        ping: Some(ms(500)),
        ..settings()
    })
    .await;
    let mut client = echo.client().await;
    let began = Instant::now();
    while began.elapsed() < ms(900) {
        client.send(Message::text("hello")).await.unwrap();
        let heard = within(client.next()).await.unwrap().unwrap();
        assert_eq!(heard, Message::text("hello"));
        tokio::time::sleep(ms(10)).await;
    }
}

#[tokio::test]
async fn without_a_wait_for_pongs_nobody_is_closed_for_silence() {
    let echo = start(Settings {
        pong: None,
        ..impatient()
    })
    .await;
    let mut stream = echo.raw_socket().await;
    let mut pings = [0; 8];
    within(stream.read_exact(&mut pings)).await.unwrap();
    assert_eq!(pings, *b"\x89\0\x89\0\x89\0\x89\0");
}

#[tokio::test]
async fn with_pings_off_none_come() {
    let echo = start(Settings {
        ping: None,
        ..impatient()
    })
    .await;
    let mut client = echo.client().await;
    assert!(timeout(ms(200), client.next()).await.is_err());
}

#[tokio::test]
async fn a_client_that_only_answers_pings_is_idle() {
    let echo = start(Settings {
        idle: ms(200),
        ..impatient()
    })
    .await;
    let mut client = echo.client().await;
    let mut pings = 0;
    let close = loop {
        match within(client.next()).await.unwrap().unwrap() {
            Message::Ping(_) => pings += 1,
            Message::Close(close) => break close.unwrap(),
            other => panic!("{other:?}"),
        }
    };
    assert!(pings > 0);
    assert_eq!(close.code, CloseCode::Away);
    assert_eq!(close.reason, "idle_timeout");
}

#[tokio::test]
async fn a_client_that_speaks_too_fast_is_closed_with_1008_after_its_last_echo() {
    let echo = start(Settings {
        message_rate: Some("5/h".parse().unwrap()),
        ..settings()
    })
    .await;
    let mut client = echo.client().await;
    for n in 0..6 {
        client.feed(Message::text(n.to_string())).await.unwrap();
    }
    client.flush().await.unwrap();
    for n in 0..5 {
        let heard = within(client.next()).await.unwrap().unwrap();
        assert_eq!(heard, Message::text(n.to_string()));
    }
    let close = closed(&mut client).await;
    assert_eq!(close.code, CloseCode::Policy);
    assert_eq!(close.reason, "message_rate");
    drop(client);
    let closed =
        "echo_connections_closed_total{by=\"server\",cause=\"message_rate\",code=\"1008\"} 1";
    counted(&echo, &[closed]).await;
}

#[tokio::test]
async fn pings_count_as_messages_and_each_client_has_its_own_rate() {
    let echo = start(Settings {
        message_rate: Some("2/h".parse().unwrap()),
        ..settings()
    })
    .await;
    for _ in 0..2 {
        let mut stream = echo.raw_socket().await;
        stream.write_all(&frame(0x89, b"").repeat(3)).await.unwrap();
        let told = b"\x8a\0\x8a\0\x8a\0\x88\x0e\x03\xf0message_rate";
        farewell(stream, told).await;
    }
}
