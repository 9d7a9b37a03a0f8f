//! The whole kit against small servers of its own, one for each thing that a system may do.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may fail loudly"
)]

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use load::offer::Offer;
use load::requests::Requests;
use load::schedule::Schedule;
use load::sockets::Sockets;
use load::target::{Target, Way};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep};
use tokio_tungstenite::accept_async;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const LIMITED: &str = "HTTP/1.1 429 Too Many Requests\r\ncontent-length: 25\r\n\r\n\
    {\"reason\":\"client_limit\"}";

/// What a server does.
#[derive(Clone, Copy)]
struct Manners {
    /// With the so-manieth request.
    answer: fn(u64) -> (Duration, &'static str),
    /// Whether it closes each WebSocket at its first message.
    close: Option<(u16, &'static str)>,
}

const GOOD: Manners = Manners {
    answer: |_| (Duration::ZERO, OK),
    close: None,
};

/// Where it listens.
async fn serve(manners: Manners) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let number = Arc::new(AtomicU64::new(0));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(talk(stream, manners, number.clone()));
        }
    });
    format!("http://{address}")
}

async fn talk(mut stream: TcpStream, manners: Manners, number: Arc<AtomicU64>) {
    let mut head = [0; 4_096];
    loop {
        // Each request of the kit's comes in one piece.
        let Ok(length @ 1..) = stream.peek(&mut head).await else {
            return;
        };
        if head[..length].starts_with(b"GET /ws ") {
            return echo(stream, manners.close).await;
        }
        stream.read_exact(&mut head[..length]).await.unwrap();
        let number = number.fetch_add(1, Ordering::Relaxed);
        let (after, answer) = (manners.answer)(number);
        sleep(after).await;
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

async fn echo(stream: TcpStream, close: Option<(u16, &'static str)>) {
    let mut socket = accept_async(stream).await.unwrap();
    while let Some(Ok(message)) = socket.next().await {
        match close {
            Some((code, reason)) if message.is_text() => {
                let frame = CloseFrame {
                    code: code.into(),
                    reason: reason.into(),
                };
                let _ = socket.close(Some(frame)).await;
            }
            _ if message.is_text() => socket.send(message).await.unwrap(),
            _ => {}
        }
    }
}

/// The program, with a small load.
async fn run(url: &str, words: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_load"));
    command.arg(url);
    command.args(words.split_whitespace()).stdin(Stdio::null());
    tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

const SMALL: &str =
    "--rate 50 --connections 4 --sockets 10 --upgrades 50 --messages 50 --seconds 2";

/// A file of this run alone.
fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name)
}

fn way(url: &str) -> Way {
    url.parse::<Target>().unwrap().into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_good_system_passes_and_is_drawn() {
    let url = serve(GOOD).await;
    let (svg, json) = (file("good.svg"), file("good.json"));
    let own = std::process::id();
    let words = format!(
        "{SMALL} --pid server={own} --svg {} --json {}",
        svg.display(),
        json.display()
    );
    let output = run(&url, &words).await;
    let table = text(&output);
    // Its times are this machine's of the moment, and so may the verdict be; all else is certain.
    let kept = table.ends_with("PASS\n");
    assert_eq!(output.status.code(), Some(i32::from(!kept)), "{table}");
    assert!(
        table.contains("GET /health") && table.contains("server: "),
        "{table}"
    );
    let told: Value = serde_json::from_str(&std::fs::read_to_string(json).unwrap()).unwrap();
    assert_eq!(
        (&told["kept"], &told["errors"]),
        (&kept.into(), &serde_json::json!({}))
    );
    // One second for opening, one to settle, two of full load.
    let done = |of: &str| -> u64 {
        let seconds = told[of].as_array().unwrap().iter();
        seconds.map(|second| second["done"].as_u64().unwrap()).sum()
    };
    assert_eq!((done("requests"), done("upgrades")), (200, 10));
    assert!((95..=100).contains(&done("messages")), "{table}");
    let svg = std::fs::read_to_string(svg).unwrap();
    assert!(roxmltree::Document::parse(&svg).is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_is_counted_apart_from_errors() {
    let url = serve(Manners {
        answer: |number| (Duration::ZERO, if number < 20 { OK } else { LIMITED }),
        ..GOOD
    })
    .await;
    let output = run(&url, "--rate 50 --connections 2 --sockets 0 --seconds 1").await;
    let table = text(&output);
    assert_eq!(output.status.code(), Some(1), "{table}");
    assert!(table.contains("30  request: 429 client_limit"), "{table}");
    let line = |name| table.lines().find(|line| line.starts_with(name)).unwrap();
    assert!(line("errors").ends_with("pass"), "{table}");
    assert!(line("requests a second").ends_with("FAIL"), "{table}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_close_is_told_by_its_code_and_reason() {
    let url = serve(Manners {
        close: Some((1012, "draining")),
        ..GOOD
    })
    .await;
    let output = run(&url, &SMALL.replace("--rate 50", "--rate 0")).await;
    let table = text(&output);
    assert_eq!(output.status.code(), Some(1), "{table}");
    assert!(
        table.contains("10  WebSocket: closed: 1012 draining"),
        "{table}"
    );
    assert!(
        table.contains("10  message: lost with its socket"),
        "{table}"
    );
}

#[tokio::test]
async fn what_cannot_begin_is_no_broken_promise() {
    for (url, words) in [
        ("https://127.0.0.1:1", ""),
        ("http://127.0.0.1:1", "--rate 0 --sockets 0"),
        ("http://127.0.0.1:1", "--rate 1/s"),
        ("http://127.0.0.1:1", "--headers /no/such/file"),
    ] {
        let output = run(url, words).await;
        assert_eq!(output.status.code(), Some(2), "{url} {words}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty());
    }
}

/// A load that waits for each answer would see one slow request here.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stall_counts_for_all_that_was_due_meanwhile() {
    let url = serve(Manners {
        answer: |number| {
            (
                Duration::from_millis(if number == 10 { 500 } else { 0 }),
                OK,
            )
        },
        ..GOOD
    })
    .await;
    let span = (Instant::now(), Duration::from_secs(1));
    let requests = Requests::send(&way(&url), 100, 1, span).await;
    assert_eq!(requests.answers.done(), 100);
    let times = requests.answers.quantiles().unwrap();
    // About fifty of a hundred were due during the stall, and waited from 500 ms down to nothing.
    assert!(times.p95 > 400.0 && times.max >= 500.0, "{times:?}");
    assert!((30..=90).contains(&requests.queued), "{}", requests.queued);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_pace_is_kept_whatever_the_answers_take() {
    let url = serve(Manners {
        answer: |_| (Duration::from_millis(50), OK),
        ..GOOD
    })
    .await;
    let start = Instant::now();
    let span = (start, Duration::from_secs(1));
    let requests = Requests::send(&way(&url), 100, 20, span).await;
    // One after the other they would take 5 s.
    assert!(start.elapsed() < Duration::from_secs(3));
    let number = Schedule::new(100).unwrap().before(span.1);
    assert_eq!(requests.answers.done() as u64, number);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_never_comes_back_is_lost_with_its_socket() {
    let url = serve(Manners {
        close: Some((1008, "message_limit")),
        ..GOOD
    })
    .await;
    let offer = Offer {
        rate: 0,
        connections: 1,
        sockets: 3,
        upgrades: 100,
        messages: 30,
        size: 10,
        seconds: 1,
    };
    let ws = way(&url).to("/ws");
    let sockets = Sockets::open(&ws, &offer, Instant::now()).await;
    assert_eq!((sockets.stayed, sockets.spans.len()), (0, 3));
    assert_eq!(sockets.upgrades.limited["closed: 1008 message_limit"], 3);
    assert_eq!(sockets.echoes.errors["lost with its socket"], 3);
}
