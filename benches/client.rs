//! What it costs to tell who asks.

mod harness;

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};

use criterion::{Criterion, criterion_group, criterion_main};
use edge::client::Trust;
use http::{HeaderMap, HeaderValue};

criterion_group! {
    name = benches;
    config = harness::short();
    targets = identify
}
criterion_main!(benches);

const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));

fn identify(c: &mut Criterion) {
    let one = "198.51.100.1";
    let five = "198.51.100.1, 10.0.0.5, 10.0.0.4, 10.0.0.3, 10.0.0.2";
    let long = "2001:db8::1, 10.0.0.5, 10.0.0.4, 10.0.0.3, 10.0.0.2";
    for (case, networks, forwarded) in [
        ("nobody is trusted", 0, one),
        ("trusted proxy, no field", 1, ""),
        ("trusted proxy, 1 hop", 1, one),
        ("trusted proxy, 5 hops", 1, five),
        ("trusted proxy, 5 hops to IPv6", 1, long),
        // As many as a large content network publishes.
        ("one of 22 trusted networks, 5 hops", 22, five),
    ] {
        let trust = trust(networks);
        let mut headers = HeaderMap::new();
        headers.insert("host", HeaderValue::from_static("a.example"));
        headers.insert("accept", HeaderValue::from_static("*/*"));
        headers.insert("user-agent", HeaderValue::from_static("bench"));
        if !forwarded.is_empty() {
            headers.insert("x-forwarded-for", HeaderValue::from_static(forwarded));
        }
        c.bench_function(&format!("client/{case}"), |b| {
            b.iter(|| trust.identify(black_box(PEER), black_box(&headers)));
        });
    }
}

/// So many networks, of which the last holds the proxies.
fn trust(networks: u8) -> Trust {
    let others = (1..networks).map(|number| format!("203.0.{number}.0/24"));
    let own = (networks > 0).then(|| "10.0.0.0/8".to_owned());
    #[expect(clippy::expect_used, reason = "all networks stand in this function")]
    let read = |network: String| network.parse().expect("a network");
    Trust {
        proxies: others.chain(own).map(read).collect(),
        ..Trust::default()
    }
}
