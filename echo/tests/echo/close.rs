//! Every WebSocket ends with a Close that says why, and without a reset.

use crate::fixture::{Running, closed, counted, frame, rest, settings, start, within};
use echo::Settings;
use futures_util::{SinkExt, StreamExt};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio_tungstenite::tungstenite::{
    Message,
    protocol::{CloseFrame, frame::coding::CloseCode},
};

/// What the server answers to bytes that break the protocol: a Close, with its code and reason.
async fn code_for(echo: &Running, bytes: &[u8]) -> u16 {
    let mut stream = echo.raw_socket().await;
    stream.write_all(bytes).await.unwrap();
    let heard = rest(&mut stream).await;
    assert_eq!(heard.first(), Some(&0x88), "no Close but {heard:?}");
    assert!(heard.len() > 4, "no reason in {heard:?}");
    assert_eq!(usize::from(heard[1]) + 2, heard.len());
    u16::from_be_bytes([heard[2], heard[3]])
}

#[tokio::test]
async fn a_close_is_answered_with_the_same_code() {
    let echo = start(settings()).await;
    for code in [CloseCode::Normal, CloseCode::Away, CloseCode::Library(4321)] {
        let mut client = echo.client().await;
        let close = CloseFrame {
            code,
            reason: "enough".into(),
        };
        client.close(Some(close.clone())).await.unwrap();
        assert_eq!(closed(&mut client).await, close);
    }
}

#[tokio::test]
async fn a_close_without_a_code_is_answered_without_one() {
    let echo = start(settings()).await;
    let mut stream = echo.raw_socket().await;
    stream.write_all(&frame(0x88, b"")).await.unwrap();
    assert_eq!(rest(&mut stream).await, [0x88, 0]);
}

#[tokio::test]
async fn a_message_past_the_bound_closes_with_1009() {
    let echo = start(Settings {
        max_message: 1024,
        ..settings()
    })
    .await;
    let mut client = echo.client().await;
    client.send(Message::binary(vec![0; 1024])).await.unwrap();
    assert_eq!(within(client.next()).await.unwrap().unwrap().len(), 1024);
    client
        .send(Message::binary(vec![0; 300_000]))
        .await
        .unwrap();
    let close = closed(&mut client).await;
    assert_eq!(close.code, CloseCode::Size);
    assert_eq!(close.reason, "Message too long: 300000 > 1024");
}

#[tokio::test]
async fn fragments_past_the_bound_close_with_1009() {
    let echo = start(Settings {
        max_message: 100,
        ..settings()
    })
    .await;
    let sent = [frame(0x02, &[0; 60]), frame(0x80, &[0; 60])].concat();
    assert_eq!(code_for(&echo, &sent).await, 1009);
}

#[tokio::test]
async fn text_that_is_not_utf_8_closes_with_1007() {
    let echo = start(settings()).await;
    assert_eq!(code_for(&echo, &frame(0x81, b"\xff\xfe")).await, 1007);
    let cut_short = [frame(0x01, b"\xc3"), frame(0x80, b"")].concat();
    assert_eq!(code_for(&echo, &cut_short).await, 1007);
    let reason = frame(0x88, b"\x03\xe8\xff");
    assert_eq!(code_for(&echo, &reason).await, 1007);
}

#[tokio::test]
async fn a_letter_cut_in_two_by_fragments_is_valid() {
    let echo = start(settings()).await;
    let mut stream = echo.raw_socket().await;
    let sent = [frame(0x01, b"\xc3"), frame(0x80, b"\xa9"), frame(0x88, b"")];
    stream.write_all(&sent.concat()).await.unwrap();
    assert_eq!(rest(&mut stream).await, b"\x81\x02\xc3\xa9\x88\x00");
}

#[tokio::test]
async fn bad_frames_close_with_1002() {
    let echo = start(settings()).await;
    for (fault, bytes) in [
        ("unmasked", b"\x81\x02hi".to_vec()),
        ("reserved bit", frame(0xc1, b"hi")),
        ("reserved opcode", frame(0x83, b"hi")),
        ("reserved control opcode", frame(0x8b, b"")),
        ("fragmented ping", frame(0x09, b"hi")),
        ("continuation of nothing", frame(0x80, b"hi")),
        (
            "message within a message",
            [frame(0x01, b"a"), frame(0x81, b"b")].concat(),
        ),
        ("close with half a code", frame(0x88, b"\x03")),
        (
            "long ping",
            [&[0x89, 0xfe, 0, 126, 0, 0, 0, 0][..], &[0; 126]].concat(),
        ),
    ] {
        assert_eq!(code_for(&echo, &bytes).await, 1002, "{fault}");
    }
}

#[tokio::test]
async fn a_close_with_a_code_nobody_may_send_is_answered_with_1002() {
    let echo = start(settings()).await;
    for code in [0_u16, 999, 1004, 1005, 1006, 1015, 2999, 5000] {
        let sent = frame(0x88, &code.to_be_bytes());
        assert_eq!(code_for(&echo, &sent).await, 1002, "{code}");
    }
}

#[tokio::test]
async fn a_client_that_keeps_sending_after_its_fault_still_gets_the_close() {
    let echo = start(Settings {
        max_message: 1024,
        ..settings()
    })
    .await;
    let mut client = echo.client().await;
    // Far more than the server has read when it finds the fault in the first bytes.
    client
        .send(Message::binary(vec![0; 8 << 20]))
        .await
        .unwrap();
    assert_eq!(closed(&mut client).await.code, CloseCode::Size);
}

#[tokio::test]
async fn a_silent_client_is_closed_with_1001() {
    let echo = start(Settings {
        idle: Duration::from_millis(50),
        ..settings()
    })
    .await;
    let mut client = echo.client().await;
    let close = closed(&mut client).await;
    assert_eq!(close.code, CloseCode::Away);
    assert_eq!(close.reason, "idle_timeout");
}

#[tokio::test]
async fn closes_are_counted_by_code() {
    let echo = start(settings()).await;
    code_for(&echo, &frame(0x81, b"\xff")).await;
    drop(echo.raw_socket().await);
    counted(
        &echo,
        &[
            "echo_connections 0",
            "echo_connections_opened_total 2",
            "echo_connections_closed_total{by=\"client\",cause=\"lost\",code=\"1006\"} 1",
            "echo_connections_closed_total{by=\"server\",cause=\"invalid_utf8\",code=\"1007\"} 1",
        ],
    )
    .await;
}
