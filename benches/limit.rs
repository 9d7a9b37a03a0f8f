//! What a limit decision costs. It has to stay under 200 ns.

mod harness;

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use edge::client::Client;
use edge::limit::{Bucket, Clients, DEFAULT_CLIENTS, Limits, Overflow, Quota};
use http::HeaderMap;
use pingora_limits::estimator::Estimator;

criterion_group! {
    name = benches;
    config = harness::short();
    targets = known, random, new, full, global, both
}
criterion_main!(benches);

const MICROSECOND: Duration = Duration::from_micros(1);
const SECOND: Duration = Duration::from_secs(1);

fn ten_a_second() -> Quota {
    Quota::new(10, SECOND, 10)
}

/// More than any clock below lets through.
fn plenty() -> Quota {
    Quota::new(10_000_000, SECOND, 10_000_000)
}

/// Keys spread as addresses are, not 1, 2, 3.
const fn key(number: u32) -> u128 {
    let address = Ipv4Addr::from_bits(number.wrapping_mul(0x9E37_79B1));
    address.to_ipv6_mapped().to_bits()
}

const ONE: u128 = key(1);

fn keys(count: usize) -> Vec<u128> {
    (1..).map(key).take(count).collect()
}

/// A table that holds all of `keys`, none of whose buckets is full again at `now`.
fn filled(keys: &[u128], now: Duration, overflow: Option<Box<dyn Overflow>>) -> Clients {
    let clients = Clients::new(ten_a_second(), keys.len(), overflow);
    for &key in keys {
        let _ = clients.take(key, now);
    }
    clients
}

/// One client that the table holds: let through, and past its limit.
fn known(c: &mut Criterion) {
    let clients = filled(&keys(DEFAULT_CLIENTS), SECOND, None);
    let mut now = SECOND;
    c.bench_function("limit/client known, allowed", |b| {
        b.iter(|| {
            now += SECOND;
            clients.take(black_box(ONE), now)
        });
    });
    let clients = filled(&[ONE], now, None);
    while clients.take(ONE, now).is_ok() {}
    c.bench_function("limit/client known, refused", |b| {
        b.iter(|| clients.take(black_box(ONE), now));
    });
}

/// 100,000 clients in an order that no processor cache foresees, each at its full rate.
fn random(c: &mut Criterion) {
    let keys = keys(DEFAULT_CLIENTS);
    let clients = filled(&keys, SECOND, None);
    let (mut order, mut now) = (keys.iter().cycle(), SECOND);
    c.bench_function("limit/100,000 clients in random order", |b| {
        b.iter(|| {
            now += MICROSECOND;
            order.next().map(|&key| clients.take(key, now))
        });
    });
}

/// Clients that come for the first time: while there is room, and into a full table from which
/// as many go as come.
fn new(c: &mut Criterion) {
    let keys = keys(DEFAULT_CLIENTS);
    c.bench_function("limit/client new, room left", |b| {
        b.iter_custom(|iterations| {
            let (mut left, mut spent) = (iterations, Duration::ZERO);
            while left > 0 {
                let clients = Clients::new(ten_a_second(), DEFAULT_CLIENTS, None);
                let some = usize::try_from(left).unwrap_or(usize::MAX).min(keys.len());
                let start = Instant::now();
                for &key in keys.iter().take(some) {
                    let _ = black_box(clients.take(key, SECOND));
                }
                spent += start.elapsed();
                left -= some as u64;
            }
            spent
        });
    });
    let clients = filled(&keys, SECOND, None);
    let (mut key, mut now) = (1 << 64, SECOND);
    c.bench_function("limit/client new, another one leaves", |b| {
        b.iter(|| {
            (key, now) = (key + 1, now + MICROSECOND);
            clients.take(black_box(key), now)
        });
    });
}

/// Strangers at a table that is full and stays it: refused, or counted by a sketch.
fn full(c: &mut Criterion) {
    let keys = keys(DEFAULT_CLIENTS);
    let clients = filled(&keys, SECOND, None);
    let mut key = 1 << 64;
    c.bench_function("limit/table full, stranger refused", |b| {
        b.iter(|| {
            key += 1;
            clients.take(black_box(key), SECOND)
        });
    });
    let clients = filled(&keys, SECOND, Some(Box::new(Sketch::new())));
    c.bench_function("limit/table full, stranger counted in a sketch", |b| {
        b.iter(|| {
            key += 1;
            clients.take(black_box(key), SECOND)
        });
    });
}

fn global(c: &mut Criterion) {
    let (bucket, quota, mut now) = (Bucket::default(), plenty(), SECOND);
    c.bench_function("limit/shared bucket", |b| {
        b.iter(|| {
            now += MICROSECOND;
            bucket.take(black_box(&quota), now)
        });
    });
}

/// A whole decision: the client's bucket, then the shared one.
fn both(c: &mut Criterion) {
    let keys = keys(DEFAULT_CLIENTS);
    let limits = Limits {
        per_client: Some(Arc::new(filled(&keys, SECOND, None))),
        global: Some((plenty(), Arc::default())),
        ..Limits::default()
    };
    let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let headers = HeaderMap::new();
    let mut now = SECOND;
    c.bench_function("limit/both, client known", |b| {
        b.iter(|| {
            now += SECOND;
            let client = Client { address, key: ONE };
            limits.take(black_box(client), &headers, now)
        });
    });
    let mut order = keys.iter().cycle();
    c.bench_function("limit/both, 100,000 clients in random order", |b| {
        b.iter(|| {
            now += MICROSECOND;
            let client = |&key| Client { address, key };
            order
                .next()
                .map(client)
                .map(|client| limits.take(client, &headers, now))
        });
    });
}

/// As edge's own, which its library keeps to itself: four rows, four counters for each client.
struct Sketch(Estimator);

impl Sketch {
    fn new() -> Self {
        Self(Estimator::new(4, (DEFAULT_CLIENTS * 4).next_power_of_two()))
    }
}

impl Overflow for Sketch {
    fn take(&self, client: u64, _: Duration) -> Result<(), Duration> {
        if self.0.incr(client, 1) <= 10 {
            Ok(())
        } else {
            Err(SECOND)
        }
    }

    fn wait(&self, client: u64, _: Duration) -> Option<Duration> {
        (self.0.get(client) >= 10).then_some(SECOND)
    }
}
