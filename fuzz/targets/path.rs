//! No dot segment passes, neither as it came nor as a rewrite puts it together.

#![no_main]

use edge::route::{Path, Pattern, Rewrite, bad_segment};
use libfuzzer_sys::fuzz_target;

// Three lines: a path, a route's pattern, and its rewrite or the prefix that it strips.
fuzz_target!(|text: &str| {
    let mut lines = text.splitn(3, '\n');
    let mut next = || lines.next().unwrap_or_default();
    let (raw, pattern, template) = (next(), next(), next());
    // What begins otherwise is no path that a request line can hold.
    if !raw.starts_with('/') {
        return;
    }
    let Ok(path) = Path::read(raw) else {
        assert!(bad_segment(raw), "refused for nothing");
        return;
    };
    assert_eq!(path.raw(), raw);
    assert!(!bad_segment(raw) && !bad_segment(path.matched()));
    let slashes = |text: &str| text.matches('/').count();
    assert_eq!(slashes(raw), slashes(path.matched()));
    if well_escaped(raw) {
        let again = Path::read(path.matched()).expect("what was read can be read");
        assert_eq!(again.matched(), path.matched());
    }

    let Ok(pattern) = Pattern::read(pattern) else {
        return;
    };
    let rewrites = [
        Rewrite::build(template, &pattern),
        Rewrite::strip(template, &pattern),
    ];
    for rewrite in rewrites.into_iter().flatten() {
        let rewritten = rewrite.apply(raw);
        assert!(rewritten.starts_with('/'));
        assert!(!bad_segment(&rewritten), "{rewrite:?} makes {rewritten}");
        if let Rewrite::Strip(_) = rewrite {
            assert!(raw.ends_with(&*rewritten) || rewritten == "/");
        }
    }
    assert_eq!(Rewrite::Keep.apply(raw), raw);
});

fn well_escaped(path: &str) -> bool {
    path.split('%').skip(1).all(|after| {
        let mut digits = after.bytes();
        (0..2).all(|_| digits.next().is_some_and(|b| b.is_ascii_hexdigit()))
    })
}
