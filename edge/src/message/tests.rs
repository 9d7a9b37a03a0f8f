//! Heads, chunks and connections, looked at byte by byte.

use super::*;

#[path = "../../tests/corpus/read.rs"]
mod corpus_file;

use corpus_file::{Entry, corpus};

/// What the walk itself finds; the rest is the gateway's.
const OWN: [&str; 4] = ["bad_message", "bad_host", "bad_request", "http_version"];

#[test]
fn the_corpus_is_large_and_says_whence_each_entry_is() {
    let all = corpus();
    assert!(all.len() >= 200);
    for entry in all {
        assert!(!entry.section.is_empty(), "{}", entry.name);
        assert!(!entry.closes || entry.refused.is_none(), "{}", entry.name);
    }
}

fn walked(entry: &Entry, step: usize) -> Option<(u64, &'static str)> {
    let mut walk = Walk::default();
    let bytes = entry.parts.concat();
    for part in bytes.chunks(step) {
        if walk.read(part) < part.len() {
            break;
        }
    }
    let fault = walk.fault()?;
    Some((fault.message, fault.refusal.reason()))
}

#[test]
fn the_walk_finds_what_the_corpus_says_however_the_bytes_arrive() {
    for entry in corpus() {
        let found = walked(&entry, usize::MAX);
        let next = entry.served as u64 + 1;
        match entry.refused {
            Some((_, reason)) if OWN.contains(&reason) => {
                assert_eq!(found, Some((next, reason)), "{entry:?}");
            }
            Some((_, reason)) => {
                assert!(
                    found.is_none() || found == Some((next, reason)),
                    "{entry:?}: {found:?}"
                );
            }
            None => assert_eq!(found, None, "{entry:?}"),
        }
        if entry.parts.concat().len() < 100_000 {
            for step in [1, 2, 3, 7] {
                assert_eq!(walked(&entry, step), found, "{} by {step}", entry.name);
            }
        }
    }
}

#[test]
fn a_whole_head_of_the_corpus_is_judged_as_the_walk_judges_it() {
    for entry in corpus() {
        let bytes = entry.parts.concat();
        let ends = bytes.windows(4).position(|four| four == b"\r\n\r\n");
        let Some(end) = ends.filter(|_| !bytes.starts_with(b"\r\n")) else {
            continue;
        };
        let mut walk = Walk::default();
        walk.read(&bytes[..end + 4]);
        let fault = walk.fault().map(|fault| fault.refusal.clone());
        assert_eq!(check(&bytes[..end + 4]).err(), fault, "{}", entry.name);
    }
}

const GOOD: &[u8] = b"POST /a?b=c HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3\r\n\r\n";

#[test]
fn a_head_tells_how_its_body_is_framed() {
    assert_eq!(check(GOOD), Ok(Framing::Length(3)));
    assert_eq!(
        check(b"GET / HTTP/1.0\r\nHost: a\r\n\r\n"),
        Ok(Framing::Length(0))
    );
    let chunked = b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\tChunked \r\n\r\n";
    assert_eq!(check(chunked), Ok(Framing::Chunked));
    assert_eq!(
        check(b"GET / HTTP/1.1\r\nHost: a\r\n\r\nx"),
        Err(Refusal::BadRequest)
    );
    assert_eq!(
        check(b"GET / HTTP/1.1\r\nHost: a\r\n"),
        Err(Refusal::BadRequest)
    );
}

#[test]
fn a_connection_is_followed_from_message_to_message() {
    let bytes = [
        GOOD,
        b"abc",
        GOOD,
        b"def",
        b"GET / HTTP/1.1\r\nHost: a\n\r\n",
    ]
    .concat();
    let mut walk = Walk::default();
    assert_eq!(
        walk.read(&bytes),
        bytes.len(),
        "a bad head is passed, to be answered"
    );
    let fault = walk.fault().unwrap();
    assert_eq!((fault.message, fault.in_body), (3, false));
    assert_eq!(fault.refusal, Refusal::MessageForm);
}

#[test]
fn a_body_is_passed_on_up_to_its_fault() {
    let head = b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let good = [&head[..], b"3\r\nabc\r\n0\r\n\r\n"].concat();
    let bad = [&good[..], head, b"3\r\nabc\r\n1\nx\r\n"].concat();
    let mut walk = Walk::default();
    assert_eq!(
        walk.read(&bad),
        good.len() + head.len() + b"3\r\nabc\r\n1".len()
    );
    let fault = walk.fault().unwrap();
    assert_eq!((fault.message, fault.in_body), (2, true));
    assert_eq!(walk.read(b"GET / HTTP/1.1\r\n"), 0);
}

#[test]
fn bytes_are_of_the_classes_that_the_rfcs_name() {
    for byte in 0..=u8::MAX {
        let letter = char::from(byte);
        let token = letter.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(letter);
        assert_eq!(class::is_token(&[byte]), token, "{byte}");
        let value = byte == b'\t' || (byte >= b' ' && byte != 0x7f);
        assert_eq!(class::is_value(&[byte]), value, "{byte}");
        let target = letter.is_ascii_graphic() && !"\"#<>".contains(letter);
        assert_eq!(class::is_target(&[byte]), target, "{byte}");
    }
    assert!(!class::is_token(b""));
}
