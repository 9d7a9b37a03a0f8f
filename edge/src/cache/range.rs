//! Which part of a kept answer a client asks for (RFC 9110 14).

use std::ops::RangeInclusive;
use std::time::Duration;

use http::header::{self, HeaderMap};

use super::entity_tag::Tag;
use super::field;

/// What to hand out of a kept answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// All of it: no part is asked for, or edge does not understand which.
    Whole,
    /// These bytes, first and last included, as 206.
    Bytes(RangeInclusive<u64>),
    /// None: the answer has no such bytes; 416.
    Unsatisfiable,
}

/// Reads `Range` and `If-Range` of a GET against an answer of `length` bytes.
///
/// Several ranges at once and units other than bytes get the whole (14.2 allows it).
pub fn part(request: &HeaderMap, stored: &HeaderMap, length: u64) -> Part {
    let mut lines = request.get_all(header::RANGE).iter();
    let (Some(range), None) = (lines.next(), lines.next()) else {
        return Part::Whole;
    };
    if !is_still_the_same(request, stored) {
        return Part::Whole;
    }
    read(range.as_bytes(), length).unwrap_or(Part::Whole)
}

/// The field `Content-Range` of a part (14.4).
pub fn content_range(bytes: &RangeInclusive<u64>, length: u64) -> String {
    format!("bytes {}-{}/{length}", bytes.start(), bytes.end())
}

/// One range (14.1.2); `None` if it cannot be read.
fn read(range: &[u8], length: u64) -> Option<Part> {
    let equals = range.iter().position(|b| *b == b'=')?;
    let (unit, set) = range.split_at_checked(equals)?;
    if !unit.trim_ascii().eq_ignore_ascii_case(b"bytes") {
        return None;
    }
    let set = set.get(1..)?.trim_ascii();
    let dash = set.iter().position(|b| *b == b'-')?;
    let (first, last) = (set.get(..dash)?, set.get(dash + 1..)?);
    let end = length.checked_sub(1);
    if first.is_empty() {
        let count = field::number(last)?;
        let bytes = end
            .filter(|_| count > 0)
            .map(|end| length.saturating_sub(count)..=end);
        return Some(bytes.map_or(Part::Unsatisfiable, Part::Bytes));
    }
    let first = field::number(first)?;
    let last = if last.is_empty() {
        u64::MAX
    } else {
        field::number(last)?
    };
    match end {
        _ if last < first => None,
        Some(end) if first <= end => Some(Part::Bytes(first..=last.min(end))),
        _ => Some(Part::Unsatisfiable),
    }
}

/// `If-Range` (13.1.5): a part is wanted only of the very answer that the client has begun.
fn is_still_the_same(request: &HeaderMap, stored: &HeaderMap) -> bool {
    let Some(condition) = request.get(header::IF_RANGE) else {
        return true;
    };
    let condition = condition.as_bytes().trim_ascii();
    if condition.ends_with(b"\"") {
        let tag = stored
            .get(header::ETAG)
            .map(|tag| Tag::read(tag.as_bytes()));
        return tag.is_some_and(|tag| tag.is_strongly(&Tag::read(condition)));
    }
    let same = stored
        .get(header::LAST_MODIFIED)
        .map(|date| date.as_bytes().trim_ascii());
    same == Some(condition) && is_strong_date(stored)
}

/// A date is a strong validator if the answer was sent a second or more after it (8.8.2.2).
fn is_strong_date(stored: &HeaderMap) -> bool {
    let changed = field::date(stored, &header::LAST_MODIFIED);
    let sent = field::date(stored, &header::DATE);
    let between = changed
        .zip(sent)
        .and_then(|(changed, sent)| sent.duration_since(changed).ok());
    between.is_some_and(|between| between >= Duration::from_secs(1))
}

#[cfg(test)]
mod tests {
    use super::super::tests::headers;
    use super::*;
    use proptest::prelude::*;

    fn asked(range: &str, length: u64) -> Part {
        part(&headers(&[("range", range)]), &HeaderMap::new(), length)
    }

    /// RFC 9110 14.1.2 and 14.2.
    #[test]
    fn one_range_of_bytes_is_read() {
        for (range, part) in [
            ("bytes=0-1", Part::Bytes(0..=1)),
            ("bytes=1-", Part::Bytes(1..=9)),
            ("bytes=-1", Part::Bytes(9..=9)),
            ("bytes=-99", Part::Bytes(0..=9)),
            ("bytes=0-99999999999999999999999", Part::Bytes(0..=9)),
            ("BYTES = 2-3 ", Part::Bytes(2..=3)),
            ("bytes=10-", Part::Unsatisfiable),
            ("bytes=10-12", Part::Unsatisfiable),
            ("bytes=-0", Part::Unsatisfiable),
            ("bytes=3-2", Part::Whole),
            ("bytes=0-1,3-4", Part::Whole),
            ("bytes=0-1,", Part::Whole),
            ("bytes=-", Part::Whole),
            ("bytes=a-b", Part::Whole),
            ("bytes=--1", Part::Whole),
            ("bytes=+1-2", Part::Whole),
            ("bytes", Part::Whole),
            ("seconds=1-2", Part::Whole),
            ("", Part::Whole),
        ] {
            assert_eq!(asked(range, 10), part, "{range}");
        }
        let (none, two) = (
            HeaderMap::new(),
            [("range", "bytes=0-1"), ("range", "bytes=0-1")],
        );
        assert_eq!(part(&none, &none, 10), Part::Whole);
        assert_eq!(part(&headers(&two), &none, 10), Part::Whole);
        assert_eq!(asked("bytes=0-", 0), Part::Unsatisfiable);
        assert_eq!(asked("bytes=-1", 0), Part::Unsatisfiable);
    }

    /// RFC 9110 13.1.5 and 8.8.2.2.
    #[test]
    fn a_part_is_wanted_only_of_the_same_answer() {
        let changed = "Sun, 06 Nov 1994 08:49:36 GMT";
        let sent = "Sun, 06 Nov 1994 08:49:37 GMT";
        let stored = |tag: &str, date: &str| {
            headers(&[("etag", tag), ("last-modified", changed), ("date", date)])
        };
        for (condition, tag, date, same) in [
            ("\"a\"", "\"a\"", sent, true),
            ("\"b\"", "\"a\"", sent, false),
            ("W/\"a\"", "\"a\"", sent, false),
            ("\"a\"", "W/\"a\"", sent, false),
            ("W/\"a\"", "W/\"a\"", sent, false),
            (changed, "\"a\"", sent, true),
            (sent, "\"a\"", sent, false),
            (changed, "\"a\"", changed, false),
            ("a", "a", sent, false),
        ] {
            let request = headers(&[("range", "bytes=0-1"), ("if-range", condition)]);
            let part = part(&request, &stored(tag, date), 10);
            assert_eq!(part != Part::Whole, same, "{condition} of {tag}");
        }
    }

    #[test]
    fn a_part_says_where_it_stands() {
        assert_eq!(content_range(&(2..=5), 10), "bytes 2-5/10");
    }

    proptest! {
        #[test]
        fn a_part_lies_within_the_answer(range in "(bytes=)?[0-9]{0,4}-?[0-9]{0,4}", length in 0u64..2_000) {
            if let Part::Bytes(bytes) = asked(&range, length) {
                prop_assert!(bytes.start() <= bytes.end() && *bytes.end() < length);
            }
        }
    }
}
