//! What takes too long, and what breaks off.

use std::time::{Duration, Instant};

use crate::support::{
    Answer, Client, Upstream, edge, edge_with_log, figure_becomes, get, ms, no, nobody, ok,
    request, route_to, until, upstream_at,
};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::sleep;

/// The deadline of all these routes.
const DEADLINE: Duration = Duration::from_millis(400);
const SHORT: &str = "timeout = \"400ms\"";

/// At the deadline, give or take what a busy machine takes.
fn in_time(began: Instant) {
    let took = began.elapsed();
    let latest = DEADLINE + ms(1_200);
    assert!(took >= DEADLINE - ms(5) && took < latest, "{took:?}");
}

/// An upstream that sends this head and then a piece in every 50 ms, for ever.
async fn dripping(head: &'static str, piece: &'static str) -> Upstream {
    Upstream::serve(move |mut visit| async move {
        visit.head().await;
        visit.write(head).await;
        loop {
            sleep(ms(50)).await;
            visit.write(piece).await;
            if visit.stream.try_write(b"").is_err() {
                return;
            }
        }
    })
    .await
}

/// An upstream that never says anything.
async fn silent() -> Upstream {
    Upstream::serve(|mut visit| async move {
        visit.head().await;
        std::future::pending::<()>().await;
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_does_not_come_is_504_at_the_deadline() {
    let upstream = silent().await;
    let edge = edge(&route_to(upstream.address, SHORT)).await;
    let began = Instant::now();
    let answer = get(edge.address(), "/").await;
    in_time(began);
    assert_eq!(answer.refusal(), no(504, "response_timeout"));
    let failed = "edge_requests_total{method=\"GET\",reason=\"response_timeout\",route=\"/*\",status=\"504\"}";
    figure_becomes(&edge, failed, 1.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_drips_is_504_at_the_deadline() {
    let upstream = dripping("HTTP/1.1 200 OK\r\n", "X-More: 1\r\n").await;
    let edge = edge(&route_to(upstream.address, SHORT)).await;
    let began = Instant::now();
    let answer = get(edge.address(), "/").await;
    in_time(began);
    assert_eq!(answer.refusal(), no(504, "response_timeout"));
}

#[tokio::test(flavor = "multi_thread")]
async fn interim_answers_do_not_move_the_deadline() {
    let upstream = dripping("", "HTTP/1.1 103 Early Hints\r\n\r\n").await;
    let edge = edge(&route_to(upstream.address, SHORT)).await;
    let began = Instant::now();
    let answer = get(edge.address(), "/").await;
    in_time(began);
    assert_eq!(answer.refusal(), no(504, "response_timeout"));
}

/// What a client gets of a body that drips, and after how long.
async fn cut_at_the_deadline(head: &'static str, piece: &'static str, ask: &str) -> Answer {
    let upstream = dripping(head, piece).await;
    let (edge, log) = edge_with_log(&route_to(upstream.address, SHORT)).await;
    let mut client = Client::connect(edge.address()).await;
    let began = Instant::now();
    client.send(ask).await;
    let answer = client.answer().await;
    in_time(began);
    client.rest().await;
    let line = &log.lines(1).await[0];
    assert_eq!(
        (line["status"].as_u64(), line["reason"].as_str()),
        (Some(200), Some("response_timeout"))
    );
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_known_length_is_visibly_cut_at_the_deadline() {
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n";
    let answer = cut_at_the_deadline(head, "hello", &request("GET /", &[])).await;
    assert_eq!((answer.status, answer.complete), (200, false));
    assert!(answer.text().starts_with("hello"), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunked_body_is_visibly_cut_at_the_deadline() {
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let answer = cut_at_the_deadline(head, "5\r\nhello\r\n", &request("GET /", &[])).await;
    assert_eq!((answer.status, answer.complete), (200, false));
    assert!(answer.text().starts_with("hello"), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_ends_with_its_connection_is_visibly_cut_at_the_deadline() {
    for head in [
        "HTTP/1.0 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n",
    ] {
        let answer = cut_at_the_deadline(head, "hello", &request("GET /", &[])).await;
        assert_eq!((answer.status, answer.complete), (200, false), "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_http_1_0_is_sent_no_chunks() {
    let ask = "GET / HTTP/1.0\r\nHost: edge.test\r\n\r\n";
    for (head, piece) in [
        ("HTTP/1.0 200 OK\r\n\r\n", "hello"),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "5\r\nhello\r\n",
        ),
    ] {
        let answer = cut_at_the_deadline(head, piece, ask).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("transfer-encoding"), None);
        assert_eq!(answer.header("content-length"), None);
        assert!(
            answer.text().chars().all(|c| "hello".contains(c)),
            "{answer:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_body_is_not_kept_in_the_cache() {
    for (head, piece) in [
        ("HTTP/1.0 200 OK\r\n\r\n", "hello"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", "hello"),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "5\r\nhello\r\n",
        ),
    ] {
        let upstream = dripping(head, piece).await;
        let edge = edge(&route_to(
            upstream.address,
            &format!("{SHORT}\ncache = \"1h\""),
        ))
        .await;
        // Who asks at the instant of the cut may still share it; who asks later asks anew.
        until(|| async {
            let answer = get(edge.address(), "/").await;
            assert!(!answer.complete, "{answer:?}");
            upstream.count() == 2
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_is_cut_at_the_deadline() {
    let upstream = Upstream::serve(|mut visit| async move {
        visit.head().await;
        visit
            .write("HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
            .await;
        loop {
            visit.write(vec![b'x'; 1 << 20]).await;
            if visit.stream.try_write(b"x").is_err() {
                sleep(ms(20)).await;
            }
        }
    })
    .await;
    let (edge, log) = edge_with_log(&route_to(upstream.address, SHORT)).await;
    let mut client = Client::connect(edge.address()).await;
    let began = Instant::now();
    client.send(request("GET /", &[])).await;
    let line = &log.lines(1).await[0];
    in_time(began);
    assert_eq!(line["reason"], "response_timeout");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_the_client_does_not_send_is_408() {
    let upstream = silent().await;
    let keys = "timeout = { response = \"5s\", body = \"400ms\" }";
    let edge = edge(&route_to(upstream.address, keys)).await;
    for framing in ["Content-Length: 100", "Transfer-Encoding: chunked"] {
        let mut client = Client::connect(edge.address()).await;
        let began = Instant::now();
        client.send(request("POST /", &[framing])).await;
        client.send("5\r\n").await;
        let answer = client.answer().await;
        in_time(began);
        assert_eq!(answer.refusal(), no(408, "request_timeout"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_drips_is_408_too() {
    let upstream = silent().await;
    let keys = "timeout = { response = \"5s\", body = \"400ms\" }";
    let edge = edge(&route_to(upstream.address, keys)).await;
    let stream = TcpStream::connect(edge.address()).await.unwrap();
    let (mut from, mut to) = stream.into_split();
    tokio::spawn(async move {
        use tokio::io::AsyncWriteExt;
        let head = request("POST /", &["Content-Length: 100000"]);
        let mut sent = to.write_all(head.as_bytes()).await;
        while sent.is_ok() {
            sleep(ms(50)).await;
            sent = to.write_all(b"x").await;
        }
    });
    let began = Instant::now();
    let mut answer = Vec::new();
    let _ =
        crate::support::soon(tokio::io::AsyncReadExt::read_to_end(&mut from, &mut answer)).await;
    in_time(began);
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer:?}");
    assert!(answer.contains("request_timeout"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_upload_that_arrives_in_time_is_no_ones_fault() {
    let edge = edge(&route_to(
        crate::support::echo_server().await,
        "timeout = \"10s\"",
    ))
    .await;
    let mut client = Client::connect(edge.address()).await;
    client
        .send(request("POST /echo", &["Content-Length: 10"]))
        .await;
    for _ in 0..10 {
        sleep(ms(30)).await;
        client.send("x").await;
    }
    assert_eq!(client.answer().await.text(), "xxxxxxxxxx");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_does_not_come_about_is_given_up() {
    // A queue that is full: the system lets whoever knocks wait.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut queue = Vec::new();
    for _ in 0..8 {
        if let Ok(Ok(waiting)) = tokio::time::timeout(ms(100), TcpStream::connect(address)).await {
            queue.push(waiting);
        }
    }
    let edge = edge(&route_to(
        address,
        "timeout = { connect = \"400ms\", response = \"10s\" }",
    ))
    .await;
    let began = Instant::now();
    let answer = get(edge.address(), "/").await;
    in_time(began);
    assert_eq!(answer.refusal(), no(504, "connect_timeout"));
    drop((listener, queue));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_refuses_is_502() {
    let edge = edge(&route_to(nobody().await, "")).await;
    let mut client = Client::connect(edge.address()).await;
    let refused = client.get("/").await;
    assert_eq!(refused.refusal(), no(502, "connect_refused"));
    figure_becomes(
        &edge,
        "edge_upstream_failures_total{reason=\"connect_refused\",upstream=\"u\"}",
        1.0,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_peer_takes_over_for_one_that_refuses() {
    let well = Upstream::saying(ok("", "well")).await;
    let tables = upstream_at(&[nobody().await, well.address])
        + "[[route]]\npath = \"/*\"\nupstream = \"u\"\n";
    let (edge, log) = edge_with_log(&tables).await;
    let mut client = Client::connect(edge.address()).await;
    for _ in 0..6 {
        assert_eq!(client.get("/").await.text(), "well");
        client
            .send(request("POST /", &["Content-Length: 5"]) + "hello")
            .await;
        assert_eq!(client.answer().await.status, 200);
    }
    let lines = log.lines(12).await;
    assert!(lines.iter().any(|line| line["tries"] == 2), "{lines:?}");
    assert!(
        lines
            .iter()
            .all(|line| line["peer"] == well.address.to_string())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_peers_are_each_tried_once() {
    let peers = [nobody().await, nobody().await, nobody().await];
    let tables = upstream_at(&peers) + "[[route]]\npath = \"/*\"\nupstream = \"u\"\n";
    let (edge, log) = edge_with_log(&tables).await;
    assert_eq!(
        get(edge.address(), "/").await.refusal(),
        no(502, "connect_refused")
    );
    assert_eq!(log.lines(1).await[0]["tries"], 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_closes_without_an_answer_is_502() {
    let upstream = Upstream::saying_once("").await;
    let edge = edge(&route_to(upstream.address, "")).await;
    let answer = get(edge.address(), "/").await;
    assert_eq!(answer.refusal(), no(502, "upstream_closed"));
    assert_eq!(upstream.count(), 1, "a fresh connection is not tried again");
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_head_is_502() {
    let upstream = Upstream::saying_once("HTTP/1.1 200 OK\r\nContent-Le").await;
    let edge = edge(&route_to(upstream.address, "")).await;
    let answer = get(edge.address(), "/").await;
    assert_eq!(answer.refusal(), no(502, "upstream_closed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_is_502() {
    for garbage in [
        "SSH-2.0-OpenSSH_9.9\r\n\r\n",
        "\0\0\0\0\r\n\r\n",
        "HTTP/1.1 banana\r\n\r\n",
    ] {
        let upstream = Upstream::saying_once(garbage).await;
        let edge = edge(&route_to(upstream.address, "")).await;
        let answer = get(edge.address(), "/").await;
        assert_eq!(answer.refusal(), no(502, "upstream_invalid"), "{garbage:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_that_nobody_asked_for_is_502() {
    let switch = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nsmuggled";
    let upstream = Upstream::saying(switch).await;
    let edge = edge(&route_to(upstream.address, "")).await;
    let mut client = Client::connect(edge.address()).await;
    let answer = client.get("/").await;
    assert_eq!(answer.refusal(), no(502, "upstream_invalid"));
    // Nothing of it is left on either connection.
    let again = client.get("/").await;
    assert_eq!(again.refusal(), no(502, "upstream_invalid"));
    assert_eq!(upstream.connections(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_breaks_off_is_visibly_cut() {
    for cut in [
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    ] {
        let upstream = Upstream::saying_once(cut).await;
        let (edge, log) = edge_with_log(&route_to(upstream.address, "")).await;
        let answer = get(edge.address(), "/").await;
        assert_eq!((answer.status, answer.complete), (200, false), "{cut:?}");
        assert_eq!(log.lines(1).await[0]["reason"], "upstream_closed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooled_connection_that_the_peer_closed_is_no_fault_of_a_get() {
    // Each answer promises to stay, and leaves.
    let upstream = Upstream::serve(|mut visit| async move {
        visit.head().await;
        visit.write(ok("", "a")).await;
        sleep(ms(20)).await;
    })
    .await;
    let edge = edge(&route_to(upstream.address, "")).await;
    let mut client = Client::connect(edge.address()).await;
    for pause in [0, 0, 5, 10, 15, 18, 20, 22, 25, 30, 0, 19, 20, 21] {
        assert_eq!(client.get("/").await.text(), "a");
        sleep(ms(pause)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_get_on_a_pooled_connection_that_dies_under_it_is_asked_again() {
    // The first connection answers once and dies at the second request.
    let upstream = Upstream::serve(|mut visit| async move {
        visit.head().await;
        visit.write(ok("", "a")).await;
        visit.head().await;
    })
    .await;
    let edge = edge(&route_to(upstream.address, "")).await;
    let mut client = Client::connect(edge.address()).await;
    for _ in 0..3 {
        assert_eq!(client.get("/").await.text(), "a");
    }
    assert_eq!(upstream.connections(), 3);
    client
        .send(request("POST /", &["Content-Length: 5"]) + "hello")
        .await;
    let post = client.answer().await;
    // The pool may have nothing to give, and a fresh connection answers.
    if post.status != 200 {
        assert_eq!(post.refusal(), no(502, "upstream_closed"));
    }
    let heads = upstream.heads();
    let posts = heads.iter().filter(|head| head.starts_with("POST"));
    assert_eq!(posts.count(), 1, "a POST is never repeated");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_to_a_peer_are_used_again() {
    let upstream = Upstream::saying(ok("", "a")).await;
    let edge = edge(&route_to(upstream.address, "")).await;
    // One client: another's request may come before the connection is back in the pool.
    let mut client = Client::connect(edge.address()).await;
    for _ in 0..10 {
        client.get("/").await;
    }
    assert_eq!(upstream.count(), 10);
    // Pingora's pool passes one by that its watcher has not let go of yet.
    assert!(upstream.connections() <= 3, "{}", upstream.connections());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_is_noted_and_harms_nobody() {
    let upstream = Upstream::serve(|mut visit| async move {
        while visit.head().await.is_some() {
            sleep(ms(200)).await;
            visit.write(ok("", "a")).await;
        }
    })
    .await;
    let (edge, log) = edge_with_log(&route_to(upstream.address, "")).await;
    let mut client = Client::connect(edge.address()).await;
    client.send(request("GET /", &[])).await;
    sleep(ms(50)).await;
    drop(client);
    let line = &log.lines(1).await[0];
    assert_eq!(
        (line["status"].as_u64(), line["reason"].as_str()),
        (Some(499), Some("client_closed"))
    );
    assert_eq!(get(edge.address(), "/").await.text(), "a");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_request_of_a_connection_has_a_deadline_of_its_own() {
    let upstream = Upstream::serve(|mut visit| async move {
        while let Some(head) = visit.head().await {
            let time = if head.starts_with("GET /slow") {
                10_000
            } else {
                200
            };
            sleep(ms(time)).await;
            visit.write(ok("", "a")).await;
        }
    })
    .await;
    let edge = edge(&route_to(upstream.address, "timeout = \"1s\"")).await;
    let mut client = Client::connect(edge.address()).await;
    let began = Instant::now();
    while began.elapsed() < ms(1_300) {
        assert_eq!(client.get("/").await.status, 200);
    }
    let began = Instant::now();
    let late = client.get("/slow").await;
    let took = began.elapsed();
    assert_eq!(late.refusal(), no(504, "response_timeout"));
    assert!(took >= ms(995) && took < ms(2_500), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_in_time_leaves_a_waiting_connection_alone() {
    let upstream = Upstream::saying(ok("", "a")).await;
    let edge = edge(&route_to(upstream.address, SHORT)).await;
    let mut client = Client::connect(edge.address()).await;
    assert_eq!(client.get("/").await.status, 200);
    sleep(DEADLINE + ms(300)).await;
    assert_eq!(client.get("/").await.status, 200);
    assert_eq!(upstream.connections(), 1, "nor is the peer's cut");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_comes_before_the_body_was_sent_arrives() {
    let upstream = Upstream::serve(|mut visit| async move {
        visit.head().await;
        visit
            .write("HTTP/1.1 413 Content Too Large\r\nContent-Length: 8\r\n\r\ntoo much")
            .await;
        visit.read_for(Duration::from_secs(5)).await;
    })
    .await;
    let edge = edge(&route_to(upstream.address, "")).await;
    let mut client = Client::connect(edge.address()).await;
    client
        .send(request("POST /", &["Content-Length: 1000000"]))
        .await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.text().as_str()), (413, "too much"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_framed_in_two_ways_is_refused_or_framed_once() {
    for said in [
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nhello",
    ] {
        let upstream = Upstream::saying_once(said).await;
        let edge = edge(&route_to(upstream.address, "")).await;
        let answer = get(edge.address(), "/").await;
        if answer.status == 200 {
            let framings =
                answer.all("content-length").len() + answer.all("transfer-encoding").len();
            assert!(
                framings == 1 && answer.text() == "hello",
                "{said:?}: {answer:?}"
            );
        } else {
            assert_eq!(answer.refusal(), no(502, "upstream_invalid"), "{said:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_nobody_knows_hold_up_neither_the_start_nor_other_routes() {
    let well = Upstream::saying(ok("", "well")).await;
    let names: Vec<String> = (0..10)
        .map(|number| format!("nobody-{number}.invalid:80"))
        .collect();
    let tables = upstream_at(&[well.address])
        + &format!("[upstream.unknown]\npeers = {names:?}\n")
        + "[[route]]\npath = \"/unknown\"\nupstream = \"unknown\"\n\
           [[route]]\npath = \"/*\"\nupstream = \"u\"\n";
    let began = Instant::now();
    let edge = edge(&tables).await;
    let took = began.elapsed();
    assert!(took < ms(3_000), "{took:?}");
    let unknown = get(edge.address(), "/unknown").await;
    assert_eq!(unknown.refusal(), no(503, "unresolved"));
    assert_eq!(get(edge.address(), "/").await.text(), "well");
}
