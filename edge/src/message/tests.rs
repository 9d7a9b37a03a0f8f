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

/// A byte that means something here, or any other.
fn odd(chance: &mut fastrand::Rng) -> u8 {
    let marks = b"\r\n \t:;,0fF\0\x7f\xff#%/.\\_-";
    match chance.bool() {
        true => marks[chance.usize(..marks.len())],
        false => chance.u8(..),
    }
}

/// The entry with a few bytes changed, left out, put in, or taken from another one.
fn changed(bytes: &[u8], other: &[u8], chance: &mut fastrand::Rng) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..chance.usize(1..4) {
        let at = chance.usize(..=bytes.len().saturating_sub(1));
        match chance.u8(..4) {
            0 => bytes.insert(at, odd(chance)),
            1 if !bytes.is_empty() => bytes[at] = odd(chance),
            2 if !bytes.is_empty() => drop(bytes.remove(at)),
            _ => {
                let from = chance.usize(..=other.len());
                let to = chance.usize(from..=other.len()).min(from + 40);
                bytes.splice(at..at, other[from..to].iter().copied());
            }
        }
    }
    bytes
}

/// What is held of every head that passes, without edge's own words for it.
fn is_plain(head: &[u8], framing: Framing) -> bool {
    let text: String = head.iter().map(|&byte| char::from(byte)).collect();
    let bare = text.replace("\r\n", "");
    let text = text.strip_prefix("\r\n").unwrap_or(&text);
    let mut lines = text.trim_end_matches("\r\n").split("\r\n");
    let words = lines.next().map_or(0, |line| line.split(' ').count());
    let fields: Vec<_> = lines.filter_map(|line| line.split_once(':')).collect();
    let all = |known: &str| -> Vec<String> {
        let own = fields
            .iter()
            .filter(|(name, _)| name.to_ascii_lowercase().replace('_', "-").trim() == known);
        own.map(|(_, value)| value.trim_matches([' ', '\t']).to_ascii_lowercase())
            .collect()
    };
    let (lengths, codings) = (all("content-length"), all("transfer-encoding"));
    let framed = match (framing, &lengths[..], &codings[..]) {
        (Framing::Chunked, [], [coding]) => coding == "chunked",
        (Framing::Length(length), [said], []) => *said == length.to_string(),
        (Framing::Length(length), [], []) => length == 0,
        _ => false,
    };
    framed && words == 3 && all("host").len() == 1 && !bare.contains(['\r', '\n', '\0'])
}

#[test]
fn whatever_becomes_of_the_corpus_only_what_is_plain_passes() {
    let mut chance = fastrand::Rng::new();
    let seed = chance.get_seed();
    let all: Vec<Vec<u8>> = corpus().iter().map(|entry| entry.parts.concat()).collect();
    let all: Vec<_> = all
        .into_iter()
        .filter(|bytes| bytes.len() < 4_096)
        .collect();
    let mut passed = 0;
    for _ in 0..20_000 {
        let (one, other) = (chance.usize(..all.len()), chance.usize(..all.len()));
        let bytes = changed(&all[one], &all[other], &mut chance);
        let (mut whole, mut parts) = (Walk::default(), Walk::default());
        let read = whole.read(&bytes);
        let step = chance.usize(1..20);
        let in_parts: usize = bytes.chunks(step).map(|part| parts.read(part)).sum();
        let shown = bytes.escape_ascii();
        assert_eq!(
            (whole.fault(), read),
            (parts.fault(), in_parts),
            "{seed}: {shown}"
        );
        let Some(end) = memchr::memmem::find(&bytes, b"\r\n\r\n") else {
            continue;
        };
        let head = &bytes[..end + 4];
        if let Ok(framing) = check(head) {
            passed += 1;
            assert!(is_plain(head, framing), "{seed}: {framing:?} {shown}");
        }
    }
    assert!(passed > 1_000, "{passed}");
}
