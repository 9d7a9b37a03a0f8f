//! What a shared cache may keep and hand out (RFC 9111), decided for safety: no client ever sees
//! another's answer.
//!
//! A request with `Authorization` or `Cookie` passes by the cache, in both directions. An answer
//! with `Set-Cookie`, `Vary: *`, or a `Cache-Control` that forbids it is not kept. What the
//! upstream says about time can only shorten the route's.

use std::time::{Duration, SystemTime};

use http::header::{self, HeaderMap, HeaderName};
use http::{Method, StatusCode};

/// How a route caches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// How long an answer stays fresh, at most.
    pub ttl: Duration,
}

/// Why the cache was passed by, or an answer not kept; the word in log and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Not GET or HEAD.
    Method,
    /// The request carries `Authorization`.
    Authorization,
    /// The request carries `Cookie`.
    Cookie,
    /// The answer's status is not 200.
    Status,
    /// `no-store`, `no-cache` or `private`, or no time left.
    CacheControl,
    /// The answer sets a cookie.
    SetCookie,
    /// The answer varies by everything, or by more than edge tells apart.
    Vary,
}

impl Reason {
    /// The word in log and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Method => "method",
            Self::Authorization => "authorization",
            Self::Cookie => "cookie",
            Self::Status => "status",
            Self::CacheControl => "cache_control",
            Self::SetCookie => "set_cookie",
            Self::Vary => "vary",
        }
    }
}

/// May this request be answered from the cache, and its answer be kept?
pub fn admit(method: &Method, headers: &HeaderMap) -> Result<(), Reason> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        Err(Reason::Method)
    } else if headers.contains_key(header::AUTHORIZATION) {
        Err(Reason::Authorization)
    } else if headers.contains_key(header::COOKIE) {
        Err(Reason::Cookie)
    } else {
        Ok(())
    }
}

/// The key of an answer: length before text, so that no two different requests share one.
///
/// `route` is the number under which the route's answers are kept.
/// `told` is the host that the peer is told of beside the request's own, if it is: it may put
/// that into its answer.
pub fn key(
    route: u64,
    scheme: &str,
    host: &str,
    told: Option<&[u8]>,
    path: &str,
    query: Option<&str>,
) -> Vec<u8> {
    let host = host.to_ascii_lowercase();
    let mut key = Vec::with_capacity(scheme.len() + host.len() + path.len() + 64);
    key.extend_from_slice(&route.to_be_bytes());
    for part in [scheme, &host, path] {
        key.extend_from_slice(&part.len().to_be_bytes());
        key.extend_from_slice(part.as_bytes());
    }
    if let Some(told) = told {
        key.push(0);
        key.extend_from_slice(&told.len().to_be_bytes());
        key.extend_from_slice(told);
    }
    // No query and an empty query are different requests.
    if let Some(query) = query {
        key.push(b'?');
        key.extend_from_slice(query.as_bytes());
    }
    key
}

/// More names than this in `Vary` are not told apart.
const MOST_VARY: usize = 16;

/// The request fields by which an answer varies (RFC 9110 12.5.5), or why it cannot be kept.
pub fn vary(answer: &HeaderMap) -> Result<Vec<HeaderName>, Reason> {
    let mut names = Vec::new();
    for name in list(answer, &header::VARY) {
        let name = HeaderName::from_bytes(name).map_err(|_| Reason::Vary)?;
        if name.as_str() == "*" || names.len() == MOST_VARY {
            return Err(Reason::Vary);
        }
        names.push(name);
    }
    names.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
    names.dedup();
    Ok(names)
}

/// How long the answer may be kept from `now` on, or why not at all.
pub fn keep(
    policy: Policy,
    status: StatusCode,
    answer: &HeaderMap,
    now: SystemTime,
) -> Result<Duration, Reason> {
    if status != StatusCode::OK {
        return Err(Reason::Status);
    }
    if answer.contains_key(header::SET_COOKIE) {
        return Err(Reason::SetCookie);
    }
    vary(answer)?;
    let directives = Directives::read(answer)?;
    let lifetime = directives
        .s_maxage
        .or(directives.max_age)
        .or_else(|| expires_in(answer, now));
    let lifetime = lifetime.map_or(policy.ttl, |lifetime| lifetime.min(policy.ttl));
    let left = lifetime.saturating_sub(age(answer, now));
    if left.is_zero() {
        Err(Reason::CacheControl)
    } else {
        Ok(left)
    }
}

/// How old the answer was when it came (RFC 9111 4.2.3).
pub fn age(answer: &HeaderMap, now: SystemTime) -> Duration {
    let stated = list(answer, &header::AGE)
        .next()
        .and_then(seconds)
        .unwrap_or_default();
    let apparent = date(answer, &header::DATE).and_then(|date| now.duration_since(date).ok());
    // A clock that is off by a little must not shorten every lifetime; `Age` speaks for itself.
    stated.max(
        apparent
            .filter(|age| age.as_secs() > 60)
            .unwrap_or_default(),
    )
}

#[derive(Default)]
struct Directives {
    max_age: Option<Duration>,
    s_maxage: Option<Duration>,
}

impl Directives {
    /// Reads `Cache-Control` (RFC 9111 5.2.2). Of contradicting times the shortest counts, and a
    /// time that cannot be read is none at all (4.2.1).
    fn read(answer: &HeaderMap) -> Result<Self, Reason> {
        let mut found = Self::default();
        for directive in list(answer, &header::CACHE_CONTROL) {
            let mut parts = directive.splitn(2, |&b| b == b'=');
            let name = parts
                .next()
                .unwrap_or_default()
                .trim_ascii()
                .to_ascii_lowercase();
            let value = parts.next().unwrap_or_default().trim_ascii();
            let value = value
                .strip_prefix(b"\"")
                .and_then(|value| value.strip_suffix(b"\""))
                .unwrap_or(value);
            let time = match name.as_slice() {
                b"no-store" | b"no-cache" | b"private" => return Err(Reason::CacheControl),
                b"max-age" => &mut found.max_age,
                b"s-maxage" => &mut found.s_maxage,
                _ => continue,
            };
            let value = seconds(value).unwrap_or_default();
            *time = Some(time.map_or(value, |time| time.min(value)));
        }
        Ok(found)
    }
}

fn expires_in(answer: &HeaderMap, now: SystemTime) -> Option<Duration> {
    answer.get(header::EXPIRES)?;
    // An `Expires` that is no date has passed (RFC 9111 5.3).
    let expires = date(answer, &header::EXPIRES).unwrap_or(SystemTime::UNIX_EPOCH);
    let from = date(answer, &header::DATE).unwrap_or(now);
    Some(expires.duration_since(from).unwrap_or_default())
}

fn date(answer: &HeaderMap, name: &HeaderName) -> Option<SystemTime> {
    httpdate::parse_http_date(answer.get(name)?.to_str().ok()?).ok()
}

fn seconds(text: &[u8]) -> Option<Duration> {
    let text = std::str::from_utf8(text).ok()?;
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    // What is too large to count is very long (RFC 9111 1.2.2).
    Some(Duration::from_secs(
        text.parse().unwrap_or(u64::from(u32::MAX)),
    ))
}

fn list<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    let fields = headers.get_all(name).iter();
    let members = fields.flat_map(|field| field.as_bytes().split(|&b| b == b','));
    members
        .map(<[u8]>::trim_ascii)
        .filter(|member| !member.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);
    const POLICY: Policy = Policy { ttl: HOUR };

    fn headers(fields: &[(&str, &str)]) -> HeaderMap {
        let named = |(name, value): &(&str, &str)| {
            (
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                value.parse().unwrap(),
            )
        };
        let mut headers = HeaderMap::new();
        for (name, value) in fields.iter().map(named) {
            headers.append(name, value);
        }
        headers
    }

    fn kept(fields: &[(&str, &str)]) -> Result<u64, Reason> {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        keep(POLICY, StatusCode::OK, &headers(fields), now).map(|time| time.as_secs())
    }

    #[test]
    fn a_silent_upstream_gets_the_routes_time() {
        assert_eq!(kept(&[]), Ok(3_600));
        assert_eq!(
            kept(&[("cache-control", "public, must-revalidate")]),
            Ok(3_600)
        );
    }

    #[test]
    fn the_upstream_can_only_shorten() {
        assert_eq!(kept(&[("cache-control", "max-age=60")]), Ok(60));
        assert_eq!(kept(&[("cache-control", "max-age=86400")]), Ok(3_600));
        assert_eq!(
            kept(&[("cache-control", "max-age=60, s-maxage=30")]),
            Ok(30)
        );
        assert_eq!(
            kept(&[
                ("cache-control", "max-age=60"),
                ("cache-control", "max-age=20")
            ]),
            Ok(20)
        );
        assert_eq!(kept(&[("cache-control", "MAX-AGE=\"60\"")]), Ok(60));
        let dated = [
            ("date", "Sun, 06 Nov 1994 08:49:37 GMT"),
            ("expires", "Sun, 06 Nov 1994 08:50:37 GMT"),
        ];
        assert_eq!(kept(&dated), Ok(60));
    }

    #[test]
    fn what_must_not_be_shared_is_not_kept() {
        for field in [
            "no-store",
            "private",
            "no-cache",
            "private=\"x\"",
            "max-age=0",
            "s-maxage=0, max-age=60",
            "max-age=abc",
            "Public, No-Store",
        ] {
            assert_eq!(
                kept(&[("cache-control", field)]),
                Err(Reason::CacheControl),
                "{field}"
            );
        }
        assert_eq!(kept(&[("expires", "0")]), Err(Reason::CacheControl));
        assert_eq!(kept(&[("set-cookie", "a=b")]), Err(Reason::SetCookie));
        assert_eq!(kept(&[("vary", "accept, *")]), Err(Reason::Vary));
        let not_found = keep(
            POLICY,
            StatusCode::NOT_FOUND,
            &HeaderMap::new(),
            SystemTime::now(),
        );
        assert_eq!(not_found, Err(Reason::Status));
    }

    #[test]
    fn the_age_it_came_with_counts() {
        assert_eq!(kept(&[("age", "600")]), Ok(3_000));
        assert_eq!(kept(&[("age", "3600")]), Err(Reason::CacheControl));
    }

    #[test]
    fn who_shows_a_credential_passes_by() {
        assert_eq!(admit(&Method::GET, &headers(&[])), Ok(()));
        assert_eq!(admit(&Method::POST, &headers(&[])), Err(Reason::Method));
        assert_eq!(
            admit(&Method::GET, &headers(&[("authorization", "x")])),
            Err(Reason::Authorization)
        );
        assert_eq!(
            admit(&Method::HEAD, &headers(&[("cookie", "x")])),
            Err(Reason::Cookie)
        );
    }

    #[test]
    fn different_requests_have_different_keys() {
        let keys = [
            key(0, "http", "a", None, "/b", None),
            key(0, "http", "a", None, "/b", Some("")),
            key(0, "http", "a/", None, "b", None),
            key(0, "https", "a", None, "/b", None),
            key(0, "http", "a", None, "/b?", None),
            key(0, "http", "b", None, "/b", None),
            key(0, "http", "a", Some(b""), "/b", None),
            key(0, "http", "a", Some(b"?"), "/b", None),
            key(0, "http", "a", Some(b""), "/b", Some("?")),
        ];
        for (place, key) in keys.iter().enumerate() {
            assert!(!keys.iter().skip(place + 1).any(|other| other == key));
        }
        assert_eq!(
            key(0, "http", "A.Example", None, "/", None),
            key(0, "http", "a.example", None, "/", None)
        );
    }
}
