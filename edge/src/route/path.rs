//! A request's path: as it came, and as routes are matched.

use std::borrow::Cow;

use crate::refusal::Refusal;

/// A path in two readings. The peer gets it as it came; routes are matched against it with its
/// escapes written in one way, so that `/h%65alth` is `/health`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path<'a> {
    raw: &'a str,
    matched: Cow<'a, str>,
}

impl<'a> Path<'a> {
    /// Reads a path. What does not begin with `/` is none, and a dot segment is refused, escaped
    /// or not: edge and the peer might disagree on where it leads (RFC 3986 5.2.4).
    pub fn read(raw: &'a str) -> Result<Self, Refusal> {
        if !raw.starts_with('/') {
            return Err(Refusal::BadPath);
        }
        // Nearly every path has neither escapes nor dots nor backslashes.
        let plain = !raw.bytes().any(|b| matches!(b, b'%' | b'\\')) && !raw.contains("/.");
        if !plain && bad_segment(raw) {
            return Err(Refusal::BadPath);
        }
        let matched = normal(raw);
        Ok(Self { raw, matched })
    }

    /// The path as it came.
    pub fn raw(&self) -> &'a str {
        self.raw
    }

    /// The path as routes are matched.
    pub fn matched(&self) -> &str {
        &self.matched
    }
}

/// Does the path hold a `.` or `..` segment, however it is written (`%2e`, `%2F`, `\`)?
pub fn bad_segment(path: &str) -> bool {
    let decoded = decode(path.as_bytes());
    let mut segments = decoded.split(|&b| matches!(b, b'/' | b'\\'));
    segments.any(|segment| matches!(segment, b"." | b".."))
}

fn decode(bytes: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut left = bytes;
    while let Some((&byte, rest)) = left.split_first() {
        let escaped = if byte == b'%' { escape(rest) } else { None };
        decoded.push(escaped.unwrap_or(byte));
        left = if escaped.is_some() {
            rest.get(2..).unwrap_or_default()
        } else {
            rest
        };
    }
    decoded
}

/// The one way to write a path's escapes: none for unreserved characters, upper-case digits for
/// the others (RFC 3986 6.2.2). What is no escape stays as it is.
pub(super) fn normal(path: &str) -> Cow<'_, str> {
    if !path.contains('%') {
        return Cow::Borrowed(path);
    }
    let mut normal = String::with_capacity(path.len());
    let mut left = path;
    while let Some(at) = left.find('%') {
        let (before, rest) = left.split_at(at);
        normal.push_str(before);
        let digits = rest.get(1..3);
        match digits.and_then(|digits| escape(digits.as_bytes())) {
            Some(byte) if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => {
                normal.push(char::from(byte));
                left = rest.get(3..).unwrap_or_default();
            }
            Some(_) => {
                normal.push('%');
                normal.push_str(&digits.unwrap_or_default().to_ascii_uppercase());
                left = rest.get(3..).unwrap_or_default();
            }
            None => {
                normal.push('%');
                left = rest.get(1..).unwrap_or_default();
            }
        }
    }
    normal.push_str(left);
    Cow::Owned(normal)
}

fn escape(after_percent: &[u8]) -> Option<u8> {
    let hex = |b: u8| {
        char::from(b)
            .to_digit(16)
            .and_then(|digit| u8::try_from(digit).ok())
    };
    match after_percent {
        [high, low, ..] => Some(hex(*high)? << 4 | hex(*low)?),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn dot_segments_are_refused_however_they_are_written() {
        for path in [
            "a",
            "",
            "*",
            "/..",
            "/a/../b",
            "/./a",
            "/%2e%2e/a",
            "/a/%2E./b",
            "/a%2f..%2fb",
            "/a\\..\\b",
            "/a/.%2e%5cb",
            "/.",
        ] {
            assert_eq!(Path::read(path), Err(Refusal::BadPath), "{path}");
        }
        for path in [
            "/...",
            "/a..b",
            "/.well-known/x",
            "/a.b",
            "/%2e%2e%2e",
            "/%",
            "/%2",
            "/%zz",
            "/a%2Fb",
        ] {
            assert!(Path::read(path).is_ok(), "{path}");
        }
    }

    #[test]
    fn only_unreserved_escapes_are_undone() {
        let matched = |path| Path::read(path).unwrap().matched().to_owned();
        assert_eq!(matched("/%41%2fb%7e"), "/A%2Fb~");
        assert_eq!(matched("/%zz%4"), "/%zz%4");
        assert_eq!(matched("/%é%"), "/%é%");
    }

    proptest! {
        #[test]
        fn no_path_panics_and_reading_twice_is_reading_once(path in "/[a-z%0-9A-F./\\\\é]{0,40}") {
            if let Ok(read) = Path::read(&path) {
                prop_assert_eq!(read.raw(), &path);
                prop_assert_eq!(read.raw().matches('/').count(), read.matched().matches('/').count());
            }
        }
    }
}
