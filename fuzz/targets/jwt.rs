//! No token that nobody signed is good, whatever it says.

#![no_main]

use std::time::{Duration, UNIX_EPOCH};

use edge::jwt::{Algorithm, Keys, Settings, verify};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|token: &str| {
    let settings = Settings {
        algorithms: Algorithm::ALL.to_vec(),
        issuers: Vec::new(),
        audiences: Vec::new(),
        leeway: Duration::ZERO,
        roles: None,
        fields: Vec::new(),
        name: "sub".parse().expect("a claim"),
        require_exp: false,
    };
    let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let keys = Keys::of_secret(b"nobody who fuzzes knows this one");
    assert!(verify(token, &keys, &settings, now).is_err());
    // What it says of keys is read as a set, too.
    if let Ok((keys, _)) = Keys::of_jwks(token) {
        assert!(!keys.is_empty());
        assert!(verify(token, &keys, &settings, now).is_err());
    }
});
