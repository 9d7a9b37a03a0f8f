//! Shutdown: the same value ends a test and a production server.

use crate::fixture::{closed, settings, start, within};
use echo::{Echo, Settings};
use futures_util::{SinkExt, StreamExt};
use std::{
    io::ErrorKind,
    time::{Duration, Instant},
};
use tokio::{io::AsyncWriteExt, net::TcpStream, task::JoinSet};
use tokio_tungstenite::tungstenite::{Message, protocol::frame::coding::CloseCode};

#[tokio::test]
async fn with_nothing_open_the_end_comes_at_once() {
    let echo = start(settings()).await;
    let _kept_alive = {
        let mut stream = echo.raw().await;
        stream
            .write_all(b"GET /info HTTP/1.1\r\nHost: echo\r\n\r\n")
            .await
            .unwrap();
        crate::fixture::read_head(&mut stream).await;
        stream
    };
    let _silent = echo.raw().await;
    let ended = echo.stop();
    tokio::time::timeout(Duration::from_secs(2), ended)
        .await
        .expect("connections without a request hold up nothing")
        .unwrap();
}

#[tokio::test]
async fn every_socket_is_told_1012_and_then_the_end_comes() {
    let echo = start(Settings {
        drain: Duration::from_millis(500),
        ..settings()
    })
    .await;
    let mut clients = Vec::new();
    for _ in 0..10 {
        clients.push(echo.client().await);
    }
    let ended = echo.stop();
    for client in &mut clients {
        let heard = within(client.next()).await.unwrap().unwrap();
        let Message::Close(Some(close)) = heard else {
            panic!("no Close but {heard:?}");
        };
        assert_eq!(close.code, CloseCode::Restart);
        assert_eq!(close.reason, "draining");
        assert!(within(client.next()).await.is_none());
    }
    drop(clients);
    within(ended).await.unwrap();
}

#[tokio::test]
async fn sockets_are_told_one_after_the_other_over_most_of_the_drain() {
    let echo = start(Settings {
        drain: Duration::from_secs(2),
        ..settings()
    })
    .await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(echo.client().await);
    }
    let began = Instant::now();
    let ended = echo.stop();
    let mut told = JoinSet::new();
    for mut client in clients {
        told.spawn(async move {
            let close = closed(&mut client).await;
            assert_eq!(close.code, CloseCode::Restart);
            began.elapsed()
        });
    }
    let mut at = told.join_all().await;
    at.sort();
    for (at, due) in at.iter().zip([0, 400, 800, 1_200]) {
        let due = Duration::from_millis(due);
        assert!(*at >= due, "{at:?} is before {due:?}");
    }
    // Nothing is open: the rest of the drain is not waited for.
    within(ended).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn a_socket_is_served_until_its_turn_to_leave() {
    let echo = start(Settings {
        drain: Duration::from_millis(1_000),
        ..settings()
    })
    .await;
    let mut clients = [echo.client().await, echo.client().await];
    let ended = echo.stop();
    let mut echoes = 0;
    for client in &mut clients {
        // The first is told at once, the other after 400 ms.
        loop {
            // A send can fail once the Close is there; reading tells.
            drop(client.send(Message::text("hello")).await);
            match within(client.next()).await.unwrap().unwrap() {
                Message::Text(_) => echoes += 1,
                Message::Close(_) => break,
                other => panic!("{other:?}"),
            }
        }
        while within(client.next())
            .await
            .is_some_and(|heard| heard.is_ok())
        {}
    }
    assert!(echoes > 10, "only {echoes} echoes during the drain");
    within(ended).await.unwrap();
}

#[tokio::test]
async fn a_client_that_never_answers_the_close_holds_up_the_end_no_longer_than_the_drain() {
    let echo = start(Settings {
        drain: Duration::from_millis(100),
        ..settings()
    })
    .await;
    let _deaf = echo.raw_socket().await;
    within(echo.stop()).await.unwrap();
}

#[tokio::test]
async fn a_request_at_hand_is_finished_and_no_connection_is_accepted() {
    let echo = start(settings()).await;
    let address = echo.address;
    let mut slow = echo.raw().await;
    slow.write_all(b"GET /delay/300 HTTP/1.1\r\nHost: echo\r\n\r\n")
        .await
        .unwrap();
    // Accepted in order: when this one is answered, the slow one is being served.
    echo.get("/info").await;
    let ended = echo.stop();
    let head = crate::fixture::read_head(&mut slow).await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let refused = TcpStream::connect(address).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    within(ended).await.unwrap();
}

#[tokio::test]
async fn health_says_draining_on_a_connection_still_alive() {
    let echo = start(settings()).await;
    let mut probe = echo.raw().await;
    probe.write_all(b"GET /health HTTP/1.1\r\n").await.unwrap();
    let mut client = echo.client().await;
    let ended = echo.stop();
    // The Close shows that the drain has begun.
    within(client.next()).await.unwrap().unwrap();
    probe.write_all(b"Host: echo\r\n\r\n").await.unwrap();
    let answer = String::from_utf8(crate::fixture::rest(&mut probe).await).unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains("\"status\":\"draining\""), "{answer}");
    while within(client.next()).await.is_some() {}
    drop(client);
    within(ended).await.unwrap();
}

#[tokio::test]
async fn a_taken_port_is_an_error() {
    let echo = start(settings()).await;
    let taken = Settings {
        listen: echo.address,
        ..settings()
    };
    let error = Echo::bind(taken).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
}
