//! What passes through and what does not.

use std::time::Duration;

use crate::support::{
    Client, Upstream, echo_server, edge, fields, get, no, ok, request, route_to, soon,
};
use tokio::sync::mpsc;

/// The head that the peer sees.
async fn head_at_the_peer(server: &str, own: &str, start: &str, sent: &[&str]) -> String {
    let upstream = Upstream::mirror().await;
    let edge = edge(&(server.to_owned() + &route_to(upstream.address, ""))).await;
    let mut client = Client::from(own, edge.address()).await;
    client.ask(start, sent).await.text()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_known_length_passes() {
    let edge = edge(&route_to(echo_server().await, "")).await;
    let mut client = Client::connect(edge.address()).await;
    client
        .send(request("POST /echo", &["Content-Length: 200000"]))
        .await;
    client.send(vec![b'x'; 200_000]).await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.complete), (200, true));
    assert!(answer.body == vec![b'x'; 200_000]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunked_body_passes() {
    let edge = edge(&route_to(echo_server().await, "")).await;
    for _ in 0..2 {
        // echo answers before it has heard all: then the connection to the client ends.
        let mut client = Client::connect(edge.address()).await;
        client
            .send(request("POST /echo", &["Transfer-Encoding: chunked"]))
            .await;
        client.send("5\r\nhello\r\n").await;
        client.send("7\r\n, world\r\n0\r\n\r\n").await;
        assert_eq!(client.answer().await.text(), "hello, world");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_follow_each_other_on_one_connection() {
    let upstream = Upstream::serve(|mut visit| async move {
        while let Some(head) = visit.head().await {
            let end: &[u8] = match fields(&head, "content-length").is_empty() {
                true => b"0\r\n\r\n",
                false => b"hello",
            };
            visit.read_to(end).await;
            visit.write(ok("", "done")).await;
        }
    })
    .await;
    let edge = edge(&route_to(upstream.address, "")).await;
    let mut client = Client::connect(edge.address()).await;
    for _ in 0..20 {
        client
            .send(request("POST /", &["Transfer-Encoding: chunked"]))
            .await;
        client.send("5\r\nhello\r\n").await;
        client.send("0\r\n\r\n").await;
        assert_eq!(client.answer().await.text(), "done");
        client.send(request("POST /", &["Content-Length: 5"])).await;
        client.send("hello").await;
        assert_eq!(client.answer().await.text(), "done");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_answer_passes_whole() {
    let edge = edge(&route_to(echo_server().await, "")).await;
    let answer = get(edge.address(), "/bytes/3000000").await;
    assert_eq!((answer.body.len(), answer.complete), (3_000_000, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_expects_100_hears_it_from_the_peer() {
    let upstream = Upstream::serve(|mut visit| async move {
        visit.head().await;
        visit.write("HTTP/1.1 100 Continue\r\n\r\n").await;
        let body = visit.read_to(b"hello").await.unwrap();
        visit.write(ok("", &body)).await;
    })
    .await;
    let edge = edge(&route_to(upstream.address, "")).await;
    let mut client = Client::connect(edge.address()).await;
    let expecting = ["Content-Length: 5", "Expect: 100-continue"];
    client.send(request("POST /", &expecting)).await;
    let go_on = client.take(21).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&go_on), "HTTP/1.1 100 Continue");
    client.send("hello").await;
    client.rest_of_head().await;
    assert_eq!(client.answer().await.text(), "hello");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_belongs_to_the_clients_connection_does_not_reach_the_peer() {
    let sent = [
        "Connection: keep-alive, X-Mine",
        "X-Mine: 1",
        "Keep-Alive: timeout=5",
        "Proxy-Connection: keep-alive",
        "TE: trailers",
        "Upgrade: h2c",
        "X-Other: 2",
    ];
    let head = head_at_the_peer("", "127.0.0.1", "GET /", &sent).await;
    for name in ["x-mine", "keep-alive", "proxy-connection", "te", "upgrade"] {
        assert!(fields(&head, name).is_empty(), "{name} in:\n{head}");
    }
    let connection = fields(&head, "connection").join(",").to_ascii_lowercase();
    assert!(!connection.contains("x-mine"), "{head}");
    assert_eq!(fields(&head, "x-other"), ["2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_belongs_to_the_peers_connection_does_not_reach_the_client() {
    let sent = "Connection: X-Mine\r\nX-Mine: 1\r\nKeep-Alive: timeout=9\r\n\
                Proxy-Connection: a\r\nUpgrade: h2c\r\nX-Other: 2\r\n";
    let upstream = Upstream::saying(ok(sent, "a")).await;
    let edge = edge(&route_to(upstream.address, "")).await;
    let answer = get(edge.address(), "/").await;
    for name in ["x-mine", "proxy-connection", "upgrade"] {
        assert!(answer.all(name).is_empty(), "{name} in:\n{}", answer.head);
    }
    assert_ne!(answer.header("keep-alive"), Some("timeout=9"));
    let connection = answer.all("connection").join(",").to_ascii_lowercase();
    assert!(!connection.contains("x-mine"), "{}", answer.head);
    assert_eq!(answer.header("x-other"), Some("2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_peer_learns_who_asked_and_how() {
    let sent = [
        "X-Forwarded-For: 1.2.3.4",
        "X-Forwarded-For: 5.6.7.8",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Host: evil.test",
        "Via: 1.0 far",
    ];
    let head = head_at_the_peer("", "127.0.0.9", "GET /", &sent).await;
    assert_eq!(
        fields(&head, "x-forwarded-for"),
        ["1.2.3.4, 5.6.7.8, 127.0.0.9"]
    );
    assert_eq!(fields(&head, "x-forwarded-proto"), ["http"]);
    assert_eq!(fields(&head, "x-forwarded-host"), ["edge.test"]);
    assert_eq!(fields(&head, "via"), ["1.0 far, 1.1 edge"]);
    assert_eq!(fields(&head, "host"), ["edge.test"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trusted_proxy_is_believed_about_scheme_host_and_id() {
    let sent = [
        "X-Forwarded-For: 1.2.3.4",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Host: shop.test",
        "X-Request-Id: abc-1",
    ];
    let server = "[server]\ntrusted_proxies = [\"127.0.0.6\"]\n";
    let head = head_at_the_peer(server, "127.0.0.6", "GET /", &sent).await;
    assert_eq!(fields(&head, "x-forwarded-for"), ["1.2.3.4, 127.0.0.6"]);
    assert_eq!(fields(&head, "x-forwarded-proto"), ["https"]);
    assert_eq!(fields(&head, "x-forwarded-host"), ["shop.test"]);
    assert_eq!(fields(&head, "x-request-id"), ["abc-1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_schemes_of_a_trusted_proxy_reach_the_peer_as_one() {
    let sent = ["X-Forwarded-Proto: https", "X-Forwarded-Proto: http"];
    let server = "[server]\ntrusted_proxies = [\"127.0.0.6\"]\n";
    let head = head_at_the_peer(server, "127.0.0.6", "GET /", &sent).await;
    assert_eq!(fields(&head, "x-forwarded-proto"), ["https"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn anybody_elses_request_id_is_replaced_and_the_answer_bears_the_new_one() {
    let upstream = Upstream::mirror().await;
    let edge = edge(&route_to(upstream.address, "")).await;
    let mut client = Client::connect(edge.address()).await;
    let answer = client.ask("GET /", &["X-Request-Id: mine"]).await;
    let id = answer.header("x-request-id").unwrap();
    assert_ne!(id, "mine");
    assert_eq!(id.len(), 32);
    assert_eq!(fields(&answer.text(), "x-request-id"), [id]);
    assert_eq!(answer.header("via"), Some("1.1 edge"));
    let next = client.get("/").await;
    assert_ne!(next.header("x-request-id"), Some(id));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_problem_names_the_request() {
    let server = "[server]\ntrusted_proxies = [\"127.0.0.0/8\"]\n".to_owned();
    let edge = edge(&(server + &route_to(crate::support::nobody().await, ""))).await;
    let mut client = Client::connect(edge.address()).await;
    let answer = client.ask("GET /", &["X-Request-Id: abc-1"]).await;
    assert_eq!(answer.refusal(), no(502, "connect_refused"));
    assert_eq!(answer.json()["instance"], "abc-1");
}

/// What a peer that reads strictly gets behind the head of an upload that comes in these pieces.
async fn body_at_the_peer(fields: &[&str], pieces: &[&str], end: &'static [u8]) -> String {
    let (tell, mut told) = mpsc::unbounded_channel();
    let upstream = Upstream::serve(move |mut visit| {
        let tell = tell.clone();
        async move {
            let _ = visit.head().await;
            let mut body = visit.read_to(end).await.unwrap();
            visit.write(ok("", "done")).await;
            let more = visit.read_for(Duration::from_millis(300)).await;
            body.push_str(&String::from_utf8(more).unwrap());
            let _ = tell.send(body);
        }
    })
    .await;
    let edge = edge(&route_to(upstream.address, "")).await;
    let mut client = Client::connect(edge.address()).await;
    client.send(request("POST /", fields)).await;
    for piece in pieces {
        // Apart, so that edge sees the end by itself.
        tokio::time::sleep(Duration::from_millis(50)).await;
        client.send(piece).await;
    }
    assert_eq!(client.answer().await.text(), "done");
    soon(told.recv()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunked_upload_has_exactly_one_end() {
    let chunked = ["Transfer-Encoding: chunked"];
    for pieces in [
        &["5\r\nhello\r\n0\r\n\r\n"][..],
        &["5\r\nhello\r\n", "0\r\n\r\n"],
        &["5\r\nhello\r\n", "0\r\n", "\r\n"],
        &["0\r\n\r\n"],
    ] {
        let body = body_at_the_peer(&chunked, pieces, b"0\r\n\r\n").await;
        assert_eq!(body.matches("0\r\n\r\n").count(), 1, "{pieces:?}: {body:?}");
        assert!(body.ends_with("0\r\n\r\n"), "{pieces:?}: {body:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_lengths_said_twice_reach_the_peer_once() {
    for twice in [
        &["Content-Length: 5", "Content-Length: 5"][..],
        &["Content-Length: 5, 5"],
    ] {
        let upstream = Upstream::serve(|mut visit| async move {
            let head = visit.head().await.unwrap();
            visit.read_to(b"hello").await;
            visit.write(ok("", &head)).await;
        })
        .await;
        let edge = edge(&route_to(upstream.address, "")).await;
        let mut client = Client::connect(edge.address()).await;
        client.send(request("POST /", twice)).await;
        client.send("hello").await;
        let answer = client.answer().await;
        // To refuse would be right as well (RFC 9112 6.3).
        if answer.status != 400 {
            assert_eq!(fields(&answer.text(), "content-length"), ["5"], "{twice:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_http_1_0_gets_its_answer_and_the_end() {
    let upstream = Upstream::saying(ok("", "hello")).await;
    let edge = edge(&route_to(upstream.address, "")).await;
    let mut client = Client::connect(edge.address()).await;
    client
        .send("GET / HTTP/1.0\r\nHost: edge.test\r\n\r\n")
        .await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
    assert_eq!(client.rest().await, b"");
}

/// A second request comes before the first is answered, after this time.
async fn sent_ahead(after: Duration) {
    let upstream = Upstream::serve(|mut visit| async move {
        while let Some(head) = visit.head().await {
            tokio::time::sleep(Duration::from_millis(300)).await;
            visit.write(ok("", &head)).await;
        }
    })
    .await;
    let edge = edge(&route_to(upstream.address, "")).await;
    let mut client = Client::connect(edge.address()).await;
    if after.is_zero() {
        let both = request("GET /1", &[]) + &request("GET /2", &[]);
        client.send(both).await;
    } else {
        client.send(request("GET /1", &[])).await;
        tokio::time::sleep(after).await;
        client.send(request("GET /2", &[])).await;
    }
    let first = client
        .answer_to("GET")
        .await
        .expect("the first answer is lost");
    assert!(first.complete && first.text().starts_with("GET /1 "));
    // A server may close instead, and the client asks again (RFC 9112 9.3.2).
    if let Some(second) = client.answer_to("GET").await {
        assert!(second.text().starts_with("GET /2 "));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_requests_sent_at_once_are_answered_in_their_order() {
    sent_ahead(Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_sent_too_early_does_not_cost_the_answer_before_it() {
    sent_ahead(Duration::from_millis(100)).await;
}
