//! What the client wants of the cache (RFC 9111 5.2.1).

use std::time::Duration;

use http::Method;
use http::header::{self, HeaderMap};

use super::control::directives;
use super::{Policy, PrivateBy, Reason};
use crate::forward;

/// What a request says to a cache.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asked {
    /// Nothing without asking the upstream (5.2.1.4).
    pub no_cache: bool,
    /// The answer must not be kept (5.2.1.5).
    pub no_store: bool,
    /// Nothing older than this (5.2.1.1).
    pub max_age: Option<Duration>,
    /// Only what stays fresh for this long (5.2.1.3).
    pub min_fresh: Option<Duration>,
    /// Also what is stale for up to this long; without a value `Duration::MAX` (5.2.1.2).
    pub max_stale: Option<Duration>,
    /// Nothing that is not kept (5.2.1.7).
    pub only_if_cached: bool,
    /// The request carries `Authorization` or `Cookie`, or edge knows who asks.
    pub credentials: bool,
    /// The key holds the credentials: nobody else meets what is kept under it.
    pub apart: bool,
}

/// May the cache take part in this request, and what does the client want of it?
///
/// A request with a body passes by: the body is no part of the key. One of which edge knows who
/// asks is one with credentials, whatever it still holds of them.
pub fn admit(
    policy: &Policy,
    method: &Method,
    headers: &HeaderMap,
    has_body: bool,
    identified: bool,
) -> Result<Asked, Reason> {
    if !policy.methods.contains(method) {
        return Err(Reason::Method);
    }
    if has_body {
        return Err(Reason::Body);
    }
    if forward::nominates(headers) {
        return Err(Reason::Connection);
    }
    let for_one_state = [header::IF_MATCH, header::IF_UNMODIFIED_SINCE];
    if for_one_state.iter().any(|name| headers.contains_key(name)) {
        return Err(Reason::Precondition);
    }
    let mut asked = read(headers);
    asked.credentials = identified
        || headers.contains_key(header::AUTHORIZATION)
        || headers.contains_key(header::COOKIE);
    asked.apart = asked.credentials && policy.private_by == PrivateBy::Identity;
    Ok(asked)
}

/// Of contradicting times the most careful counts; one that cannot be read is left out.
fn read(headers: &HeaderMap) -> Asked {
    let mut asked = Asked::default();
    for directive in directives(headers, &header::CACHE_CONTROL) {
        let time = directive.seconds();
        if directive.is("no-cache") {
            asked.no_cache = true;
        } else if directive.is("no-store") {
            asked.no_store = true;
        } else if directive.is("only-if-cached") {
            asked.only_if_cached = true;
        } else if directive.is("max-age") {
            asked.max_age = shorter(asked.max_age, time);
        } else if directive.is("min-fresh") {
            asked.min_fresh = asked.min_fresh.max(time);
        } else if directive.is("max-stale") {
            let any = directive.value.is_none().then_some(Duration::MAX);
            asked.max_stale = shorter(asked.max_stale, time.or(any));
        }
    }
    // The word of HTTP/1.0, heard where there is no newer one (RFC 9111 5.4).
    if !headers.contains_key(header::CACHE_CONTROL) {
        asked.no_cache = directives(headers, &header::PRAGMA).any(|word| word.is("no-cache"));
    }
    asked
}

fn shorter(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::headers;
    use super::*;

    fn asked(fields: &[(&str, &str)]) -> Asked {
        let policy = Policy::new(None);
        admit(&policy, &Method::GET, &headers(fields), false, false).unwrap()
    }

    fn said(words: &str) -> Asked {
        asked(&[("cache-control", words)])
    }

    fn secs(seconds: u64) -> Option<Duration> {
        Some(Duration::from_secs(seconds))
    }

    #[test]
    fn only_the_routes_methods_without_a_body_are_admitted() {
        let mut policy = Policy::new(None);
        let none = HeaderMap::new();
        assert!(admit(&policy, &Method::GET, &none, false, false).is_ok());
        assert!(admit(&policy, &Method::HEAD, &none, false, false).is_ok());
        assert_eq!(
            admit(&policy, &Method::POST, &none, false, false),
            Err(Reason::Method)
        );
        assert_eq!(
            admit(&policy, &Method::GET, &none, true, false),
            Err(Reason::Body)
        );
        policy.methods = vec![Method::GET];
        assert_eq!(
            admit(&policy, &Method::HEAD, &none, false, false),
            Err(Reason::Method)
        );
    }

    #[test]
    fn each_directive_is_heard() {
        assert_eq!(asked(&[]), Asked::default());
        assert!(said("No-Cache").no_cache, "5.2.1.4");
        assert!(said("max-age=1, no-store").no_store, "5.2.1.5");
        assert!(said("only-if-cached").only_if_cached, "5.2.1.7");
        for (words, max_age, min_fresh, max_stale) in [
            ("max-age=60", secs(60), None, None),
            ("max-age=60, max-age=5", secs(5), None, None),
            ("max-age=x", None, None, None),
            ("min-fresh=5, min-fresh=9", None, secs(9), None),
            ("max-stale=7", None, None, secs(7)),
            ("max-stale", None, None, Some(Duration::MAX)),
            ("max-stale, max-stale=7", None, None, secs(7)),
            ("max-stale=x", None, None, None),
            ("x=\"max-age=5\"", None, None, None),
        ] {
            let said = said(words);
            assert_eq!(
                (said.max_age, said.min_fresh, said.max_stale),
                (max_age, min_fresh, max_stale),
                "{words}"
            );
        }
    }

    /// RFC 9111 5.4.
    #[test]
    fn pragma_is_heard_where_nothing_newer_speaks() {
        assert!(asked(&[("pragma", "no-cache")]).no_cache);
        assert!(!asked(&[("pragma", "other")]).no_cache);
        assert!(!asked(&[("pragma", "no-cache"), ("cache-control", "max-age=5")]).no_cache);
    }

    #[test]
    fn credentials_are_seen_and_kept_apart_where_the_route_says_so() {
        let mut policy = Policy::new(None);
        for (private_by, apart) in [(PrivateBy::Nobody, false), (PrivateBy::Identity, true)] {
            policy.private_by = private_by;
            for name in ["authorization", "cookie"] {
                let headers = headers(&[(name, "x")]);
                let asked = admit(&policy, &Method::GET, &headers, false, false).unwrap();
                assert_eq!((asked.credentials, asked.apart), (true, apart));
            }
            let asked = admit(&policy, &Method::GET, &HeaderMap::new(), false, false).unwrap();
            assert_eq!((asked.credentials, asked.apart), (false, false));
        }
    }

    /// RFC 9110 7.6.1 and 13.1: what tells answers apart would not reach the upstream, or asks for
    /// one state alone.
    #[test]
    fn what_the_peer_would_read_otherwise_passes_by() {
        for (name, value, reason) in [
            (
                "connection",
                "close, Accept-Language",
                Some(Reason::Connection),
            ),
            ("connection", "keep-alive, TE", None),
            ("if-match", "\"a\"", Some(Reason::Precondition)),
            ("if-unmodified-since", "soon", Some(Reason::Precondition)),
            ("if-none-match", "\"a\"", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            let policy = Policy::new(None);
            let admitted = admit(&policy, &Method::GET, &headers, false, false);
            assert_eq!(admitted.err(), reason, "{name}: {value}");
        }
    }
}
