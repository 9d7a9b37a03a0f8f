//! A head that is let pass has one host, one framing, and no end of a line but CRLF.

#![no_main]

use edge::message::{Bounds, check};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|head: &[u8]| {
    if check(head, &Bounds::default()).is_err() {
        return;
    }
    let head = head.strip_prefix(b"\r\n").unwrap_or(head);
    let count = |what: &[u8]| {
        let lower = head.to_ascii_lowercase();
        lower
            .windows(what.len())
            .filter(|part| *part == what)
            .count()
    };
    assert!(head.ends_with(b"\r\n\r\n"));
    assert_eq!(count(b"\r\n\r\n"), 1);
    assert_eq!(count(b"\n"), count(b"\r\n"));
    assert_eq!(count(b"\r"), count(b"\r\n"));
    assert_eq!(count(b"\r\nhost:"), 1);
    assert!(count(b"\r\ncontent-length:") + count(b"\r\ntransfer-encoding:") <= 1);
    assert_eq!(count(b"\r\n ") + count(b"\r\n\t") + count(b"\0"), 0);
});
