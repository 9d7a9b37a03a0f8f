//! Bodies that are not taken, not sent, or not waited for; and who is told when somebody goes.

use std::time::Duration;

use crate::support::{
    Client, Upstream, edge, edge_with_log, figure, figure_becomes, figures, ms, ok, request,
    route_to, soon, until, upstream_at,
};
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::sleep;

const LARGE: usize = 10_000_000;

fn large() -> Vec<u8> {
    let mut random = 12_345_u32;
    let next = |_| {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (random >> 24) as u8
    };
    (0..LARGE).map(next).collect()
}

/// Sends the head and then the body, for as long as it is taken; reads at the same time.
async fn upload(
    to: std::net::SocketAddr,
    fields: &[&str],
    body: Vec<u8>,
) -> crate::support::Answer {
    let client = Client::connect(to).await.into_stream();
    let (read, mut write) = client.into_split();
    let head = request("PUT /", fields);
    let sending = tokio::spawn(async move {
        use tokio::io::AsyncWriteExt;
        let _ = write.write_all(head.as_bytes()).await;
        let _ = write.write_all(&body).await;
        write
    });
    let answer = soon(answer_on(read)).await;
    sending.abort();
    answer
}

async fn answer_on(mut read: tokio::net::tcp::OwnedReadHalf) -> crate::support::Answer {
    let mut bytes = Vec::new();
    let head = loop {
        if let Some(end) = bytes.windows(4).position(|part| part == b"\r\n\r\n") {
            break String::from_utf8(bytes.drain(..end + 4).collect()).unwrap();
        }
        let count = read.read_buf(&mut bytes).await.expect("a reset");
        assert!(count > 0, "no answer");
    };
    let length = crate::support::fields(&head, "content-length");
    let length: usize = length.first().expect("a length").parse().unwrap();
    while bytes.len() < length {
        if read.read_buf(&mut bytes).await.is_ok_and(|count| count > 0) {
            continue;
        }
        break;
    }
    crate::support::Answer {
        status: head[9..12].parse().unwrap(),
        complete: bytes.len() == length,
        head,
        body: bytes,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_says_no_to_an_upload_and_reads_no_more_is_heard() {
    let peer = Upstream::serve(|mut visit| async move {
        visit.head().await;
        // By now edge has sent what there is room for.
        sleep(ms(200)).await;
        visit
            .write("HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
            .await;
        std::future::pending::<()>().await;
    })
    .await;
    let (edge, log) = edge_with_log(&route_to(peer.address, "timeout = \"10s\"")).await;
    let fields = [&*format!("Content-Length: {LARGE}")];
    let answer = upload(edge.address(), &fields, large()).await;
    assert_eq!((answer.status, answer.text().as_str()), (413, "no"));
    let line = &log.lines(1).await[0];
    assert_eq!(line["status"], 413);
    assert!(line["total_ms"].as_f64().unwrap() < 5_000.0, "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_says_no_to_an_upload_and_closes_is_heard() {
    let peer = Upstream::serve(|mut visit| async move {
        visit.head().await;
        visit
            .write("HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
            .await;
        // As servers do that know of resets: what still comes is read for a while.
        visit.read_for(ms(500)).await;
    })
    .await;
    let edge = edge(&route_to(peer.address, "")).await;
    let fields = [&*format!("Content-Length: {LARGE}")];
    let answer = upload(edge.address(), &fields, large()).await;
    assert_eq!((answer.status, answer.text().as_str()), (413, "no"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_reads_slowly_gets_all_of_it_right() {
    let (told, mut bodies) = unbounded_channel();
    let peer = Upstream::serve(move |mut visit| {
        let told = told.clone();
        async move {
            visit.head().await;
            sleep(ms(1_500)).await;
            let body = visit.take(LARGE).await.unwrap();
            told.send(body).unwrap();
            visit.write(ok("", "well")).await;
        }
    })
    .await;
    let edge = edge(&route_to(peer.address, "timeout = \"15s\"")).await;
    let fields = [&*format!("Content-Length: {LARGE}")];
    let answer = upload(edge.address(), &fields, large()).await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "well"));
    assert!(bodies.recv().await.unwrap() == large(), "not what was sent");
}

/// A peer that answers so, and tells when its connection has ended.
async fn watching(answer: &'static str) -> (Upstream, UnboundedReceiver<()>) {
    let (told, gone) = unbounded_channel();
    let upstream = Upstream::serve(move |mut visit| {
        let told = told.clone();
        async move {
            visit.head().await;
            visit.write(answer).await;
            let mut rest = [0; 16_384];
            while visit
                .stream
                .read(&mut rest)
                .await
                .is_ok_and(|read| read > 0)
            {}
            told.send(()).unwrap();
        }
    })
    .await;
    (upstream, gone)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_is_noted_and_its_peer_told_whenever_it_goes() {
    let half = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello";
    let post = request("POST /", &["Content-Length: 10"]) + "hello";
    for (when, said, answer, status) in [
        ("waiting", request("GET /", &[]), "", 499),
        ("sending", post, "", 499),
        ("reading", request("GET /", &[]), half, 200),
    ] {
        let (peer, mut gone) = watching(answer).await;
        let eject = "eject = { failures = 1, time = \"1m\", time_max = \"1m\" }\n";
        let route = "[[route]]\npath = \"/*\"\nupstream = \"u\"\ntimeout = \"10s\"\n";
        let tables = upstream_at(&[peer.address]) + eject + route;
        let (edge, log) = edge_with_log(&tables).await;
        let mut client = Client::connect(edge.address()).await;
        client.send(said).await;
        until(|| async { peer.count() == 1 }).await;
        if !answer.is_empty() {
            client.rest_of_head().await;
        }
        drop(client);
        let told = tokio::time::timeout(Duration::from_secs(5), gone.recv()).await;
        assert!(told.is_ok(), "the peer hears nothing: {when}");
        let line = &log.lines(1).await[0];
        assert_eq!(
            (&line["status"], &line["reason"]),
            (&status.into(), &"client_closed".into())
        );
        let figures = figures(&edge).await;
        assert!(
            !figures.contains("edge_upstream_failures_total{"),
            "{when}:\n{figures}"
        );
        assert!(
            !figures.contains("edge_upstream_ejections_total{"),
            "{when}:\n{figures}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_expects_100_and_hears_a_no_need_not_send_its_body() {
    let peer = Upstream::saying_once("HTTP/1.1 417 No\r\nContent-Length: 2\r\n\r\nno").await;
    let edge = edge(&route_to(peer.address, "")).await;
    let mut client = Client::connect(edge.address()).await;
    let expecting = ["Content-Length: 5", "Expect: 100-continue"];
    let answer = client.ask("POST /", &expecting).await;
    assert_eq!((answer.status, answer.text().as_str()), (417, "no"));
    assert_eq!(answer.header("connection"), Some("close"));
    assert!(client.rest().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_100_is_waited_for_no_longer_than_a_try() {
    let silent = Upstream::serve(|mut visit| async move {
        visit.head().await;
        std::future::pending::<()>().await;
    })
    .await;
    let keys = "timeout = { try = \"200ms\", response = \"10s\" }";
    let edge = edge(&route_to(silent.address, keys)).await;
    let mut client = Client::connect(edge.address()).await;
    let expecting = ["Content-Length: 5", "Expect: 100-continue"];
    let answer = client.ask("PUT /", &expecting).await;
    assert_eq!(answer.refusal(), crate::support::no(504, "try_timeout"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_closes_its_side_is_taken_to_be_gone() {
    let (peer, mut gone) = watching("").await;
    let (edge, log) = edge_with_log(&route_to(peer.address, "")).await;
    let mut client = Client::connect(edge.address()).await;
    client.send(request("GET /", &[])).await;
    client.finish().await;
    soon(gone.recv()).await;
    assert!(client.rest().await.is_empty());
    assert_eq!(log.lines(1).await[0]["reason"], "client_closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_just_the_size_that_is_kept_is_kept() {
    for (size, status) in [(65_536, 200), (65_537, 503)] {
        let asked = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let mut peers = Vec::new();
        for _ in 0..2 {
            let asked = asked.clone();
            let peer = Upstream::serve(move |mut visit| {
                let asked = asked.clone();
                async move {
                    visit.head().await;
                    visit.take(size).await;
                    let answer = match asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
                        0 => "HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n".to_owned(),
                        _ => ok("", "well"),
                    };
                    visit.write(answer).await;
                }
            });
            peers.push(peer.await.address);
        }
        let retry = "retry = { on = [\"503\"], body = \"64KiB\" }\n";
        let route = "[[route]]\npath = \"/*\"\nupstream = \"u\"\n";
        let edge = edge(&(upstream_at(&peers) + retry + route)).await;
        let fields = [&*format!("Content-Length: {size}")];
        let answer = upload(edge.address(), &fields, large()[..size].to_vec()).await;
        assert_eq!(answer.status, status, "{size}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_body_that_was_sent_twice_the_client_goes_on() {
    let closes = Upstream::saying_once("").await;
    let good = Upstream::serve(|mut visit| async move {
        while visit.head().await.is_some() {
            let body = visit.take(5).await.unwrap();
            visit.write(ok("", &String::from_utf8(body).unwrap())).await;
        }
    })
    .await;
    let route = "[[route]]\npath = \"/*\"\nupstream = \"u\"\n";
    let tables = upstream_at(&[closes.address, good.address]) + "eject = \"off\"\n" + route;
    let edge = edge(&tables).await;
    let mut client = Client::connect(edge.address()).await;
    for number in 10..20 {
        client.send(request("PUT /", &["Content-Length: 5"])).await;
        client.send(format!("{number}")).await;
        sleep(ms(20)).await;
        client.send("end").await;
        assert_eq!(client.answer().await.text(), format!("{number}end"));
    }
    figure_becomes(&edge, "edge_upstream_open{peer=\"none\"}", 0.0).await;
    let retries = "edge_upstream_retries_total{after=\"closed\",upstream=\"u\"}";
    assert!(figure(&edge, retries).await > 0.5);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_peer_says_reaches_the_client_though_more_is_to_come() {
    for (head, part, heard) in [
        ("Content-Length: 10\r\n\r\n", "", ""),
        ("Content-Length: 10\r\n\r\n", "hello", "hello"),
        (
            "Transfer-Encoding: chunked\r\n\r\n",
            "5\r\nhello\r\n",
            "5\r\nhello\r\n",
        ),
        ("Connection: close\r\n\r\n", "hello", "5\r\nhello\r\n"),
    ] {
        let peer = Upstream::serve(move |mut visit| async move {
            visit.head().await;
            visit.write(format!("HTTP/1.1 200 OK\r\n{head}")).await;
            sleep(ms(20)).await;
            visit.write(part).await;
            std::future::pending::<()>().await;
        })
        .await;
        for way in ["", "cache = \"1h\""] {
            let keys = format!("timeout = \"1m\"\n{way}");
            let edge = edge(&route_to(peer.address, &keys)).await;
            let mut client = Client::connect(edge.address()).await;
            client.send(request("GET /", &[])).await;
            client.rest_of_head().await;
            let part = client.take(heard.len()).await.expect("it ends");
            assert_eq!(String::from_utf8(part).unwrap(), heard, "{way}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_a_fetch_is_noted_at_once() {
    let (peer, _gone) = watching("").await;
    let keys = "cache = \"1h\"\ntimeout = \"10s\"";
    let (edge, log) = edge_with_log(&route_to(peer.address, keys)).await;
    let mut client = Client::connect(edge.address()).await;
    client.send(request("GET /", &[])).await;
    until(|| async { peer.count() == 1 }).await;
    drop(client);
    let lines = tokio::time::timeout(Duration::from_secs(5), log.lines(1)).await;
    let line = &lines.expect("nobody noticed")[0];
    assert_eq!(
        (&line["status"], &line["reason"]),
        (&499.into(), &"client_closed".into())
    );
}
