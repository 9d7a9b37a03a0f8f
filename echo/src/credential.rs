//! Where a request for a WebSocket may carry its token. Browsers can set no header but the
//! subprotocols, so those may carry it, too.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use hyper::{
    HeaderMap,
    header::{AUTHORIZATION, HeaderValue, SEC_WEBSOCKET_PROTOCOL},
};
use std::borrow::Cow;

/// The subprotocol whose next neighbour is a token.
const PAIR: &str = "bearer";
/// The subprotocol that holds a token, as Kubernetes' API server takes it.
const CODED: &str = "base64url.bearer.authorization.k8s.io.";

/// The token a request carries: in `Authorization`, else among the subprotocols, else in the query.
/// The first counts, whatever the others say.
pub(crate) fn token<'a>(headers: &'a HeaderMap, query: Option<&'a str>) -> Option<Cow<'a, [u8]>> {
    bearer(headers)
        .map(Cow::Borrowed)
        .or_else(|| offer(headers).token)
        .or_else(|| {
            let mut pairs = query?.split('&');
            let token = pairs.find_map(|pair| pair.strip_prefix("access_token="))?;
            Some(Cow::Borrowed(token.as_bytes()))
        })
}

/// The subprotocol to name in the answer, where one was needed to carry a token: browsers end a
/// connection that names none of those they offered. It is never the one that holds the token.
pub(crate) fn protocol(headers: &HeaderMap) -> Option<HeaderValue> {
    let name = offer(headers).answer?;
    HeaderValue::from_str(name).ok()
}

/// RFC 6750, section 2.1; other schemes are none of our business.
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(AUTHORIZATION)?.as_bytes();
    let (scheme, rest) = value.split_at_checked(b"Bearer".len())?;
    let (space, token) = rest.split_first()?;
    (scheme.eq_ignore_ascii_case(b"Bearer") && *space == b' ').then(|| token.trim_ascii())
}

#[derive(Default)]
struct Offer<'a> {
    token: Option<Cow<'a, [u8]>>,
    answer: Option<&'a str>,
}

/// What the offered subprotocols say, in both forms.
fn offer(headers: &HeaderMap) -> Offer<'_> {
    let mut names = headers
        .get_all(SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim);
    let mut coded = None;
    let mut other = None;
    while let Some(name) = names.next() {
        if name == PAIR {
            if let Some(token) = names.next() {
                return Offer {
                    token: Some(Cow::Borrowed(token.as_bytes())),
                    answer: Some(PAIR),
                };
            }
        } else if let Some(token) = name.strip_prefix(CODED) {
            // What cannot be decoded is an empty token, hence a malformed one.
            let token = BASE64_URL_SAFE_NO_PAD.decode(token).unwrap_or_default();
            coded.get_or_insert(token);
        } else if !name.is_empty() {
            other.get_or_insert(name);
        }
    }
    match coded {
        Some(token) => Offer {
            token: Some(Cow::Owned(token)),
            answer: other,
        },
        None => Offer::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    fn found(pairs: &[(&'static str, &'static str)], query: Option<&str>) -> Option<String> {
        let headers = asked(pairs);
        let token = token(&headers, query)?.into_owned();
        Some(String::from_utf8(token).unwrap())
    }

    const PROTOCOL: &str = "sec-websocket-protocol";

    #[test]
    fn a_token_is_found_in_each_place() {
        for (headers, query) in [
            (vec![("authorization", "Bearer a.b.c")], None),
            (vec![("authorization", "bearer  a.b.c ")], None),
            (vec![(PROTOCOL, "bearer, a.b.c")], None),
            (vec![(PROTOCOL, "chat,bearer,a.b.c")], None),
            (vec![(PROTOCOL, "bearer"), (PROTOCOL, "a.b.c")], None),
            (
                vec![(
                    PROTOCOL,
                    "base64url.bearer.authorization.k8s.io.YS5iLmM, chat",
                )],
                None,
            ),
            (vec![], Some("access_token=a.b.c")),
            (vec![], Some("x=1&access_token=a.b.c&y=2")),
        ] {
            let token = found(&headers, query);
            assert_eq!(token.as_deref(), Some("a.b.c"), "{headers:?} {query:?}");
        }
    }

    #[test]
    fn nothing_else_is_a_token() {
        for (headers, query) in [
            (vec![], None),
            (vec![("authorization", "Basic YTpi")], None),
            (vec![("authorization", "Bearer")], None),
            (vec![(PROTOCOL, "bearer")], None),
            (vec![(PROTOCOL, "chat, graphql-ws")], None),
            (vec![], Some("no_access_token=a.b.c&token=a.b.c")),
        ] {
            assert_eq!(found(&headers, query), None, "{headers:?} {query:?}");
        }
    }

    #[test]
    fn the_header_counts_before_the_subprotocol_and_that_before_the_query() {
        let header = ("authorization", "Bearer first");
        let protocol = (PROTOCOL, "bearer, second");
        let query = Some("access_token=third");
        let first = found(&[header, protocol], query);
        assert_eq!(first.as_deref(), Some("first"));
        assert_eq!(found(&[protocol], query).as_deref(), Some("second"));
    }

    #[test]
    fn a_coded_token_that_cannot_be_decoded_is_an_empty_one() {
        let coded = "base64url.bearer.authorization.k8s.io.!!!";
        let token = found(&[(PROTOCOL, coded)], None);
        assert_eq!(token.as_deref(), Some(""));
    }

    #[test]
    fn the_subprotocol_in_the_answer_is_never_the_token() {
        for (offered, answered) in [
            ("bearer, a.b.c", Some("bearer")),
            ("chat, bearer, a.b.c", Some("bearer")),
            (
                "base64url.bearer.authorization.k8s.io.YS5iLmM, chat",
                Some("chat"),
            ),
            (
                "chat, base64url.bearer.authorization.k8s.io.YS5iLmM",
                Some("chat"),
            ),
            ("base64url.bearer.authorization.k8s.io.YS5iLmM", None),
            ("bearer", None),
            ("chat", None),
        ] {
            let answer = protocol(&asked(&[(PROTOCOL, offered)]));
            let answer = answer.as_ref().map(|value| value.to_str().unwrap());
            assert_eq!(answer, answered, "{offered}");
        }
    }
}
