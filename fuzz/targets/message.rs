//! What the walk lets pass can be read in one way only, however the bytes arrive.

#![no_main]

use edge::message::{Framing, Walk, check};
use edge::route::{Paths, bad_segment};
use libfuzzer_sys::fuzz_target;

// The first byte says how large the parts are in which the others arrive.
fuzz_target!(|bytes: &[u8]| {
    let Some((&step, bytes)) = bytes.split_first() else {
        return;
    };
    let mut whole = Walk::default();
    let passed = whole.read(bytes);
    let mut parts = Walk::default();
    let mut passed_in_parts = 0;
    for part in bytes.chunks(usize::from(step).max(1)) {
        passed_in_parts += parts.read(part);
    }
    assert_eq!(whole.fault(), parts.fault());
    assert_eq!(passed, passed_in_parts);

    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        return;
    };
    let head = &bytes[..end + 4];
    let Ok(framing) = check(head) else { return };
    let text: String = head.iter().map(|&b| char::from(b)).collect();
    let bare = text.replace("\r\n", "");
    assert!(!bare.contains(['\r', '\n', '\0']));
    let mut lines = text.trim_start_matches("\r\n").trim_end_matches("\r\n").split("\r\n");
    let line: Vec<&str> = lines.next().unwrap_or_default().split(' ').collect();
    assert_eq!(line.len(), 3);
    let fields: Vec<(String, &str)> = lines
        .map(|line| line.split_once(':').expect("a colon"))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim_matches([' ', '\t'])))
        .collect();
    let all = |name: &str| -> Vec<&str> {
        let own = fields.iter().filter(|(own, _)| own.replace('_', "-") == name);
        own.map(|(_, value)| *value).collect()
    };
    assert_eq!(all("host").len(), 1);
    match (framing, &all("content-length")[..], &all("transfer-encoding")[..]) {
        (Framing::Chunked, [], [coding]) => assert!(coding.eq_ignore_ascii_case("chunked")),
        (Framing::Length(length), [said], []) => assert_eq!(said.parse(), Ok(length)),
        (Framing::Length(0), [], []) => {}
        other => panic!("{other:?}"),
    }
    let path = line[1].split('?').next().unwrap_or_default();
    if let Ok(written) = Paths::default().normalise(path) {
        assert!(!bad_segment(&written));
        assert_eq!(Paths::default().normalise(&written).as_deref(), Ok(&*written));
    }
});
