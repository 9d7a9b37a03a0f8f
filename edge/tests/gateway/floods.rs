//! Clients of HTTP/2 that say much and ask nothing: each is cut off, and the others are served.

use edge::serve::Edge;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use crate::http2_client::{Http2, to};
use crate::support::{
    Client, Upstream, edge, edge_with, figure, figure_becomes, get, ms, ok, request, route_to, soon,
};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const FLOODS: &str = "edge_malformed_total{reason=\"client_floods\"}";

/// A frame (RFC 9113 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

fn settings(payload: &[u8]) -> Vec<u8> {
    frame(4, 0, 0, payload)
}

/// GET for the host `a` on this stream; `flags` are those of HEADERS.
fn head(stream: u32, flags: u8) -> Vec<u8> {
    frame(1, flags, stream, &[0x82, 0x86, 0x84, 0x41, 0x01, b'a'])
}

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// Says this after the beginning until it is cut off, or no more often than `most` times; all that it
/// was told, and whether it was cut off.
async fn pour(edge: &Edge, first: &[u8], more: &[u8], most: usize) -> (Vec<u8>, bool) {
    let mut client = Client::connect(edge.address()).await;
    client.send([PREFACE, &settings(&[]), first].concat()).await;
    let (mut read, mut write) = client.into_stream().into_split();
    let reading = tokio::spawn(async move {
        let mut all = Vec::new();
        let _ = read.read_to_end(&mut all).await;
        all
    });
    for _ in 0..most {
        if write.write_all(more).await.is_err() {
            return (soon(reading).await.unwrap(), true);
        }
    }
    // What is cut off is so soon.
    let cut = tokio::time::timeout(ms(2_000), reading).await;
    match cut {
        Ok(all) => (all.unwrap(), true),
        Err(_) => (Vec::new(), false),
    }
}

fn calm(told: &[u8]) -> bool {
    let calm = |part: &[u8]| part[..5] == [0, 0, 8, 7, 0] && part[13..] == [0, 0, 0, 11];
    told.windows(17).any(calm)
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_floods_is_cut_off_and_counted_once() {
    let upstream = Upstream::saying(ok("", "a")).await;
    let edge = edge(&route_to(upstream.address, "")).await;
    let floods: [(&str, Vec<u8>); 7] = [
        ("PING", frame(6, 0, 0, b"12345678")),
        ("SETTINGS", settings(&[0, 4, 0, 0, 255, 255])),
        ("empty SETTINGS", settings(&[])),
        ("PRIORITY", frame(2, 0, 1, &[0, 0, 0, 0, 16])),
        ("WINDOW_UPDATE", frame(8, 0, 0, &[0, 0, 0, 1])),
        ("unknown", frame(0xbe, 0, 0, b"x")),
        (
            "ACK of nothing, then PING",
            [frame(6, 1, 0, b"87654321"), frame(6, 0, 0, b"12345678")].concat(),
        ),
    ];
    let mut heard = 0;
    for (number, (what, flood)) in floods.iter().enumerate() {
        let (told, cut) = pour(
            &edge,
            &head(1, END_STREAM | END_HEADERS),
            &flood.repeat(100),
            500,
        )
        .await;
        assert!(cut, "{what}");
        let counted = (number + 1) as f64;
        figure_becomes(&edge, FLOODS, counted).await;
        heard += usize::from(calm(&told));
    }
    // Bytes on their way when the connection ended may have undone some.
    assert!(heard > 0, "nobody was told why");
    figure_becomes(&edge, "edge_connections", 0.0).await;
    assert_eq!(get(edge.address(), "/").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_that_never_end_empty_frames_and_resets_are_cut_off() {
    let upstream = Upstream::mirror().await;
    let edge = edge(&route_to(upstream.address, "")).await;
    let never = head(1, END_STREAM);
    let continued = frame(9, 0, 1, b"");
    let (_, cut) = pour(&edge, &never, &continued.repeat(100), 500).await;
    assert!(cut, "CONTINUATION");
    // Fields without end: a literal one of 16,000 bytes each time, never indexed.
    let field = [&[0x10, 1, b'a', 0x7f, 0x81, 0x7c][..], &[b'x'; 16_000]].concat();
    let (_, cut) = pour(&edge, &never, &frame(9, 0, 1, &field), 500).await;
    assert!(cut, "large CONTINUATION");
    let (_, cut) = pour(
        &edge,
        &head(1, END_HEADERS),
        &frame(0, 0, 1, b"").repeat(100),
        500,
    )
    .await;
    assert!(cut, "empty DATA");
    assert!(upstream.count() <= 1, "{:?}", upstream.heads());
    figure_becomes(&edge, "edge_connections", 0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_head_that_stands_for_a_long_one_is_refused() {
    let upstream = Upstream::mirror().await;
    let edge = edge(&route_to(upstream.address, "")).await;
    // One field of 4,000 bytes goes into the table (RFC 7541 6.2.1), and is then named by a byte (6.1).
    let kept = [&[0x40, 1, b'a', 0x7f, 0xa1, 0x1e][..], &[b'x'; 4_000]].concat();
    let request = [0x82, 0x86, 0x84, 0x41, 0x01, b'a'];
    let bomb = [&request[..], &kept, &[0xbe; 10_000]].concat();
    let mut client = Client::connect(edge.address()).await;
    let head = frame(1, END_STREAM | END_HEADERS, 1, &bomb);
    client.send([PREFACE, &settings(&[]), &head].concat()).await;
    let reading = tokio::time::timeout(ms(1_000), client.rest());
    let _ = reading.await;
    assert_eq!(upstream.count(), 0, "40 MB of fields from 14 KB");
    assert_eq!(get(edge.address(), "/").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn resets_of_what_was_begun_are_cut_off_before_they_cost_the_peer_much() {
    let upstream = Upstream::serve(|mut visit| async move {
        while visit.head().await.is_some() {
            std::future::pending::<()>().await;
        }
    })
    .await;
    let edge = edge(&route_to(upstream.address, "")).await;
    let mut client = Client::connect(edge.address()).await;
    client.send([PREFACE, &settings(&[])].concat()).await;
    let (mut read, mut write) = client.into_stream().into_split();
    let reading = tokio::spawn(async move {
        let mut all = Vec::new();
        let _ = read.read_to_end(&mut all).await;
    });
    let mut sent = 0;
    // Slowly enough that each is begun: what h2 counts are those that are reset before.
    for stream in (1..6_001).step_by(2) {
        let pair = [
            head(stream, END_STREAM | END_HEADERS),
            frame(3, 0, stream, &[0, 0, 0, 8]),
        ];
        if write.write_all(&pair[0]).await.is_err() {
            break;
        }
        tokio::time::sleep(ms(1)).await;
        if write.write_all(&pair[1]).await.is_err() {
            break;
        }
        sent += 1;
    }
    soon(reading).await.unwrap();
    assert!(sent < 2_000, "{sent}");
    figure_becomes(&edge, FLOODS, 1.0).await;
    figure_becomes(&edge, "edge_connections", 0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_works_hard_is_not_taken_for_one_that_floods() {
    let upstream = Upstream::saying(ok("", &"x".repeat(8 << 20))).await;
    let edge = edge(&route_to(upstream.address, "")).await;
    let mut builder = h2::client::Builder::new();
    // Small windows: one that is given again and again.
    builder
        .initial_window_size(16_384)
        .initial_connection_window_size(65_535);
    let stream = tokio::net::TcpStream::connect(edge.address())
        .await
        .unwrap();
    let client = Http2::with(&builder, stream).await;
    let began = Instant::now();
    for _ in 0..4 {
        let got = client.get("/").await;
        assert_eq!((got.status, got.body.len()), (200, 8 << 20));
    }
    assert!(figure(&edge, FLOODS).await < 0.5, "{:?}", began.elapsed());
    // Nor one that asks much.
    let upstream = Upstream::saying(ok("", "a")).await;
    let edge = crate::support::edge(&route_to(upstream.address, "")).await;
    let client = Http2::connect(edge.address()).await;
    for _ in 0..1_500 {
        assert_eq!(client.ask(to("GET", "/")).await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_nobody_answers_are_as_many_as_may_be_and_end_in_time() {
    let upstream = Upstream::serve(|mut visit| async move {
        visit.head().await;
        std::future::pending::<()>().await;
    })
    .await;
    let keys = "timeout = \"500ms\"";
    let (edge, log) = edge_with(&route_to(upstream.address, keys), |config| {
        config.server.streams = 20;
    })
    .await;
    let mut bytes = [PREFACE, &settings(&[])].concat();
    for stream in (1..100).step_by(2) {
        bytes.extend(head(stream, END_STREAM | END_HEADERS));
    }
    let mut client = Client::connect(edge.address()).await;
    client.send(bytes).await;
    let lines = log.lines(20).await;
    assert!(lines.iter().all(|line| line["status"] == 504), "{lines:?}");
    assert!(upstream.count() <= 20, "{}", upstream.count());
    let mut other = Client::connect(edge.address()).await;
    other.send(request("GET /", &[])).await;
    assert_eq!(other.answer().await.status, 504);
}
