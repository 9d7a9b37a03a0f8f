//! What tells kept answers apart before any `Vary`: the key (RFC 9111 2).

use http::header::{self, HeaderMap, HeaderName};
use ring::digest::{SHA256, digest as sha256};

use super::{KeyPart, Policy};
use crate::identity::Identity;

/// A request, as far as the key depends on it.
#[derive(Debug, Clone, Copy)]
pub struct Asking<'a> {
    /// The number under which the route's answers are kept.
    pub route: u64,
    /// As the client asked, `http` or `https`.
    pub scheme: &'a str,
    /// The host that the client asked for, with its port if it named one.
    pub host: &'a str,
    /// The host that the peer is told of beside the request's own, if it is: it may put that
    /// into its answer.
    pub told: Option<&'a [u8]>,
    /// The path as the client wrote it.
    pub path: &'a str,
    /// What stands after `?`; no query and an empty one are different requests.
    pub query: Option<&'a str>,
    /// The request's fields.
    pub headers: &'a HeaderMap,
    /// Who asks, where edge knows: the peer is told of all of it.
    pub identity: Option<&'a Identity>,
    /// The hash of the certificate that the client has shown.
    pub certificate: Option<&'a str>,
}

/// The key of an answer: length before text, so that no two different requests share one.
///
/// With `asked_apart` the credentials' digest is in it (`Asked::apart`).
pub fn key(policy: &Policy, asked_apart: bool, asking: &Asking<'_>) -> Vec<u8> {
    let mut key = Vec::with_capacity(asking.host.len() + asking.path.len() + 128);
    key.extend_from_slice(&asking.route.to_be_bytes());
    put(&mut key, asking.scheme.as_bytes());
    put(&mut key, asking.host.to_ascii_lowercase().as_bytes());
    put_any(&mut key, asking.told);
    for part in &policy.key {
        match part {
            KeyPart::Path => put(&mut key, asking.path.as_bytes()),
            KeyPart::Query => {
                let query = asking.query.and_then(|query| counted(policy, query));
                put_any(&mut key, query.as_deref().map(str::as_bytes));
            }
            KeyPart::QueryName(name) => put_all(&mut key, named(asking.query, name)),
            KeyPart::Header(name) => put_all(&mut key, lines(asking.headers, name)),
        }
    }
    put_any(&mut key, asked_apart.then(|| digest(asking)).as_deref());
    key
}

fn put(key: &mut Vec<u8>, text: &[u8]) {
    key.extend_from_slice(&text.len().to_be_bytes());
    key.extend_from_slice(text);
}

/// What is absent is not what is empty.
fn put_any(key: &mut Vec<u8>, text: Option<&[u8]>) {
    put_all(key, text.into_iter());
}

fn put_all<'a>(key: &mut Vec<u8>, texts: impl Iterator<Item = &'a [u8]>) {
    for text in texts {
        key.push(1);
        put(key, text);
    }
    key.push(0);
}

/// The query without the parameters that do not count; `None` if none is left of those it had.
fn counted(policy: &Policy, query: &str) -> Option<String> {
    if policy.ignore_query.is_empty() {
        return Some(query.to_owned());
    }
    let counts = |pair: &&str| {
        !policy
            .ignore_query
            .iter()
            .any(|own| covers(own, name_of(pair)))
    };
    let left: Vec<_> = query.split('&').filter(counts).collect();
    (!left.is_empty()).then(|| left.join("&"))
}

/// `utm_*` stands for every name that begins with `utm_`.
fn covers(own: &str, name: &str) -> bool {
    match own.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == own,
    }
}

fn name_of(pair: &str) -> &str {
    pair.split_once('=').map_or(pair, |(name, _)| name)
}

/// Every parameter of that name, as it is written.
fn named<'a>(query: Option<&'a str>, name: &str) -> impl Iterator<Item = &'a [u8]> {
    let pairs = query.into_iter().flat_map(|query| query.split('&'));
    pairs
        .filter(move |pair| name_of(pair) == name)
        .map(str::as_bytes)
}

fn lines<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    headers.get_all(name).iter().map(|line| line.as_bytes())
}

/// SHA-256 over all credentials: the key must not tell what they are.
fn digest(asking: &Asking<'_>) -> Vec<u8> {
    let mut credentials = Vec::new();
    let of = |read: fn(&Identity) -> &[u8]| asking.identity.map(read);
    put_any(&mut credentials, of(|identity| identity.name.as_bytes()));
    let counted = asking.identity.and_then(|own| own.counted.as_deref());
    put_any(&mut credentials, counted.map(str::as_bytes));
    let told = asking.identity.iter().flat_map(|own| &own.fields);
    let told = told.flat_map(|(name, value)| [name.as_str().as_bytes(), value.as_bytes()]);
    put_all(&mut credentials, told);
    put_any(&mut credentials, asking.certificate.map(str::as_bytes));
    for name in [header::AUTHORIZATION, header::COOKIE] {
        put_all(&mut credentials, lines(asking.headers, &name));
    }
    sha256(&SHA256, &credentials).as_ref().to_vec()
}

#[cfg(test)]
mod tests {
    use super::super::tests::headers;
    use super::*;
    use proptest::prelude::*;

    fn asking<'a>(host: &'a str, path: &'a str, headers: &'a HeaderMap) -> Asking<'a> {
        Asking {
            route: 0,
            scheme: "http",
            host,
            told: None,
            path,
            query: None,
            headers,
            identity: None,
            certificate: None,
        }
    }

    /// Keys of requests that differ in the query alone.
    fn queried(policy: &Policy, query: Option<&str>) -> Vec<u8> {
        let none = HeaderMap::new();
        key(
            policy,
            false,
            &Asking {
                query,
                ..asking("a", "/", &none)
            },
        )
    }

    /// RFC 9111 2.
    #[test]
    fn different_requests_have_different_keys() {
        let (policy, none) = (Policy::new(None), HeaderMap::new());
        let plain = asking("a", "/b", &none);
        let told = |told: &'static [u8]| Some(told);
        let mut keys: Vec<_> = [
            plain,
            Asking {
                query: Some(""),
                ..plain
            },
            Asking {
                query: Some("?"),
                ..plain
            },
            Asking {
                told: told(b""),
                query: Some("?"),
                ..plain
            },
            Asking {
                told: told(b""),
                ..plain
            },
            Asking {
                told: told(b"?"),
                ..plain
            },
            Asking {
                scheme: "https",
                ..plain
            },
            Asking { route: 1, ..plain },
            asking("a/", "b", &none),
            asking("a", "/b?", &none),
            asking("b", "/b", &none),
        ]
        .iter()
        .flat_map(|asking| [key(&policy, false, asking), key(&policy, true, asking)])
        .collect();
        let count = keys.len();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), count);
    }

    #[test]
    fn a_hosts_case_does_not_count() {
        let (policy, none) = (Policy::new(None), HeaderMap::new());
        let [one, other] =
            ["A.Example", "a.example"].map(|host| key(&policy, false, &asking(host, "/", &none)));
        assert_eq!(one, other);
    }

    #[test]
    fn ignored_parameters_do_not_count() {
        let mut policy = Policy::new(None);
        policy.ignore_query = vec!["utm_*".to_owned(), "ref".to_owned()];
        for (one, other, same) in [
            (Some("a=1&utm_source=x&ref=y&b"), Some("a=1&b"), true),
            (Some("utm_x"), None, true),
            (Some("ref&ref=1"), None, true),
            (Some("reference=1"), None, false),
            (Some("a=ref"), Some("a"), false),
            (Some(""), None, false),
            (Some("a&b"), Some("b&a"), false),
        ] {
            assert_eq!(
                queried(&policy, one) == queried(&policy, other),
                same,
                "{one:?} {other:?}"
            );
        }
    }

    #[test]
    fn only_the_parts_named_count() {
        let mut policy = Policy::new(None);
        policy.key = vec![KeyPart::QueryName("page".to_owned())];
        for (one, other, same) in [
            (Some("page=1&x=1"), Some("x=2&page=1"), true),
            (Some("page=1"), Some("page=2"), false),
            (Some("page=1&page=2"), Some("page=1"), false),
            (Some("page"), Some("page="), false),
            (Some("x"), None, true),
        ] {
            assert_eq!(
                queried(&policy, one) == queried(&policy, other),
                same,
                "{one:?} {other:?}"
            );
        }
        policy.key = vec![KeyPart::Header(header::ACCEPT)];
        let accepts = |lines: &[&str]| {
            let lines: Vec<_> = lines.iter().map(|line| ("accept", *line)).collect();
            key(&policy, false, &asking("a", "/any", &headers(&lines)))
        };
        assert_ne!(accepts(&[]), accepts(&[""]));
        assert_ne!(accepts(&["a", "b"]), accepts(&["ab"]));
        let bare = key(&policy, false, &asking("a", "/other", &HeaderMap::new()));
        assert_eq!(accepts(&[]), bare, "the path is not named");
    }

    #[test]
    fn each_identity_has_keys_of_its_own() {
        let policy = Policy::new(None);
        let of = |fields: &[(&str, &str)], apart| {
            key(&policy, apart, &asking("a", "/", &headers(fields)))
        };
        let ann = of(&[("authorization", "ann")], true);
        for other in [
            of(&[("authorization", "bob")], true),
            of(&[("cookie", "ann")], true),
            of(&[("authorization", "ann"), ("cookie", "")], true),
            of(&[("authorization", "a"), ("authorization", "nn")], true),
            of(&[], true),
            of(&[("authorization", "ann")], false),
        ] {
            assert_ne!(ann, other);
        }
        assert_eq!(ann, of(&[("authorization", "ann"), ("x", "y")], true));
        assert!(
            !ann.windows(3).any(|window| window == b"ann"),
            "the key tells no secret"
        );
        assert_eq!(of(&[("authorization", "ann")], false), of(&[], false));
    }

    #[test]
    fn what_the_peer_is_told_of_somebody_tells_keys_apart() {
        let (policy, none) = (Policy::new(None), HeaderMap::new());
        let plain = asking("a", "/", &none);
        let somebody =
            |name: &str, counted: Option<&str>, told: &[(&'static str, &'static str)]| Identity {
                name: name.to_owned(),
                counted: counted.map(str::to_owned),
                fields: headers(told)
                    .into_iter()
                    .filter_map(|(name, value)| Some((name?, value)))
                    .collect(),
            };
        let known = [
            somebody("ann", None, &[]),
            somebody("ann", Some("token"), &[]),
            somebody("ann", None, &[("x-tenant", "a")]),
            somebody("ann", None, &[("x-tenant", "b")]),
            somebody("ann", None, &[("x-role", "b")]),
            somebody("", None, &[]),
        ];
        let with = |identity| key(&policy, true, &Asking { identity, ..plain });
        let mut keys: Vec<_> = known.iter().map(|own| with(Some(own))).collect();
        keys.push(with(None));
        let certificate = Some("00ff");
        keys.push(key(
            &policy,
            true,
            &Asking {
                certificate,
                ..plain
            },
        ));
        let identity = known.first();
        keys.push(key(
            &policy,
            true,
            &Asking {
                certificate,
                identity,
                ..plain
            },
        ));
        let count = keys.len();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), count);
    }

    proptest! {
        #[test]
        fn no_two_requests_share_a_key(
            one in ("[ab]{0,2}", "[ab/?]{0,3}", prop::option::of("[ab&=]{0,3}"), prop::option::of("[ab]{0,2}")),
            other in ("[ab]{0,2}", "[ab/?]{0,3}", prop::option::of("[ab&=]{0,3}"), prop::option::of("[ab]{0,2}")),
        ) {
            let policy = Policy::new(None);
            let of = |parts: &(String, String, Option<String>, Option<String>)| {
                let (none, told) = (HeaderMap::new(), parts.3.as_deref().map(str::as_bytes));
                let query = parts.2.as_deref();
                key(&policy, false, &Asking { told, query, ..asking(&parts.0, &parts.1, &none) })
            };
            prop_assert_eq!(of(&one) == of(&other), one == other);
        }
    }
}
