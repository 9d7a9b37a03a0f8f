//! What the upstream says about time can only shorten the route's, and a "no" anywhere is a no.

#![no_main]

use std::time::{Duration, SystemTime};

use edge::cache::{self, Policy};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use libfuzzer_sys::fuzz_target;

const FIELDS: [HeaderName; 6] = [
    header::CACHE_CONTROL,
    header::EXPIRES,
    header::AGE,
    header::DATE,
    header::VARY,
    header::PRAGMA,
];

// Each line is a field: its first byte chooses the name, the rest is the value.
fuzz_target!(|bytes: &[u8]| {
    let policy = Policy {
        ttl: Duration::from_secs(3_600),
    };
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
    let mut answer = HeaderMap::new();
    for line in bytes.split(|&b| b == b'\n') {
        if let Some((choice, value)) = line.split_first()
            && let Some(name) = FIELDS.get(usize::from(*choice) % FIELDS.len())
            && let Ok(value) = HeaderValue::from_bytes(value)
        {
            answer.append(name, value);
        }
    }
    let keep = |status, answer: &HeaderMap| cache::keep(policy, status, answer, now);
    let kept = keep(StatusCode::OK, &answer);
    if let Ok(time) = kept {
        assert!(!time.is_zero() && time <= policy.ttl);
        assert!(cache::vary(&answer).is_ok());
    }
    assert!(keep(StatusCode::NOT_FOUND, &answer).is_err());
    let with = |name: HeaderName, value| {
        let mut answer = answer.clone();
        answer.append(name, HeaderValue::from_static(value));
        keep(StatusCode::OK, &answer)
    };
    for no in [
        "no-store",
        "private",
        "No-Cache",
        "public, private=\"x\"",
        "s-maxage=0",
        "s-maxage=x",
    ] {
        assert!(with(header::CACHE_CONTROL, no).is_err(), "{no}");
    }
    assert!(with(header::SET_COOKIE, "a=b").is_err());
    assert!(with(header::VARY, "*").is_err());
    // `s-maxage` goes before all other times, so it may also lengthen what they say.
    if let Ok(time) = with(header::CACHE_CONTROL, "s-maxage=5") {
        assert!(time <= Duration::from_secs(5));
    }
    assert_eq!(cache::admit(&Method::GET, &answer), Ok(()));
});
