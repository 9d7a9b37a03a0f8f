//! No page is named that is not the one that asks, and none that the policy does not.

#![no_main]

use std::time::Duration;

use edge::cors::{Origins, Policy};
use edge::websocket::Origin;
use http::{HeaderMap, HeaderValue, Method, header};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|asked: (&str, &str, &str)| {
    let (origin, method, headers) = asked;
    let policy = Policy {
        origins: Origins::Some(vec![
            Origin::read("https://*.a.example").expect("an origin"),
        ]),
        methods: vec![Method::PUT],
        headers: vec![header::CONTENT_TYPE],
        expose: Vec::new(),
        credentials: true,
        max_age: Duration::ZERO,
    };
    let mut request = HeaderMap::new();
    for (name, value) in [
        (header::ORIGIN, origin),
        (header::ACCESS_CONTROL_REQUEST_METHOD, method),
        (header::ACCESS_CONTROL_REQUEST_HEADERS, headers),
    ] {
        if let Ok(value) = HeaderValue::from_str(value) {
            request.insert(name, value);
        }
    }
    let preflight = policy.preflight(&request, "h").unwrap_or_default();
    for (name, value) in policy.answer(&request, "h").into_iter().chain(preflight) {
        if name == header::ACCESS_CONTROL_ALLOW_ORIGIN {
            assert_eq!(value.as_bytes(), origin.as_bytes());
            let lower = origin.to_ascii_lowercase();
            assert!(lower.starts_with("https://") && lower.contains(".a.example"));
        }
    }
});
