//! The table of what a peer may do wrong, and what becomes of it: docs/failures.md, row by row.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use crate::support::{
    Client, Upstream, edge, edge_with_log, figure, figure_becomes, get, ms, no, nobody, ok,
    request, route_to, until, upstream_at,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{sleep, timeout};

/// What a peer does once it has read the head of a request.
#[derive(Clone)]
enum Does {
    /// There is nobody.
    Nothing,
    /// It says this and closes.
    Say(Vec<u8>),
    /// It says this and waits.
    SayAndWait(Vec<u8>),
    /// It says this and breaks the connection (RST).
    SayAndReset(Vec<u8>),
}

struct Row {
    what: &'static str,
    does: Does,
    /// More keys of the route.
    keys: &'static str,
    status: u16,
    reason: &'static str,
    /// Is a GET sent to another peer, and is a POST?
    repeated: (bool, bool),
}

fn say(bytes: impl Into<Vec<u8>>) -> Does {
    Does::Say(bytes.into())
}

fn wait(bytes: impl Into<Vec<u8>>) -> Does {
    Does::SayAndWait(bytes.into())
}

fn reset(bytes: impl Into<Vec<u8>>) -> Does {
    Does::SayAndReset(bytes.into())
}

fn fields(count: usize, length: usize) -> String {
    let field = |number| format!("X-{number}: {}\r\n", "x".repeat(length));
    let fields: String = (0..count).map(field).collect();
    format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: 0\r\n\r\n")
}

const TRY: &str = "timeout = { try = \"200ms\", response = \"5s\" }";
const CLOSED: (u16, &str) = (502, "upstream_closed");
const INVALID: (u16, &str) = (502, "upstream_invalid");

/// What is no answer is repeated like a connection that broke.
fn table() -> Vec<Row> {
    let once = (true, false);
    let row = |what, does, keys, (status, reason), repeated| Row {
        what,
        does,
        keys,
        status,
        reason,
        repeated,
    };
    let interim = "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(17) + &ok("", "a");
    let two_lengths = "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\na";
    let switch = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n";
    vec![
        row(
            "refuses",
            Does::Nothing,
            "",
            (502, "connect_refused"),
            (true, true),
        ),
        row("closes", say(""), "", CLOSED, once),
        row("resets", reset(""), "", CLOSED, once),
        row(
            "half a head, then closes",
            say("HTTP/1.1 200 OK\r\nX-"),
            "",
            CLOSED,
            once,
        ),
        row(
            "half a head, then resets",
            reset("HTTP/1.1 200 OK\r\nX-"),
            "",
            CLOSED,
            once,
        ),
        row("garbage", say("\0\0\0 what?\r\n\r\n"), "", INVALID, once),
        row(
            "an unknown version",
            say("HTTP/3.7 200 OK\r\n\r\n"),
            "",
            INVALID,
            once,
        ),
        row(
            "a head of 128 KiB",
            say(fields(2, 64 << 10)),
            "",
            INVALID,
            once,
        ),
        row(
            "a head of 1.1 MiB",
            say(fields(1, 1_100 << 10)),
            "",
            INVALID,
            once,
        ),
        row("300 fields", say(fields(300, 1)), "", INVALID, once),
        row("two lengths", say(two_lengths), "", INVALID, once),
        row("17 interim answers", say(interim), "", INVALID, once),
        row("an upgrade", say(switch), "", INVALID, once),
        row(
            "silence, a try has its time",
            wait(""),
            TRY,
            (504, "try_timeout"),
            once,
        ),
        row(
            "half a head, a try has its time",
            wait("HTTP/1.1 2"),
            TRY,
            (504, "try_timeout"),
            once,
        ),
        row(
            "silence to the end",
            wait(""),
            "timeout = \"300ms\"",
            (504, "response_timeout"),
            (false, false),
        ),
    ]
}

/// A peer that does so; `None`: there is nobody.
async fn peer(does: Does) -> (SocketAddr, Option<Upstream>) {
    if matches!(does, Does::Nothing) {
        return (nobody().await, None);
    }
    let upstream = Upstream::serve(move |mut visit| {
        let does = does.clone();
        async move {
            visit.head().await;
            let (bytes, then) = match does {
                Does::Nothing => return,
                Does::Say(bytes) => (bytes, 0),
                Does::SayAndWait(bytes) => (bytes, 1),
                Does::SayAndReset(bytes) => (bytes, 2),
            };
            visit.write(bytes).await;
            match then {
                1 => std::future::pending().await,
                2 => {
                    sleep(ms(20)).await;
                    visit.stream.set_zero_linger().unwrap();
                }
                _ => {
                    // What was sent is not to be lost to a reset: the request is read to its end.
                    visit.stream.shutdown().await.ok();
                    let mut rest = [0; 1_024];
                    while timeout(ms(200), visit.stream.read(&mut rest))
                        .await
                        .is_ok_and(|read| read.is_ok_and(|read| read > 0))
                    {}
                }
            }
        }
    })
    .await;
    (upstream.address, Some(upstream))
}

const POST: &[&str] = &["Content-Length: 5"];

#[tokio::test(flavor = "multi_thread")]
async fn every_failure_has_its_status_and_reason_and_leaves_the_client_its_connection() {
    for row in table() {
        let (address, upstream) = peer(row.does).await;
        let (edge, log) = edge_with_log(&route_to(address, row.keys)).await;
        let mut client = Client::connect(edge.address()).await;
        for asked in 1..=2 {
            let answer = client.get("/").await;
            assert_eq!(answer.refusal(), no(row.status, row.reason), "{}", row.what);
            assert_ne!(answer.header("connection"), Some("close"), "{}", row.what);
            // Nobody trusts a connection that failed.
            let connections = upstream.as_ref().map_or(asked, Upstream::connections);
            assert_eq!(connections, asked, "{}", row.what);
        }
        let line = &log.lines(2).await[1];
        assert_eq!(line["reason"], row.reason, "{}", row.what);
        assert_eq!(line["tries"], 1, "{}", row.what);
        let failures = format!(
            "edge_upstream_failures_total{{reason=\"{}\",upstream=\"u\"}}",
            row.reason
        );
        figure_becomes(&edge, &failures, 2.0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_be_repeated_is_and_nothing_else() {
    for row in table() {
        for (method, repeated) in [("GET", row.repeated.0), ("POST", row.repeated.1)] {
            let (bad, _upstream) = peer(row.does.clone()).await;
            let good = Upstream::saying(ok("", "good")).await;
            let tables = upstream_at(&[bad, good.address])
                + &format!("[[route]]\npath = \"/*\"\nupstream = \"u\"\n{}\n", row.keys);
            let (edge, log) = edge_with_log(&tables).await;
            // Two, for the peers take turns: one of them begins with the bad one.
            for _ in 0..2 {
                let mut client = Client::connect(edge.address()).await;
                match method {
                    "GET" => client.send(request("GET /", &[])).await,
                    _ => client.send(request("POST /", POST) + "hello").await,
                }
                client.answer().await;
            }
            let lines = log.lines(2).await;
            let met =
                |line: &&serde_json::Value| line["tries"] == 2 || line["peer"] == bad.to_string();
            let line = lines.iter().find(met).expect("nobody met the bad peer");
            let expected = if repeated { (200, 2) } else { (row.status, 1) };
            let seen = (line["status"].as_u64(), line["tries"].as_u64());
            let expected = (Some(u64::from(expected.0)), Some(expected.1));
            assert_eq!(seen, expected, "{method}: {}", row.what);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_follows_an_answer_reaches_nobody() {
    let more = "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\naHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nstray";
    for (method, first) in [
        ("GET", more.to_owned()),
        ("GET", "HTTP/1.1 204 No\r\n\r\nstray".to_owned()),
        (
            "GET",
            "HTTP/1.1 304 No\r\nContent-Length: 5\r\n\r\nstray".to_owned(),
        ),
        (
            "HEAD",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nstray".to_owned(),
        ),
    ] {
        let first = Arc::new(Mutex::new(vec![first]));
        let upstream = Upstream::serve(move |mut visit| {
            let mut answers = std::mem::take(&mut *first.lock().unwrap());
            async move {
                while visit.head().await.is_some() {
                    visit
                        .write(answers.pop().unwrap_or_else(|| ok("", "own")))
                        .await;
                }
            }
        })
        .await;
        let edge = edge(&route_to(upstream.address, "")).await;
        let mut one = Client::connect(edge.address()).await;
        one.ask(&format!("{method} /"), &[]).await;
        for _ in 0..3 {
            let text = get(edge.address(), "/").await.text();
            assert!(!text.contains("stray"), "{method}: {text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_early_no_ends_an_upload() {
    let no = "HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno";
    let upstream = Upstream::serve(move |mut visit| async move {
        visit.head().await;
        visit.write(no).await;
        // It reads no more, and stays.
        std::future::pending::<()>().await;
    })
    .await;
    let edge = edge(&route_to(upstream.address, "")).await;
    let mut client = Client::connect(edge.address()).await;
    client
        .send(request("PUT /", &["Content-Length: 10000000"]))
        .await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.text().as_str()), (413, "no"));
    assert_eq!(answer.header("connection"), Some("close"));
    client.rest().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_takes_its_request_along() {
    let (told, mut gone) = tokio::sync::mpsc::unbounded_channel();
    let upstream = Upstream::serve(move |mut visit| {
        let told = told.clone();
        async move {
            visit.head().await;
            let mut rest = [0; 16];
            let read = visit.stream.read(&mut rest).await;
            told.send(read.is_ok_and(|read| read > 0)).unwrap();
        }
    })
    .await;
    let (edge, log) = edge_with_log(&route_to(upstream.address, "")).await;
    let mut client = Client::connect(edge.address()).await;
    client.send(request("GET /", &[])).await;
    until(|| async { upstream.count() == 1 }).await;
    drop(client);
    assert!(!gone.recv().await.unwrap(), "the peer's connection ends");
    let line = &log.lines(1).await[0];
    assert_eq!(
        (line["status"].as_u64(), line["reason"].as_str()),
        (Some(499), Some("client_closed"))
    );
    let figure = figure(
        &edge,
        "edge_upstream_failures_total{reason=\"client_closed\",upstream=\"u\"}",
    );
    assert!(figure.await < 0.5, "that says nothing against the peer");
}

/// A peer that reads whole requests, and says 503 to the first that it or another one hears.
async fn reader(bodies: &Arc<Mutex<Vec<Vec<u8>>>>) -> Upstream {
    let own = bodies.clone();
    Upstream::serve(move |mut visit| {
        let bodies = own.clone();
        async move {
            while let Some(head) = visit.head().await {
                let length = crate::support::fields(&head, "content-length");
                let length = length.first().map_or(0, |length| length.parse().unwrap());
                let body = visit.take(length).await.unwrap();
                let count = {
                    let mut bodies = bodies.lock().unwrap();
                    bodies.push(body);
                    bodies.len()
                };
                let answer = match count == 1 {
                    true => "HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n".to_owned(),
                    false => ok("", "well"),
                };
                visit.write(answer).await;
            }
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_kept_is_sent_again_whole() {
    let body: Vec<u8> = (0..60_000_u32)
        .map(|number| (number * 7 % 251) as u8)
        .collect();
    for (length, method, keys, status) in [
        (60_000, "PUT", "on = [\"503\"]", 200),
        (60_000, "POST", "on = [\"503\"]", 503),
        (60_000, "PUT", "on = [\"503\"], body = \"32KiB\"", 503),
        (60_000, "PUT", "on = [\"closed\"]", 503),
        (10, "PUT", "on = [\"503\"], body = \"32KiB\"", 200),
    ] {
        let bodies = Arc::default();
        let (one, two) = (reader(&bodies).await, reader(&bodies).await);
        let tables = upstream_at(&[one.address, two.address])
            + &format!("retry = {{ {keys} }}\n[[route]]\npath = \"/*\"\nupstream = \"u\"\n");
        let edge = edge(&tables).await;
        let field = format!("Content-Length: {length}");
        let mut client = Client::connect(edge.address()).await;
        client
            .send(request(&format!("{method} /"), &[&field]))
            .await;
        client.send(&body[..length]).await;
        let answer = client.answer().await;
        assert_eq!(answer.status, status, "{method} {length} {keys}");
        let bodies = bodies.lock().unwrap();
        assert_eq!(bodies.len(), if status == 200 { 2 } else { 1 });
        assert!(bodies.iter().all(|own| *own == body[..length]), "{keys}");
    }
}
