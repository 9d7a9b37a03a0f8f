//! A pattern that is accepted can be met, and one that covers another takes all that it takes.

#![no_main]

use edge::route::{Host, Match, Path, Pattern, Routes};
use http::Method;
use libfuzzer_sys::fuzz_target;

// Three lines: two patterns and a host.
fuzz_target!(|text: &str| {
    let mut lines = text.splitn(3, '\n');
    let mut next = || lines.next().unwrap_or_default();
    let (one, other, host) = (read(next()), read(next()), next());
    if let Some(rule) = &one {
        assert!(
            takes(rule, &example(rule)),
            "{} is never met",
            rule.path.text()
        );
    }
    if let (Some(one), Some(other)) = (&one, &other) {
        if one.covers(other) {
            assert!(
                takes(one, &example(other)),
                "{one:?} does not cover {other:?}"
            );
        }
    }
    if let Ok(host) = Host::read(host) {
        assert_eq!(Host::read(&host.to_string()), Ok(host));
    }
});

fn read(text: &str) -> Option<Match> {
    let path = Pattern::read(text).ok()?;
    assert_eq!(path.text(), text);
    Some(Match {
        path,
        hosts: Vec::new(),
        methods: Vec::new(),
    })
}

/// A path that the pattern ought to take.
fn example(rule: &Match) -> String {
    let segments = rule.path.text().split('/');
    let filled = segments.map(|segment| match segment {
        "*" => "all/below",
        _ if segment.starts_with('{') => "parameter",
        _ => segment,
    });
    filled.collect::<Vec<_>>().join("/")
}

fn takes(rule: &Match, path: &str) -> bool {
    let routes = Routes::new(vec![rule.clone()]);
    let path = Path::read(path).expect("a pattern holds no dot segment");
    routes.find("a.example", &path, &Method::GET).is_ok()
}
