//! What HTTP/2 can carry and HTTP/1.1 cannot say without a doubt: raw frames, to a gateway in front
//! of a peer that reads strictly.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::corpus::{gateway, strict_peer};
use crate::support::{Client, soon};

/// The first fields of every request.
const GET: [(&str, &str); 4] = [
    (":method", "GET"),
    (":scheme", "http"),
    (":authority", "edge.test"),
    (":path", "/x"),
];

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Literal fields, never indexed, without Huffman's code (RFC 7541 6.2.2).
fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            assert!(text.len() < 127);
            block.push(u8::try_from(text.len()).unwrap());
            block.extend(text.as_bytes());
        }
    }
    block
}

/// What becomes of these fields and this body: was it answered with 200?
async fn is_served(to: SocketAddr, fields: &[(&str, &str)], body: Option<&[u8]>) -> bool {
    let mut stream = soon(TcpStream::connect(to)).await.unwrap();
    let mut said = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    said.extend(frame(4, 0, 0, &[]));
    let end_of_stream = u8::from(body.is_none());
    said.extend(frame(1, 4 | end_of_stream, 1, &block(fields)));
    if let Some(body) = body {
        said.extend(frame(0, 1, 1, body));
    }
    soon(stream.write_all(&said)).await.unwrap();
    loop {
        let mut head = [0; 9];
        if soon(stream.read_exact(&mut head)).await.is_err() {
            return false;
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        soon(stream.read_exact(&mut payload)).await.unwrap();
        match head[3] {
            // 200 has a place of its own in HPACK's table.
            1 => return payload.first() == Some(&0x88),
            3 | 7 => return false,
            _ => {}
        }
    }
}

/// A request with another pseudo field, or without it.
fn with(name: &'static str, value: Option<&'static str>) -> Vec<(&'static str, &'static str)> {
    let fields = GET.iter().copied();
    fields
        .filter_map(|(own, old)| match own == name {
            true => Some((own, value?)),
            false => Some((own, old)),
        })
        .collect()
}

fn and(more: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
    GET.iter().chain(more).copied().collect()
}

type Case = (Vec<(&'static str, &'static str)>, Option<&'static [u8]>);

/// Requests that must not pass.
fn bad() -> Vec<Case> {
    const HIDDEN: &str = "b\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    let fields = vec![
        and(&[("a", HIDDEN)]),
        and(&[("a", "b\rc")]),
        and(&[("a", "b\nc")]),
        and(&[("a", "b\0c")]),
        and(&[("a", "\x07")]),
        and(&[("a\r\nb", "c")]),
        and(&[("a: b\r\nc", "d")]),
        and(&[("a b", "c")]),
        and(&[("a:b", "c")]),
        and(&[("", "c")]),
        and(&[("A", "b")]),
        and(&[("Transfer-Encoding", "chunked")]),
        and(&[("transfer-encoding", "chunked")]),
        and(&[("transfer-encoding", "identity")]),
        and(&[("transfer_encoding", "chunked")]),
        and(&[("content_length", "3")]),
        and(&[("connection", "close")]),
        and(&[("connection", "host")]),
        and(&[("keep-alive", "1")]),
        and(&[("proxy-connection", "close")]),
        and(&[("upgrade", "h2c")]),
        and(&[("te", "gzip")]),
        and(&[("te", "trailers, chunked")]),
        and(&[("host", "other.test")]),
        and(&[("host", "edge.test"), ("host", "edge.test")]),
        and(&[(":path", "/y")]),
        and(&[("a", "b"), (":path", "/y")]),
        and(&[(":status", "200")]),
        and(&[(":unknown", "x")]),
        with(":path", None),
        with(":method", None),
        with(":scheme", None),
        with(":authority", None),
        with(":path", Some("")),
        with(":path", Some("x")),
        with(":path", Some("*")),
        with(":path", Some("/x HTTP/1.1\r\nA: b")),
        with(":path", Some("/x y")),
        with(":path", Some("/x\ty")),
        with(":path", Some("/x\0")),
        with(":path", Some("/\u{e9}")),
        with(":path", Some("/<x>")),
        with(":path", Some("/a/../x")),
        with(":path", Some("/a/%2e%2e/x")),
        with(":path", Some("http://other.test/x")),
        with(
            ":method",
            Some("GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\nGET"),
        ),
        with(":method", Some("GE T")),
        with(":method", Some("")),
        with(":method", Some("FROB")),
        with(":method", Some("TRACE")),
        with(":authority", Some("")),
        with(":authority", Some("edge.test\r\nA: b")),
        with(":authority", Some("user@edge.test")),
        with(":authority", Some("edge.test/x")),
        with(":authority", Some("a b")),
        with(":authority", Some("a, b")),
        with(":scheme", Some("http\r\nA: b")),
    ];
    let mut cases: Vec<Case> = fields.into_iter().map(|fields| (fields, None)).collect();
    let lengths = [
        ("5", "hell"),
        ("3", "hello"),
        ("0", "GET /smuggled HTTP/1.1\r\n\r\n"),
        ("+5", "hello"),
        ("5, 5", "hello"),
        ("05", "hello"),
        ("x", "hello"),
        ("", "hello"),
    ];
    for (length, body) in lengths {
        cases.push((and(&[("content-length", length)]), Some(body.as_bytes())));
    }
    let twice = and(&[("content-length", "5"), ("content-length", "5")]);
    cases.push((twice, Some(b"hello")));
    cases
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_over_http_2_becomes_ambiguous_on_its_way() {
    let (upstream, told) = strict_peer().await;
    let edge = gateway(&upstream).await;
    let mut victim = Client::connect(edge.address()).await;
    let mut wrong = Vec::new();
    let cases = bad();
    for (number, (fields, body)) in cases.iter().enumerate() {
        if is_served(edge.address(), fields, *body).await {
            wrong.push(format!("{fields:?} was served"));
        }
        let path = format!("/victim/{number}");
        let answer = victim.get(&path).await;
        if answer.text() != format!("GET {path}") {
            wrong.push(format!("{fields:?}: the victim got {}", answer.text()));
        }
        let told = std::mem::take(&mut *told.lock().unwrap());
        wrong.extend(
            told.ambiguous
                .iter()
                .map(|why| format!("{fields:?}: {why}")),
        );
        // What a body that is too long followed may have passed, whole and harmless.
        let own = told.messages.iter().filter(|own| own.target != path);
        let bodiless = own
            .clone()
            .all(|own| own.target == "/x" && own.body.is_empty());
        if own.count() > usize::from(body.is_some()) || !bodiless {
            wrong.push(format!("{fields:?}: the peer was told {:?}", told.messages));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        cases.len(),
        wrong.join("\n")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_legal_over_http_2_is_served() {
    let (upstream, told) = strict_peer().await;
    let edge = gateway(&upstream).await;
    let cases: Vec<Case> = vec![
        (GET.to_vec(), None),
        (and(&[("te", "trailers")]), None),
        (and(&[("host", "edge.test")]), None),
        (and(&[("a", "b\tc"), ("x-\u{7e}", "")]), None),
        (and(&[("cookie", "a=b"), ("cookie", "c=d")]), None),
        (and(&[("content-length", "5")]), Some(b"hello")),
        (and(&[]), Some(b"hello")),
        (and(&[("content-length", "0")]), Some(b"")),
        (with(":path", Some("/a//b?c={d}|e")), None),
        (with(":authority", Some("edge.test:8080")), None),
        (with(":method", Some("OPTIONS")), None),
    ];
    for (fields, body) in &cases {
        assert!(is_served(edge.address(), fields, *body).await, "{fields:?}");
    }
    let told = told.lock().unwrap();
    assert_eq!(
        (told.messages.len(), &told.ambiguous[..]),
        (cases.len(), &[][..])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_over_http_2_beyond_its_limit_is_413_or_cut() {
    let (upstream, told) = strict_peer().await;
    let edge = gateway(&upstream).await;
    let small = with(":path", Some("/small"));
    assert!(is_served(edge.address(), &small, Some(&[b'a'; 1_024])).await);
    assert!(!is_served(edge.address(), &small, Some(&[b'a'; 1_025])).await);
    assert_eq!(told.lock().unwrap().messages.len(), 1);
}
