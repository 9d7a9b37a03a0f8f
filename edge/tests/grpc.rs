//! gRPC through edge, as tonic's own client and server speak it: calls of each shape, how they
//! end, and what becomes of them when nobody answers or nobody listens.
#![cfg(test)]

#[path = "grpc/calls.rs"]
mod calls;
#[path = "grpc/raw.rs"]
mod raw;

use std::future::Future;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use edge::config::Config;
use edge::serve::Edge;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Status};

use calls::{Client, Server, client, message, path};

/// Nothing here takes so long, on however busy a machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// The deadline of some calls.
const DEADLINE: Duration = Duration::from_millis(300);

async fn soon<F: Future>(future: F) -> F::Output {
    timeout(PATIENCE, future).await.expect("it hangs")
}

async fn until(mut so: impl FnMut() -> bool) {
    soon(async {
        while !so() {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

/// A gateway in front of this peer, which takes the calls of one service; `tables` are more tables.
async fn edge(peer: SocketAddr, tables: &str) -> Edge {
    let text = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n\
         [upstream.u]\npeers = [\"{peer}\"]\nprotocol = \"http2\"\n\
         [[route]]\npath = \"/test.Calls/*\"\nupstream = \"u\"\n{tables}"
    );
    let config = Config::read("test.toml", &text).unwrap_or_else(|faults| panic!("{faults}"));
    Edge::start(config, None).await.unwrap()
}

/// A server, a gateway in front of it, and a client of that.
async fn trio() -> (Server, Edge, Client) {
    let server = Server::start().await;
    let edge = edge(server.address, "").await;
    let client = client(edge.address()).await;
    (server, edge, client)
}

/// At the deadline, give or take what a busy machine takes.
fn in_time(began: Instant) {
    let took = began.elapsed();
    let latest = DEADLINE + Duration::from_millis(1_200);
    assert!(
        took >= DEADLINE - Duration::from_millis(5) && took < latest,
        "{took:?}"
    );
}

async fn all(mut answers: tonic::Streaming<Bytes>) -> Result<Vec<Bytes>, Status> {
    let mut heard = Vec::new();
    while let Some(answer) = soon(answers.message()).await? {
        heard.push(answer);
    }
    Ok(heard)
}

// ---- the shapes

#[tokio::test(flavor = "multi_thread")]
async fn one_message_is_answered_by_one_and_metadata_pass_both_ways() {
    let (_server, _edge, mut client) = trio().await;
    let mut request = Request::new(message(1, 10));
    let (text, bytes) = ("x-said", "x-said-bin");
    request
        .metadata_mut()
        .insert(text, MetadataValue::from_static("a word"));
    let raw = MetadataValue::from_bytes(&[0, 255, 7]);
    request.metadata_mut().insert_bin(bytes, raw.clone());
    soon(client.ready()).await.unwrap();
    let answer = soon(client.unary(request, path("Echo"), calls::Raw))
        .await
        .unwrap();
    assert_eq!(answer.metadata().get("x-heard").unwrap(), "a word");
    assert_eq!(answer.metadata().get_bin("x-heard-bin").unwrap(), raw);
    assert_eq!(answer.into_inner(), message(1, 10));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_sends_many_and_all_arrive_in_order() {
    let (_server, _edge, mut client) = trio().await;
    soon(client.ready()).await.unwrap();
    let request = Request::new(Bytes::from_static(b"5000"));
    let called = soon(client.server_streaming(request, path("Count"), calls::Raw)).await;
    let heard = all(called.unwrap().into_inner()).await.unwrap();
    assert!(
        heard
            .into_iter()
            .eq((0..5_000).map(|number| message(number, 64)))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_sends_many_and_gets_one() {
    let (_server, _edge, mut client) = trio().await;
    soon(client.ready()).await.unwrap();
    let messages = tokio_stream::iter((0..5_000).map(|number| message(number, 64)));
    let call = client.client_streaming(Request::new(messages), path("Sum"), calls::Raw);
    let answer = soon(call).await.unwrap().into_inner();
    assert_eq!(answer, "5000 messages, 320000 bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_messages_go_back_and_forth_in_turn() {
    let (_server, _edge, mut client) = trio().await;
    let (to, mut from) = soon(calls::both_ways(&mut client, "Echo")).await.unwrap();
    for number in 0..1_000 {
        to.send(message(number, 100)).await.unwrap();
        let heard = soon(from.message()).await.unwrap();
        assert_eq!(heard, Some(message(number, 100)));
    }
    drop(to);
    assert_eq!(soon(from.message()).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_may_send_many_before_it_reads() {
    let (_server, _edge, mut client) = trio().await;
    let (to, mut from) = soon(calls::both_ways(&mut client, "Echo")).await.unwrap();
    for number in 0..1_000 {
        soon(to.send(message(number, 256))).await.unwrap();
    }
    for number in 0..1_000 {
        let heard = soon(from.message()).await.unwrap();
        assert_eq!(heard, Some(message(number, 256)));
    }
    drop(to);
    assert_eq!(soon(from.message()).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_may_answer_before_the_client_has_said_anything() {
    let (_server, _edge, mut client) = trio().await;
    let (to, mut from) = soon(calls::both_ways(&mut client, "Hang")).await.unwrap();
    assert_eq!(
        soon(from.message()).await.unwrap(),
        Some(Bytes::from_static(b"hello"))
    );
    drop(to);
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_4_mib_pass_both_ways() {
    let (_server, _edge, mut client) = trio().await;
    soon(client.ready()).await.unwrap();
    let big = message(7, 4 << 20);
    let call = client.unary(Request::new(big.clone()), path("Echo"), calls::Raw);
    assert!(soon(call).await.unwrap().into_inner() == big);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_calls_at_once_share_connections() {
    let (server, _edge, mut client) = trio().await;
    // Those that find no connection at all open one each.
    soon(client.ready()).await.unwrap();
    let first = client.unary(Request::new(message(1, 1)), path("Echo"), calls::Raw);
    soon(first).await.unwrap();
    let mut calls = JoinSet::new();
    let (open, mut opened) = mpsc::channel::<()>(1);
    for number in 0..100 {
        let (mut client, open) = (client.clone(), open.clone());
        calls.spawn(async move {
            let (to, mut from) = soon(calls::both_ways(&mut client, "Echo")).await.unwrap();
            to.send(message(number, 100)).await.unwrap();
            let heard = soon(from.message()).await.unwrap();
            assert_eq!(heard, Some(message(number, 100)));
            // Nobody ends before all are open.
            drop(open);
            (to, from)
        });
    }
    drop(open);
    assert_eq!(soon(opened.recv()).await, None);
    let all = soon(calls.join_all()).await;
    assert_eq!((all.len(), server.open()), (100, 100));
    // Pingora takes a connection out of its pool while it opens a stream on it, and whoever comes
    // in that moment opens another: some 10 to 25 for a hundred, and never one each.
    assert!(server.connections() <= 50, "{}", server.connections());
    drop(all);
    until(|| server.open() == 0).await;
}

// ---- how calls end

#[tokio::test(flavor = "multi_thread")]
async fn an_error_of_the_servers_passes_with_its_metadata() {
    let (_server, _edge, mut client) = trio().await;
    // At once, in the head; and after messages, in the trailers.
    for (count, method) in [(0, "Fail"), (3, "FailLate")] {
        soon(client.ready()).await.unwrap();
        let request = Request::new(Bytes::new());
        let call = soon(client.server_streaming(request, path(method), calls::Raw)).await;
        let (heard, status) = match call {
            Err(status) => (0, status),
            Ok(answer) => {
                let (mut answers, mut heard) = (answer.into_inner(), 0);
                let status = loop {
                    match soon(answers.message()).await {
                        Ok(message) => heard += usize::from(message.is_some()),
                        Err(status) => break status,
                    }
                };
                (heard, status)
            }
        };
        assert_eq!((heard, status.code()), (count, Code::FailedPrecondition));
        assert_eq!(status.message(), "not now: 10% \u{e4}");
        assert_eq!(status.metadata().get("x-why").unwrap(), "a reason");
        assert_eq!(status.details(), [1, 2, 3]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_cancels_is_known_at_the_server() {
    let (server, _edge, mut client) = trio().await;
    // Before the head, and after it.
    let call = client.clone();
    let silent = tokio::spawn(async move {
        let mut client = call;
        client.ready().await.unwrap();
        let request = Request::new(Bytes::new());
        client.unary(request, path("Silent"), calls::Raw).await
    });
    until(|| server.open() == 1).await;
    silent.abort();
    until(|| server.open() == 0).await;
    let (to, mut from) = soon(calls::both_ways(&mut client, "Hang")).await.unwrap();
    assert!(soon(from.message()).await.unwrap().is_some());
    assert_eq!(server.open(), 1);
    drop((to, from));
    until(|| server.open() == 0).await;
    // The others' connection goes on.
    soon(client.ready()).await.unwrap();
    let call = client.unary(Request::new(message(1, 1)), path("Echo"), calls::Raw);
    assert!(soon(call).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_ends_the_call_on_both_sides() {
    let (server, _edge, mut client) = trio().await;
    soon(client.ready()).await.unwrap();
    let mut request = Request::new(Bytes::new());
    request.set_timeout(DEADLINE);
    let began = Instant::now();
    let call = soon(client.unary(request, path("Silent"), calls::Raw)).await;
    in_time(began);
    // tonic's client keeps the deadline, too, and has a word of its own for it.
    let code = call.unwrap_err().code();
    assert!(
        matches!(code, Code::DeadlineExceeded | Code::Cancelled),
        "{code:?}"
    );
    until(|| server.open() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn edge_keeps_a_deadline_that_neither_client_nor_server_does() {
    let server = raw::Silent::start().await;
    let edge = edge(server.address, "").await;
    let began = Instant::now();
    let (status, headers) = soon(raw::call(edge.address(), "300m")).await;
    in_time(began);
    assert_eq!(status, 200);
    assert_eq!(headers.get("grpc-status").unwrap(), "4");
    // The peer is told that nobody waits, and how long somebody would have.
    until(|| server.cancelled() == 1).await;
    let said = server.timeout();
    let said = said.strip_suffix('m').unwrap_or_else(|| panic!("{said}"));
    assert!((1..=300).contains(&said.parse::<u32>().unwrap()), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn edge_ends_a_stream_at_its_deadline() {
    let (server, _edge, mut client) = trio().await;
    let (to, messages) = mpsc::channel(1);
    let mut request = Request::new(ReceiverStream::new(messages));
    request.set_timeout(DEADLINE);
    soon(client.ready()).await.unwrap();
    let began = Instant::now();
    let call = client.streaming(request, path("Hang"), calls::Raw);
    let mut from = soon(call).await.unwrap().into_inner();
    assert!(soon(from.message()).await.unwrap().is_some());
    // tonic's own clocks were for the head.
    let status = soon(from.message()).await.unwrap_err();
    in_time(began);
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    assert!(
        status.message().starts_with("response_timeout"),
        "{status:?}"
    );
    until(|| server.open() == 0).await;
    drop(to);
}

// ---- what edge refuses

async fn code(client: &mut Client, path: &'static str) -> (Code, String) {
    soon(client.ready()).await.unwrap();
    let request = Request::new(message(1, 1));
    let path = http::uri::PathAndQuery::from_static(path);
    let status = soon(client.unary(request, path, calls::Raw))
        .await
        .unwrap_err();
    (status.code(), status.message().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_route_takes_is_unimplemented() {
    let (_server, _edge, mut client) = trio().await;
    let (code, why) = code(&mut client, "/test.Other/Echo").await;
    assert_eq!(code, Code::Unimplemented, "{why}");
    assert!(!why.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_too_often_is_told_that_something_is_exhausted() {
    let server = Server::start().await;
    let edge = edge(server.address, "[limit]\nper_client = \"1/h\"\n").await;
    let mut client = client(edge.address()).await;
    soon(client.ready()).await.unwrap();
    let call = client.unary(Request::new(message(1, 1)), path("Echo"), calls::Raw);
    soon(call).await.unwrap();
    let (code, why) = code(&mut client, "/test.Calls/Echo").await;
    assert_eq!(code, Code::ResourceExhausted, "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nobody_answers_it_is_unavailable() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let edge = edge(address, "").await;
    let mut client = client(edge.address()).await;
    let (code, why) = code(&mut client, "/test.Calls/Echo").await;
    assert_eq!(code, Code::Unavailable, "{why}");
}
