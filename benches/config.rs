//! What reading a configuration costs: paid at the start, not by a request.

mod harness;

use std::fmt::Write;
use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use edge::config::Config;

criterion_group! {
    name = benches;
    config = harness::short();
    targets = read
}
criterion_main!(benches);

fn read(c: &mut Criterion) {
    let files = [
        (
            "conf/edge.toml",
            include_str!("../conf/edge.toml").to_owned(),
        ),
        ("a file with 1,000 routes", many(1_000)),
    ];
    for (name, source) in files {
        assert!(Config::read(name, &source).is_ok(), "{name} has a fault");
        c.bench_function(&format!("config/{name}"), |b| {
            b.iter(|| Config::read(name, black_box(&source)).is_ok());
        });
    }
}

fn many(routes: usize) -> String {
    let mut source = String::from("[upstream.a]\npeers = [\"127.0.0.1:8081\"]\n");
    for number in 0..routes {
        let _ = write!(
            source,
            "\n[[route]]\npath = \"/service-{number}/users/{{id}}\"\nmethods = [\"GET\"]\n\
             upstream = \"a\"\nrewrite = \"/v{number}/{{id}}\"\ncache = \"1h\"\ntimeout = \"5s\"\n"
        );
    }
    source
}
