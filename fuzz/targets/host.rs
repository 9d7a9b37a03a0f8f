//! A host that is accepted is the beginning of what came, and reading it again changes nothing.

#![no_main]

use edge::forward;
use http::uri::Authority;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Some(host) = forward::host(text) else {
        return;
    };
    assert!(!host.is_empty() && host.is_ascii());
    assert!(!host.contains(|c: char| c.is_whitespace() || "/\\@?#,%".contains(c)));
    assert_eq!(forward::host(host), Some(host));
    let port = text.strip_prefix(host).expect("a host begins what came");
    assert!(
        port.is_empty()
            || port
                .strip_prefix(':')
                .is_some_and(|port| port.bytes().all(|b| b.is_ascii_digit()))
    );
    let authority: Authority = host.parse().expect("a host is an authority");
    assert_eq!(authority.host(), host);
});
