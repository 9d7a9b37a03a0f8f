//! A message's form: what could be read in two ways is refused (RFC 9112).
//!
//! Pingora has parsed the head by the time it is looked at here, as a lenient parser does. Between a
//! lenient reader and a strict one, or between two lenient ones, a request can hide within another:
//! so what stands on the wire is held against the grammar once more, byte by byte, in one pass.

use http::header::{self, HeaderMap};

use crate::refusal::Refusal;

/// How large a head may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes of the target.
    pub target: usize,
    /// Fields.
    pub fields: usize,
    /// Bytes of all fields together, with the line ends.
    pub fields_size: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            target: 8 << 10,
            fields: 100,
            fields_size: 32 << 10,
        }
    }
}

/// More digits than this are no length: 9,999,999,999,999,999 bytes are sent by nobody.
const MOST_DIGITS: usize = 16;

/// Holds the head of a request of HTTP/1.x, as it came, against RFC 9112.
pub fn check(head: &[u8], bounds: &Bounds) -> Result<(), Refusal> {
    // One empty line before a request is let pass (RFC 9112 2.2).
    let head = head.strip_prefix(b"\r\n").unwrap_or(head);
    let mut lines = Lines(head);
    let start = lines.next().ok_or(Refusal::MessageForm)??;
    let version = check_start(start, bounds)?;
    let mut framing = Framing::default();
    let (mut count, mut size) = (0, 0);
    loop {
        let line = lines.next().ok_or(Refusal::MessageForm)??;
        if line.is_empty() {
            break;
        }
        count += 1;
        size += line.len() + 2;
        if count > bounds.fields || size > bounds.fields_size {
            return Err(Refusal::FieldsTooLarge);
        }
        let (name, value) = field(line)?;
        framing.read(name, value)?;
    }
    // Nothing stands behind the end of the head: the body is no part of it.
    if !lines.0.is_empty() {
        return Err(Refusal::MessageForm);
    }
    framing.judge(version)
}

/// Holds the size and the fields of a request over HTTP/2 against what they would be for a peer of
/// HTTP/1.1 (RFC 9113 8.2.2, 8.1.1).
pub fn check_fields(target: &str, fields: &HeaderMap, bounds: &Bounds) -> Result<(), Refusal> {
    if target.len() > bounds.target {
        return Err(Refusal::TargetTooLong);
    }
    let lengths = fields
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 4);
    let (count, size) = lengths.fold((0, 0), |(count, size), length| (count + 1, size + length));
    if count > bounds.fields || size > bounds.fields_size {
        return Err(Refusal::FieldsTooLarge);
    }
    if !target.bytes().all(is_of_target) {
        return Err(Refusal::MessageForm);
    }
    let of_http1 = [
        header::CONNECTION,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        http::HeaderName::from_static("keep-alive"),
        http::HeaderName::from_static("proxy-connection"),
    ];
    if of_http1.iter().any(|name| fields.contains_key(name)) {
        return Err(Refusal::MessageForm);
    }
    if fields
        .get_all(header::TE)
        .iter()
        .any(|te| te.as_bytes() != b"trailers")
    {
        return Err(Refusal::MessageForm);
    }
    let mut lengths = fields.get_all(header::CONTENT_LENGTH).iter();
    let good = lengths
        .next()
        .is_none_or(|length| is_length(length.as_bytes()));
    let values = || fields.values();
    let plain = values().all(|value| value.as_bytes().iter().all(|&b| is_of_value(b)));
    match good && lengths.next().is_none() && plain {
        true => Ok(()),
        false => Err(Refusal::MessageForm),
    }
}

/// The lines of a head. Each ends with CRLF, and nothing else is or holds a line's end.
struct Lines<'a>(&'a [u8]);

impl<'a> Iterator for Lines<'a> {
    type Item = Result<&'a [u8], Refusal>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let end = memchr::memchr2(b'\r', b'\n', self.0);
        let line = end.and_then(|end| {
            let (line, rest) = self.0.split_at_checked(end)?;
            self.0 = rest.strip_prefix(b"\r\n")?;
            Some(line)
        });
        Some(line.ok_or(Refusal::MessageForm))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Version {
    Http10,
    Http11,
}

/// `method SP target SP version` (RFC 9112 3).
fn check_start(line: &[u8], bounds: &Bounds) -> Result<Version, Refusal> {
    let mut words = line.split(|&b| b == b' ');
    let words = [words.next(), words.next(), words.next(), words.next()];
    let [Some(method), Some(target), Some(version), None] = words else {
        return Err(Refusal::MessageForm);
    };
    if method.is_empty() || !method.iter().all(|&b| is_token(b)) {
        return Err(Refusal::MessageForm);
    }
    if target.len() > bounds.target {
        return Err(Refusal::TargetTooLong);
    }
    if target.is_empty() || !target.iter().all(|&b| is_of_target(b)) {
        return Err(Refusal::MessageForm);
    }
    match version {
        b"HTTP/1.1" => Ok(Version::Http11),
        b"HTTP/1.0" => Ok(Version::Http10),
        _ => Err(Refusal::MessageForm),
    }
}

/// `name ":" OWS value OWS`, with nothing before the name or between it and the colon (RFC 9112
/// 5.1), and not folded (5.2).
fn field(line: &[u8]) -> Result<(&[u8], &[u8]), Refusal> {
    let colon = memchr::memchr(b':', line).ok_or(Refusal::MessageForm)?;
    let (name, value) = line.split_at(colon);
    let value = value.get(1..).unwrap_or_default();
    let good = !name.is_empty()
        && name.iter().all(|&b| is_token(b))
        && value.iter().all(|&b| is_of_value(b));
    match good {
        true => Ok((name, value.trim_ascii())),
        false => Err(Refusal::MessageForm),
    }
}

/// What says where a message ends, and for whom it is.
#[derive(Default)]
struct Framing {
    lengths: usize,
    codings: usize,
    hosts: usize,
}

impl Framing {
    fn read(&mut self, name: &[u8], value: &[u8]) -> Result<(), Refusal> {
        // Few names are as long as one of these.
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => self.hosts += 1,
            10 if name.eq_ignore_ascii_case(b"connection") => return nominates_none(value),
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                self.lengths += 1;
                if !is_length(value) {
                    return Err(Refusal::MessageForm);
                }
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                self.codings += 1;
                // edge knows no other, and two readers of a list may differ (RFC 9112 6.1).
                if !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Refusal::MessageForm);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn judge(&self, version: Version) -> Result<(), Refusal> {
        let framed_once = self.lengths + self.codings <= 1;
        // Who speaks HTTP/1.0 knows no chunks (RFC 9112 6.1).
        let known = self.codings == 0 || version == Version::Http11;
        if !framed_once || !known {
            return Err(Refusal::MessageForm);
        }
        match self.hosts {
            1 => Ok(()),
            // RFC 9112 3.2.
            _ => Err(Refusal::BadHost),
        }
    }
}

/// What frames a message does not belong to the connection, whoever says so.
fn nominates_none(value: &[u8]) -> Result<(), Refusal> {
    const FRAMING: [&[u8]; 3] = [b"host", b"content-length", b"transfer-encoding"];
    let mut names = value.split(|&b| b == b',').map(<[u8]>::trim_ascii);
    match names.any(|name| FRAMING.iter().any(|own| name.eq_ignore_ascii_case(own))) {
        true => Err(Refusal::MessageForm),
        false => Ok(()),
    }
}

/// Digits alone: no sign, no list, no space within (RFC 9110 8.6).
fn is_length(value: &[u8]) -> bool {
    (1..=MOST_DIGITS).contains(&value.len()) && value.iter().all(u8::is_ascii_digit)
}

/// RFC 9110 5.6.2.
fn is_token(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}

/// Bytes beyond ASCII are let pass, as browsers' and servers' practice is: they end nothing.
fn is_of_value(b: u8) -> bool {
    b == b'\t' || (b >= b' ' && b != 0x7f)
}

/// As above; `#` begins what is never sent (RFC 9112 3.2).
fn is_of_target(b: u8) -> bool {
    b > b' ' && b != 0x7f && b != b'#'
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(head: &str) -> Result<(), Refusal> {
        check(head.as_bytes(), &Bounds::default())
    }

    fn with(fields: &str) -> Result<(), Refusal> {
        of(&format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n"))
    }

    #[test]
    fn what_the_grammar_lets_pass_passes() {
        for fields in [
            "",
            "A: b\r\n",
            "A:b\r\n",
            "A:\t b \t\r\n",
            "A:\r\n",
            "a-b_c.d!#$%&'*+^`|~: \u{fc}\r\n",
            "Content-Length: 0\r\n",
            "content-length:\t12 \r\n",
            "Transfer-Encoding: Chunked\r\n",
            "Connection: close, x-a\r\n",
            "A: b: c\r\n",
        ] {
            assert_eq!(with(fields), Ok(()), "{fields:?}");
        }
        for head in [
            "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.0\r\nHost: a\r\n\r\n",
            "M-SEARCH http://a/b?c HTTP/1.1\r\nhost:a\r\n\r\n",
        ] {
            assert_eq!(of(head), Ok(()), "{head:?}");
        }
    }

    #[test]
    fn what_could_be_read_otherwise_is_refused() {
        for fields in [
            "A b: c\r\n",
            "A : b\r\n",
            ": b\r\n",
            " A: b\r\n",
            "A: b\r\n c\r\n",
            "A: b\n",
            "A: b\r",
            "A: b\rc\r\n",
            "A: b\0\r\n",
            "A: \u{7f}\r\n",
            "A\r\n",
            "Content-Length: 1\r\nContent-Length: 1\r\n",
            "Content-Length: 1, 1\r\n",
            "Content-Length: +1\r\n",
            "Content-Length: -1\r\n",
            "Content-Length: 0x1\r\n",
            "Content-Length: 1 1\r\n",
            "Content-Length:\r\n",
            "Content-Length: 18446744073709551617\r\n",
            "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: identity\r\n",
            "Transfer-Encoding: xchunked\r\n",
            "Transfer-Encoding: \"chunked\"\r\n",
            "Transfer-Encoding: chunked;a=b\r\n",
            "Transfer-Encoding:\r\n",
            "Connection: Content-Length\r\n",
            "Connection: close, HOST\r\n",
        ] {
            assert_eq!(with(fields), Err(Refusal::MessageForm), "{fields:?}");
        }
        for head in [
            "",
            "\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n",
            "GET / HTTP/1.1\nHost: a\n\n",
            "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
            " GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /\tHTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /\r\nHost: a\r\n\r\n",
            "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /#a HTTP/1.1\r\nHost: a\r\n\r\n",
            "G(T / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.2\r\nHost: a\r\n\r\n",
            "GET / http/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n\r\nbody",
            "\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        ] {
            assert_eq!(of(head), Err(Refusal::MessageForm), "{head:?}");
        }
        for head in [
            "GET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        ] {
            assert_eq!(of(head), Err(Refusal::BadHost), "{head:?}");
        }
    }

    #[test]
    fn a_head_has_its_bounds() {
        let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(8 << 10));
        assert_eq!(of(&long), Err(Refusal::TargetTooLong));
        assert_eq!(with(&"A: b\r\n".repeat(99)), Ok(()));
        assert_eq!(with(&"A: b\r\n".repeat(100)), Err(Refusal::FieldsTooLarge));
        let large = format!("A: {}\r\n", "a".repeat(32 << 10));
        assert_eq!(with(&large), Err(Refusal::FieldsTooLarge));
    }

    #[test]
    fn http_2_carries_nothing_of_http_1() {
        let of = |name: &'static str, value: &str| {
            let fields = HeaderMap::from_iter([(
                http::HeaderName::from_static(name),
                http::HeaderValue::from_str(value).unwrap(),
            )]);
            check_fields("/", &fields, &Bounds::default())
        };
        for (name, value) in [
            ("connection", "close"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("keep-alive", "1"),
            ("te", "gzip"),
            ("content-length", "+1"),
            ("content-length", "1,1"),
        ] {
            assert_eq!(
                of(name, value),
                Err(Refusal::MessageForm),
                "{name}: {value}"
            );
        }
        for (name, value) in [
            ("te", "trailers"),
            ("content-length", "5"),
            ("a", "\t\u{fc}"),
        ] {
            assert_eq!(of(name, value), Ok(()), "{name}: {value}");
        }
        assert!(check_fields("/a b", &HeaderMap::new(), &Bounds::default()).is_err());
    }

    proptest! {
        /// Whatever passes has one framing, one host, and no line's end but CRLF.
        #[test]
        fn what_passes_is_read_in_one_way(
            lines in prop::collection::vec("(Host|Content-Length|Transfer-Encoding|A)[ \t]?:[ \t]?(a|1|chunked)?[\r\n\0 ]?", 0..5)
        ) {
            let head = format!("GET / HTTP/1.1\r\n{}\r\n\r\n", lines.join("\r\n"));
            if of(&head).is_ok() {
                let lower = head.to_ascii_lowercase();
                prop_assert_eq!(lower.matches("host:").count(), 1);
                prop_assert!(lower.matches("content-length:").count() + lower.matches("transfer-encoding:").count() <= 1);
                prop_assert_eq!(head.matches('\n').count(), head.matches("\r\n").count());
                prop_assert_eq!(head.matches('\r').count(), head.matches("\r\n").count());
                prop_assert!(!head.contains('\0'));
            }
        }

        #[test]
        fn nothing_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = check(&bytes, &Bounds::default());
        }
    }
}
