//! What looking at a request's form costs, ahead of whoever parses it.

mod harness;

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use edge::message::{Walk, check};
use edge::route::Paths;

criterion_group! {
    name = benches;
    config = harness::short();
    targets = heads, bodies, paths
}
criterion_main!(benches);

/// Ten fields, as a browser's script sends them.
const HEAD: &[u8] = b"GET /api/v1/orders/4711?expand=items HTTP/1.1\r\n\
    Host: shop.example.org\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n\
    Accept: application/json\r\n\
    Accept-Language: en-US,en;q=0.5\r\n\
    Accept-Encoding: gzip, deflate, br, zstd\r\n\
    Referer: https://shop.example.org/orders\r\n\
    Connection: keep-alive\r\n\
    Cookie: session=0123456789abcdef0123456789abcdef\r\n\
    Sec-Fetch-Mode: cors\r\n\
    Sec-Fetch-Site: same-origin\r\n\r\n";

fn heads(c: &mut Criterion) {
    assert!(check(HEAD).is_ok());
    c.bench_function("message/head of ten fields", |b| {
        b.iter(|| check(black_box(HEAD)).is_ok());
    });
    c.bench_function("message/walk along a head", |b| {
        let mut walk = Walk::default();
        b.iter(|| walk.read(black_box(HEAD)));
    });
    let head = |fields: usize| {
        let fields = "X-Field: value\r\n".repeat(fields);
        format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n")
    };
    let many = head(99);
    c.bench_function("message/head of a hundred fields", |b| {
        b.iter(|| check(black_box(many.as_bytes())).is_ok());
    });
}

fn bodies(c: &mut Criterion) {
    let chunk = ["1000\r\n".as_bytes(), &[b'a'; 4_096], b"\r\n"].concat();
    let head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let body = [&head[..], &chunk.repeat(16), b"0\r\n\r\n"].concat();
    let mut group = c.benchmark_group("message");
    group.throughput(Throughput::Bytes(body.len() as u64));
    group.bench_function("64 KiB in chunks of 4 KiB", |b| {
        let mut walk = Walk::default();
        b.iter(|| walk.read(black_box(&body)));
        assert!(walk.fault().is_none());
    });
    group.finish();
}

fn paths(c: &mut Criterion) {
    let paths = Paths::default();
    for (kind, path) in [
        ("plain", "/api/v1/orders/4711"),
        ("escaped", "/api/v1/orders%2F47%20/items"),
    ] {
        c.bench_function(&format!("message/path {kind}"), |b| {
            b.iter(|| paths.normalise(black_box(path)).is_ok());
        });
    }
}
