//! In the JSON mode what is no JSON is answered with what is wrong, and the WebSocket stays.

use crate::fixture::{Client, Running, counted, settings, start, within};
use echo::Settings;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

async fn start_json() -> Running {
    start(Settings {
        json_only: true,
        ..settings()
    })
    .await
}

async fn answer(client: &mut Client, message: Message) -> Value {
    client.send(message).await.unwrap();
    let heard = within(client.next()).await.unwrap().unwrap();
    serde_json::from_str(heard.to_text().unwrap()).unwrap()
}

#[tokio::test]
async fn json_comes_back_as_it_was_written() {
    let echo = start_json().await;
    let mut client = echo.client().await;
    for text in ["{\"b\": 1,  \"a\": [2]}", "7", "null", " \"x\" "] {
        client.send(Message::text(text)).await.unwrap();
        let heard = within(client.next()).await.unwrap().unwrap();
        assert_eq!(heard, Message::text(text));
    }
}

#[tokio::test]
async fn text_that_is_no_json_is_told_where_it_is_wrong_and_the_socket_stays() {
    let echo = start_json().await;
    let mut client = echo.client().await;
    let told = answer(&mut client, Message::text("{\"a\":\n  oops}")).await;
    let wanted =
        json!({"error": "invalid_json", "detail": "expected value", "line": 2, "column": 3});
    assert_eq!(told, wanted);
    assert_eq!(answer(&mut client, Message::text("[1]")).await, json!([1]));
    let error = "echo_messages_rejected_total{error=\"invalid_json\"} 1";
    counted(&echo, &[error]).await;
}

#[tokio::test]
async fn a_binary_message_is_told_that_text_is_wanted_and_the_socket_stays() {
    let echo = start_json().await;
    let mut client = echo.client().await;
    let told = answer(&mut client, Message::binary(b"{}".to_vec())).await;
    assert_eq!(told["error"], "not_text");
    assert_eq!(answer(&mut client, Message::text("{}")).await, json!({}));
    let error = "echo_messages_rejected_total{error=\"not_text\"} 1";
    counted(&echo, &[error]).await;
}

#[tokio::test]
async fn an_answer_may_be_longer_than_a_message_may() {
    let echo = start(Settings {
        json_only: true,
        max_message: 4,
        ..settings()
    })
    .await;
    let mut client = echo.client().await;
    for _ in 0..500 {
        client.feed(Message::text("oops")).await.unwrap();
        client.feed(Message::Ping("ping".into())).await.unwrap();
    }
    client.flush().await.unwrap();
    let mut answers = 0;
    while answers < 500 {
        match within(client.next()).await.unwrap().unwrap() {
            Message::Text(_) => answers += 1,
            Message::Pong(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn without_the_mode_any_message_is_fine() {
    let echo = start(settings()).await;
    let mut client = echo.client().await;
    client.send(Message::text("oops")).await.unwrap();
    let heard = within(client.next()).await.unwrap().unwrap();
    assert_eq!(heard, Message::text("oops"));
}
