//! The cache's answers in lines for people.

use std::fmt::Write;

use crate::admin::{Named, Purged, Status};
use crate::store::Top;

/// One line.
pub(super) fn purged(purged: Purged) -> String {
    let Purged {
        purged,
        soft,
        named,
    } = purged;
    let done = if soft { "made stale" } else { "purged" };
    let answers = if purged == 1 { "answer" } else { "answers" };
    let which = match named {
        Named::Tag(tag) => format!("with the tag {tag}"),
        Named::Url(url) => format!("at {url}"),
        Named::Prefix(prefix) => format!("at {prefix} and below"),
        Named::All(_) => "in all".to_owned(),
    };
    plain(&format!("{done} {purged} {answers} {which}")) + "\n"
}

/// One line a thing.
pub(super) fn status(status: &Status) -> String {
    let (held, memory) = (size(status.bytes), size(status.memory));
    let mut lines = format!(
        "held         {held} of {memory}\narriving     {}\nanswers      {}\nevicted      {}\n",
        size(status.arriving),
        status.entries,
        status.evictions
    );
    for (state, count) in &status.requests {
        // Writing to a text cannot fail.
        let _ = writeln!(lines, "{:<12} {count}", plain(state));
    }
    lines
}

/// A table, the answer with the most hits first.
pub(super) fn top(top: &[Top]) -> String {
    let mut lines = format!(
        "{:>9} {:>6} {:>9} {:>9} {:>9}  {:<16} {}\n",
        "hits", "status", "size", "age", "ttl", "route", "answer"
    );
    for answer in top {
        let _ = writeln!(
            lines,
            "{:>9} {:>6} {:>9} {:>9} {:>9}  {:<16} {}{}",
            answer.hits,
            answer.status,
            size(answer.bytes as u64),
            format!("{}s", answer.age),
            format!("{}s", answer.ttl),
            plain(&answer.route),
            plain(&answer.host),
            plain(&answer.path)
        );
    }
    lines
}

/// Whole units, rounded down: nobody is told of more than there is.
fn size(bytes: u64) -> String {
    match bytes {
        0..1_024 => format!("{bytes}B"),
        1_024..1_048_576 => format!("{}KiB", bytes >> 10),
        _ => format!("{}MiB", bytes >> 20),
    }
}

/// Without what moves a terminal's cursor: a client chooses paths, and whoever answers the rest.
pub(super) fn plain(text: &str) -> String {
    let plain = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    text.trim_end().chars().map(plain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(purged: u64, soft: bool, named: Named) -> String {
        super::purged(Purged {
            purged,
            soft,
            named,
        })
    }

    #[test]
    fn a_purge_is_one_line() {
        let tag = || Named::Tag("users".to_owned());
        assert_eq!(
            told(12, false, tag()),
            "purged 12 answers with the tag users\n"
        );
        assert_eq!(
            told(1, true, tag()),
            "made stale 1 answer with the tag users\n"
        );
        let prefix = Named::Prefix("/api".to_owned());
        assert_eq!(
            told(0, false, prefix),
            "purged 0 answers at /api and below\n"
        );
        assert_eq!(
            told(2, false, Named::All(true)),
            "purged 2 answers in all\n"
        );
    }

    #[test]
    fn sizes_are_rounded_down() {
        let sizes = [0, 1_023, 1_024, 1_048_575, 67_108_864].map(size);
        assert_eq!(sizes, ["0B", "1023B", "1KiB", "1023KiB", "64MiB"]);
    }

    #[test]
    fn nothing_that_is_told_moves_the_cursor() {
        assert_eq!(plain("/a\u{1b}[2J\u{9b}b\n"), "/a\u{fffd}[2J\u{fffd}b");
    }
}
