//! Heads, chunks and connections, looked at byte by byte.

use super::*;

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
