//! What the tests of the cache's rooms share, and tests of its words.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::{HeaderMap, HeaderName};

use super::{Lifetime, Policy, Reason};

/// Sun, 06 Nov 1994 08:49:37 GMT.
pub(super) fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(784_111_777)
}

pub(super) fn headers(fields: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        headers.append(
            name,
            http::HeaderValue::from_bytes(value.as_bytes()).unwrap(),
        );
    }
    headers
}

/// Fresh for so many seconds from `now` on, and nothing special about it.
pub(super) fn lifetime(seconds: u64) -> Lifetime {
    Lifetime {
        received: now(),
        initial_age: Duration::ZERO,
        fresh_for: Duration::from_secs(seconds),
        stale_while_revalidate: Duration::ZERO,
        stale_if_error: Duration::ZERO,
        stale_if_unreachable: Duration::ZERO,
        validate_always: false,
        may_be_stale: true,
        shared: false,
    }
}

#[test]
fn every_reason_has_a_word_of_its_own() {
    let mut words = Reason::ALL.map(Reason::as_str).to_vec();
    words.sort_unstable();
    words.dedup();
    assert_eq!(words.len(), Reason::ALL.len());
    let plain = |word: &&str| word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    assert!(words.iter().all(plain));
}

#[test]
fn a_new_policy_keeps_what_is_safe_to_keep() {
    let policy = Policy::new(Some(Duration::from_secs(60)));
    assert!(!policy.overrides && policy.negative.is_empty() && policy.ignore_query.is_empty());
    assert_eq!(policy.statuses.len(), 6);
}
