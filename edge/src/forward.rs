//! What edge changes in a message that passes through: nothing but what RFC 9110 7.6 demands and
//! what tells the peer about the client.

use std::net::IpAddr;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::identity::X_FORWARDED_CLIENT_CERT;

/// Who asked, hop by hop.
pub const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// `http` or `https`, as the client sees it.
pub const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// The host that the client asked for.
pub const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// The request id.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Fields that belong to one connection and never pass (RFC 9110 7.6.1).
const HOP_BY_HOP: [HeaderName; 6] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TE,
    header::UPGRADE,
    header::PROXY_AUTHENTICATE,
];

/// What only a proxy may say, and peers believe: of strangers it never passes. Some of it moves
/// links or whole paths, and an answer that was moved so would be kept for everybody.
pub const HEARSAY: [HeaderName; 9] = [
    header::FORWARDED,
    HeaderName::from_static("x-real-ip"),
    HeaderName::from_static("x-forwarded-port"),
    HeaderName::from_static("x-forwarded-prefix"),
    HeaderName::from_static("x-forwarded-scheme"),
    HeaderName::from_static("x-forwarded-server"),
    HeaderName::from_static("x-forwarded-ssl"),
    HeaderName::from_static("x-original-url"),
    HeaderName::from_static("x-rewrite-url"),
];

/// The same name to whoever takes `_` and `-` for one another, as CGI does (RFC 3875 4.1.18)?
pub fn reads_as(one: &HeaderName, other: &HeaderName) -> bool {
    let plain = |byte: u8| if byte == b'_' { b'-' } else { byte };
    let (one, other) = (one.as_str().as_bytes(), other.as_str().as_bytes());
    let mut pairs = one.iter().zip(other);
    one.len() == other.len() && pairs.all(|(one, other)| plain(*one) == plain(*other))
}

/// Is this, with `_` for `-`, the name of a field in which edge speaks, or decides who may?
pub fn is_alias(name: &HeaderName) -> bool {
    const OTHERS: [HeaderName; 3] = [header::VIA, X_REQUEST_ID, X_FORWARDED_CLIENT_CERT];
    let text = name.as_str();
    text.contains('_')
        && (text
            .get(..12)
            .is_some_and(|start| start.replace('_', "-") == "x-forwarded-")
            || HEARSAY.iter().chain(&OTHERS).any(|own| reads_as(name, own)))
}

/// A text as a field's value, if a peer reads it as it is: blanks around it are no part of a value
/// (RFC 9110 5.5).
pub fn value(text: &str) -> Option<HeaderValue> {
    let whole = text.trim_matches([' ', '\t']) == text;
    HeaderValue::try_from(text).ok().filter(|_| whole)
}

/// More names than this in `Connection` are not honoured: no honest message lists so many.
const MOST_NOMINATED: usize = 32;

/// How long a message says that its body is (RFC 9110 8.6).
pub fn content_length(headers: &HeaderMap) -> Option<u64> {
    let length = headers.get(header::CONTENT_LENGTH)?;
    length.to_str().ok()?.trim().parse().ok()
}

/// The fields of this message that must not pass: the fixed ones and those that `Connection`
/// names. `Transfer-Encoding` and `Trailer` are left to whoever frames the body.
pub fn hop_by_hop(headers: &HeaderMap) -> Vec<HeaderName> {
    let mut names: Vec<HeaderName> = HOP_BY_HOP
        .into_iter()
        .filter(|name| headers.contains_key(name))
        .collect();
    let fields = headers.get_all(header::CONNECTION).iter();
    let nominated = fields.flat_map(|field| field.as_bytes().split(|&b| b == b','));
    for name in nominated.take(MOST_NOMINATED) {
        let Ok(name) = HeaderName::from_bytes(name.trim_ascii()) else {
            continue;
        };
        let framing = [
            header::CONTENT_LENGTH,
            header::TRANSFER_ENCODING,
            header::HOST,
        ];
        if headers.contains_key(&name) && !framing.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// Does `Connection` take fields away that would pass without it?
pub fn nominates(headers: &HeaderMap) -> bool {
    let fields = headers.get_all(header::CONNECTION).iter();
    let mut names = fields.flat_map(|field| field.as_bytes().split(|&b| b == b','));
    names.any(|name| {
        let name = name.trim_ascii();
        let own = HOP_BY_HOP
            .iter()
            .any(|own| name.eq_ignore_ascii_case(own.as_str().as_bytes()));
        !name.is_empty() && !own && !name.eq_ignore_ascii_case(b"close")
    })
}

/// `X-Forwarded-For` with the peer's address appended.
pub fn forwarded_for(headers: &HeaderMap, peer: IpAddr) -> String {
    let mut chain = String::new();
    for field in headers.get_all(X_FORWARDED_FOR) {
        if let Ok(field) = field.to_str() {
            let field = field.trim();
            if !field.is_empty() {
                chain.push_str(field);
                chain.push_str(", ");
            }
        }
    }
    chain.push_str(&peer.to_canonical().to_string());
    chain
}

/// `Via` with this hop appended (RFC 9110 7.6.3). `version` is that of the received message.
pub fn via(headers: &HeaderMap, version: http::Version) -> HeaderValue {
    let own = match version {
        http::Version::HTTP_10 => "1.0 edge",
        http::Version::HTTP_2 => "2.0 edge",
        _ => "1.1 edge",
    };
    if !headers.contains_key(header::VIA) {
        return HeaderValue::from_static(own);
    }
    let before = headers.get_all(header::VIA).iter();
    let hops: Vec<&str> = before
        .filter_map(|hops| hops.to_str().ok())
        .chain([own])
        .collect();
    // What was made of valid values is one; if it were not, this hop would still stand.
    HeaderValue::try_from(hops.join(", ")).unwrap_or(HeaderValue::from_static(own))
}

/// The longest request id taken over from a trusted proxy.
const LONGEST_ID: usize = 128;

/// The request id that a trusted proxy sent, if it is one: not overlong, and of characters that
/// mean nothing in JSON, in a header or in a log.
pub fn received_id(headers: &HeaderMap) -> Option<&str> {
    let id = headers.get(X_REQUEST_ID)?.to_str().ok()?;
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.:/+=@~#".contains(&b);
    (!id.is_empty() && id.len() <= LONGEST_ID && id.bytes().all(plain)).then_some(id)
}

/// The host that a request names, without its port; `None` if it names none or what it names is
/// no host (RFC 9112 3.2).
pub fn host(authority: &str) -> Option<&str> {
    let (name, port) = match authority.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, Some(port)),
        _ => (authority, None),
    };
    let good_port = port.is_none_or(|port| port.bytes().all(|b| b.is_ascii_digit()));
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'~');
    let bracketed = name
        .strip_prefix('[')
        .and_then(|name| name.strip_suffix(']'));
    let good_name = match bracketed {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !name.is_empty() && name.bytes().all(good),
    };
    (good_port && good_name).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn what_belongs_to_one_connection_does_not_pass() {
        let message = headers(&[
            ("connection", "close, X-Mine, host, content-length"),
            ("x-mine", "1"),
            ("te", "gzip"),
            ("host", "a"),
            ("accept", "b"),
            ("content-length", "0"),
        ]);
        let mut names = hop_by_hop(&message);
        names.sort_by(|a, b| a.as_str().cmp(b.as_str()));
        assert_eq!(names, ["connection", "te", "x-mine"]);
    }

    #[test]
    fn the_chain_grows_to_the_right() {
        let message = headers(&[
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-for", "2.2.2.2"),
            ("via", "1.0 a"),
        ]);
        assert_eq!(
            forwarded_for(&message, "::ffff:3.3.3.3".parse().unwrap()),
            "1.1.1.1, 2.2.2.2, 3.3.3.3"
        );
        assert_eq!(via(&message, http::Version::HTTP_11), "1.0 a, 1.1 edge");
    }

    #[test]
    fn only_a_plain_id_is_taken_over() {
        assert!(received_id(&headers(&[("x-request-id", "abc-1")])).is_some());
        for odd in ["a b", "a\"b", "a\\b", "a,b", ""] {
            assert!(received_id(&headers(&[("x-request-id", odd)])).is_none());
        }
        assert!(received_id(&headers(&[("x-request-id", &"a".repeat(129))])).is_none());
    }

    #[test]
    fn a_host_is_a_textor_an_address_with_perhaps_a_port() {
        assert_eq!(host("a.example:8080"), Some("a.example"));
        assert_eq!(host("a.example"), Some("a.example"));
        assert_eq!(host("[::1]:80"), Some("[::1]"));
        assert_eq!(host("[::1]"), Some("[::1]"));
        for bad in [
            "", ":80", "a b", "a/b", "a@b", "[::1", "::1", "a:b", "a,b", "a:80:90", "[x]",
        ] {
            assert_eq!(host(bad), None, "{bad}");
        }
    }
}
