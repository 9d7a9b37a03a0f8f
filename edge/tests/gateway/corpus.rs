//! Raw requests, from the RFCs and from the ways in which requests are hidden within others. None
//! reaches a peer in a form that can be read in two ways, and nobody else's answer changes.

use std::time::Duration;

use crate::support::{Client, Upstream, edge, fields, ms, no, ok, request, route_to};
use edge::message::{Bounds, check};
use tokio::time::timeout;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    /// It is good, and is served.
    Served,
    /// It is not, and no peer hears of it.
    Refused,
    /// Served or not: what matters is what the peer gets.
    Either,
}
use Expected::{Either, Refused, Served};

struct Case {
    name: String,
    bytes: Vec<u8>,
    expected: Expected,
}

fn case(name: impl Into<String>, bytes: impl Into<Vec<u8>>, expected: Expected) -> Case {
    Case {
        name: name.into(),
        bytes: bytes.into(),
        expected,
    }
}

const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: edge.test\r\n\r\n";

/// A POST with these fields and this body.
fn post(fields: &str, body: &str) -> Vec<u8> {
    format!("POST /x HTTP/1.1\r\nHost: edge.test\r\n{fields}\r\n{body}").into_bytes()
}

fn get(fields: &str) -> Vec<u8> {
    format!("GET /x HTTP/1.1\r\nHost: edge.test\r\n{fields}\r\n").into_bytes()
}

/// RFC 9112 6.1, 6.3; RFC 9110 8.6.
fn framing() -> Vec<Case> {
    let chunked = "0\r\n\r\n";
    let mut cases = Vec::new();
    // TE.TE: one reader sees chunks, the other does not.
    for coding in [
        "Transfer-Encoding : chunked",
        "Transfer-Encoding\t: chunked",
        " Transfer-Encoding: chunked",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunkedx",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: identity, chunked",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: chunked,",
        "Transfer-Encoding: ,chunked",
        "Transfer-Encoding: chunked;q=1",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding: 'chunked'",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: gzip",
        "Transfer-Encoding:",
        "Transfer-Encoding: \u{b}chunked",
        "Transfer-Encoding: \u{c}chunked",
        "Transfer-Encoding: chunked\u{b}",
        "Transfer-Encoding: chunked\0",
        "Transfer-Encoding: \u{a0}chunked",
        "Transfer-Encoding:\n chunked",
        "Transfer-Encoding:\r\n chunked",
        "Transfer-Encoding: chu\r\n nked",
        "X: y\nTransfer-Encoding: chunked",
        "X: y\rTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
        "Transfer_Encoding: chunked\r\nTransfer-Encoding: x",
        "Transfer-Encoding: c\u{210}unked",
    ] {
        for length in ["", "Content-Length: 4\r\n", "Content-Length: 46\r\n"] {
            let fields = format!("{length}{coding}\r\n");
            let body = format!("{chunked}{SMUGGLED}");
            cases.push(case(
                format!("te {coding:?} {length:?}"),
                post(&fields, &body),
                Refused,
            ));
        }
    }
    // CL.TE and TE.CL.
    for fields in [
        "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
        "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n",
        "transfer-encoding: CHUNKED\r\ncontent-length: 50\r\n",
    ] {
        let body = format!("{chunked}{SMUGGLED}");
        cases.push(case(
            format!("both {fields:?}"),
            post(fields, &body),
            Refused,
        ));
    }
    // Lengths that two readers read differently.
    for length in [
        "+5",
        "-5",
        "0x5",
        "5 5",
        "5,5",
        "5, 5",
        "5;5",
        "5.0",
        "5e0",
        "",
        " ",
        "five",
        "0_5",
        "\u{b}5",
        "5\0",
        "5\t5",
        "18446744073709551621",
        "99999999999999999999999",
        "-0",
        "\"5\"",
        "٥",
        "5 ,",
        ",5",
        "5\u{a0}",
    ] {
        let fields = format!("Content-Length: {length}\r\n");
        let body = format!("hello{SMUGGLED}");
        cases.push(case(
            format!("length {length:?}"),
            post(&fields, &body),
            Refused,
        ));
    }
    for fields in [
        "Content-Length: 5\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: 0\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\ncontent-length: 0\r\n",
        "Content-Length : 5\r\n",
        "Content-Length\t: 5\r\n",
        " Content-Length: 5\r\n",
        "Content-Length: 5\n",
        "Content-Length:\r\n 5\r\n",
        "Content-Length: 5\r\n\tX: y\r\n",
        "Content-Length: 5\r",
        "X: y\nContent-Length: 5\r\n",
        "X: y\rContent-Length: 5\r\n",
        "Content\0-Length: 5\r\n",
        "Connection: Content-Length\r\nContent-Length: 5\r\n",
        "Connection: close, content-length\r\nContent-Length: 5\r\n",
        "Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n",
        "Connection: Host\r\nContent-Length: 5\r\n",
    ] {
        let body = format!("hello{SMUGGLED}");
        cases.push(case(
            format!("lengths {fields:?}"),
            post(fields, &body),
            Refused,
        ));
    }
    for version in [
        "HTTP/1.0",
        "HTTP/1.2",
        "HTTP/2.0",
        "HTTP/0.9",
        "http/1.1",
        "HTTP/1.1 ",
        "HTTP/01.1",
        "HTTP/1.10",
        "HTTP/1,1",
        "HTCPCP/1.0",
    ] {
        let head = format!(
            "POST /x {version}\r\nHost: edge.test\r\nTransfer-Encoding: chunked\r\n\r\n{chunked}{SMUGGLED}"
        );
        cases.push(case(format!("version {version:?}"), head, Refused));
    }
    cases
}

/// RFC 9112 2.2, 3, 5.
fn heads() -> Vec<Case> {
    let mut cases = Vec::new();
    for fields in [
        "A b: c\r\n",
        "A : b\r\n",
        ": b\r\n",
        " A: b\r\n",
        "\tA: b\r\n",
        "A: b\r\n c\r\n",
        "A: b\r\n\tc\r\n",
        "A: b\n",
        "A: b\rc\r\n",
        "A: b\0c\r\n",
        "A\0: b\r\n",
        "A: \u{1}\r\n",
        "A: \u{7f}\r\n",
        "A\r\n",
        "A;: b\r\n",
        "A(: b\r\n",
        "A/: b\r\n",
        "\"A\": b\r\n",
        "A\u{fc}: b\r\n",
        "A:b\r\n\r",
        "\u{b}A: b\r\n",
        "A: b\u{8}\r\n",
        "{A}: b\r\n",
        "A@: b\r\n",
        "A=: b\r\n",
        "A?: b\r\n",
        "A\\: b\r\n",
        "A,B: c\r\n",
        "[A]: b\r\n",
        "<A>: b\r\n",
    ] {
        cases.push(case(format!("field {fields:?}"), get(fields), Refused));
    }
    for start in [
        "GET  /x HTTP/1.1",
        " GET /x HTTP/1.1",
        "GET /x HTTP/1.1 ",
        "GET\t/x HTTP/1.1",
        "GET /x\tHTTP/1.1",
        "GET /x",
        "GET",
        "",
        "GET /x#y HTTP/1.1",
        "GET # HTTP/1.1",
        "G(T /x HTTP/1.1",
        "GE\0T /x HTTP/1.1",
        "GET x HTTP/1.1",
        "GET ../x HTTP/1.1",
        "GET ?x HTTP/1.1",
        "GET * HTTP/1.1",
        "GET edge.test:80 HTTP/1.1",
        "CONNECT edge.test:80 HTTP/1.1",
        "CONNECT / HTTP/1.1",
        "TRACE / HTTP/1.1",
        "GET ftp://edge.test/ HTTP/1.1",
        "GET http:// HTTP/1.1",
        "GET http:///x HTTP/1.1",
        "GET //../x HTTP/1.1",
        "GET /../x HTTP/1.1",
        "GET /x/%2e%2e/y HTTP/1.1",
        "GET /x%2f..%2fy HTTP/1.1",
        "GET /x/..\\y HTTP/1.1",
        "PRI * HTTP/2.0",
        "GET /x HTTP/1.1\rX: y",
        "GET /x HTTP/1.1\nX: y",
        "GET http://a b/ HTTP/1.1",
    ] {
        let head = format!("{start}\r\nHost: edge.test\r\n\r\n");
        cases.push(case(format!("start {start:?}"), head, Refused));
    }
    // Pingora escapes what must not stand in a target, and reads it again: what the peer gets can be
    // read in one way alone.
    for start in [
        "GET /x  HTTP/1.1",
        "GET /x y HTTP/1.1",
        "GET /\0x HTTP/1.1",
        "GET /\u{7f} HTTP/1.1",
        "GET /x\u{b} HTTP/1.1",
    ] {
        let head = format!("{start}\r\nHost: edge.test\r\n\r\n");
        cases.push(case(format!("escaped {start:?}"), head, Either));
    }
    for host in [
        "",
        "Host:\r\n",
        "Host: \r\n",
        "Host: a b\r\n",
        "Host: a/b\r\n",
        "Host: a@b\r\n",
        "Host: a,b\r\n",
        "Host: a:b\r\n",
        "Host: a:80:90\r\n",
        "Host: [::1\r\n",
        "Host: a\r\nHost: a\r\n",
        "Host: a\r\nHost: b\r\n",
        "Host: a\r\n b\r\n",
        "Host : a\r\n",
        "Host: a\0\r\n",
        "Host: a?b\r\n",
        "Host: a#b\r\n",
        " Host: a\r\n",
        "Host: \u{fc}\r\n",
        "Host: a\\b\r\n",
    ] {
        let head = format!("GET /x HTTP/1.1\r\n{host}\r\n");
        cases.push(case(format!("host {host:?}"), head, Refused));
    }
    for whole in [
        "\n\nGET /x HTTP/1.1\r\nHost: edge.test\r\n\r\n",
        "\r\n\r\n\r\nGET /x HTTP/1.1\r\nHost: edge.test\r\n\r\n",
        "GET /x HTTP/1.1\nHost: edge.test\n\n",
        "GET /x HTTP/1.1\r\nHost: edge.test\n\r\n",
        "GET /x HTTP/1.1\r\nHost: edge.test\r\n\n",
        "GET /x\r\n\r\n",
        "\u{16}\u{3}\u{1}\u{2}\r\n\r\n",
        "\0GET /x HTTP/1.1\r\nHost: edge.test\r\n\r\n",
    ] {
        cases.push(case(format!("whole {whole:?}"), whole, Refused));
    }
    cases
}

/// RFC 9112 7.1: what is wrong with a body is found after its head was let in.
fn chunks() -> Vec<Case> {
    let bodies = [
        "5\nhello\r\n0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
        "5 \r\nhello\r\n0\r\n\r\n",
        "5;a=b\r\nhello\r\n0\r\n\r\n",
        "5;\r\nhello\r\n0\r\n\r\n",
        "5;a\nb\r\nhello\r\n0\r\n\r\n",
        "5;a=\"\r\nhello\r\n0\r\n\r\n",
        "05\r\nhello\r\n0\r\n\r\n",
        "00000000000000000005\r\nhello\r\n0\r\n\r\n",
        "FFFFFFFFFFFFFFFFF\r\nhello\r\n0\r\n\r\n",
        "ffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello\r\n0\r\nX: y\r\n\r\n",
        "5\r\nhello\r\n0\r\nContent-Length: 9\r\n\r\n",
        "5\r\nhello\r\n0\r\nX: y\n\n",
        "5\r\nhello\r\n00\r\n\r\n",
        "5\r\nhello\r\n\r\n0\r\n\r\n",
        "5\r\nhel",
        "zz\r\n\r\n",
        "\r\n\r\n",
        "5\r\rhello\r\n0\r\n\r\n",
        "5\r\nhelloX\n0\r\n\r\n",
        "\u{b}5\r\nhello\r\n0\r\n\r\n",
        "5\t\r\nhello\r\n0\r\n\r\n",
        "5_0\r\nhello\r\n0\r\n\r\n",
        "0;a=b\r\n\r\n",
    ];
    let bodies = bodies.into_iter();
    let case_of = |body: &str| {
        let body_ = format!("{body}{SMUGGLED}");
        case(
            format!("chunks {body:?}"),
            post("Transfer-Encoding: chunked\r\n", &body_),
            Either,
        )
    };
    bodies.map(case_of).collect()
}

fn good() -> Vec<Case> {
    let mut cases: Vec<_> = [
        "", "A: b\r\n", "A:b\r\n", "A:  b  \r\n", "A:\tb\t\r\n", "A:\r\n", "A: \u{fc}\u{2603}\r\n", "!#$%&'*+-.^_`|~: b\r\n",
        "A: b\r\nA: c\r\n", "A: \"b,c\"; d=\"e\"\r\n", "Accept: */*\r\nAccept-Encoding: gzip, br\r\n", "Cookie: a=b; c=d\r\n",
        "Connection: keep-alive\r\n", "Connection: close\r\n", "Connection: X-A\r\nX-A: 1\r\n", "Expect:\r\n", "Range: bytes=0-1\r\n",
        "User-Agent: a/1 (b; c) d/2\r\n", "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n",
        "Content-Length: 0\r\n", "X: a: b\r\n", "TE: trailers\r\n", "X-Forwarded-For: 1.1.1.1\r\n", "Via: 1.0 a\r\n",
    ]
    .into_iter()
    .map(|fields| case(format!("good {fields:?}"), get(fields), Served))
    .collect();
    for target in [
        "/",
        "/x?y=z&a=%20",
        "/x%20y",
        "/x;y=z",
        "/%61%2F",
        "/x/",
        "/x//y",
        "/?",
        "/x?a=/../b",
        "/~a/.b/..c",
        "http://edge.test/x",
        "/x?{|}^[]",
        "/\u{e9}",
    ] {
        let head = format!("GET {target} HTTP/1.1\r\nHost: edge.test\r\n\r\n");
        cases.push(case(format!("target {target:?}"), head, Served));
    }
    for host in [
        "edge.test:80",
        "EDGE.test",
        "127.0.0.1:8080",
        "[::1]",
        "[::1]:80",
        "a_b.example",
        "a-b.example.",
    ] {
        let head = format!("GET /x HTTP/1.1\r\nhOsT: {host}\r\n\r\n");
        cases.push(case(format!("host {host:?}"), head, Served));
    }
    for (fields, body) in [
        ("Content-Length: 5\r\n", "hello"),
        ("content-length:5\r\n", "hello"),
        ("Content-Length: 05\r\n", "hello"),
        ("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n"),
        (
            "transfer-encoding:CHUNKED\r\n",
            "1\r\nh\r\n4\r\nello\r\n0\r\n\r\n",
        ),
        ("Transfer-Encoding: chunked\r\n", "0\r\n\r\n"),
        (
            "Transfer-Encoding: chunked\r\n",
            "A\r\n0123456789\r\n0\r\n\r\n",
        ),
    ] {
        cases.push(case(
            format!("body {fields:?} {body:?}"),
            post(fields, body),
            Served,
        ));
    }
    for method in [
        "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD", "M-SEARCH", "PROPFIND",
    ] {
        let head = format!("{method} /x HTTP/1.1\r\nHost: edge.test\r\nContent-Length: 0\r\n\r\n");
        cases.push(case(format!("method {method}"), head, Served));
    }
    cases.push(case(
        "an empty line before",
        "\r\nGET /x HTTP/1.1\r\nHost: edge.test\r\n\r\n",
        Served,
    ));
    cases.push(case(
        "HTTP/1.0",
        "GET /x HTTP/1.0\r\nHost: edge.test\r\n\r\n",
        Served,
    ));
    cases
}

fn all() -> Vec<Case> {
    [framing(), heads(), chunks(), good()]
        .into_iter()
        .flatten()
        .collect()
}

/// Reads what a strict reader reads, and answers with the path that it was asked for.
async fn strict_peer() -> Upstream {
    Upstream::serve(|mut visit| async move {
        while let Some(head) = visit.head().await {
            let chunked = !fields(&head, "transfer-encoding").is_empty();
            let length = fields(&head, "content-length")
                .first()
                .map(|own| own.parse::<usize>().unwrap());
            if chunked {
                loop {
                    let Some(line) = visit.read_to(b"\r\n").await else {
                        return;
                    };
                    let size = usize::from_str_radix(line.trim_end(), 16).unwrap();
                    if visit.take(size + 2).await.is_none() {
                        return;
                    }
                    if size == 0 {
                        break;
                    }
                }
            } else if let Some(length) = length
                && visit.take(length).await.is_none()
            {
                return;
            }
            let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
            visit.write(ok("", &path)).await;
        }
    })
    .await
}

#[test]
fn the_corpus_is_large_and_the_door_agrees_with_it() {
    let cases = all();
    assert!(cases.len() >= 200, "{}", cases.len());
    let good = |case: &&Case| case.expected != Refused && !case.name.starts_with("escaped");
    for case in cases.iter().filter(good) {
        let end = case
            .bytes
            .windows(4)
            .position(|four| four == b"\r\n\r\n")
            .unwrap();
        // The empty line before a request ends no head.
        let head = &case.bytes[..end + 4];
        assert_eq!(check(head, &Bounds::default()), Ok(()), "{}", case.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_hides_in_another_request_and_what_is_good_is_served() {
    let upstream = strict_peer().await;
    let edge = edge(&route_to(
        upstream.address,
        "timeout = { response = \"500ms\", body = \"300ms\" }",
    ))
    .await;
    let (mut wrong, mut victims) = (Vec::new(), 0);
    for case in all() {
        let before = upstream.count();
        let mut client = Client::connect(edge.address()).await;
        client.send(&case.bytes).await;
        let method = if case.bytes.starts_with(b"HEAD") {
            "HEAD"
        } else {
            "GET"
        };
        let answer = timeout(Duration::from_secs(3), client.answer_to(method)).await;
        let status = answer.ok().flatten().map(|answer| answer.status);
        let heard = upstream.heads().split_off(before);
        let good = match case.expected {
            Served => status == Some(200),
            // Pingora itself lets go of some without a word.
            Refused => status.is_none_or(|status| (400..600).contains(&status)) && heard.is_empty(),
            Either => true,
        };
        if !good {
            wrong.push(format!(
                "{}: {status:?}, {} reached the peer",
                case.name,
                heard.len()
            ));
        }
        for head in &heard {
            let form = check(head.as_bytes(), &Bounds::default());
            if form.is_err() || head.starts_with("GET /smuggled") && case.expected == Refused {
                wrong.push(format!("{}: the peer got {head:?}", case.name));
            }
        }
        // Who comes next, on another connection, gets his own answer.
        let mut victim = Client::connect(edge.address()).await;
        victims += 1;
        let path = format!("/victim/{victims}");
        let answer = victim.get(&path).await;
        if (answer.status, answer.text()) != (200, path.clone()) {
            wrong.push(format!(
                "{}: the victim got {} {:?}",
                case.name,
                answer.status,
                answer.text()
            ));
        }
    }
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn sizes_have_their_bounds_and_reasons() {
    let upstream = strict_peer().await;
    let tables = format!(
        "[request]\ntarget = \"100B\"\nfields = 5\nfields_size = \"200B\"\nbody = \"10B\"\n{}",
        route_to(upstream.address, "")
    );
    let edge = edge(&tables).await;
    let long = format!("GET /{}", "a".repeat(100));
    let many = ["A: b"; 5];
    let large = format!("A: {}", "b".repeat(200));
    for (start, fields, status, reason) in [
        (long.as_str(), &[][..], 414, "target_too_long"),
        ("GET /", &many[..], 431, "fields_too_large"),
        ("GET /", &[large.as_str()][..], 431, "fields_too_large"),
        ("POST /", &["Content-Length: 11"][..], 413, "body_too_large"),
    ] {
        let mut client = Client::connect(edge.address()).await;
        client.send(request(start, fields)).await;
        assert_eq!(client.answer().await.refusal(), no(status, reason));
    }
    assert_eq!(upstream.count(), 0);
    let mut client = Client::connect(edge.address()).await;
    client
        .send(request("POST /", &["Transfer-Encoding: chunked"]) + "5\r\nhello\r\n")
        .await;
    tokio::time::sleep(ms(50)).await;
    client.send("6\r\nhello!\r\n0\r\n\r\n").await;
    assert_eq!(client.answer().await.refusal(), no(413, "body_too_large"));
    let mut client = Client::connect(edge.address()).await;
    client
        .send(request("POST /", &["Transfer-Encoding: chunked"]) + "a\r\n0123456789\r\n0\r\n\r\n")
        .await;
    assert_eq!(client.answer().await.status, 200);
}
