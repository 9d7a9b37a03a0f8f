//! What finding a request's route costs, and how the cost grows with the number of routes.

mod harness;

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use edge::route::{Host, Match, Path, Pattern, Routes};
use http::Method;

criterion_group! {
    name = benches;
    config = harness::short();
    targets = by_path, by_host, read
}
criterion_main!(benches);

const SIZES: [usize; 3] = [10, 100, 1_000];

fn rule(path: &str, hosts: &[String]) -> Match {
    #[expect(clippy::expect_used, reason = "all patterns stand in this file")]
    Match {
        path: Pattern::read(path).expect("a pattern"),
        hosts: hosts
            .iter()
            .map(|host| Host::read(host).expect("a host"))
            .collect(),
        methods: vec![Method::GET],
    }
}

fn find(routes: &Routes, host: &str, path: &str) -> Option<usize> {
    let path = Path::read(path).ok()?;
    routes.find(host, &path, &Method::GET).ok()
}

/// Reads the path and finds its route. `N` stands for the route's number.
fn by_path(c: &mut Criterion) {
    for (kind, pattern, asked) in [
        ("exact", "/service-N/v1/status", "/service-N/v1/status"),
        ("prefix", "/service-N/v1/*", "/service-N/v1/orders/7/items"),
        (
            "parameter",
            "/service-N/users/{id}",
            "/service-N/users/4711",
        ),
        // The number stands last, so that all routes share their first segments.
        (
            "shared",
            "/api/v1/{tenant}/service-N",
            "/api/v1/acme/service-N",
        ),
    ] {
        let numbered = |text: &str, number: usize| text.replace('N', &number.to_string());
        let mut group = c.benchmark_group(format!("route/{kind}"));
        for size in SIZES {
            let rules = (0..size).map(|number| rule(&numbered(pattern, number), &[]));
            let routes = Routes::new(rules.collect());
            for (place, number) in [("first", 0), ("last", size - 1), ("404", size)] {
                let path = numbered(asked, number);
                assert_eq!(
                    find(&routes, "a.example", &path),
                    Some(number).filter(|&number| number < size)
                );
                group.bench_function(BenchmarkId::new(place, size), |b| {
                    b.iter(|| find(&routes, "a.example", black_box(&path)));
                });
            }
        }
    }
}

/// The same path on many hosts: the one case that walks through a list.
fn by_host(c: &mut Criterion) {
    let mut group = c.benchmark_group("route/host");
    for size in SIZES {
        let host = |number| format!("tenant-{number}.example.org");
        let rules = (0..size).map(|number| rule("/*", &[host(number)]));
        let routes = Routes::new(rules.collect());
        for (place, number) in [("first", 0), ("last", size - 1), ("404", size)] {
            let host = host(number);
            group.bench_function(BenchmarkId::new(place, size), |b| {
                b.iter(|| find(&routes, black_box(&host), "/v1/orders"));
            });
        }
    }
}

/// Reading alone: a plain path, and one with escapes.
fn read(c: &mut Criterion) {
    for (kind, path) in [
        ("plain", "/service-7/v1/orders/7/items"),
        ("escaped", "/service%2D7/v1/orders/7%20a/items"),
    ] {
        c.bench_function(&format!("route/read {kind}"), |b| {
            b.iter(|| Path::read(black_box(path)).is_ok());
        });
    }
}
