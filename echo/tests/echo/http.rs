//! The plain answers.

use crate::fixture::{frame, rest, settings, start};
use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio_tungstenite::tungstenite::Message;

#[tokio::test]
async fn health_counts_connections_and_messages() {
    let echo = start(settings()).await;
    let mut client = echo.client().await;
    for _ in 0..3 {
        client.send(Message::text("hi")).await.unwrap();
        client.next().await.unwrap().unwrap();
    }
    let health = echo.get("/health").await;
    assert_eq!(health.status, 200);
    assert_eq!(health.header("cache-control"), Some("no-store"));
    let told = json!({"status": "ok", "uptime_seconds": 0, "connections": 1, "messages": 3});
    assert_eq!(health.json(), told);
}

#[tokio::test]
async fn info_is_stable_and_its_requests_are_counted() {
    let echo = start(settings()).await;
    let info = echo.get("/info").await;
    let told = json!({
        "name": "echo",
        "version": env!("CARGO_PKG_VERSION"),
        "limits": {"max_connections": 10_000, "max_message": 1_048_576},
    });
    assert_eq!(info.json(), told);
    assert_eq!(info.header("cache-control"), None);
    assert_eq!(echo.get("/info").await.body, info.body);
    let metrics = echo.get("/metrics").await;
    let counted = "echo_requests_total{path=\"/info\",status=\"200\"} 2";
    assert!(metrics.body.contains(counted), "{}", metrics.body);
}

#[tokio::test]
async fn metrics_count_messages_and_refusals() {
    let echo = start(settings()).await;
    let mut stream = echo.raw_socket().await;
    let sent = [frame(0x81, b"hello"), frame(0x89, b"?"), frame(0x88, b"")];
    stream.write_all(&sent.concat()).await.unwrap();
    rest(&mut stream).await;
    echo.get("/ws").await;
    echo.get("/nowhere").await;
    let metrics = echo.get("/metrics").await;
    let kind = metrics.header("content-type").unwrap();
    assert!(kind.starts_with("text/plain; version=0.0.4"), "{kind}");
    for line in [
        "echo_messages_total{direction=\"in\",kind=\"text\"} 1",
        "echo_messages_total{direction=\"out\",kind=\"text\"} 1",
        "echo_messages_total{direction=\"in\",kind=\"ping\"} 1",
        "echo_messages_total{direction=\"out\",kind=\"pong\"} 1",
        "echo_bytes_total{direction=\"in\"} 6",
        "echo_refused_total{reason=\"no_upgrade\"} 1",
        "echo_refused_total{reason=\"unknown\"} 1",
        "echo_requests_total{path=\"other\",status=\"404\"} 1",
        "echo_requests_total{path=\"/ws\",status=\"101\"} 1",
        "echo_requests_total{path=\"/ws\",status=\"426\"} 1",
    ] {
        assert!(
            metrics.body.lines().any(|l| l == line),
            "no {line} in\n{}",
            metrics.body
        );
    }
}

#[tokio::test]
async fn the_page_needs_nothing_from_elsewhere() {
    let echo = start(settings()).await;
    let page = echo.get("/").await;
    assert_eq!(page.status, 200);
    assert_eq!(
        page.header("content-type"),
        Some("text/html; charset=utf-8")
    );
    assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none';"), "{policy}");
    for id in [
        "url",
        "token",
        "connect",
        "disconnect",
        "state",
        "code",
        "reason",
        "message",
        "send",
        "log",
        "rtt",
    ] {
        assert!(page.body.contains(&format!("id=\"{id}\"")), "no #{id}");
    }
    for outside in ["src=\"http", "href=\"http", "url(http", "@import"] {
        assert!(!page.body.contains(outside), "{outside}");
    }
}

#[tokio::test]
async fn a_request_that_is_no_websocket_is_told_how_to_ask() {
    let echo = start(settings()).await;
    let plain = echo.get("/ws").await;
    assert_eq!(plain.status, 426);
    assert_eq!(plain.header("upgrade"), Some("websocket"));
    assert!(plain.header("connection").unwrap().contains("upgrade"));
    let kind = plain.header("content-type");
    assert_eq!(kind, Some("application/problem+json"));
    assert_eq!(plain.json()["status"], 426);
    assert_eq!(plain.json()["type"], "about:blank");
    assert_eq!(plain.json()["title"], "Upgrade Required");

    let old = "GET /ws HTTP/1.1\r\nHost: echo\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Version: 8\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let wrong = echo.send(old).await;
    assert_eq!(wrong.status, 426);
    assert_eq!(wrong.header("sec-websocket-version"), Some("13"));

    let keyless = "GET /ws HTTP/1.1\r\nHost: echo\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: short\r\n\r\n";
    assert_eq!(echo.send(keyless).await.status, 400);
}

#[tokio::test]
async fn a_wrong_method_is_told_the_right_ones() {
    let echo = start(settings()).await;
    for (request, allow) in [
        ("POST /info", "get, head"),
        ("DELETE /", "get, head"),
        ("POST /ws", "get"),
        ("GET /echo", "post"),
    ] {
        let request = format!("{request} HTTP/1.1\r\nHost: echo\r\n\r\n");
        let reply = echo.send(&request).await;
        assert_eq!(reply.status, 405, "{request}");
        assert_eq!(reply.header("allow"), Some(allow), "{request}");
    }
}

#[tokio::test]
async fn head_has_the_head_of_get_alone() {
    let echo = start(settings()).await;
    let head = echo.send("HEAD /info HTTP/1.1\r\nHost: echo\r\n\r\n").await;
    let get = echo.get("/info").await;
    assert_eq!(head.status, 200);
    assert_eq!(head.header("content-length"), get.header("content-length"));
    assert_eq!(head.body, "");
}

#[tokio::test]
async fn delay_answers_no_sooner() {
    let echo = start(settings()).await;
    let began = Instant::now();
    assert_eq!(echo.get("/delay/30").await.body, "waited 30 ms\n");
    assert!(began.elapsed() >= Duration::from_millis(30));
    assert_eq!(echo.get("/delay/60001").await.status, 400);
}

#[tokio::test]
async fn status_answers_with_the_code_asked_for() {
    let echo = start(settings()).await;
    for code in [200, 204, 304, 404, 418, 503, 599] {
        assert_eq!(echo.get(&format!("/status/{code}")).await.status, code);
    }
    assert_eq!(echo.get("/status/101").await.status, 400);
}

#[tokio::test]
async fn headers_tell_what_arrived() {
    let echo = start(settings()).await;
    let reply = echo
        .send("PUT /headers?a=1 HTTP/1.1\r\nHost: echo\r\nX-Two: a\r\nX-Two: b\r\nContent-Length: 2\r\n\r\nhi")
        .await;
    let told = reply.json();
    assert_eq!(told["method"], "PUT");
    assert_eq!(told["path"], "/headers?a=1");
    let pairs = told["headers"].as_array().unwrap();
    for pair in [
        json!(["host", "echo"]),
        json!(["x-two", "a"]),
        json!(["x-two", "b"]),
    ] {
        assert!(pairs.contains(&pair), "no {pair} in {told}");
    }
}

#[tokio::test]
async fn bytes_are_as_many_as_asked_for() {
    let echo = start(settings()).await;
    for count in [0, 1, 16_384, 16_385, 1_000_000] {
        let reply = echo.get(&format!("/bytes/{count}")).await;
        assert_eq!(reply.body.len(), count);
        assert_eq!(reply.header("content-length"), Some(&*count.to_string()));
    }
}

#[tokio::test]
async fn drip_comes_in_chunks_of_one() {
    let echo = start(settings()).await;
    let reply = echo.get("/drip/3/1").await;
    assert_eq!(reply.header("transfer-encoding"), Some("chunked"));
    assert_eq!(reply.body, "1\r\n.\r\n1\r\n.\r\n1\r\n.\r\n0\r\n\r\n");
}

#[tokio::test]
async fn a_posted_body_comes_back_under_its_own_type() {
    let echo = start(settings()).await;
    let reply = echo
        .send("POST /echo HTTP/1.1\r\nHost: echo\r\nContent-Type: text/x\r\nContent-Length: 5\r\n\r\nhello")
        .await;
    assert_eq!(reply.header("content-type"), Some("text/x"));
    assert_eq!(reply.body, "5\r\nhello\r\n0\r\n\r\n");
}
