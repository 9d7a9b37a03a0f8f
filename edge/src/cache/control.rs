//! `Cache-Control` (RFC 9111 5.2), and the fields that speak to edge alone (RFC 9213).

use std::time::Duration;

use http::header::{self, HeaderMap, HeaderName};
use sfv::{BareItem, Dictionary, ListEntry, Parser};

use super::field;

/// One directive of `Cache-Control`. Its value stands without the quotes around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Directive<'a> {
    /// The name as it was written; upper and lower case are the same.
    pub name: &'a [u8],
    /// What stands after `=`, if anything does.
    pub value: Option<&'a [u8]>,
}

impl Directive<'_> {
    /// Is this the directive of that name?
    pub fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name.as_bytes())
    }

    /// The value as a time; `None` where it is missing or not made of digits alone.
    pub(super) fn seconds(&self) -> Option<Duration> {
        self.value.and_then(field::seconds)
    }
}

/// The directives over all lines of a field, in their order.
///
/// A space beside `=` belongs to the value: the name still counts, the time cannot be read.
pub fn directives<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> impl Iterator<Item = Directive<'a>> {
    field::list(headers, name).map(|member| {
        let end = member.iter().position(|b| matches!(b, b'=' | b' ' | b'\t'));
        let (name, rest) = member
            .split_at_checked(end.unwrap_or(member.len()))
            .unwrap_or_default();
        let value = (!rest.is_empty()).then(|| unquoted(rest.strip_prefix(b"=").unwrap_or(rest)));
        Directive { name, value }
    })
}

fn unquoted(value: &[u8]) -> &[u8] {
    value
        .strip_prefix(b"\"")
        .and_then(|value| value.strip_suffix(b"\""))
        .unwrap_or(value)
}

/// What an answer says to edge about keeping it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) no_store: bool,
    pub(super) no_cache: bool,
    pub(super) private: bool,
    pub(super) public: bool,
    pub(super) must_revalidate: bool,
    pub(super) proxy_revalidate: bool,
    pub(super) must_understand: bool,
    pub(super) s_maxage: Option<Duration>,
    pub(super) max_age: Option<Duration>,
    pub(super) stale_while_revalidate: Option<Duration>,
    pub(super) stale_if_error: Option<Duration>,
    /// Said to edge alone: `Cache-Control` and `Expires` are for others.
    pub(super) targeted: bool,
}

/// The fields that speak to edge alone, the nearest first (RFC 9213 2.2).
const TARGETED: [&str; 2] = ["edge-cache-control", "cdn-cache-control"];

impl Said {
    pub(super) fn read(answer: &HeaderMap) -> Self {
        let targeted = TARGETED
            .iter()
            .find_map(|name| Self::targeted(answer, name));
        targeted.unwrap_or_else(|| Self::general(answer))
    }

    /// Reads `Cache-Control`. Of contradicting times the shortest counts, and a time that cannot
    /// be read is none at all (RFC 9111 4.2.1).
    fn general(answer: &HeaderMap) -> Self {
        let mut said = Self::default();
        for directive in directives(answer, &header::CACHE_CONTROL) {
            let name = directive.name.to_ascii_lowercase();
            if let Some(flag) = said.flag(&name) {
                *flag = true;
            } else if let Some(time) = said.time(&name) {
                let read = directive.seconds().unwrap_or_default();
                *time = Some(time.map_or(read, |time| time.min(read)));
            }
        }
        said
    }

    /// Reads a structured field; `None` if it is absent, empty, or anything in it is wrong: then
    /// it counts for nothing (RFC 9213 2.1).
    fn targeted(answer: &HeaderMap, name: &str) -> Option<Self> {
        let lines: Vec<_> = answer
            .get_all(name)
            .iter()
            .map(|line| line.as_bytes())
            .collect();
        let members: Dictionary = Parser::parse_dictionary(&lines.join(&b", "[..])).ok()?;
        if members.is_empty() {
            return None;
        }
        let mut said = Self {
            targeted: true,
            ..Self::default()
        };
        for (name, value) in &members {
            if let Some(flag) = said.flag(name.as_bytes()) {
                *flag = says_yes(value)?;
            } else if let Some(time) = said.time(name.as_bytes()) {
                *time = Some(whole_seconds(value)?);
            }
        }
        Some(said)
    }

    fn flag(&mut self, name: &[u8]) -> Option<&mut bool> {
        Some(match name {
            b"no-store" => &mut self.no_store,
            b"no-cache" => &mut self.no_cache,
            b"private" => &mut self.private,
            b"public" => &mut self.public,
            b"must-revalidate" => &mut self.must_revalidate,
            b"proxy-revalidate" => &mut self.proxy_revalidate,
            b"must-understand" => &mut self.must_understand,
            _ => return None,
        })
    }

    fn time(&mut self, name: &[u8]) -> Option<&mut Option<Duration>> {
        Some(match name {
            b"s-maxage" => &mut self.s_maxage,
            b"max-age" => &mut self.max_age,
            b"stale-while-revalidate" => &mut self.stale_while_revalidate,
            b"stale-if-error" => &mut self.stale_if_error,
            _ => return None,
        })
    }
}

/// A directive without a value is true; `private="name"` has one, and counts as a whole.
fn says_yes(value: &ListEntry) -> Option<bool> {
    match value {
        ListEntry::Item(item) => match item.bare_item {
            BareItem::Boolean(yes) => Some(yes),
            BareItem::String(_) | BareItem::Token(_) => Some(true),
            _ => None,
        },
        ListEntry::InnerList(_) => Some(true),
    }
}

/// A whole number of seconds; a negative one has passed.
fn whole_seconds(value: &ListEntry) -> Option<Duration> {
    let ListEntry::Item(item) = value else {
        return None;
    };
    let seconds = u64::try_from(item.bare_item.as_int()?).unwrap_or_default();
    Some(Duration::from_secs(seconds).min(field::LONGEST))
}

#[cfg(test)]
mod tests {
    use super::super::tests::headers;
    use super::*;

    fn said(name: &str, value: &str) -> Said {
        Said::read(&headers(&[("cache-control", "max-age=1"), (name, value)]))
    }

    #[test]
    fn directives_are_read_as_they_are_written() {
        let told = headers(&[
            (
                "cache-control",
                ",Max-Age=60 , x=\"a, max-age=5\" ,, private = y",
            ),
            ("cache-control", "no-store; x"),
            ("cache-control", ""),
        ]);
        let read = directives(&told, &header::CACHE_CONTROL)
            .map(|directive| (directive.name, directive.value))
            .collect::<Vec<_>>();
        let expected: [(&[u8], Option<&[u8]>); 4] = [
            (b"Max-Age", Some(b"60")),
            (b"x", Some(b"a, max-age=5")),
            (b"private", Some(b" = y")),
            (b"no-store;", Some(b" x")),
        ];
        assert_eq!(read, expected);
    }

    /// RFC 9213 2.1 and 2.2.
    #[test]
    fn a_targeted_field_counts_alone_or_not_at_all() {
        for (value, max_age, targeted) in [
            ("max-age=9", Some(9), true),
            ("max-age=-9", Some(0), true),
            ("foobar, max-age=9", Some(9), true),
            ("foobar", None, true),
            ("max-age=99999999999", Some(1 << 31), true),
            ("", Some(1), false),
            ("max-age=9, &&&", Some(1), false),
            ("max-age=\"9\"", Some(1), false),
            ("max-age=9.5", Some(1), false),
            ("max-age", Some(1), false),
            ("max-age =9", Some(1), false),
            ("max-age= 9", Some(1), false),
            ("MaX-aGe=9", Some(1), false),
            ("no-store=5", Some(1), false),
        ] {
            for name in TARGETED {
                let said = said(name, value);
                let read = said.max_age.map(|time| time.as_secs());
                assert_eq!(
                    (read, said.targeted),
                    (max_age, targeted),
                    "{name}: {value}"
                );
            }
        }
        assert!(said("cdn-cache-control", "private=\"x\"").private);
        assert!(!said("cdn-cache-control", "private=?0").private);
    }

    #[test]
    fn the_nearest_field_speaks() {
        let both = [
            ("cdn-cache-control", "no-store"),
            ("edge-cache-control", "max-age=5"),
        ];
        let said = Said::read(&headers(&both));
        assert_eq!(
            (said.no_store, said.max_age),
            (false, Some(Duration::from_secs(5)))
        );
    }
}
