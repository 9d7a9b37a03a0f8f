//! A PROXY header is read the same however much of it has come, and never beyond its bound.

#![no_main]

use edge::proxy_protocol::{MOST, Read, read};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let whole = read(bytes);
    if bytes.len() >= MOST {
        assert!(!matches!(whole, Read::More));
    }
    if let Read::Header { length, .. } = whole {
        assert!(length <= bytes.len() && length <= MOST);
        assert_eq!(
            read(&bytes[..length]),
            whole,
            "what follows changes nothing"
        );
        for end in 0..length {
            assert_eq!(read(&bytes[..end]), Read::More, "at {end}");
        }
    }
});
