//! What a route lets through of WebSockets, and which upgrades pass: a valid handshake (RFC 6455
//! 4.1), from a page that may, on a route that takes one.

pub mod clock;
pub mod ending;
pub mod frame;
mod origin;
mod places;

pub use origin::{Origin, Site};
pub use places::{Global, PerClient, Place, Places};

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Version};

use crate::limit::Quota;
use crate::refusal::Refusal;
use clock::Times;
use frame::{Rules, Sender};

/// What a route lets through; `None` is "off".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// When it ends for the time's sake, and when the client is pinged.
    pub times: Times,
    /// The most bytes of a message that a client sends.
    pub message: Option<u64>,
    /// The most bytes of a frame that a client sends.
    pub frame: Option<u64>,
    /// How many messages a client may send, over all its WebSockets.
    pub messages_per_client: Option<Quota>,
    /// The most WebSockets that a client may have open.
    pub per_client: Option<usize>,
    /// The most WebSockets open at once.
    pub global: Option<usize>,
    /// The pages that may open one.
    pub origins: Option<Vec<Origin>>,
    /// The subprotocols that may be spoken.
    pub subprotocols: Option<Vec<Subprotocol>>,
}

/// A subprotocol, or all that begin with these characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subprotocol(String);

impl Subprotocol {
    /// Reads `chat.v2`, or `v2.*` for all that begin with `v2.`.
    pub fn read(text: &str) -> Result<Self, String> {
        let name = text.strip_suffix('*').unwrap_or(text);
        let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        if !text.is_empty() && name.bytes().all(|b| token(b) && b != b'*') {
            Ok(Self(text.to_owned()))
        } else {
            Err("expected a subprotocol's name, as \"chat.v2\", or \"v2.*\"".to_owned())
        }
    }

    fn fits(&self, offer: &[u8]) -> bool {
        match self.0.strip_suffix('*') {
            Some(start) => offer.starts_with(start.as_bytes()),
            None => offer == self.0.as_bytes(),
        }
    }
}

impl std::fmt::Display for Subprotocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl Settings {
    /// What a client may send, once the handshake is done.
    pub fn client_rules(&self, compressed: bool) -> Rules {
        Rules {
            sender: Sender::Client,
            frame: self.frame.unwrap_or(u64::MAX),
            message: self.message.unwrap_or(u64::MAX),
            compressed,
        }
    }

    /// What the upstream may send: any size.
    pub fn upstream_rules(compressed: bool) -> Rules {
        Rules {
            sender: Sender::Upstream,
            frame: u64::MAX,
            message: u64::MAX,
            compressed,
        }
    }

    /// Lets a valid handshake pass, from a page that may open a WebSocket here.
    pub fn permit<'a>(
        &self,
        method: &Method,
        headers: &HeaderMap,
        site: impl Into<Site<'a>>,
    ) -> Result<(), Refusal> {
        let site = site.into();
        valid(method, headers)?;
        if let Some(origins) = &self.origins {
            let mut named = headers.get_all(header::ORIGIN).iter();
            // Only browsers name one, and only they can be led astray by another's page.
            if let Some(origin) = named.next() {
                let origin = origin.to_str().unwrap_or_default();
                let fits = origins.iter().any(|own| own.fits(origin, site));
                if !fits || named.next().is_some() {
                    return Err(Refusal::OriginNotAllowed);
                }
            }
        }
        if let Some(spoken) = &self.subprotocols {
            let mut offered = members(headers, &header::SEC_WEBSOCKET_PROTOCOL);
            if !offered.any(|offer| spoken.iter().any(|own| own.fits(offer))) {
                return Err(Refusal::SubprotocolNotAllowed);
            }
        }
        Ok(())
    }

    /// What of the client's subprotocols and extensions is offered to the upstream: the
    /// subprotocols that may be spoken, and permessage-deflate (RFC 7692), whose frames edge can
    /// read. `None` where nothing is.
    pub fn offers(&self, headers: &HeaderMap) -> Offers {
        let spoken = |offer: &&[u8]| match &self.subprotocols {
            Some(spoken) => spoken.iter().any(|own| own.fits(offer)),
            None => true,
        };
        let protocols = members(headers, &header::SEC_WEBSOCKET_PROTOCOL).filter(spoken);
        let extensions = members(headers, &header::SEC_WEBSOCKET_EXTENSIONS);
        Offers {
            subprotocols: join(protocols),
            extensions: join(extensions.filter(|offer| is_deflate(offer))),
        }
    }
}

/// What the upstream is offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offers {
    /// For `Sec-WebSocket-Protocol`.
    pub subprotocols: Option<HeaderValue>,
    /// For `Sec-WebSocket-Extensions`.
    pub extensions: Option<HeaderValue>,
}

impl Offers {
    /// What the two sides agreed on: is it compressed? `None` where the answer takes what was
    /// not offered, which a client must not accept (RFC 6455 4.1).
    pub fn agreed(&self, answer: &HeaderMap) -> Option<bool> {
        let mut chosen = members(answer, &header::SEC_WEBSOCKET_PROTOCOL);
        if let Some(choice) = chosen.next() {
            let offered = self.subprotocols.as_ref();
            let was_offered = offered.is_some_and(|offers| split(offers).any(|own| own == choice));
            if !was_offered || chosen.next().is_some() {
                return None;
            }
        }
        let mut extensions = members(answer, &header::SEC_WEBSOCKET_EXTENSIONS);
        let Some(first) = extensions.next() else {
            return Some(false);
        };
        let was_offered = self.extensions.is_some() && is_deflate(first);
        (was_offered && extensions.next().is_none()).then_some(true)
    }
}

fn is_deflate(extension: &[u8]) -> bool {
    let name = extension.split(|&b| b == b';').next().unwrap_or_default();
    name.trim_ascii() == b"permessage-deflate"
}

fn join<'a>(members: impl Iterator<Item = &'a [u8]>) -> Option<HeaderValue> {
    let joined = members.collect::<Vec<_>>().join(&b", "[..]);
    let some = Some(joined).filter(|joined| !joined.is_empty())?;
    HeaderValue::from_bytes(&some).ok()
}

/// Does the request ask to become a WebSocket? Other upgrades are a client's offer that a server
/// may pass over (RFC 9110 7.8), and edge does; in HTTP/1.0 `Upgrade` means nothing.
pub fn asks(version: Version, headers: &HeaderMap) -> bool {
    version == Version::HTTP_11
        && lists(headers, &header::UPGRADE, "websocket")
        && lists(headers, &header::CONNECTION, "upgrade")
}

/// Is it a valid handshake (RFC 6455 4.2.1)?
fn valid(method: &Method, headers: &HeaderMap) -> Result<(), Refusal> {
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
    members(headers, name).any(|own| own.eq_ignore_ascii_case(member.as_bytes()))
}

/// The members of a list that may be spread over fields (RFC 9110 5.6.1), the empty ones left
/// out.
fn members<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    headers.get_all(name).iter().flat_map(split)
}

fn split(field: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    let members = field.as_bytes().split(|&b| b == b',');
    let members = members.map(<[u8]>::trim_ascii);
    members.filter(|member| !member.is_empty())
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
    fn a_valid_handshake_passes() {
        assert!(asks(Version::HTTP_11, &handshake()));
        assert!(!asks(Version::HTTP_10, &handshake()));
        assert_eq!(valid(&Method::GET, &handshake()), Ok(()));
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
            valid(&Method::GET, &headers)
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
            valid(&Method::POST, &handshake()),
            Err(Refusal::BadHandshake)
        );
        let mut twice = handshake();
        twice.append(
            header::SEC_WEBSOCKET_KEY,
            "dGhlIHNhbXBsZSBub25jZQ==".parse().unwrap(),
        );
        assert_eq!(valid(&Method::GET, &twice), Err(Refusal::BadHandshake));
        let mut with_body = handshake();
        with_body.insert(header::CONTENT_LENGTH, "5".parse().unwrap());
        assert_eq!(valid(&Method::GET, &with_body), Err(Refusal::BadHandshake));
    }

    const OPEN: Settings = Settings {
        times: Times {
            idle: None,
            ping: None,
            pong: None,
            lifetime: None,
        },
        message: None,
        frame: None,
        messages_per_client: None,
        per_client: None,
        global: None,
        origins: None,
        subprotocols: None,
    };

    fn with(name: HeaderName, value: &str) -> HeaderMap {
        let mut headers = handshake();
        headers.insert(name, value.parse().unwrap());
        headers
    }

    fn permit(settings: &Settings, headers: &HeaderMap) -> Result<(), Refusal> {
        settings.permit(&Method::GET, headers, "app.example")
    }

    #[test]
    fn another_sites_page_is_refused_and_a_program_is_not() {
        let same = Settings {
            origins: Some(vec![Origin::Same]),
            ..OPEN
        };
        let from = |origin| with(header::ORIGIN, origin);
        assert_eq!(permit(&same, &from("https://app.example")), Ok(()));
        assert_eq!(permit(&same, &handshake()), Ok(()));
        for origin in [
            "https://evil.example",
            "null",
            "https://app.example.evil",
            "",
        ] {
            let refused = permit(&same, &from(origin));
            assert_eq!(refused, Err(Refusal::OriginNotAllowed), "{origin}");
            assert_eq!(permit(&OPEN, &from(origin)), Ok(()));
        }
        let mut twice = from("https://app.example");
        twice.append(header::ORIGIN, "https://app.example".parse().unwrap());
        assert_eq!(permit(&same, &twice), Err(Refusal::OriginNotAllowed));
    }

    #[test]
    fn only_what_may_be_spoken_is_offered() {
        let chat = Settings {
            subprotocols: Some(vec![
                Subprotocol::read("chat").unwrap(),
                Subprotocol::read("v2.*").unwrap(),
            ]),
            ..OPEN
        };
        let offer = |names| with(header::SEC_WEBSOCKET_PROTOCOL, names);
        let offers = |settings: &Settings, names| settings.offers(&offer(names)).subprotocols;
        assert_eq!(permit(&chat, &offer("mqtt, chat")), Ok(()));
        assert_eq!(offers(&chat, "mqtt, chat,v2.a").unwrap(), "chat, v2.a");
        assert_eq!(offers(&OPEN, "mqtt, chat").unwrap(), "mqtt, chat");
        let refused = Err(Refusal::SubprotocolNotAllowed);
        assert_eq!(permit(&chat, &offer("mqtt, chatter")), refused);
        assert_eq!(permit(&chat, &handshake()), refused);
        assert!(Subprotocol::read("a b").is_err() && Subprotocol::read("").is_err());
    }

    #[test]
    fn only_the_extension_that_edge_can_read_is_offered() {
        let offers = |extensions| {
            let headers = with(header::SEC_WEBSOCKET_EXTENSIONS, extensions);
            OPEN.offers(&headers).extensions
        };
        assert_eq!(
            offers("x-webkit-deflate-frame, permessage-deflate; client_max_window_bits").unwrap(),
            "permessage-deflate; client_max_window_bits"
        );
        assert_eq!(offers("permessage-bzip2"), None);
    }

    #[test]
    fn an_answer_takes_what_was_offered_or_nothing() {
        let map = |fields: &[(HeaderName, &str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.append(name, value.parse().unwrap());
            }
            headers
        };
        let (protocol, extension) = (
            header::SEC_WEBSOCKET_PROTOCOL,
            header::SEC_WEBSOCKET_EXTENSIONS,
        );
        let deflate = (
            extension.clone(),
            "permessage-deflate; server_no_context_takeover",
        );
        let offers = |fields: &[_]| OPEN.offers(&map(fields));
        let offered = offers(&[(protocol.clone(), "a, b"), deflate.clone()]);
        assert_eq!(offered.agreed(&map(&[])), Some(false));
        assert_eq!(
            offered.agreed(&map(&[(protocol.clone(), "b")])),
            Some(false)
        );
        assert_eq!(
            offered.agreed(&map(std::slice::from_ref(&deflate))),
            Some(true)
        );
        for answer in [
            map(&[(protocol.clone(), "c")]),
            map(&[(protocol.clone(), "a, b")]),
            map(&[(extension.clone(), "permessage-bzip2")]),
            map(&[deflate.clone(), deflate.clone()]),
        ] {
            assert_eq!(offered.agreed(&answer), None, "{answer:?}");
        }
        assert_eq!(offers(&[]).agreed(&map(&[deflate])), None);
    }
}
