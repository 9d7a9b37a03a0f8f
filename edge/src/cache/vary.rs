//! By which request fields an answer varies, and whether a request selects it (RFC 9111 4.1).

use http::header::{self, HeaderMap, HeaderName};

use super::field;
use super::{Policy, Reason};
use crate::forward;
use crate::identity::X_FORWARDED_CLIENT_CERT;

/// More names than this are not told apart.
pub const MOST_VARY: usize = 16;

/// The request fields by which an answer varies (RFC 9110 12.5.5) or the route wants it to,
/// sorted, or why it cannot be kept.
pub fn names(policy: &Policy, answer: &HeaderMap) -> Result<Vec<HeaderName>, Reason> {
    let mut names = policy.vary.clone();
    for name in field::list(answer, &header::VARY) {
        if name == b"*" {
            return Err(Reason::Vary);
        }
        let name = HeaderName::from_bytes(name).map_err(|_| Reason::Vary)?;
        // What edge itself tells the peer stands in no request.
        let told = [
            forward::X_FORWARDED_FOR,
            forward::X_REQUEST_ID,
            header::VIA,
            X_FORWARDED_CLIENT_CERT,
        ];
        if told.contains(&name) {
            return Err(Reason::Vary);
        }
        names.push(name);
    }
    names.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
    names.dedup();
    if names.len() > MOST_VARY {
        return Err(Reason::Vary);
    }
    Ok(names)
}

/// The fields of the request to which an answer belongs, in the form in which they are compared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection(Vec<(HeaderName, Option<Box<[u8]>>)>);

impl Selection {
    /// Takes these fields from a request.
    pub fn of(names: &[HeaderName], request: &HeaderMap) -> Self {
        let taken = names
            .iter()
            .map(|name| (name.clone(), normal(name, request)));
        Self(taken.collect())
    }

    /// The same fields of another request.
    pub fn again(&self, request: &HeaderMap) -> Self {
        let taken = self.0.iter();
        let taken = taken.map(|(name, _)| (name.clone(), normal(name, request)));
        Self(taken.collect())
    }

    /// Does the answer belong to this request too?
    pub fn matches(&self, request: &HeaderMap) -> bool {
        self.0
            .iter()
            .all(|(name, value)| *value == normal(name, request))
    }

    /// What it holds in memory beside itself, in bytes, about.
    pub fn bytes(&self) -> usize {
        let slot = size_of::<(HeaderName, Option<Box<[u8]>>)>();
        let held = self.0.iter().map(|(name, value)| {
            slot + name.as_str().len() + value.as_ref().map_or(0, |value| value.len())
        });
        held.sum()
    }

    /// Does the answer belong to every request?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Lists without an order whose members' names know no case (RFC 9110 12.5).
const UNORDERED: [HeaderName; 4] = [
    header::ACCEPT,
    header::ACCEPT_CHARSET,
    header::ACCEPT_ENCODING,
    header::ACCEPT_LANGUAGE,
];

/// A field over all its lines, without what does not count; an absent field is not an empty one.
fn normal(name: &HeaderName, request: &HeaderMap) -> Option<Box<[u8]>> {
    let lines: Vec<_> = request
        .get_all(name)
        .iter()
        .map(|line| line.as_bytes())
        .collect();
    if lines.is_empty() {
        return None;
    }
    let joined = lines.join(&b", "[..]);
    let members = field::split(&joined, true);
    let normal = if UNORDERED.contains(name) {
        let mut members: Vec<_> = members.filter(|one| !one.is_empty()).map(choice).collect();
        members.sort_unstable();
        members.join(&b","[..])
    } else {
        members.collect::<Vec<_>>().join(&b","[..])
    };
    Some(normal.into_boxed_slice())
}

/// One member of `Accept` and its like: its name in small letters, no space around its first `;`.
fn choice(member: &[u8]) -> Vec<u8> {
    let end = member
        .iter()
        .position(|b| *b == b';')
        .unwrap_or(member.len());
    let (name, rest) = member.split_at_checked(end).unwrap_or_default();
    let mut choice = name.trim_ascii().to_ascii_lowercase();
    if let Some(rest) = rest.strip_prefix(b";") {
        choice.push(b';');
        choice.extend_from_slice(rest.trim_ascii());
    }
    choice
}

#[cfg(test)]
mod tests {
    use super::super::tests::headers;
    use super::*;
    use proptest::prelude::*;

    fn varied(fields: &[(&str, &str)]) -> Result<Vec<String>, Reason> {
        let names = names(&Policy::new(None), &headers(fields))?;
        Ok(names.iter().map(ToString::to_string).collect())
    }

    fn same(name: &str, one: &[&str], other: &[&str]) -> bool {
        let fields = |lines: &[&str]| {
            let lines: Vec<_> = lines.iter().map(|line| (name, *line)).collect();
            headers(&lines)
        };
        let names = [HeaderName::from_bytes(name.as_bytes()).unwrap()];
        let (one, other) = (fields(one), fields(other));
        let there = Selection::of(&names, &one).matches(&other);
        assert_eq!(there, Selection::of(&names, &other).matches(&one));
        there
    }

    /// RFC 9110 12.5.5.
    #[test]
    fn names_are_sorted_and_each_is_named_once() {
        let fields = [("vary", "Foo,, accept"), ("vary", "FOO, bar"), ("vary", "")];
        assert_eq!(varied(&fields).unwrap(), ["accept", "bar", "foo"]);
        assert_eq!(varied(&[]).unwrap(), [""; 0]);
        let mut policy = Policy::new(None);
        policy.vary = vec![header::ACCEPT, header::ACCEPT];
        let told = headers(&[("vary", "Accept, Foo")]);
        assert_eq!(names(&policy, &told).unwrap().len(), 2);
    }

    /// RFC 9111 4.1.
    #[test]
    fn a_star_or_too_many_names_select_nothing() {
        for vary in ["*", "*, *", ", *", "*, Foo", "Foo, *", "a b", "\"x\""] {
            assert_eq!(varied(&[("vary", vary)]), Err(Reason::Vary), "{vary}");
        }
        assert_eq!(varied(&[("vary", ""), ("vary", "*")]), Err(Reason::Vary));
        let many = |count| {
            (0..count)
                .map(|n| format!("x{n},x0"))
                .collect::<Vec<_>>()
                .join(",")
        };
        assert!(varied(&[("vary", &many(MOST_VARY))]).is_ok());
        assert_eq!(varied(&[("vary", &many(MOST_VARY + 1))]), Err(Reason::Vary));
    }

    /// RFC 9111 4.1, RFC 9110 12.5.
    #[test]
    fn only_what_means_the_same_looks_the_same() {
        for (name, one, other, equal) in [
            ("foo", &["1, 2"][..], &["1", "2"][..], true),
            ("foo", &["1,2"], &[" 1 ,\t2 "], true),
            ("foo", &["1,2"], &["2,1"], false),
            ("foo", &["a"], &["A"], false),
            ("foo", &["1 2"], &["12"], false),
            ("foo", &["1,,2"], &["1,2"], false),
            ("foo", &["\"a, b\""], &["\"a,b\""], false),
            ("foo", &["\"a , b\", c"], &["\"a , b\",c"], true),
            ("foo", &[], &[], true),
            ("foo", &[], &[""], false),
            ("foo", &["a"], &[], false),
            ("accept-language", &["en, de"], &["De ,eN"], true),
            (
                "accept-language",
                &["en, de;q=0.5"],
                &["de; q=0.5,en"],
                true,
            ),
            (
                "accept-language",
                &["en, de;q=0.5"],
                &["en, de;q=0.6"],
                false,
            ),
            (
                "accept-language",
                &["en;q=0.5, de"],
                &["en, de;q=0.5"],
                false,
            ),
            ("accept-encoding", &["gzip,,br"], &["br", "GZIP"], true),
            (
                "accept",
                &["text/html;level=A"],
                &["text/html;level=a"],
                false,
            ),
            ("accept", &["Text/HTML"], &["text/html"], true),
            ("accept-language", &[], &[""], false),
        ] {
            assert_eq!(same(name, one, other), equal, "{name}: {one:?} {other:?}");
        }
    }

    #[test]
    fn a_selection_says_what_it_holds() {
        let none = Selection::of(&[], &headers(&[("foo", "a")]));
        assert!(none.is_empty() && none.bytes() == 0 && none.matches(&HeaderMap::new()));
        let foo = [HeaderName::from_static("foo")];
        let bytes = |value: &str| Selection::of(&foo, &headers(&[("foo", value)])).bytes();
        assert_eq!(bytes("12345") - bytes("1"), 4);
    }

    proptest! {
        /// The plainest reading of "the same": the lines joined, no space beside a comma.
        #[test]
        fn different_fields_never_look_the_same(
            one in prop::collection::vec("[ab, ]{0,6}", 0..3),
            other in prop::collection::vec("[ab, ]{0,6}", 0..3),
        ) {
            let plain = |lines: &[String]| {
                let members = lines.iter().flat_map(|line| line.split(','));
                members.map(|one| one.trim().to_owned()).collect::<Vec<_>>()
            };
            let lines = |lines: &'_ [String]| lines.to_vec();
            let (one, other) = (lines(&one), lines(&other));
            let (a, b): (Vec<&str>, Vec<&str>) = (
                one.iter().map(String::as_str).collect(),
                other.iter().map(String::as_str).collect(),
            );
            prop_assert_eq!(same("foo", &a, &b), plain(&one) == plain(&other));
        }

        #[test]
        fn a_request_selects_what_it_got(lines in prop::collection::vec("[a-bA,;q=\" ]{0,9}", 0..3)) {
            let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
            prop_assert!(same("accept", &lines, &lines));
            prop_assert!(same("foo", &lines, &lines));
        }
    }
}
