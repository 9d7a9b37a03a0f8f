//! Who may open a WebSocket, and until when.

use crate::fixture::{
    Client, HANDSHAKE, Reply, Running, closed, counted, settings, signed, start, within,
};
use echo::Settings;
use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::io::AsyncWriteExt;
use tokio_tungstenite::tungstenite::{
    Error, Message, client::IntoClientRequest, handshake::client::Response,
    protocol::frame::coding::CloseCode,
};

const SECRET: &str = "a secret of thirty-two bytes, ok";
const KEY: &str = "a-key-of-sixteen";
/// What clocks may differ by, in seconds.
const LEEWAY: f64 = 5.0;

async fn start_guarded() -> Running {
    start(Settings {
        jwt_secret: Some(SECRET.into()),
        api_key: Some(KEY.into()),
        ..settings()
    })
    .await
}

/// A token that ends so many seconds from now.
fn token(ends_in: f64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    signed(
        &json!({"sub": "me", "exp": now.as_secs_f64() + ends_in}),
        SECRET,
    )
}

/// The Kubernetes form of a token.
fn coded(token: &str) -> String {
    use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
    let token = BASE64_URL_SAFE_NO_PAD.encode(token);
    format!("base64url.bearer.authorization.k8s.io.{token}")
}

async fn connect(
    echo: &Running,
    path: &str,
    headers: &[(&'static str, &str)],
) -> Result<(Client, Response), Error> {
    let url = format!("ws://{}{path}", echo.address);
    let mut request = url.into_client_request().unwrap();
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    within(tokio_tungstenite::connect_async(request)).await
}

/// A handshake with one more header, as the server answers it when it refuses.
async fn refused(echo: &Running, header: &str) -> Reply {
    let handshake = String::from_utf8(HANDSHAKE.to_vec()).unwrap();
    let handshake = handshake.replacen("\r\n", &format!("\r\nConnection: close\r\n{header}"), 1);
    let mut stream = echo.raw().await;
    echo.exchange(&mut stream, &handshake).await
}

async fn echoes(client: &mut Client) {
    client.send(Message::text("hello")).await.unwrap();
    let heard = within(client.next()).await.unwrap().unwrap();
    assert_eq!(heard, Message::text("hello"));
}

#[tokio::test]
async fn a_token_is_taken_from_each_place_and_never_answered() {
    let echo = start_guarded().await;
    let token = token(60.0);
    let bearer = format!("Bearer {token}");
    let pair = format!("bearer, {token}");
    let kubernetes = format!("{}, chat.v1", coded(&token));
    let query = format!("/ws?access_token={token}");
    for (path, headers, selected) in [
        ("/ws", vec![("authorization", &*bearer)], None),
        (
            "/ws",
            vec![("sec-websocket-protocol", &*pair)],
            Some("bearer"),
        ),
        (
            "/ws",
            vec![("sec-websocket-protocol", &*kubernetes)],
            Some("chat.v1"),
        ),
        (&query, vec![], None),
    ] {
        let (mut client, answer) = connect(&echo, path, &headers).await.unwrap();
        let protocol = answer.headers().get("sec-websocket-protocol");
        assert_eq!(protocol.map(|p| p.to_str().unwrap()), selected);
        let head = format!("{:?}", answer.headers());
        assert!(
            !head.contains(&token) && !head.contains(&coded(&token)),
            "{head}"
        );
        echoes(&mut client).await;
    }
    counted(&echo, &["echo_admitted_total{by=\"jwt\"} 4"]).await;
}

#[tokio::test]
async fn an_api_key_needs_no_token() {
    let echo = start_guarded().await;
    let (mut client, _) = connect(&echo, "/ws", &[("x-api-key", KEY)]).await.unwrap();
    echoes(&mut client).await;
    counted(&echo, &["echo_admitted_total{by=\"api_key\"} 1"]).await;
}

#[tokio::test]
async fn who_has_no_token_is_told_how_to_send_one() {
    let echo = start_guarded().await;
    let reply = refused(&echo, "").await;
    assert_eq!(reply.status, 401);
    let challenge = reply.header("www-authenticate");
    assert_eq!(challenge, Some("bearer realm=\"echo\""));
    let kind = reply.header("content-type");
    assert_eq!(kind, Some("application/problem+json"));
    assert_eq!(reply.header("cache-control"), Some("no-store"));
    assert_eq!(reply.json()["reason"], "token_missing");
    assert_eq!(reply.json()["status"], 401);
    let detail = reply.json()["detail"].to_string();
    assert!(detail.contains("Authorization: Bearer"), "{detail}");
    let refused = "echo_refused_total{reason=\"token_missing\"} 1";
    let answered = "echo_requests_total{path=\"/ws\",status=\"401\"} 1";
    counted(&echo, &[refused, answered]).await;
}

#[tokio::test]
async fn each_wrong_credential_is_told_what_is_wrong() {
    let echo = start_guarded().await;
    let bearer = |token: &str| format!("Authorization: Bearer {token}\r\n");
    let stranger = signed(&json!({"exp": 4e9}), "another secret, also of 32 bytes");
    let early = signed(&json!({"exp": 4e9, "nbf": 3.9e9}), SECRET);
    for (header, reason) in [
        (bearer("nonsense"), "token_malformed"),
        (bearer(&token(-60.0)), "token_expired"),
        (bearer(&stranger), "token_wrong_signature"),
        (bearer(&signed(&json!({}), SECRET)), "token_without_exp"),
        (bearer(&early), "token_not_yet_valid"),
        (
            "Sec-WebSocket-Protocol: bearer, nonsense\r\n".to_owned(),
            "token_malformed",
        ),
        ("X-API-Key: wrong\r\n".to_owned(), "api_key_wrong"),
    ] {
        let reply = refused(&echo, &header).await;
        assert_eq!(reply.status, 401, "{header}");
        assert_eq!(reply.json()["reason"], reason, "{header}");
        let challenge = reply.header("www-authenticate").unwrap();
        let invalid = challenge.starts_with("bearer realm=\"echo\", error=\"invalid_token\", ");
        assert_eq!(invalid, reason.starts_with("token_"), "{challenge}");
        assert_eq!(reply.header("sec-websocket-protocol"), None);
    }
}

#[tokio::test]
async fn only_the_socket_is_guarded() {
    let echo = start_guarded().await;
    for path in ["/", "/health", "/info", "/metrics", "/delay/1", "/headers"] {
        assert_eq!(echo.get(path).await.status, 200, "{path}");
    }
    assert_eq!(refused(&echo, "").await.status, 401);
}

#[tokio::test]
async fn without_a_secret_credentials_are_neither_needed_nor_looked_at() {
    let echo = start(settings()).await;
    echoes(&mut echo.client().await).await;
    let offered = [("sec-websocket-protocol", "bearer, nonsense")];
    let (mut client, answer) = connect(&echo, "/ws", &offered).await.unwrap();
    assert_eq!(answer.headers()["sec-websocket-protocol"], "bearer");
    echoes(&mut client).await;
}

#[tokio::test]
async fn a_token_that_ends_closes_the_socket_with_1008() {
    let echo = start_guarded().await;
    let began = Instant::now();
    let bearer = format!("Bearer {}", token(0.5 - LEEWAY));
    let headers = [("authorization", &*bearer)];
    let (mut client, _) = connect(&echo, "/ws", &headers).await.unwrap();
    echoes(&mut client).await;
    let close = closed(&mut client).await;
    assert!(began.elapsed() >= Duration::from_millis(490));
    assert_eq!(close.code, CloseCode::Policy);
    assert_eq!(close.reason, "token_expired");
    drop(client);
    let closed =
        "echo_connections_closed_total{by=\"server\",cause=\"token_expired\",code=\"1008\"} 1";
    counted(&echo, &[closed]).await;
}

#[tokio::test]
async fn a_client_that_never_pauses_is_closed_when_its_token_ends_all_the_same() {
    let echo = start_guarded().await;
    let bearer = format!("Bearer {}", token(0.5 - LEEWAY));
    let headers = [("authorization", &*bearer)];
    let (client, _) = connect(&echo, "/ws", &headers).await.unwrap();
    let (mut to, mut from) = client.split();
    let talking =
        tokio::spawn(async move { while to.send(Message::text("hello")).await.is_ok() {} });
    let close = within(async {
        loop {
            match from.next().await.unwrap().unwrap() {
                Message::Text(_) => {}
                Message::Close(close) => break close.unwrap(),
                other => panic!("{other:?}"),
            }
        }
    })
    .await;
    assert_eq!(close.reason, "token_expired");
    within(talking).await.unwrap();
}

#[tokio::test]
async fn a_refused_client_may_try_again_on_the_same_connection() {
    let echo = start_guarded().await;
    let mut stream = echo.raw().await;
    stream.write_all(HANDSHAKE).await.unwrap();
    let head = crate::fixture::read_head(&mut stream).await;
    assert!(head.starts_with("HTTP/1.1 401 "), "{head}");
    let head = head.to_ascii_lowercase();
    let (_, length) = head.split_once("content-length: ").unwrap();
    let length = length.lines().next().unwrap().parse().unwrap();
    let mut body = vec![0; length];
    within(tokio::io::AsyncReadExt::read_exact(&mut stream, &mut body))
        .await
        .unwrap();
    let handshake = String::from_utf8(HANDSHAKE.to_vec()).unwrap();
    let handshake = handshake.replacen("\r\n", &format!("\r\nX-API-Key: {KEY}\r\n"), 1);
    stream.write_all(handshake.as_bytes()).await.unwrap();
    let head = crate::fixture::read_head(&mut stream).await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
}
