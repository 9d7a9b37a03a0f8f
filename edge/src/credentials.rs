//! Where in a request a client says who it is, and how that is kept from those behind.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

/// A place where credentials may stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// `Authorization: Bearer …` (RFC 6750 2.1).
    Authorization,
    /// A field of its own.
    Header(HeaderName),
    /// A cookie.
    Cookie(String),
    /// A parameter of the query. What stands there is remembered by many: histories, logs.
    Query(String),
    /// `Sec-WebSocket-Protocol: chat, bearer.…`: a page can give a WebSocket no other field.
    Subprotocol,
}

/// The scheme of tokens (RFC 6750 3).
pub const BEARER: &str = "Bearer";

/// What a page writes before the token that it offers as a subprotocol.
const BEARER_PROTOCOL: &str = "bearer.";

/// More cookies, or parameters, than this are not looked at: no honest request has so many.
const MOST_LOOKED_AT: usize = 256;

/// What stood where more than one thing stood, or what is no text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unclear;

impl Place {
    /// What stands here; an `Err` if it cannot be told which of several counts.
    pub fn find<'a>(
        &self,
        headers: &'a HeaderMap,
        query: Option<&'a str>,
    ) -> Result<Option<Cow<'a, str>>, Unclear> {
        match self {
            Self::Authorization => Ok(bearer(one(headers, &header::AUTHORIZATION)?)),
            Self::Header(name) => Ok(one(headers, name)?.map(Cow::Borrowed)),
            Self::Cookie(name) => {
                let found = one_of(cookies(headers, name))?;
                let text = found.map(|value| std::str::from_utf8(value).map_err(|_| Unclear));
                Ok(text.transpose()?.map(Cow::Borrowed))
            }
            Self::Query(name) => {
                let pairs = query.unwrap_or_default().split('&').take(MOST_LOOKED_AT);
                one_of(pairs.filter_map(|pair| parameter(pair, name)).map(decoded))
            }
            Self::Subprotocol => one_of(
                protocols(headers)
                    .filter_map(|protocol| protocol.strip_prefix(BEARER_PROTOCOL))
                    .map(Cow::Borrowed),
            ),
        }
    }

    /// The fields of a request without what stands here; `None`: they stay as they are.
    pub fn without(&self, headers: &HeaderMap) -> Option<(HeaderName, Option<HeaderValue>)> {
        let (name, left) = match self {
            Self::Authorization => (header::AUTHORIZATION, None),
            Self::Header(name) => (name.clone(), None),
            Self::Query(_) => return None,
            Self::Cookie(own) => {
                let others =
                    pairs(headers).filter(|pair| cookie(pair, own).is_none() && !pair.is_empty());
                let others: Vec<_> = others.collect();
                let left = HeaderValue::from_bytes(&others.join(&b"; "[..])).ok();
                (header::COOKIE, left.filter(|left| !left.is_empty()))
            }
            Self::Subprotocol => {
                let others = protocols(headers).filter(|own| !own.starts_with(BEARER_PROTOCOL));
                (header::SEC_WEBSOCKET_PROTOCOL, joined(others, ", "))
            }
        };
        headers.contains_key(&name).then_some((name, left))
    }

    /// The query without what stands here; `None`: it stays as it is.
    pub fn without_query(&self, query: Option<&str>) -> Option<String> {
        let (Self::Query(name), Some(query)) = (self, query) else {
            return None;
        };
        let others = query
            .split('&')
            .filter(|pair| parameter(pair, name).is_none());
        let others: Vec<_> = others.collect();
        let left = others.join("&");
        (left.len() != query.len()).then_some(left)
    }

    /// The field that is this place.
    pub fn field(&self) -> Option<&HeaderName> {
        match self {
            Self::Header(name) => Some(name),
            _ => None,
        }
    }

    /// May only WebSockets carry a token here? They cannot carry it elsewhere, and others can.
    pub fn is_for_websockets(&self) -> bool {
        matches!(self, Self::Query(_) | Self::Subprotocol)
    }
}

/// The scheme's name may be written in any case (RFC 9110 11.1). What has another scheme is no
/// token.
fn bearer(field: Option<&str>) -> Option<Cow<'_, str>> {
    let (scheme, token) = field?.split_once(' ')?;
    let bearer = scheme.eq_ignore_ascii_case("bearer");
    bearer.then(|| Cow::Borrowed(token.trim_matches(' ')))
}

fn one<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Unclear> {
    let mut fields = headers.get_all(name).iter();
    let Some(first) = fields.next() else {
        return Ok(None);
    };
    if fields.next().is_some() {
        return Err(Unclear);
    }
    first.to_str().map(Some).map_err(|_| Unclear)
}

fn one_of<T>(mut found: impl Iterator<Item = T>) -> Result<Option<T>, Unclear> {
    let first = found.next();
    match found.next() {
        None => Ok(first),
        Some(_) => Err(Unclear),
    }
}

fn all<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let fields = headers.get_all(name).iter();
    fields.filter_map(|field| field.to_str().ok())
}

/// In bytes: what another cookie holds must not hide this one.
fn pairs(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let fields = headers.get_all(header::COOKIE).iter();
    let pairs = fields.flat_map(|field| field.as_bytes().split(|&byte| byte == b';'));
    pairs.map(<[u8]>::trim_ascii)
}

fn cookie<'a>(pair: &'a [u8], name: &str) -> Option<&'a [u8]> {
    pair.strip_prefix(name.as_bytes())?.strip_prefix(b"=")
}

fn cookies<'a>(headers: &'a HeaderMap, name: &str) -> impl Iterator<Item = &'a [u8]> {
    pairs(headers).take(MOST_LOOKED_AT).filter_map(move |pair| {
        let value = cookie(pair, name)?;
        let quoted = value
            .strip_prefix(b"\"")
            .and_then(|value| value.strip_suffix(b"\""));
        Some(quoted.unwrap_or(value))
    })
}

fn protocols(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let fields = all(headers, &header::SEC_WEBSOCKET_PROTOCOL);
    fields.flat_map(|field| field.split(',')).map(str::trim)
}

/// The value of a parameter, whose name may be written with escapes.
fn parameter<'a>(pair: &'a str, name: &str) -> Option<&'a str> {
    let (own, value) = pair.split_once('=')?;
    let same = percent_encoding::percent_decode_str(own).eq(name.bytes());
    same.then_some(value)
}

/// What stands for a token whose bearer has no name: its SHA-256.
pub fn digest(token: &str) -> String {
    let hash = ring::digest::digest(&ring::digest::SHA256, token.as_bytes());
    hash.as_ref()
        .iter()
        .fold(String::new(), |all, byte| all + &format!("{byte:02x}"))
}

fn decoded(value: &str) -> Cow<'_, str> {
    percent_encoding::percent_decode_str(value).decode_utf8_lossy()
}

fn joined<'a>(parts: impl Iterator<Item = &'a str>, by: &str) -> Option<HeaderValue> {
    let parts: Vec<_> = parts.collect();
    // What was cut out of valid values is one.
    (!parts.is_empty()).then(|| HeaderValue::try_from(parts.join(by)).ok())?
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Authorization => f.write_str("authorization"),
            Self::Header(name) => write!(f, "header:{name}"),
            Self::Cookie(name) => write!(f, "cookie:{name}"),
            Self::Query(name) => write!(f, "query:{name}"),
            Self::Subprotocol => f.write_str("subprotocol"),
        }
    }
}

impl FromStr for Place {
    type Err = String;

    /// As the configuration writes it.
    fn from_str(text: &str) -> Result<Self, String> {
        let right = "expected \"authorization\", \"header:NAME\", \"cookie:NAME\", \"query:NAME\" or \"subprotocol\"";
        let name_ok = |name: &str| {
            let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
            !name.is_empty() && name.bytes().all(plain)
        };
        match text.split_once(':') {
            None if text == "authorization" => Ok(Self::Authorization),
            None if text == "subprotocol" => Ok(Self::Subprotocol),
            Some(("header", name)) => HeaderName::try_from(name)
                .map(Self::Header)
                .map_err(|_| format!("`{name}` is no name of a field")),
            Some(("cookie", name)) if name_ok(name) => Ok(Self::Cookie(name.to_owned())),
            Some(("query", name)) if name_ok(name) => Ok(Self::Query(name.to_owned())),
            _ => Err(right.to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    fn found(place: &str, fields: &[(&'static str, &str)], query: Option<&str>) -> String {
        let headers = headers(fields);
        match place.parse::<Place>().unwrap().find(&headers, query) {
            Ok(Some(found)) => found.into_owned(),
            Ok(None) => "none".to_owned(),
            Err(Unclear) => "unclear".to_owned(),
        }
    }

    #[test]
    fn credentials_are_found_where_they_are_looked_for() {
        for (place, fields, query, expected) in [
            (
                "authorization",
                &[("authorization", "Bearer a.b")][..],
                None,
                "a.b",
            ),
            (
                "authorization",
                &[("authorization", "bEARER  a.b ")],
                None,
                "a.b",
            ),
            (
                "authorization",
                &[("authorization", "Basic a")],
                None,
                "none",
            ),
            (
                "authorization",
                &[("authorization", "Bearer")],
                None,
                "none",
            ),
            ("authorization", &[], None, "none"),
            ("header:X-Api-Key", &[("x-api-key", "k")], None, "k"),
            ("cookie:s", &[("cookie", "a=b; s=t; c=d")], None, "t"),
            (
                "cookie:s",
                &[("cookie", "a=b"), ("cookie", "s=\"t\"")],
                None,
                "t",
            ),
            ("cookie:s", &[("cookie", "as=b; s")], None, "none"),
            ("query:t", &[], Some("a=b&t=c%2Ed"), "c.d"),
            ("query:t", &[], Some("at=b"), "none"),
            ("query:t_k", &[], Some("t%5fk=a"), "a"),
            (
                "subprotocol",
                &[("sec-websocket-protocol", "chat, bearer.a.b.c")],
                None,
                "a.b.c",
            ),
        ] {
            assert_eq!(
                found(place, fields, query),
                expected,
                "{place} {fields:?} {query:?}"
            );
        }
    }

    #[test]
    fn of_two_none_counts() {
        let twice = [("authorization", "Bearer a"), ("authorization", "Bearer b")];
        assert_eq!(found("authorization", &twice, None), "unclear");
        assert_eq!(
            found("cookie:s", &[("cookie", "s=a; s=b")], None),
            "unclear"
        );
        assert_eq!(found("query:t", &[], Some("t=a&t=b")), "unclear");
        let protocols = [("sec-websocket-protocol", "bearer.a, bearer.b")];
        assert_eq!(found("subprotocol", &protocols, None), "unclear");
    }

    #[test]
    fn what_was_found_is_taken_out_and_nothing_else() {
        let fields = headers(&[
            ("authorization", "Bearer a"),
            ("cookie", "a=b; s=t"),
            ("cookie", "c=d"),
            ("sec-websocket-protocol", "bearer.a, chat"),
        ]);
        let left = |place: &str| {
            let left = place.parse::<Place>().unwrap().without(&fields);
            left.map(|(name, value)| {
                (
                    name.to_string(),
                    value.map(|v| v.to_str().unwrap().to_owned()),
                )
            })
        };
        let said =
            |name: &str, value: Option<&str>| Some((name.to_owned(), value.map(str::to_owned)));
        assert_eq!(left("authorization"), said("authorization", None));
        assert_eq!(left("cookie:s"), said("cookie", Some("a=b; c=d")));
        assert_eq!(
            left("subprotocol"),
            said("sec-websocket-protocol", Some("chat"))
        );
        assert_eq!(left("header:x-none"), None);
        let query = Place::Query("t".to_owned());
        assert_eq!(
            query.without_query(Some("a=b&t=c&d")).as_deref(),
            Some("a=b&d")
        );
        assert_eq!(query.without_query(Some("t=c")).as_deref(), Some(""));
        assert_eq!(query.without_query(Some("at=c")), None);
    }

    proptest! {
        /// What is taken out is found no more, and what is written is read again.
        #[test]
        fn what_is_taken_out_is_gone(query in "[a-c=&%t]{0,30}", cookie in "[a-ct=; ]{0,30}") {
            let place = Place::Query("t".to_owned());
            let left = place.without_query(Some(&query)).unwrap_or_else(|| query.clone());
            let none = HeaderMap::new();
            prop_assert_eq!(place.find(&none, Some(&left)), Ok(None));
            let fields = headers(&[("cookie", &cookie)]);
            let place: Place = "cookie:t".parse().unwrap();
            prop_assert_eq!(place.to_string().parse::<Place>(), Ok(place.clone()));
            if let Some((name, Some(value))) = place.without(&fields) {
                let left = HeaderMap::from_iter([(name, value)]);
                prop_assert_eq!(place.find(&left, None), Ok(None));
            }
        }
    }
}
