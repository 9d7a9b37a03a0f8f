//! Conditions: those that edge asks with, and those that it answers itself (RFC 9111 4.3).

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use super::entity_tag::{Tag, tag};
use super::field;
use crate::forward;

/// The conditions with which edge asks whether what it keeps is still right (4.3.1).
pub fn conditions(stored: &HeaderMap) -> Vec<(HeaderName, HeaderValue)> {
    let tag = tag(stored)
        .zip(stored.get(header::ETAG))
        .map(|(_, value)| value);
    let date =
        field::date(stored, &header::LAST_MODIFIED).and_then(|_| stored.get(header::LAST_MODIFIED));
    let both = [
        (header::IF_NONE_MATCH, tag),
        (header::IF_MODIFIED_SINCE, date),
    ];
    let named = |(name, value): (_, Option<&HeaderValue>)| Some((name, value?.clone()));
    both.into_iter().filter_map(named).collect()
}

/// Can edge ask whether this answer is still right?
pub fn has_validator(stored: &HeaderMap) -> bool {
    tag(stored).is_some() || field::date(stored, &header::LAST_MODIFIED).is_some()
}

/// Does the client have already what is kept, so that a 304 will do (4.3.2, RFC 9110 13.2.2)?
///
/// For GET and HEAD, and a kept 200; both are the caller's business.
pub fn not_modified(request: &HeaderMap, stored: &HeaderMap) -> bool {
    if request.contains_key(header::IF_NONE_MATCH) {
        return is_none_of(request, stored);
    }
    let Some(since) = field::date(request, &header::IF_MODIFIED_SINCE) else {
        return false;
    };
    let changed = field::date(stored, &header::LAST_MODIFIED);
    let changed = changed.or_else(|| field::date(stored, &header::DATE));
    changed.is_some_and(|changed| changed <= since)
}

/// `If-None-Match` fails: it names what is kept (RFC 9110 13.1.2).
fn is_none_of(request: &HeaderMap, stored: &HeaderMap) -> bool {
    let lines = request.get_all(header::IF_NONE_MATCH).iter();
    // A backslash is part of a tag and escapes nothing (RFC 9110 8.8.3).
    let mut tags = lines.flat_map(|line| field::split(line.as_bytes(), false));
    let stored = tag(stored);
    tags.any(|text| text == b"*" || stored.is_some_and(|tag| tag.is_weakly(&Tag::read(text))))
}

/// Does a 304 speak of this kept answer (4.3.4)? One without validators speaks of what was asked.
pub fn is_answered_by(stored: &HeaderMap, told: &HeaderMap) -> bool {
    match tag(told) {
        Some(told) if told.weak => tag(stored).is_some_and(|tag| tag.is_weakly(&told)),
        Some(told) => tag(stored).is_some_and(|tag| tag.is_strongly(&told)),
        None => same_date(stored, told),
    }
}

/// Fields that belong to the kept body, or to one client alone: a 304 does not change them.
const KEPT: [HeaderName; 7] = [
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_RANGE,
    header::CONTENT_TYPE,
    header::SET_COOKIE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
];

/// The same, where the name has no constant.
const KEPT_TOO: [&str; 5] = [
    "content-digest",
    "content-md5",
    "proxy-authenticate",
    "proxy-authentication-info",
    "proxy-authorization",
];

/// The fields of a 304 that replace those kept (3.2).
pub fn updates(told: &HeaderMap) -> Vec<HeaderName> {
    let hops = forward::hop_by_hop(told);
    let replaces = |name: &&HeaderName| {
        !hops.contains(name) && !KEPT.contains(name) && !KEPT_TOO.contains(&name.as_str())
    };
    told.keys().filter(replaces).cloned().collect()
}

/// Does the answer to a HEAD describe the kept answer to a GET (4.3.5)?
///
/// What it names of length and validators must be equal, else what is kept is out of date.
pub fn same(stored: &HeaderMap, head: &HeaderMap) -> bool {
    let length = |headers: &HeaderMap| {
        let value = headers.get(header::CONTENT_LENGTH)?;
        field::number(value.as_bytes().trim_ascii())
    };
    let tags = match (tag(stored), tag(head)) {
        (_, None) => true,
        (Some(stored), Some(head)) => stored == head,
        (None, Some(_)) => false,
    };
    let lengths = !head.contains_key(header::CONTENT_LENGTH) || length(stored) == length(head);
    tags && lengths && same_date(stored, head)
}

/// Is `Last-Modified` equal, where both have it?
fn same_date(stored: &HeaderMap, told: &HeaderMap) -> bool {
    let [stored, told] = [stored, told].map(|headers| field::date(headers, &header::LAST_MODIFIED));
    stored.zip(told).is_none_or(|(stored, told)| stored == told)
}

#[cfg(test)]
mod tests {
    use super::super::tests::headers;
    use super::*;

    const EARLIER: &str = "Sun, 06 Nov 1994 08:49:36 GMT";
    const LATER: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

    /// RFC 9111 4.3.1.
    #[test]
    fn edge_asks_with_the_validators_it_has() {
        for (stored, asked) in [
            (&[("etag", "W/\"a\""), ("last-modified", EARLIER)][..], 2),
            (&[("etag", "a")], 1),
            (&[("last-modified", EARLIER)], 1),
            (&[("last-modified", "yesterday"), ("etag", "")], 0),
            (&[("date", EARLIER)], 0),
        ] {
            let stored = headers(stored);
            let conditions = conditions(&stored);
            assert_eq!(conditions.len(), asked, "{stored:?}");
            assert_eq!(has_validator(&stored), asked > 0, "{stored:?}");
            for (name, value) in conditions {
                let validator = match name {
                    header::IF_NONE_MATCH => header::ETAG,
                    _ => header::LAST_MODIFIED,
                };
                assert_eq!(stored.get(validator), Some(&value));
            }
        }
    }

    /// RFC 9110 13.1.2 and 8.8.3.
    #[test]
    fn a_client_that_names_the_tag_has_it() {
        for (stored, named, has) in [
            ("\"a\"", "\"a\"", true),
            ("\"a\"", "\"b\"", false),
            ("\"a\"", "W/\"a\"", true),
            ("W/\"a\"", "\"a\"", true),
            ("\"a\"", "\"b\", \"a\", \"c\"", true),
            ("\"a,b\"", "\"a,b\"", true),
            ("\"a\"", "\"b,\"a\"", false),
            ("\"a\\\"", "\"a\\\", \"b\"", true),
            ("\"ü\"", "\"ü\"", true),
            ("\"a\"", "*", true),
            ("\"a\"", "a", true),
            ("a", "a", true),
            ("a", "\"a\"", true),
            ("w/\"a\"", "w/\"a\"", true),
            ("W\\\"a\"", "W\\\"a\"", true),
            ("W\"a\"", "W\"a\"", true),
            ("\"a\"", "\"A\"", false),
            ("\"a\"", "", false),
        ] {
            let request = headers(&[("if-none-match", named)]);
            assert_eq!(
                not_modified(&request, &headers(&[("etag", stored)])),
                has,
                "{named} of {stored}"
            );
        }
        let request = headers(&[("if-none-match", "\"a\"")]);
        assert!(!not_modified(&request, &HeaderMap::new()));
    }

    /// RFC 9110 13.1.3 and 13.2.2, RFC 9111 4.3.2.
    #[test]
    fn a_client_with_the_date_has_it_where_no_tag_speaks() {
        let since = |date| headers(&[("if-modified-since", date)]);
        let changed = |date| headers(&[("last-modified", date), ("date", LATER)]);
        assert!(not_modified(&since(EARLIER), &changed(EARLIER)));
        assert!(not_modified(&since(LATER), &changed(EARLIER)));
        assert!(!not_modified(&since(EARLIER), &changed(LATER)));
        assert!(not_modified(
            &since("Sunday, 06-Nov-94 08:49:37 GMT"),
            &changed(LATER)
        ));
        assert!(!not_modified(&since("yesterday"), &changed(EARLIER)));
        assert!(not_modified(&since(LATER), &headers(&[("date", LATER)])));
        assert!(!not_modified(&since(EARLIER), &headers(&[("date", LATER)])));
        assert!(!not_modified(&since(LATER), &HeaderMap::new()));
        assert!(!not_modified(&HeaderMap::new(), &changed(EARLIER)));
        let both = headers(&[("if-none-match", "\"b\""), ("if-modified-since", LATER)]);
        let stored = headers(&[("etag", "\"a\""), ("last-modified", EARLIER)]);
        assert!(!not_modified(&both, &stored), "13.2.2");
    }

    /// RFC 9111 4.3.4.
    #[test]
    fn a_304_speaks_of_the_answer_with_its_validators() {
        for (stored, told, speaks) in [
            (&[("etag", "\"a\"")][..], &[("etag", "\"a\"")][..], true),
            (&[("etag", "\"a\"")], &[("etag", "\"b\"")], false),
            (&[("etag", "W/\"a\"")], &[("etag", "\"a\"")], false),
            (&[("etag", "\"a\"")], &[("etag", "W/\"a\"")], true),
            (&[("etag", "a")], &[("etag", "a")], true),
            (&[("etag", "\"a\"")], &[], true),
            (&[], &[("etag", "\"a\"")], false),
            (
                &[("last-modified", EARLIER)],
                &[("last-modified", EARLIER)],
                true,
            ),
            (
                &[("last-modified", EARLIER)],
                &[("last-modified", LATER)],
                false,
            ),
            (&[], &[], true),
        ] {
            let answered = is_answered_by(&headers(stored), &headers(told));
            assert_eq!(answered, speaks, "{stored:?} {told:?}");
        }
    }

    /// RFC 9111 3.2 and 3.1.
    #[test]
    fn a_304_changes_what_is_not_of_the_body_or_the_hop() {
        let kept = [
            "connection",
            "x-hop",
            "keep-alive",
            "proxy-authenticate",
            "proxy-authentication-info",
            "proxy-authorization",
            "proxy-connection",
            "te",
            "transfer-encoding",
            "upgrade",
            "content-encoding",
            "content-length",
            "content-md5",
            "content-range",
            "content-type",
            "set-cookie",
        ];
        let changed = [
            "cache-control",
            "content-foo",
            "content-location",
            "content-security-policy",
            "date",
            "etag",
            "expires",
            "x-frame-options",
        ];
        let all: Vec<_> = kept
            .iter()
            .chain(&changed)
            .map(|name| (*name, "x-hop"))
            .collect();
        let mut names: Vec<_> = updates(&headers(&all))
            .iter()
            .map(ToString::to_string)
            .collect();
        names.sort_unstable();
        assert_eq!(names, changed);
    }

    /// RFC 9111 4.3.5.
    #[test]
    fn a_head_describes_what_has_its_length_and_validators() {
        let stored = [
            ("content-length", "5"),
            ("etag", "\"a\""),
            ("last-modified", EARLIER),
        ];
        for (head, equal) in [
            (&stored[..], true),
            (&[], true),
            (&[("content-length", "05")], true),
            (&[("content-length", "6")], false),
            (&[("content-length", "x")], false),
            (&[("etag", "\"b\"")], false),
            (&[("etag", "W/\"a\"")], false),
            (&[("last-modified", LATER)], false),
        ] {
            assert_eq!(same(&headers(&stored), &headers(head)), equal, "{head:?}");
        }
        assert!(!same(&HeaderMap::new(), &headers(&stored)));
    }
}
