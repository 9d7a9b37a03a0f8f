//! What is said comes back.

use crate::fixture::{HANDSHAKE, frame, read_head, settings, start, within};
use echo::Settings;
use futures_util::{SinkExt, StreamExt};
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};
use tokio_tungstenite::tungstenite::Message;

#[tokio::test]
async fn text_and_binary_come_back_as_they_were() {
    let echo = start(settings()).await;
    let mut client = echo.client().await;
    for message in [
        Message::text("hello, wörld"),
        Message::text(""),
        Message::binary(vec![0, 255, 7]),
        Message::binary(vec![3; 1 << 20]),
    ] {
        client.send(message.clone()).await.unwrap();
        assert_eq!(within(client.next()).await.unwrap().unwrap(), message);
    }
}

#[tokio::test]
async fn many_messages_sent_at_once_come_back_in_order() {
    let echo = start(settings()).await;
    let mut client = echo.client().await;
    for n in 0..1_000 {
        client.feed(Message::text(n.to_string())).await.unwrap();
    }
    client.flush().await.unwrap();
    for n in 0..1_000 {
        let heard = within(client.next()).await.unwrap().unwrap();
        assert_eq!(heard, Message::text(n.to_string()));
    }
}

#[tokio::test]
async fn a_ping_is_answered_with_its_payload() {
    let echo = start(settings()).await;
    let mut client = echo.client().await;
    client
        .send(Message::Ping("are you there".into()))
        .await
        .unwrap();
    let heard = within(client.next()).await.unwrap().unwrap();
    assert_eq!(heard, Message::Pong("are you there".into()));
}

#[tokio::test]
async fn fragments_come_back_as_one_message_with_a_ping_between_them() {
    let echo = start(settings()).await;
    let mut stream = echo.raw_socket().await;
    let sent = [frame(0x01, b"hel"), frame(0x89, b"?"), frame(0x80, b"lo")];
    stream.write_all(&sent.concat()).await.unwrap();
    let mut heard = [0; 10];
    within(stream.read_exact(&mut heard)).await.unwrap();
    assert_eq!(&heard, b"\x8a\x01?\x81\x05hello");
}

#[tokio::test]
async fn a_message_sent_right_behind_the_handshake_is_not_lost() {
    let echo = start(settings()).await;
    let mut stream = echo.raw().await;
    let sent = [HANDSHAKE, &frame(0x81, b"early")].concat();
    stream.write_all(&sent).await.unwrap();
    read_head(&mut stream).await;
    let mut heard = [0; 7];
    within(stream.read_exact(&mut heard)).await.unwrap();
    assert_eq!(&heard, b"\x81\x05early");
}

#[tokio::test]
async fn a_client_that_does_not_read_is_not_read_from() {
    let echo = start(settings()).await;
    for kind in [0x82, 0x89] {
        let mut stream = echo.raw_socket().await;
        let messages = frame(kind, &[0; 125]).repeat(512);
        let mut sent = 0;
        // The kernel's buffers take some; then the server must stop reading.
        while let Ok(done) = timeout(Duration::from_secs(1), stream.write_all(&messages)).await {
            done.unwrap();
            sent += messages.len();
            assert!(sent < 64 << 20, "the server holds {sent} bytes");
        }
    }
}

#[tokio::test]
async fn past_the_bound_a_socket_is_refused_until_one_leaves() {
    let echo = start(Settings {
        max_connections: 1,
        ..settings()
    })
    .await;
    let mut first = echo.client().await;

    let mut second = echo.raw().await;
    second.write_all(HANDSHAKE).await.unwrap();
    let refused = read_head(&mut second).await.to_ascii_lowercase();
    assert!(refused.starts_with("http/1.1 503 "), "{refused}");
    assert!(refused.contains("retry-after: 1"), "{refused}");
    assert_eq!(echo.get("/health").await.status, 200);

    first.close(None).await.unwrap();
    while within(first.next()).await.is_some() {}
    drop(first);
    // The place is free once the server has seen the end, which is a moment after the client has.
    loop {
        let mut third = echo.raw().await;
        third.write_all(HANDSHAKE).await.unwrap();
        if read_head(&mut third).await.starts_with("HTTP/1.1 101 ") {
            break;
        }
    }
}
