//! Answers that are compressed on their way out: what the client reads is what the peer said,
//! and the head tells what the body is.

use std::io::Read;

use tokio::sync::Notify;
use tokio::time::sleep;

use crate::http2_client::{Http2, to};
use crate::support::{
    Answer, Client, Upstream, all_at_once, edge, edge_with_log, figure_becomes, get, keep, ms, ok,
    request, route_to, soon,
};

const ALL: [&str; 3] = ["br", "zstd", "gzip"];
const TEXT: &str = "Content-Type: text/plain\r\n";

/// 20 KB that repeat themselves, but not too soon.
fn long() -> String {
    (0..1_000)
        .map(|line| format!("this is line {line}\n"))
        .collect()
}

fn decoder<'a>(encoding: &str, bytes: &'a [u8]) -> Box<dyn Read + 'a> {
    match encoding {
        "br" => Box::new(brotli::Decompressor::new(bytes, 4_096)),
        "zstd" => Box::new(zstd::stream::read::Decoder::new(bytes).unwrap()),
        "gzip" => Box::new(flate2::read::GzDecoder::new(bytes)),
        other => panic!("{other} is no encoding"),
    }
}

fn decoded(encoding: &str, bytes: &[u8]) -> Option<String> {
    let mut text = String::new();
    let read = decoder(encoding, bytes).read_to_string(&mut text);
    read.ok().map(|_| text)
}

fn body(answer: &Answer) -> String {
    match answer.header("content-encoding") {
        Some(encoding) => decoded(encoding, &answer.body).expect("it cannot be decoded"),
        None => answer.text(),
    }
}

/// Asks with this `Accept-Encoding`.
async fn ask(client: &mut Client, start: &str, accept: &str, more: &[&str]) -> Answer {
    let accept = format!("Accept-Encoding: {accept}");
    let fields: Vec<&str> = more.iter().copied().chain([&*accept]).collect();
    client.ask(start, &fields).await
}

async fn one(to: &edge::serve::Edge, accept: &str, more: &[&str]) -> Answer {
    let mut client = Client::connect(to.address()).await;
    ask(&mut client, "GET /", accept, more).await
}

/// An upstream that says this, with these fields, behind a route that compresses.
async fn compressing(fields: &str, text: &str) -> (edge::serve::Edge, Upstream) {
    with_keys("compress = true", fields, text).await
}

async fn with_keys(keys: &str, fields: &str, text: &str) -> (edge::serve::Edge, Upstream) {
    let upstream = Upstream::saying(ok(fields, text)).await;
    (edge(&route_to(upstream.address, keys)).await, upstream)
}

fn in_chunks(text: &str) -> String {
    let head = format!("HTTP/1.1 200 OK\r\n{TEXT}Transfer-Encoding: chunked\r\n\r\n");
    let parts = text.as_bytes().chunks(700).map(|part| {
        let part = std::str::from_utf8(part).unwrap();
        format!("{:x}\r\n{part}\r\n", part.len())
    });
    format!("{head}{}0\r\n\r\n", parts.collect::<String>())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_encoding_decodes_to_what_the_peer_said() {
    let (edge, _peer) = compressing(TEXT, &long()).await;
    let mut client = Client::connect(edge.address()).await;
    for encoding in ALL {
        let answer = ask(&mut client, "GET /", encoding, &[]).await;
        assert_eq!(answer.header("content-encoding"), Some(encoding));
        assert_eq!(answer.header("content-length"), None);
        assert_eq!(answer.header("vary"), Some("Accept-Encoding"));
        assert!(answer.complete && answer.body.len() < 6_000);
        assert!(body(&answer) == long(), "{encoding}");
    }
    let chunked = Upstream::saying(in_chunks(&long())).await;
    let edge = crate::support::edge(&route_to(chunked.address, "compress = true")).await;
    for encoding in ALL {
        let answer = one(&edge, encoding, &[]).await;
        assert!(answer.complete && body(&answer) == long(), "{encoding}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_client_likes_best_of_what_the_route_has_is_taken() {
    let keys = "compress = { encodings = [\"gzip\", \"zstd\"], level = 9 }";
    let (edge, _peer) = with_keys(keys, TEXT, &long()).await;
    for (accept, encoding) in [
        ("gzip, deflate, br, zstd", Some("gzip")),
        ("gzip;q=0.5, zstd", Some("zstd")),
        ("br", None),
        ("gzip;q=0", None),
        ("*", Some("gzip")),
        ("gzip;q=what", None),
    ] {
        let answer = one(&edge, accept, &[]).await;
        assert_eq!(answer.header("content-encoding"), encoding, "{accept}");
        assert_eq!(answer.header("vary"), Some("Accept-Encoding"));
        assert_eq!(body(&answer), long());
    }
    assert_eq!(get(edge.address(), "/").await.text(), long());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_that_does_not_say_so_compresses_nothing() {
    for keys in ["", "compress = false"] {
        let (edge, _peer) = with_keys(keys, TEXT, &long()).await;
        let answer = one(&edge, "gzip", &[]).await;
        assert_eq!(answer.header("content-encoding"), None);
        assert_eq!(answer.header("vary"), None);
        assert_eq!(answer.text(), long());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_gains_nothing_goes_as_it_came() {
    let long = long();
    for (fields, text) in [
        ("", &*long),
        ("Content-Type: image/png\r\n", &long),
        ("Content-Type: application/grpc+json\r\n", &long),
        (
            "Content-Type: text/plain\r\nContent-Encoding: x-own\r\n",
            &long,
        ),
        (
            "Content-Type: text/plain\r\nCache-Control: no-transform\r\n",
            &long,
        ),
        ("Content-Type: text/event-stream\r\n", &long),
        (TEXT, &long[..1_023]),
        (TEXT, ""),
    ] {
        let fields = format!("{fields}ETag: \"a\"\r\n");
        let (edge, _peer) = compressing(&fields, text).await;
        let answer = one(&edge, "gzip", &[]).await;
        assert_eq!(answer.body, text.as_bytes(), "{fields}");
        assert_eq!(answer.header("etag"), Some("\"a\""), "{fields}");
        assert_eq!(answer.header("vary"), None, "{fields}");
        let length = text.len().to_string();
        assert_eq!(answer.header("content-length"), Some(&*length));
    }
    let (edge, _peer) = compressing(TEXT, &long[..1_024]).await;
    let answer = one(&edge, "gzip", &[]).await;
    assert_eq!(answer.header("content-encoding"), Some("gzip"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_says_what_it_compresses() {
    let keys = "compress = { min_size = \"10B\", types = [\"image/x-own\"] }";
    let (edge, _peer) = with_keys(keys, "Content-Type: image/x-own\r\n", "0123456789").await;
    let answer = one(&edge, "br", &[]).await;
    assert_eq!(answer.header("content-encoding"), Some("br"));
    assert_eq!(body(&answer), "0123456789");
    let (edge, _peer) = with_keys(keys, TEXT, &long()).await;
    assert_eq!(one(&edge, "br", &[]).await.header("content-encoding"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_head_speaks_of_the_compressed_body() {
    let fields = format!(
        "{TEXT}ETag: \"a\"\r\nAccept-Ranges: bytes\r\nVary: Origin\r\nContent-MD5: x\r\n\
         Repr-Digest: sha-256=:AA==:\r\n"
    );
    let (edge, _peer) = compressing(&fields, &long()).await;
    let answer = one(&edge, "zstd", &[]).await;
    assert_eq!(answer.header("etag"), Some("W/\"a\""));
    assert_eq!(answer.header("vary"), Some("Origin, Accept-Encoding"));
    for name in ["accept-ranges", "content-md5", "repr-digest"] {
        assert_eq!(answer.header(name), None);
    }
    let answer = get(edge.address(), "/").await;
    assert_eq!(answer.header("etag"), Some("\"a\""));
    assert_eq!(answer.header("vary"), Some("Origin, Accept-Encoding"));
    assert_eq!(answer.header("accept-ranges"), Some("bytes"));
}

/// RFC 9110 9.3.2: as GET, but for the body.
#[tokio::test(flavor = "multi_thread")]
async fn head_is_told_what_get_would_be() {
    let head = format!("HTTP/1.1 200 OK\r\n{TEXT}ETag: \"a\"\r\nContent-Length: 5000\r\n\r\n");
    let upstream = Upstream::saying(head).await;
    let edge = edge(&route_to(upstream.address, "compress = true")).await;
    let mut client = Client::connect(edge.address()).await;
    for _ in 0..2 {
        let answer = ask(&mut client, "HEAD /", "gzip", &[]).await;
        assert_eq!(answer.header("content-encoding"), Some("gzip"));
        assert_eq!(answer.header("etag"), Some("W/\"a\""));
        assert_eq!(answer.header("content-length"), None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_304_names_the_tag_that_the_client_has() {
    let answer = "HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\n\r\n";
    let upstream = Upstream::saying(answer).await;
    let edge = edge(&route_to(upstream.address, "compress = true")).await;
    for (named, told) in [("W/\"a\"", "W/\"a\""), ("\"a\"", "\"a\"")] {
        let condition = format!("If-None-Match: {named}");
        let answer = one(&edge, "gzip", &[&condition]).await;
        assert_eq!(answer.status, 304);
        assert_eq!(answer.header("etag"), Some(told));
        assert_eq!(answer.header("vary"), Some("Accept-Encoding"));
        assert_eq!(answer.header("content-encoding"), None);
    }
    // The condition reaches the peer as it was asked, which compares weakly (13.1.2).
    assert!(upstream.heads()[0].contains("W/\"a\""));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_is_a_part_of_the_body_as_it_is() {
    let head = format!(
        "HTTP/1.1 206 Partial Content\r\n{TEXT}ETag: \"a\"\r\nContent-Range: bytes 0-4/5000\r\n\
         Content-Length: 5\r\n\r\nhello"
    );
    let upstream = Upstream::saying(head).await;
    let edge = edge(&route_to(upstream.address, "compress = true")).await;
    let answer = one(&edge, "gzip", &["Range: bytes=0-4"]).await;
    assert_eq!((answer.status, answer.text().as_str()), (206, "hello"));
    assert_eq!(answer.header("etag"), Some("\"a\""));
    assert_eq!(answer.header("content-encoding"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_http_1_0_gets_the_body_and_its_length() {
    let (edge, _peer) = compressing(TEXT, &long()).await;
    let mut client = Client::connect(edge.address()).await;
    let ask = "GET / HTTP/1.0\r\nHost: edge.test\r\nAccept-Encoding: gzip\r\n\r\n";
    client.send(ask).await;
    let answer = client.answer().await;
    assert_eq!(answer.header("content-encoding"), None);
    assert_eq!(answer.header("vary"), Some("Accept-Encoding"));
    assert_eq!(
        answer.header("content-length"),
        Some(&*long().len().to_string())
    );
    assert_eq!(answer.text(), long());
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_of_http_2_are_compressed_too() {
    for keys in ["compress = true", "compress = true\ncache = \"1h\""] {
        let (edge, _peer) = with_keys(keys, TEXT, &long()).await;
        let client = Http2::connect(edge.address()).await;
        for encoding in ALL {
            let mut request = to("GET", "/");
            let accept = encoding.parse().unwrap();
            request.headers_mut().insert("accept-encoding", accept);
            let got = client.ask(request).await;
            assert_eq!((got.status, got.reset), (200, None));
            assert_eq!(got.headers["content-encoding"], encoding);
            assert!(!got.headers.contains_key("content-length"));
            assert_eq!(decoded(encoding, &got.body), Some(long()));
        }
    }
}

/// A peer of HTTP/2 that says this text and then these trailers.
async fn with_trailers() -> std::net::SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((_, mut answer))) = connection.accept().await {
                    let head = http::Response::builder().header("content-type", "text/plain");
                    let mut stream = answer.send_response(head.body(()).unwrap(), false).unwrap();
                    stream.send_data(long().into(), false).unwrap();
                    let mut trailers = http::HeaderMap::new();
                    trailers.insert("x-sum", "5".parse().unwrap());
                    trailers.insert("content-digest", "sha-256=:AA==:".parse().unwrap());
                    stream.send_trailers(trailers).unwrap();
                }
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_come_after_all_of_the_body() {
    let peer = with_trailers().await;
    let tables = format!(
        "[upstream.u]\npeers = [\"{peer}\"]\nprotocol = \"http2\"\n\
         [[route]]\npath = \"/*\"\nupstream = \"u\"\ncompress = true\n"
    );
    let edge = edge(&tables).await;
    let client = Http2::connect(edge.address()).await;
    for encoding in [Some("br"), Some("zstd"), Some("gzip"), None] {
        let mut request = to("GET", "/");
        if let Some(encoding) = encoding {
            let accept = encoding.parse().unwrap();
            request.headers_mut().insert("accept-encoding", accept);
        }
        let (answer, _) = client.begin(request, true).await;
        let mut stream = soon(answer).await.unwrap().into_body();
        let mut bytes = Vec::new();
        while let Some(part) = soon(stream.data()).await {
            let part = part.unwrap();
            stream.flow_control().release_capacity(part.len()).unwrap();
            bytes.extend_from_slice(&part);
        }
        let trailers = soon(stream.trailers()).await.unwrap().unwrap();
        assert_eq!(trailers["x-sum"], "5");
        // What speaks of the bytes does not pass with others (RFC 9530).
        assert_eq!(trailers.contains_key("content-digest"), encoding.is_none());
        let text = match encoding {
            Some(encoding) => decoded(encoding, &bytes).unwrap(),
            None => String::from_utf8(bytes).unwrap(),
        };
        assert!(text == long(), "{encoding:?}");
    }
    // HTTP/1.1 has no trailers here, but all of the body.
    let answer = one(&edge, "zstd", &[]).await;
    assert!(answer.complete && body(&answer) == long());
}

#[tokio::test(flavor = "multi_thread")]
async fn events_arrive_at_once() {
    for (cache, encoding) in [
        ("", "br"),
        ("", "zstd"),
        ("", "gzip"),
        ("cache = \"1h\"", "zstd"),
    ] {
        let gate = std::sync::Arc::new(Notify::new());
        let opened = gate.clone();
        let upstream = Upstream::serve(move |mut visit| {
            let gate = gate.clone();
            async move {
                visit.head().await;
                let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
                            Transfer-Encoding: chunked\r\n\r\n";
                visit.write(head).await;
                for event in 0..3 {
                    visit
                        .write(format!("9\r\ndata: {event}\n\n\r\n").as_str())
                        .await;
                    // Goes on when the client has read it.
                    gate.notified().await;
                }
                visit.write("0\r\n\r\n").await;
            }
        })
        .await;
        let keys = format!("compress = {{ types = [\"text/event-stream\"] }}\n{cache}");
        let edge = edge(&route_to(upstream.address, &keys)).await;
        let client = Http2::connect(edge.address()).await;
        let mut request = to("GET", "/");
        let accept = encoding.parse().unwrap();
        request.headers_mut().insert("accept-encoding", accept);
        let (answer, _) = client.begin(request, true).await;
        let answer = soon(answer).await.unwrap();
        assert_eq!(answer.headers()["content-encoding"], encoding);
        let mut stream = answer.into_body();
        let mut bytes = Vec::new();
        for event in 0..3 {
            let expected: String = (0..=event)
                .map(|event| format!("data: {event}\n\n"))
                .collect();
            let mut text = vec![0; expected.len()];
            while decoder(encoding, &bytes).read_exact(&mut text).is_err() {
                bytes.extend_from_slice(&soon(stream.data()).await.unwrap().unwrap());
            }
            assert_eq!(text, expected.as_bytes());
            opened.notify_one();
        }
        while let Some(part) = soon(stream.data()).await {
            bytes.extend_from_slice(&part.unwrap());
        }
        let all = "data: 0\n\ndata: 1\n\ndata: 2\n\n";
        assert_eq!(decoded(encoding, &bytes).as_deref(), Some(all));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_stays_as_it_came_and_serves_everybody() {
    let fields = format!("{TEXT}ETag: \"a\"\r\n");
    let (edge, upstream) = with_keys("compress = true\ncache = \"1h\"", &fields, &long()).await;
    let miss = one(&edge, "gzip", &[]).await;
    assert_eq!(miss.header("content-encoding"), Some("gzip"));
    assert_eq!(miss.header("etag"), Some("W/\"a\""));
    assert_eq!(body(&miss), long());
    keep(&edge).await;
    for accept in ["br", "zstd", "gzip", "identity", "gzip"] {
        let hit = one(&edge, accept, &[]).await;
        let encoding = (accept != "identity").then_some(accept);
        assert_eq!(hit.header("content-encoding"), encoding);
        assert_eq!(hit.header("vary"), Some("Accept-Encoding"));
        assert!(hit.cache().starts_with("edge; hit"), "{}", hit.head);
        assert!(hit.complete && body(&hit) == long());
    }
    let part = one(&edge, "gzip", &["Range: bytes=0-3"]).await;
    assert_eq!((part.status, part.text().as_str()), (206, "this"));
    assert_eq!(part.header("etag"), Some("\"a\""));
    assert_eq!(part.header("content-encoding"), None);
    // A weak tag is none to resume by (13.1.5).
    let resumed = one(&edge, "gzip", &["Range: bytes=0-3", "If-Range: W/\"a\""]).await;
    assert_eq!((resumed.status, resumed.text()), (200, long()));
    for (named, accept, told) in [
        ("W/\"a\"", "gzip", "W/\"a\""),
        ("\"a\"", "gzip", "\"a\""),
        ("*", "gzip", "W/\"a\""),
        ("*", "identity", "\"a\""),
    ] {
        let condition = format!("If-None-Match: {named}");
        let answer = one(&edge, accept, &[&condition]).await;
        assert_eq!(answer.status, 304);
        assert_eq!(answer.header("etag"), Some(told), "{named} {accept}");
        assert_eq!(answer.header("vary"), Some("Accept-Encoding"));
    }
    let mut client = Client::connect(edge.address()).await;
    let head = ask(&mut client, "HEAD /", "br", &[]).await;
    assert_eq!(head.header("content-encoding"), Some("br"));
    assert_eq!(head.header("etag"), Some("W/\"a\""));
    assert_eq!(upstream.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_share_a_fetch_get_each_what_they_take() {
    let upstream = Upstream::serve(|mut visit| async move {
        while visit.head().await.is_some() {
            sleep(ms(300)).await;
            visit.write(ok(TEXT, &long())).await;
        }
    })
    .await;
    let edge = edge(&route_to(
        upstream.address,
        "compress = true\ncache = \"1h\"",
    ))
    .await;
    let to = edge.address();
    let asking: Vec<_> = ["br", "zstd", "gzip", "identity"]
        .into_iter()
        .map(|accept| {
            tokio::spawn(async move {
                let mut client = Client::connect(to).await;
                (accept, ask(&mut client, "GET /", accept, &[]).await)
            })
        })
        .collect();
    for one in asking {
        let (accept, answer) = one.await.unwrap();
        let encoding = (accept != "identity").then_some(accept);
        assert_eq!(answer.header("content-encoding"), encoding);
        assert_eq!(body(&answer), long());
    }
    assert_eq!(upstream.count(), 1);
    assert_eq!(all_at_once(2, to, "/").await[0].text(), long());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_breaks_off_is_seen_to() {
    for head in [
        format!(
            "HTTP/1.1 200 OK\r\n{TEXT}Content-Length: 100000\r\n\r\n{}",
            long()
        ),
        format!(
            "HTTP/1.1 200 OK\r\n{TEXT}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{}\r\n",
            long().len(),
            long()
        ),
    ] {
        let upstream = Upstream::saying_once(head).await;
        for keys in ["compress = true", "compress = true\ncache = \"1h\""] {
            let edge = edge(&route_to(upstream.address, keys)).await;
            for encoding in ALL {
                let answer = one(&edge, encoding, &[]).await;
                assert_eq!(answer.header("content-encoding"), Some(encoding));
                assert!(!answer.complete);
                assert_eq!(decoded(encoding, &answer.body), None, "{encoding}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_is_noticed() {
    let (told, mut gone) = tokio::sync::mpsc::unbounded_channel();
    let upstream = Upstream::serve(move |mut visit| {
        let told = told.clone();
        async move {
            visit.head().await;
            let head = format!("HTTP/1.1 200 OK\r\n{TEXT}Transfer-Encoding: chunked\r\n\r\n");
            visit.write(&*head).await;
            visit.write("5\r\nhello\r\n").await;
            // Until the connection ends.
            visit.head().await;
            told.send(()).unwrap();
        }
    })
    .await;
    let (edge, log) = edge_with_log(&route_to(upstream.address, "compress = true")).await;
    let mut client = Client::connect(edge.address()).await;
    client
        .send(request("GET /", &["Accept-Encoding: gzip"]))
        .await;
    client.rest_of_head().await;
    drop(client);
    soon(gone.recv()).await.unwrap();
    let line = &log.lines(1).await[0];
    assert_eq!(line["reason"], "client_closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_record_tells_what_went_over_the_wire() {
    let upstream = Upstream::saying(ok(TEXT, &long())).await;
    let (edge, log) = edge_with_log(&route_to(upstream.address, "compress = true")).await;
    let answer = one(&edge, "zstd", &[]).await;
    let plain = get(edge.address(), "/").await;
    let lines = log.lines(2).await;
    assert_eq!(lines[0]["encoding"], "zstd");
    assert_eq!(lines[0]["bytes_out"], answer.body.len());
    assert_eq!(lines[1]["encoding"], serde_json::Value::Null);
    assert_eq!(lines[1]["bytes_out"], plain.body.len());
    let name =
        |way| format!("edge_compressed_bytes_total{{direction=\"{way}\",encoding=\"zstd\"}}");
    figure_becomes(&edge, &name("in"), long().len() as f64).await;
    figure_becomes(&edge, &name("out"), answer.body.len() as f64).await;
}

/// A body of 64 MiB, for a client that reads it slowly at first: edge holds little of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_body_is_held_by_nobody() {
    const PARTS: usize = 1_024;
    const PART: usize = 64 << 10;
    let sent = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = sent.clone();
    let upstream = Upstream::serve(move |mut visit| {
        let sent = counted.clone();
        async move {
            visit.head().await;
            let length = PARTS * PART;
            let head = format!("HTTP/1.1 200 OK\r\n{TEXT}Content-Length: {length}\r\n\r\n");
            visit.write(&*head).await;
            // Noise: what nobody can make smaller.
            let mut random = 1_u64;
            for _ in 0..PARTS {
                let mut part = Vec::with_capacity(PART);
                while part.len() < PART {
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    part.extend_from_slice(&random.to_ne_bytes());
                }
                visit.write(part).await;
                sent.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            }
        }
    })
    .await;
    let edge = edge(&route_to(
        upstream.address,
        "compress = { encodings = [\"zstd\"], level = 1 }",
    ))
    .await;
    let mut client = Client::connect(edge.address()).await;
    client
        .send(request("GET /", &["Accept-Encoding: zstd"]))
        .await;
    client.rest_of_head().await;
    // Until nothing moves: only the buffers of four sockets are full.
    let count = || sent.load(std::sync::atomic::Ordering::SeqCst);
    let mut last = usize::MAX;
    while last != count() {
        last = count();
        sleep(ms(300)).await;
    }
    assert!(count() < PARTS / 2, "{} parts are on their way", count());
    let mut stream = client.into_stream();
    let mut read = 0;
    let mut buffer = vec![0; 1 << 20];
    while read < PARTS * PART {
        let more = soon(tokio::io::AsyncReadExt::read(&mut stream, &mut buffer)).await;
        let more = more.unwrap();
        assert!(more > 0, "cut after {read}");
        read += more;
    }
}
