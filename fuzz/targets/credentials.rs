//! What is taken out of a request is not found in it any more.

#![no_main]

use edge::credentials::Place;
use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|asked: (&str, &str)| {
    let (field, query) = asked;
    for place in [
        "authorization",
        "header:x-a",
        "cookie:t",
        "query:t",
        "subprotocol",
    ] {
        let place: Place = place.parse().expect("a place");
        let mut request = HeaderMap::new();
        for name in ["authorization", "x-a", "cookie", "sec-websocket-protocol"] {
            if let Ok(value) = HeaderValue::from_str(field) {
                request.insert(name, value);
            }
        }
        let found = place.find(&request, Some(query)).is_ok_and(|found| found.is_some());
        let left = place
            .without_query(Some(query))
            .unwrap_or_else(|| query.to_owned());
        match place.without(&request) {
            Some((name, Some(value))) => drop(request.insert(name, value)),
            Some((name, None)) => drop(request.remove(name)),
            None => {}
        }
        if found {
            assert_eq!(place.find(&request, Some(&left)), Ok(None));
        }
    }
});
