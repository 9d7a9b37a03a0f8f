//! What is compressed, for whom, and what its head then says.

use super::*;
use proptest::prelude::*;

fn map(fields: &[(&'static str, &str)]) -> HeaderMap {
    let field = |(name, value): &(&'static str, &str)| {
        (
            HeaderName::from_static(name),
            HeaderValue::from_str(value).unwrap(),
        )
    };
    fields.iter().map(field).collect()
}

fn liked(accept: &str) -> Option<&'static str> {
    let chosen = negotiate(&Encoding::ALL, &map(&[("accept-encoding", accept)]));
    chosen.map(Encoding::name)
}

#[test]
fn the_client_gets_what_it_likes_best() {
    for (accept, best) in [
        ("", None),
        ("gzip", Some("gzip")),
        ("x-gzip", Some("gzip")),
        ("GZIP", Some("gzip")),
        ("gzip, deflate, br, zstd", Some("br")),
        ("gzip, zstd", Some("zstd")),
        ("gzip;q=1.0, br;q=0.9", Some("gzip")),
        ("gzip;q=0.001", Some("gzip")),
        ("br;q=0, *", Some("zstd")),
        ("*", Some("br")),
        ("*;q=0", None),
        ("*;q=0, gzip", Some("gzip")),
        ("gzip;q=0", None),
        ("gzip;q=0.000", None),
        ("identity", None),
        ("identity;q=0", None),
        ("identity;q=0, gzip;q=0.1", Some("gzip")),
        ("identity;q=0, *;q=0.1", Some("br")),
        ("identity, gzip;q=0.5", None),
        ("identity;q=0.5, gzip", Some("gzip")),
        ("identity;q=0.5, gzip;q=0.5", Some("gzip")),
        ("deflate, compress", None),
        ("gzip ; q=0.5 , br ; Q=0.4", Some("gzip")),
        ("*;q=0.5, gzip;q=0.1", Some("br")),
        ("identity;q=0.5, *;q=0.1", None),
        ("gzip;q=2", None),
        ("gzip;q=1.001", None),
        ("gzip;q=0.1234", None),
        ("gzip;q=", None),
        ("gzip;q=-1", None),
        (",, gzip,", Some("gzip")),
        ("br, gzip;q=x", None),
        ("br;level=5", None),
        ("br;q=1;x=y", None),
        ("br;", None),
        ("b r", None),
        ("gzip;q=0, gzip", Some("gzip")),
    ] {
        assert_eq!(liked(accept), best, "{accept}");
    }
    assert_eq!(negotiate(&Encoding::ALL, &HeaderMap::new()), None);
    // Only gzip is to be had, and all else, the body as it is too, is liked better.
    let rather = map(&[("accept-encoding", "*;q=0.5, gzip;q=0.1")]);
    assert_eq!(negotiate(&[Encoding::Gzip], &rather), None);
    let lines = map(&[("accept-encoding", "gzip"), ("accept-encoding", "br")]);
    assert_eq!(negotiate(&Encoding::ALL, &lines), Some(Encoding::Brotli));
    assert_eq!(negotiate(&[Encoding::Gzip], &lines), Some(Encoding::Gzip));
}

#[test]
fn types_are_read_and_told_alike() {
    for good in ["text/*", "application/json", "application/*+json"] {
        assert_eq!(Type::read(good).unwrap().to_string(), good);
    }
    for wrong in [
        "",
        "text",
        "*/*",
        "text/",
        "/json",
        "a/*json",
        "a/b*",
        "a/*+",
        "a/b c",
        "application/grpc",
        "application/grpc+proto",
    ] {
        assert!(Type::read(wrong).is_err(), "{wrong}");
    }
}

fn decided(
    status: u16,
    request: &[(&'static str, &str)],
    own: &[(&'static str, &str)],
) -> Decision {
    let mut asked = map(request);
    asked.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
    let status = StatusCode::from_u16(status).unwrap();
    decide(
        &Policy::default(),
        Version::HTTP_11,
        &asked,
        status,
        &map(own),
    )
}

#[test]
fn only_what_gains_is_compressed() {
    let gzip = Decision::Encoded(Encoding::Gzip);
    let kind = |kind| decided(200, &[], &[("content-type", kind)]);
    for good in [
        "text/plain",
        "TEXT/HTML; charset=utf-8",
        "application/json",
        "application/problem+json",
        "application/javascript",
        "application/atom+xml",
        "image/svg+xml",
    ] {
        assert_eq!(kind(good), gzip, "{good}");
    }
    for bad in [
        "text/event-stream",
        "text/event-stream; charset=utf-8",
        "image/png",
        "application/octet-stream",
        "application/grpc+json",
        "application/grpc",
        "application/grpc-web+json",
        "text",
        "",
    ] {
        assert_eq!(kind(bad), Decision::Untouched, "{bad}");
    }
    assert_eq!(decided(200, &[], &[]), Decision::Untouched);
    let text = ("content-type", "text/plain");
    for status in [101, 103, 204, 205] {
        assert_eq!(decided(status, &[], &[text]), Decision::Untouched);
    }
    assert_eq!(decided(404, &[], &[text]), gzip);
    for more in [
        ("content-encoding", "gzip"),
        ("content-encoding", "identity"),
        ("content-range", "bytes */10"),
        ("cache-control", "max-age=5, No-Transform"),
        ("content-length", "0"),
        ("content-length", "1023"),
    ] {
        assert_eq!(
            decided(200, &[], &[text, more]),
            Decision::Untouched,
            "{more:?}"
        );
    }
    assert_eq!(decided(200, &[], &[text, ("content-length", "1024")]), gzip);
    for request in [("range", "bytes=0-5"), ("cache-control", "no-transform")] {
        assert_eq!(decided(200, &[request], &[text]), Decision::AsItIs);
    }
    let part = [
        text,
        ("content-range", "bytes 0-5/9000"),
        ("content-length", "6"),
    ];
    assert_eq!(decided(206, &[], &part), Decision::AsItIs);
}

#[test]
fn a_client_of_http_1_0_gets_a_body_with_a_length() {
    let (asked, told) = (
        map(&[("accept-encoding", "gzip")]),
        map(&[("content-type", "text/plain")]),
    );
    let policy = Policy::default();
    for (version, decision) in [
        (Version::HTTP_10, Decision::AsItIs),
        (Version::HTTP_11, Decision::Encoded(Encoding::Gzip)),
        (Version::HTTP_2, Decision::Encoded(Encoding::Gzip)),
    ] {
        let decided = decide(&policy, version, &asked, StatusCode::OK, &told);
        assert_eq!(decided, decision, "{version:?}");
    }
}

#[test]
fn events_are_compressed_where_they_are_listed() {
    let policy = Policy {
        types: vec![Type::read("text/event-stream").unwrap()],
        ..Policy::default()
    };
    let (asked, told) = (
        map(&[("accept-encoding", "zstd")]),
        map(&[("content-type", "text/event-stream")]),
    );
    let chosen = decide(&policy, Version::HTTP_11, &asked, StatusCode::OK, &told);
    assert_eq!(chosen.encoding(), Some(Encoding::Zstd));
}

fn changed(decision: Decision, fields: &[(&'static str, &str)]) -> HeaderMap {
    let mut head = map(fields);
    for (name, value) in changes(decision, &head) {
        match value {
            Some(value) => drop(head.insert(name, value)),
            None => drop(head.remove(name)),
        }
    }
    head
}

#[test]
fn the_head_says_what_the_body_is() {
    let fields = [
        ("content-length", "2000"),
        ("etag", "\"a\""),
        ("accept-ranges", "bytes"),
        ("content-digest", "sha-256=:AA==:"),
        ("vary", "Origin"),
        ("vary", "Cookie"),
    ];
    let head = changed(Decision::Encoded(Encoding::Zstd), &fields);
    let vary = ("vary", "Origin, Cookie, Accept-Encoding");
    let expected = map(&[("content-encoding", "zstd"), ("etag", "W/\"a\""), vary]);
    assert_eq!(head, expected);
    let head = changed(Decision::AsItIs, &fields);
    assert_eq!(head["etag"], "\"a\"");
    assert_eq!(head["content-length"], "2000");
    assert_eq!(head["vary"], vary.1);
    let head = changed(Decision::NotModified, &[("etag", "\"a\"")]);
    assert_eq!(
        head,
        map(&[("etag", "W/\"a\""), ("vary", "Accept-Encoding")])
    );
    let same = [("etag", "W/\"a\""), ("vary", "a, accept-encoding")];
    assert_eq!(changed(Decision::NotModified, &same), map(&same));
    assert_eq!(
        changed(Decision::AsItIs, &[("vary", "*")]),
        map(&[("vary", "*")])
    );
    assert_eq!(changed(Decision::Untouched, &fields), map(&fields));
}

#[test]
fn a_304_is_told_by_what_it_says() {
    assert_eq!(decided(304, &[], &[]), Decision::NotModified);
    let text = [("content-type", "text/css"), ("content-length", "5000")];
    assert_eq!(decided(304, &[], &text), Decision::NotModified);
    let image = [("content-type", "image/png")];
    assert_eq!(decided(304, &[], &image), Decision::Untouched);
}

#[test]
fn a_304_speaks_under_the_tag_that_the_client_has() {
    let tag = [("etag", "\"a\"")];
    for (named, decision) in [
        ("W/\"a\"", Decision::NotModified),
        ("\"a\"", Decision::AsItIs),
        ("\"b\", \"a\"", Decision::AsItIs),
        ("\"a\", W/\"a\"", Decision::NotModified),
        ("*", Decision::NotModified),
    ] {
        let request = [("if-none-match", named)];
        assert_eq!(decided(304, &request, &tag), decision, "{named}");
    }
    let part = [("if-none-match", "W/\"a\""), ("range", "bytes=0-1")];
    assert_eq!(decided(304, &part, &tag), Decision::NotModified);
    // The peer's own is weak: it stays what it is.
    let weak = [("etag", "W/\"a\"")];
    let request = [("if-none-match", "W/\"a\"")];
    assert_eq!(decided(304, &request, &weak), Decision::NotModified);
}

proptest! {
    /// Whatever a client writes: it gets what it has not forbidden, and the order of the
    /// server decides where the client does not.
    #[test]
    fn nobody_gets_what_it_does_not_take(
        weights in proptest::collection::vec((0..5_usize, 0..=1_000_u16), 0..6),
        wild in "[ -~]{0,40}",
    ) {
        const NAMES: [&str; 5] = ["br", "zstd", "gzip", "identity", "*"];
        let member = |(name, weight): &(usize, u16)| match weight {
            1_000 => NAMES[*name].to_owned(),
            weight => format!("{};q=0.{weight:03}", NAMES[*name]),
        };
        let members: Vec<_> = weights.iter().map(member).collect();
        let asked = map(&[("accept-encoding", &members.join(", "))]);
        let of = |name: &str| {
            let own = weights.iter().filter(|(own, _)| NAMES[*own] == name);
            own.map(|(_, weight)| *weight).max()
        };
        let total = |encoding: Encoding| of(encoding.name()).or(of("*")).unwrap_or(0);
        let chosen = negotiate(&Encoding::ALL, &asked);
        let most = Encoding::ALL.into_iter().map(total).max().unwrap();
        match chosen {
            Some(encoding) => {
                let first = Encoding::ALL.into_iter().find(|own| total(*own) == most);
                prop_assert!(most > 0);
                prop_assert_eq!(Some(encoding), first);
            }
            None => prop_assert!(most == 0 || of("identity").or(of("*")) > Some(most)),
        }
        let asked = map(&[("accept-encoding", &wild)]);
        if let Some(encoding) = negotiate(&Encoding::ALL, &asked) {
            let text = wild.to_ascii_lowercase();
            prop_assert!(text.contains(encoding.name()) || text.contains('*'), "{}", wild);
        }
    }
}
