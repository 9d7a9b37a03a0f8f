//! What a client sends to find its peer, and to say how long it waits.

#![no_main]

use edge::balance::{Balance, Balancer, HashBy, Seen, key};
use edge::client::Client;
use edge::grpc;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(value) = HeaderValue::from_bytes(bytes) else {
        return;
    };
    let name = HeaderName::from_static("x-user");
    let mut headers = HeaderMap::new();
    for name in [
        header::COOKIE,
        grpc::GRPC_TIMEOUT,
        header::CONTENT_TYPE,
        name.clone(),
    ] {
        headers.append(name, value.clone());
    }
    let _ = (grpc::is_grpc(&headers), grpc::timeout(&headers));
    let client = Client {
        address: [127, 0, 0, 1].into(),
        key: 1,
    };
    let peers: Vec<_> = (1..6)
        .map(|port| (([127, 0, 0, 1], port).into(), 1))
        .collect();
    for by in [
        HashBy::Client,
        HashBy::Header(name.clone()),
        HashBy::Cookie("a".to_owned()),
    ] {
        let key = key(&by, &client, &headers);
        let balancer = Balancer::new(&Balance::Hash(by), &peers);
        let seen = |place| {
            (place != 2).then_some(Seen {
                open: 0,
                share: 100,
            })
        };
        let chosen = balancer.choose(key.as_deref(), seen);
        assert!(chosen.is_some_and(|place| place < 5 && place != 2));
        if key.is_some() {
            assert_eq!(balancer.choose(key.as_deref(), seen), chosen);
        }
    }
});
