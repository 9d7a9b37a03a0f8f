//! What edge tells of a certificate, it reads again.

#![no_main]

use edge::identity::{Certificate, X_FORWARDED_CLIENT_CERT};
use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|field: &[u8]| {
    let Ok(value) = HeaderValue::from_bytes(field) else {
        return;
    };
    let of =
        |value| Certificate::forwarded(&HeaderMap::from_iter([(X_FORWARDED_CLIENT_CERT, value)]));
    if let Some(read) = of(value)
        && let Some(told) = read.to_field()
        && let Some(again) = of(told)
    {
        assert_eq!(again.uris, read.uris);
        assert_eq!(again.dns, read.dns);
    }
});
