//! Which upgrades pass: a valid WebSocket handshake (RFC 6455 4.1), on a route that takes one.

pub mod clock;
pub mod ending;
pub mod frame;
mod origin;
mod places;

pub use origin::Origin;
pub use places::{Global, PerClient, Place, Places};

use http::header::{self, HeaderMap, HeaderName};
use http::{Method, Version};

use crate::refusal::Refusal;

/// Does the request ask to become a WebSocket? Other upgrades are a client's offer that a server
/// may pass over (RFC 9110 7.8), and edge does; in HTTP/1.0 `Upgrade` means nothing.
pub fn asks(version: Version, headers: &HeaderMap) -> bool {
    version == Version::HTTP_11
        && lists(headers, &header::UPGRADE, "websocket")
        && lists(headers, &header::CONNECTION, "upgrade")
}

/// Lets a valid WebSocket handshake pass where the route allows one.
pub fn permit(allowed: bool, method: &Method, headers: &HeaderMap) -> Result<(), Refusal> {
    if !allowed {
        return Err(Refusal::UpgradeNotAllowed);
    }
    let only = |name| {
        let mut fields = headers.get_all(name).iter();
        fields.next().filter(|_| fields.next().is_none())
    };
    if only(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(Refusal::HandshakeVersion);
    }
    // 16 bytes in base64: 24 characters, the last two of which are padding.
    let key = only(header::SEC_WEBSOCKET_KEY).map(|key| key.as_bytes().trim_ascii());
    let good_key = key.is_some_and(|key| key.len() == 24 && key.ends_with(b"=="));
    let body = headers.contains_key(header::TRANSFER_ENCODING)
        || headers
            .get(header::CONTENT_LENGTH)
            .is_some_and(|length| length != "0");
    if method != Method::GET || !good_key || body {
        return Err(Refusal::BadHandshake);
    }
    Ok(())
}

fn lists(headers: &HeaderMap, name: &HeaderName, member: &str) -> bool {
    let fields = headers.get_all(name).iter();
    let mut members = fields.flat_map(|field| field.as_bytes().split(|&b| b == b','));
    members.any(|own| own.trim_ascii().eq_ignore_ascii_case(member.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handshake() -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            (header::CONNECTION, "keep-alive, Upgrade"),
            (header::UPGRADE, "websocket"),
            (header::SEC_WEBSOCKET_VERSION, "13"),
            (header::SEC_WEBSOCKET_KEY, "dGhlIHNhbXBsZSBub25jZQ=="),
        ] {
            headers.insert(name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn a_valid_handshake_passes_only_where_it_may() {
        assert!(asks(Version::HTTP_11, &handshake()));
        assert!(!asks(Version::HTTP_10, &handshake()));
        assert_eq!(permit(true, &Method::GET, &handshake()), Ok(()));
        assert_eq!(
            permit(false, &Method::GET, &handshake()),
            Err(Refusal::UpgradeNotAllowed)
        );
    }

    #[test]
    fn another_protocol_is_passed_over() {
        let mut headers = handshake();
        headers.insert(header::UPGRADE, "h2c".parse().unwrap());
        assert!(!asks(Version::HTTP_11, &headers));
    }

    #[test]
    fn a_faulty_handshake_is_named() {
        let without = |name: HeaderName| {
            let mut headers = handshake();
            headers.remove(name);
            permit(true, &Method::GET, &headers)
        };
        assert_eq!(
            without(header::SEC_WEBSOCKET_VERSION),
            Err(Refusal::HandshakeVersion)
        );
        assert_eq!(
            without(header::SEC_WEBSOCKET_KEY),
            Err(Refusal::BadHandshake)
        );
        assert_eq!(
            permit(true, &Method::POST, &handshake()),
            Err(Refusal::BadHandshake)
        );
        let mut twice = handshake();
        twice.append(
            header::SEC_WEBSOCKET_KEY,
            "dGhlIHNhbXBsZSBub25jZQ==".parse().unwrap(),
        );
        assert_eq!(
            permit(true, &Method::GET, &twice),
            Err(Refusal::BadHandshake)
        );
        let mut with_body = handshake();
        with_body.insert(header::CONTENT_LENGTH, "5".parse().unwrap());
        assert_eq!(
            permit(true, &Method::GET, &with_body),
            Err(Refusal::BadHandshake)
        );
    }
}
