//! Nobody gets an encoding that it does not name, and a head that was changed once is not changed
//! again.

#![no_main]

use edge::compression::{self, Decision, Encoding, Policy};
use http::{HeaderMap, HeaderValue, StatusCode, Version, header};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|said: (&str, &str, &str, &str)| {
    let (accept, kind, tag, named) = said;
    let mut request = HeaderMap::new();
    let mut answer = HeaderMap::new();
    let put = |headers: &mut HeaderMap, name, value| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    };
    put(&mut request, header::ACCEPT_ENCODING, accept);
    put(&mut request, header::IF_NONE_MATCH, named);
    put(&mut answer, header::CONTENT_TYPE, kind);
    put(&mut answer, header::ETAG, tag);
    let policy = Policy::default();
    for status in [StatusCode::OK, StatusCode::NOT_MODIFIED] {
        let mut head = answer.clone();
        let decide = |head: &HeaderMap| {
            compression::decide(&policy, Version::HTTP_11, &request, status, head)
        };
        let decision = decide(&head);
        if let Decision::Encoded(encoding) = decision {
            let lower = accept.to_ascii_lowercase();
            assert!(lower.contains(encoding.name()) || lower.contains('*'));
            assert_eq!(status, StatusCode::OK);
        }
        for (name, value) in compression::changes(decision, &head) {
            match value {
                Some(value) => drop(head.insert(name, value)),
                None => drop(head.remove(name)),
            }
        }
        if decision.encoding().is_some() {
            assert_eq!(decide(&head), Decision::Untouched);
        }
        if decision == Decision::NotModified {
            assert!(compression::changes(decision, &head).is_empty());
        }
    }
    // The order of the server decides among equals alone.
    let one = |encoding: Encoding| compression::negotiate(&[encoding], &request);
    if let Some(chosen) = compression::negotiate(&Encoding::ALL, &request) {
        assert_eq!(one(chosen), Some(chosen));
    } else {
        assert!(
            Encoding::ALL
                .iter()
                .all(|encoding| one(*encoding).is_none())
        );
    }
});
