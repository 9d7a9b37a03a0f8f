//! Which answers are compressed on their way to a client, and how their heads then read (RFC 9110
//! 8.4, 12.5.3).

use std::fmt;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version, header};

use crate::forward::content_length;

/// A coding that edge writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// RFC 7932
    Brotli,
    /// RFC 8878, within the window of RFC 9659
    Zstd,
    /// RFC 1952
    Gzip,
}

impl Encoding {
    /// All of them, in the order in which edge would rather write them.
    pub const ALL: [Self; 3] = [Self::Brotli, Self::Zstd, Self::Gzip];

    /// Its name in `Content-Encoding`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Brotli => "br",
            Self::Zstd => "zstd",
            Self::Gzip => "gzip",
        }
    }

    /// Reads its name; the error says what would have been right.
    pub fn read(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|own| own.name() == text);
        found.ok_or_else(|| "expected \"br\", \"zstd\" or \"gzip\"".to_owned())
    }

    /// In a client's words, where one may write "x-gzip", too (RFC 9110 8.4.1.3), in any case.
    fn is_called(self, name: &str) -> bool {
        name.eq_ignore_ascii_case(self.name())
            || self == Self::Gzip && name.eq_ignore_ascii_case("x-gzip")
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A media type, or all of a kind: `text/*`, `application/*+json`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Type {
    kind: String,
    own: Own,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Own {
    Any,
    /// `*+json`: what is held.
    EndsIn(String),
    Is(String),
}

impl Type {
    /// Reads one; the error says what would have been right.
    pub fn read(text: &str) -> Result<Self, String> {
        let wrong = || "expected a type, as \"text/*\" or \"application/*+json\"".to_owned();
        let text = text.to_ascii_lowercase();
        let (kind, own) = text.split_once('/').ok_or_else(wrong)?;
        let own = match own.strip_prefix('*') {
            Some("") => Own::Any,
            Some(end) if end.starts_with('+') && is_token(end) && end.len() > 1 => {
                Own::EndsIn(end.to_owned())
            }
            None if is_call(kind, own) => {
                return Err("calls of gRPC are never compressed by edge".to_owned());
            }
            None if is_token(own) => Own::Is(own.to_owned()),
            _ => return Err(wrong()),
        };
        if !is_token(kind) {
            return Err(wrong());
        }
        let kind = kind.to_owned();
        Ok(Self { kind, own })
    }

    /// Events are to arrive one by one: no `*` means them.
    fn takes(&self, kind: &str, own: &str) -> bool {
        let events = is(kind, "text") && is(own, "event-stream");
        is(kind, &self.kind)
            && match &self.own {
                Own::Any => !events,
                Own::EndsIn(end) => {
                    let from = own.len().checked_sub(end.len());
                    from.and_then(|from| own.get(from..))
                        .is_some_and(|own| is(own, end))
                }
                Own::Is(name) => is(own, name),
            }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.own {
            Own::Any => write!(f, "{}/*", self.kind),
            Own::EndsIn(end) => write!(f, "{}/*{end}", self.kind),
            Own::Is(own) => write!(f, "{}/{own}", self.kind),
        }
    }
}

fn is(one: &str, other: &str) -> bool {
    one.eq_ignore_ascii_case(other)
}

/// gRPC compresses its messages one by one, or not at all.
fn is_call(kind: &str, own: &str) -> bool {
    is(kind, "application") && own.get(..4).is_some_and(|own| is(own, "grpc"))
}

fn is_token(text: &str) -> bool {
    let good = |b: u8| b.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&b);
    !text.is_empty() && text.bytes().all(good)
}

/// What a route compresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// With what; of those that a client likes equally, the first.
    pub encodings: Vec<Encoding>,
    /// Bodies that are told to be smaller go as they are.
    pub min_size: u64,
    /// Which types.
    pub types: Vec<Type>,
    /// How hard edge tries, from 1 to 9; `None`: as each encoding does best while it passes.
    pub level: Option<u8>,
}

impl Default for Policy {
    fn default() -> Self {
        let types = [
            ("text", Own::Any),
            ("application", Own::Is("json".to_owned())),
            ("application", Own::EndsIn("+json".to_owned())),
            ("application", Own::Is("javascript".to_owned())),
            ("application", Own::Is("xml".to_owned())),
            ("application", Own::EndsIn("+xml".to_owned())),
            ("application", Own::Is("wasm".to_owned())),
            ("application", Own::Is("x-ndjson".to_owned())),
            ("image", Own::Is("svg+xml".to_owned())),
            ("font", Own::Is("otf".to_owned())),
            ("font", Own::Is("ttf".to_owned())),
        ];
        let types = types.map(|(kind, own)| Type {
            kind: kind.to_owned(),
            own,
        });
        Self {
            encodings: Encoding::ALL.to_vec(),
            min_size: 1 << 10,
            types: types.into(),
            level: None,
        }
    }
}

/// What becomes of one answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It would be the same for every client.
    Untouched,
    /// Another client might get it compressed; this one gets it as it is.
    AsItIs,
    /// The 304 to a client whose copy may be compressed.
    NotModified,
    /// Compressed.
    Encoded(Encoding),
}

impl Decision {
    /// How the body is compressed, if it is.
    pub fn encoding(self) -> Option<Encoding> {
        match self {
            Self::Encoded(encoding) => Some(encoding),
            _ => None,
        }
    }
}

/// What becomes of an answer with this head, for a request of this version with these fields.
pub fn decide(
    policy: &Policy,
    version: Version,
    request: &HeaderMap,
    status: StatusCode,
    response: &HeaderMap,
) -> Decision {
    let held = match status {
        StatusCode::NOT_MODIFIED => held(request, response),
        _ => None,
    };
    if held == Some(Held::Compressed) {
        return Decision::NotModified;
    }
    if !may_vary(policy, status, response) {
        return Decision::Untouched;
    }
    if held == Some(Held::AsItIs) {
        return Decision::AsItIs;
    }
    // A part of what is compressed is not what was asked for.
    let part = status == StatusCode::PARTIAL_CONTENT || request.contains_key(header::RANGE);
    // Nobody knows yet how long it will be, and a client of HTTP/1.0 reads no chunks.
    let old = version < Version::HTTP_11;
    if part || old || says(request, "no-transform") {
        return Decision::AsItIs;
    }
    match negotiate(&policy.encodings, request) {
        None => Decision::AsItIs,
        Some(_) if status == StatusCode::NOT_MODIFIED => Decision::NotModified,
        Some(encoding) => Decision::Encoded(encoding),
    }
}

/// What a client has of which a 304 speaks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Held {
    /// It names the weak tag that edge has made of the peer's strong one.
    Compressed,
    /// It names the peer's own.
    AsItIs,
}

/// What the client says it has; `None`: it does not say.
fn held(request: &HeaderMap, response: &HeaderMap) -> Option<Held> {
    let strong = response.get(header::ETAG)?;
    let weak = weakened(strong)?;
    let names = |tag: &HeaderValue| {
        let mut lines = request.get_all(header::IF_NONE_MATCH).iter();
        lines.any(|line| names(line.as_bytes(), tag.as_bytes()))
    };
    match (names(&weak), names(strong)) {
        (true, _) => Some(Held::Compressed),
        (false, true) => Some(Held::AsItIs),
        (false, false) => None,
    }
}

/// Is this tag a member of the list?
fn names(list: &[u8], tag: &[u8]) -> bool {
    let border = |byte: Option<&u8>| byte.is_none_or(|b| matches!(b, b',' | b' ' | b'\t'));
    let found = |(at, window): (usize, &[u8])| {
        let before = at.checked_sub(1).and_then(|before| list.get(before));
        window == tag && border(before) && border(list.get(at + tag.len()))
    };
    list.windows(tag.len().max(1)).enumerate().any(found)
}

/// Might an answer with this head be compressed for some client?
fn may_vary(policy: &Policy, status: StatusCode, response: &HeaderMap) -> bool {
    let bodiless = [StatusCode::NO_CONTENT, StatusCode::RESET_CONTENT].contains(&status);
    if status.is_informational() || bodiless {
        return false;
    }
    if response.contains_key(header::CONTENT_ENCODING) || says(response, "no-transform") {
        return false;
    }
    let of_part = status == StatusCode::PARTIAL_CONTENT;
    if response.contains_key(header::CONTENT_RANGE) && !of_part {
        return false;
    }
    // A 304 may leave out of what kind its body would have been.
    let Some(kind) = response.get(header::CONTENT_TYPE) else {
        return status == StatusCode::NOT_MODIFIED;
    };
    let small = content_length(response).is_some_and(|length| length < policy.min_size.max(1));
    // What a 304 says of the length is that of a 200 (8.6).
    (of_part || !small) && is_listed(policy, kind)
}

fn is_listed(policy: &Policy, kind: &HeaderValue) -> bool {
    let Ok(kind) = kind.to_str() else {
        return false;
    };
    let kind = kind.split(';').next().unwrap_or_default().trim();
    let Some((kind, own)) = kind.split_once('/') else {
        return false;
    };
    !is_call(kind, own) && policy.types.iter().any(|listed| listed.takes(kind, own))
}

/// Is this directive in `Cache-Control`?
fn says(headers: &HeaderMap, directive: &str) -> bool {
    let values = headers.get_all(header::CACHE_CONTROL).iter();
    let mut members = values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    members.any(|member| is(member.trim(), directive))
}

/// What the client likes best of these; `None`: the body as it is. Where nothing that the client
/// takes can be had, it gets that, too: "the server SHOULD send a response without any content
/// coding" (RFC 9110 12.5.3). A client that cannot be understood gets what everybody can read.
pub fn negotiate(encodings: &[Encoding], request: &HeaderMap) -> Option<Encoding> {
    let wishes = Wishes::read(request)?;
    let mut best: Option<(Encoding, u16)> = None;
    for encoding in encodings {
        let weight = wishes.weight(*encoding);
        if weight > best.map_or(0, |(_, best)| best) {
            best = Some((*encoding, weight));
        }
    }
    // The body as it is may be what is liked better.
    let (encoding, weight) = best?;
    let identity = wishes.identity.or(wishes.any);
    identity
        .is_none_or(|identity| identity <= weight)
        .then_some(encoding)
}

/// The weights in `Accept-Encoding`, in thousandths.
#[derive(Default)]
struct Wishes {
    named: [Option<u16>; Encoding::ALL.len()],
    identity: Option<u16>,
    any: Option<u16>,
}

impl Wishes {
    /// Of what is named twice, the greater weight counts. `None`: it cannot be read.
    fn read(request: &HeaderMap) -> Option<Self> {
        let mut wishes = Self::default();
        for value in request.get_all(header::ACCEPT_ENCODING) {
            for member in value.to_str().ok()?.split(',') {
                let mut words = member.split(';').map(str::trim);
                let name = words.next().unwrap_or_default();
                if member.trim().is_empty() {
                    continue;
                }
                let weight = weight(words)?;
                if !is_name(name) {
                    return None;
                }
                if let Some(place) = wishes.place(name) {
                    *place = Some((*place).unwrap_or(0).max(weight));
                }
            }
        }
        Some(wishes)
    }

    fn place(&mut self, name: &str) -> Option<&mut Option<u16>> {
        if name == "*" {
            return Some(&mut self.any);
        }
        if is(name, "identity") {
            return Some(&mut self.identity);
        }
        let own = Encoding::ALL.iter().position(|own| own.is_called(name))?;
        self.named.get_mut(own)
    }

    fn weight(&self, encoding: Encoding) -> u16 {
        let own = Encoding::ALL.iter().position(|own| *own == encoding);
        let named = own.and_then(|own| self.named.get(own).copied().flatten());
        named.or(self.any).unwrap_or(0)
    }
}

/// Is it a token (RFC 9110 5.6.2)?
fn is_name(text: &str) -> bool {
    let good = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    !text.is_empty() && text.bytes().all(good)
}

/// The weight in thousandths (RFC 9110 12.4.2), after which nothing may stand; `None`: it cannot
/// be read.
fn weight<'a>(mut words: impl Iterator<Item = &'a str>) -> Option<u16> {
    let Some(word) = words.next() else {
        return Some(1_000);
    };
    let value = word.strip_prefix(['q', 'Q'])?.strip_prefix('=')?;
    let (whole, part) = value.split_once('.').unwrap_or((value, ""));
    if words.next().is_some() || part.len() > 3 || !part.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let part = format!("{part:0<3}").parse::<u16>().ok()?;
    match whole {
        "0" => Some(part),
        "1" if part == 0 => Some(1_000),
        _ => None,
    }
}

/// What speaks of the very bytes of a body (RFC 9530, and what came before it).
const DIGESTS: [HeaderName; 4] = [
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("repr-digest"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("content-md5"),
];

/// A change of a head: a value to set, or `None` where the field goes.
pub type Change = (HeaderName, Option<HeaderValue>);

/// What changes in a head.
pub fn changes(decision: Decision, response: &HeaderMap) -> Vec<Change> {
    let mut changes = Vec::new();
    if decision == Decision::Untouched {
        return changes;
    }
    if let Some(vary) = vary(response) {
        changes.push((header::VARY, Some(vary)));
    }
    if decision == Decision::AsItIs {
        return changes;
    }
    let tag = response.get(header::ETAG).and_then(weakened);
    changes.extend(tag.map(|tag| (header::ETAG, Some(tag))));
    if let Decision::Encoded(encoding) = decision {
        let name = HeaderValue::from_static(encoding.name());
        changes.push((header::CONTENT_ENCODING, Some(name)));
        changes.push((header::CONTENT_LENGTH, None));
        changes.push((header::ACCEPT_RANGES, None));
        changes.extend(DIGESTS.map(|name| (name, None)));
    }
    changes
}

/// What of the fields after a body no longer holds once that is compressed.
pub fn forget_digests(trailers: &mut HeaderMap) {
    for name in &DIGESTS {
        trailers.remove(name);
    }
}

/// `Vary` with `Accept-Encoding`, all in one line; `None`: it is told already.
fn vary(response: &HeaderMap) -> Option<HeaderValue> {
    let values = response.get_all(header::VARY).iter();
    let mut told: Vec<&str> = values.filter_map(|value| value.to_str().ok()).collect();
    let mut members = told.iter().flat_map(|value| value.split(','));
    if members.any(|name| name.trim() == "*" || is(name.trim(), "accept-encoding")) {
        return None;
    }
    told.retain(|value| !value.trim().is_empty());
    told.push("Accept-Encoding");
    HeaderValue::from_str(&told.join(", ")).ok()
}

/// A strong tag speaks of the bytes (RFC 9110 8.8.1), which are others now.
fn weakened(tag: &HeaderValue) -> Option<HeaderValue> {
    let strong = tag.as_bytes().starts_with(b"\"");
    let weak = [b"W/", tag.as_bytes()].concat();
    strong.then(|| HeaderValue::from_bytes(&weak).ok())?
}

#[cfg(test)]
mod tests;
