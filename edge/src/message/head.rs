//! A request's head, line by line (RFC 9112 2 to 6).

use super::{MOST_FIELDS, class, target};
use crate::forward;
use crate::refusal::Refusal;

/// How long a request's body is (RFC 9112 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// So many bytes; without a length said: none.
    Length(u64),
    /// In chunks.
    Chunked,
}

/// Reads a head as it arrives. Each line is looked at once, when it is complete.
#[derive(Debug, Default)]
pub struct Head {
    /// The beginning of a line whose end is still to come.
    unfinished: Vec<u8>,
    read: usize,
    fields: usize,
    line: Line,
    old: bool,
    /// The host that the target names.
    authority: Option<Vec<u8>>,
    hosted: bool,
    length: Option<u64>,
    chunked: bool,
    expects: bool,
    websocket: bool,
}

/// Which line is next.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Line {
    /// The request line, or one empty line before it (RFC 9112 2.2).
    #[default]
    First,
    Request,
    Field,
}

/// What cannot be taken away, and what must not: who nominates these in `Connection` would have
/// the peer see another message than edge.
const NEVER_NOMINATED: [&str; 10] = [
    "host",
    "content-length",
    "transfer-encoding",
    "trailer",
    "authorization",
    "cookie",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-request-id",
];

impl Head {
    /// Reads on, up to so many bytes in all. Once the empty line has come, tells how the body is
    /// framed and how many of these bytes belong to the head.
    pub fn read(&mut self, bytes: &[u8], most: usize) -> Result<Option<(Framing, usize)>, Refusal> {
        let mut left = bytes;
        while let Some(end) = memchr::memchr(b'\n', left) {
            let Some((line, rest)) = left.split_at_checked(end + 1) else {
                break;
            };
            left = rest;
            self.grow(line.len(), most)?;
            let ended = if self.unfinished.is_empty() {
                self.line(line)?
            } else {
                let mut whole = std::mem::take(&mut self.unfinished);
                whole.extend_from_slice(line);
                self.line(&whole)?
            };
            if ended {
                return self
                    .framing()
                    .map(|framing| Some((framing, bytes.len() - left.len())));
            }
        }
        self.grow(left.len(), most)?;
        self.unfinished.extend_from_slice(left);
        Ok(None)
    }

    fn grow(&mut self, by: usize, most: usize) -> Result<(), Refusal> {
        self.read += by;
        match self.line {
            _ if self.read <= most => Ok(()),
            Line::Field => Err(Refusal::FieldsTooLarge),
            Line::First | Line::Request => Err(Refusal::TargetTooLong),
        }
    }

    /// One line with its end; is it the last one?
    fn line(&mut self, line: &[u8]) -> Result<bool, Refusal> {
        let line = line.strip_suffix(b"\r\n").ok_or(Refusal::MessageForm)?;
        match (self.line, line) {
            (Line::First, []) => {
                self.line = Line::Request;
                Ok(false)
            }
            (Line::Field, []) => Ok(true),
            (Line::Field, line) => self.field(line).map(|()| false),
            (Line::First | Line::Request, line) => {
                self.line = Line::Field;
                self.request(line).map(|()| false)
            }
        }
    }

    fn request(&mut self, line: &[u8]) -> Result<(), Refusal> {
        let blanks = memchr::memchr(b' ', line).zip(memchr::memrchr(b' ', line));
        let (first, last) = blanks
            .filter(|(first, last)| first < last)
            .ok_or(Refusal::BadRequest)?;
        let method = line.get(..first).unwrap_or_default();
        let asked = line.get(first + 1..last).unwrap_or_default();
        let version = line.get(last + 1..).unwrap_or_default();
        if !class::is_token(method) {
            return Err(Refusal::BadRequest);
        }
        self.old = match version {
            b"HTTP/1.1" => false,
            b"HTTP/1.0" => true,
            [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
                if major.is_ascii_digit() && minor.is_ascii_digit() =>
            {
                return Err(Refusal::HttpVersion);
            }
            _ => return Err(Refusal::BadRequest),
        };
        let authority = target::check(method, asked)?;
        self.authority = authority.map(<[u8]>::to_vec);
        Ok(())
    }

    fn field(&mut self, line: &[u8]) -> Result<(), Refusal> {
        self.fields += 1;
        if self.fields > MOST_FIELDS {
            return Err(Refusal::FieldsTooLarge);
        }
        let end = line.iter().position(|&byte| !class::is_token_byte(byte));
        let end = end.filter(|&end| end > 0).ok_or(Refusal::MessageForm)?;
        let (name, rest) = line.split_at_checked(end).ok_or(Refusal::MessageForm)?;
        let value = rest.strip_prefix(b":").ok_or(Refusal::MessageForm)?;
        if !class::is_value(value) {
            return Err(Refusal::MessageForm);
        }
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => self.host(class::trim(value)),
            6 if name.eq_ignore_ascii_case(b"expect") => self.expect(class::trim(value)),
            7 if name.eq_ignore_ascii_case(b"upgrade") => {
                self.websocket |= names(value, b"websocket");
                Ok(())
            }
            10 if name.eq_ignore_ascii_case(b"connection") => nominated(value),
            14 if reads_as(name, b"content-length") => self.content_length(name, value),
            17 if reads_as(name, b"transfer-encoding") => self.transfer_encoding(name, value),
            _ => Ok(()),
        }
    }

    fn host(&mut self, value: &[u8]) -> Result<(), Refusal> {
        let host = std::str::from_utf8(value).ok().and_then(forward::host);
        if host.is_none() || self.hosted {
            return Err(Refusal::BadHost);
        }
        self.hosted = true;
        // A client says the same in both (RFC 9112 3.2).
        match &self.authority {
            Some(authority) if authority != value => Err(Refusal::BadHost),
            _ => Ok(()),
        }
    }

    /// Once, and nothing but what RFC 9110 10.1.1 knows.
    fn expect(&mut self, value: &[u8]) -> Result<(), Refusal> {
        let known = value.eq_ignore_ascii_case(b"100-continue");
        if !known || std::mem::replace(&mut self.expects, true) {
            return Err(Refusal::MessageForm);
        }
        Ok(())
    }

    fn content_length(&mut self, name: &[u8], value: &[u8]) -> Result<(), Refusal> {
        let length = class::length(class::trim(value)).ok_or(Refusal::MessageForm)?;
        if name.contains(&b'_') || self.length.replace(length).is_some() {
            return Err(Refusal::MessageForm);
        }
        Ok(())
    }

    fn transfer_encoding(&mut self, name: &[u8], value: &[u8]) -> Result<(), Refusal> {
        let chunked = class::trim(value).eq_ignore_ascii_case(b"chunked");
        if name.contains(&b'_') || !chunked || std::mem::replace(&mut self.chunked, true) {
            return Err(Refusal::MessageForm);
        }
        Ok(())
    }

    fn framing(&self) -> Result<Framing, Refusal> {
        if !self.hosted {
            return Err(Refusal::BadHost);
        }
        let framing = match (self.chunked, self.length) {
            (true, Some(_)) => return Err(Refusal::MessageForm),
            (true, None) if self.old => return Err(Refusal::MessageForm),
            (true, None) => Framing::Chunked,
            (false, length) => Framing::Length(length.unwrap_or_default()),
        };
        // What follows is frames, and the peer must not take them for a body.
        if self.websocket && framing != Framing::Length(0) {
            return Err(Refusal::MessageForm);
        }
        Ok(framing)
    }
}

/// The same name to whoever takes `_` and `-` for one another, as CGI does (RFC 3875 4.1.18)?
fn reads_as(name: &[u8], known: &[u8]) -> bool {
    let same = |(own, known): (&u8, &u8)| {
        own.eq_ignore_ascii_case(known) || (*own == b'_' && *known == b'-')
    };
    name.iter().zip(known).all(same)
}

fn members(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&byte| byte == b',').map(class::trim)
}

fn names(value: &[u8], word: &[u8]) -> bool {
    members(value).any(|member| member.eq_ignore_ascii_case(word))
}

/// Does `Connection` name only what may be taken away (RFC 9110 7.6.1)?
fn nominated(value: &[u8]) -> Result<(), Refusal> {
    let never = |member: &[u8]| {
        let same = |name: &&str| member.eq_ignore_ascii_case(name.as_bytes());
        NEVER_NOMINATED.iter().any(same)
    };
    match members(value).any(never) {
        true => Err(Refusal::MessageForm),
        false => Ok(()),
    }
}
