//! Nothing that a client writes on the left of the chain changes who it is.

#![no_main]

use std::net::IpAddr;

use edge::client::Trust;
use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;

// The first line is what a client claims, each other one a field that a proxy sent.
fuzz_target!(|bytes: &[u8]| {
    let mut lines = bytes.split(|&b| b == b'\n');
    let claim = lines
        .next()
        .and_then(|line| HeaderValue::from_bytes(line).ok());
    let fields = lines.filter_map(|line| HeaderValue::from_bytes(line).ok());
    let fields: Vec<_> = fields.collect();
    let headers = |fields: &[HeaderValue]| {
        let mut headers = HeaderMap::new();
        for field in fields {
            headers.append("x-forwarded-for", field.clone());
        }
        headers
    };
    let peer = IpAddr::from([10, 0, 0, 1]);
    let stranger = IpAddr::from([198, 51, 100, 1]);

    let nobody = Trust::default();
    assert_eq!(nobody.identify(peer, &headers(&fields)).address, peer);

    let trust = Trust {
        proxies: vec!["10.0.0.0/8".parse().expect("a network")],
        ..Trust::default()
    };
    let client = trust.identify(peer, &headers(&fields));
    assert_eq!(client.address, client.address.to_canonical());
    assert_eq!(client, trust.identify(client.address, &HeaderMap::new()));
    assert_eq!(
        trust.identify(stranger, &headers(&fields)).address,
        stranger
    );
    if let (false, Some(claim)) = (trust.trusts(client.address), claim) {
        let mut longer = fields.clone();
        longer.insert(0, claim);
        assert_eq!(trust.identify(peer, &headers(&longer)), client);
    }
    let mut vouched = fields;
    vouched.push(HeaderValue::from_static("198.51.100.1"));
    assert_eq!(trust.identify(peer, &headers(&vouched)).address, stranger);
});
