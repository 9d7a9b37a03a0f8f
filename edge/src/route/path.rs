//! A request's path: written in one way, and as routes are matched.

use std::borrow::Cow;

use crate::refusal::Refusal;

/// What becomes of paths that can be written in several ways: `[request]`'s words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Paths {
    /// `.` and `..` (RFC 3986 5.2.4).
    pub dot_segments: DotSegments,
    /// `//`.
    pub double_slashes: DoubleSlashes,
    /// `%2F` and `%5C`.
    pub encoded_slashes: EncodedSlashes,
}

/// See [`Paths`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DotSegments {
    /// A path that holds one is refused.
    #[default]
    Refuse,
    /// They are resolved; what leads above the root is refused.
    Resolve,
}

/// See [`Paths`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DoubleSlashes {
    /// They pass.
    #[default]
    Keep,
    /// They become one.
    Merge,
    /// A path that holds them is refused.
    Refuse,
}

/// See [`Paths`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EncodedSlashes {
    /// They pass, and are part of a segment.
    #[default]
    Keep,
    /// A path that holds one is refused.
    Refuse,
}

impl Paths {
    /// The one way to write this path, which route, cache, authentication and peer then all see.
    ///
    /// Escapes of unreserved characters are undone and the others' digits are upper-case (RFC 3986
    /// 6.2.2). What escapes nothing, `%00` and `\` are refused, for peers disagree on them.
    pub fn normalise<'a>(&self, path: &'a str) -> Result<Cow<'a, str>, Refusal> {
        if !path.starts_with('/') || path.contains('\\') || !self.escapes_well(path) {
            return Err(Refusal::BadPath);
        }
        let mut written = normal(path);
        if written.contains("//") {
            match self.double_slashes {
                DoubleSlashes::Keep => {}
                DoubleSlashes::Merge => written = Cow::Owned(merged(&written)),
                DoubleSlashes::Refuse => return Err(Refusal::BadPath),
            }
        }
        if self.dot_segments == DotSegments::Resolve && written.contains("/.") {
            written = Cow::Owned(resolved(&written).ok_or(Refusal::BadPath)?);
        }
        // Nearly every path has neither escapes nor dots.
        if (written.contains('%') || written.contains("/.")) && bad_segment(&written) {
            return Err(Refusal::BadPath);
        }
        Ok(written)
    }

    fn escapes_well(&self, path: &str) -> bool {
        path.split('%')
            .skip(1)
            .all(|after| match escape(after.as_bytes()) {
                None | Some(0) => false,
                Some(b'/' | b'\\') => self.encoded_slashes == EncodedSlashes::Keep,
                Some(_) => true,
            })
    }
}

fn merged(path: &str) -> String {
    let mut merged = String::with_capacity(path.len());
    for letter in path.chars() {
        if letter != '/' || !merged.ends_with('/') {
            merged.push(letter);
        }
    }
    merged
}

/// Without its dot segments; `None` if one leads above the root.
fn resolved(path: &str) -> Option<String> {
    let mut segments: Vec<&str> = Vec::new();
    let mut left = path.split('/').skip(1).peekable();
    while let Some(segment) = left.next() {
        let last = left.peek().is_none();
        match segment {
            "." => {}
            ".." => {
                segments.pop()?;
            }
            segment => {
                segments.push(segment);
                continue;
            }
        }
        // What a dot segment leads to is a folder.
        if last {
            segments.push("");
        }
    }
    Some(format!("/{}", segments.join("/")))
}

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

/// Does the path hold a `.` or `..` segment, however it is written (`%2e`, `%2F`, `\`, `..;a`)?
pub fn bad_segment(path: &str) -> bool {
    let decoded = decode(path.as_bytes());
    let mut segments = decoded.split(|&b| matches!(b, b'/' | b'\\'));
    // Some peers cut a segment's parameters off before they look at it (RFC 3986 3.3).
    let name = |segment: &[u8]| segment.iter().take_while(|&&b| b != b';').count();
    segments.any(|segment| matches!(segment.get(..name(segment)), Some(b"." | b"..")))
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

    fn paths(dots: DotSegments, slashes: DoubleSlashes, encoded: EncodedSlashes) -> Paths {
        Paths {
            dot_segments: dots,
            double_slashes: slashes,
            encoded_slashes: encoded,
        }
    }

    #[test]
    fn a_path_is_written_in_one_way() {
        let resolving = paths(
            DotSegments::Resolve,
            DoubleSlashes::Merge,
            EncodedSlashes::Keep,
        );
        for (path, written) in [
            ("/a/b", "/a/b"),
            ("/%61%2db%2fc", "/a-b%2Fc"),
            ("/a//b///", "/a/b/"),
            ("/a/./b/../c", "/a/c"),
            ("/a/%2e%2E/c", "/c"),
            ("/a/..", "/"),
            ("/a/.", "/a/"),
            ("/a//../b", "/b"),
        ] {
            assert_eq!(resolving.normalise(path).as_deref(), Ok(written), "{path}");
        }
        for path in [
            "/..",
            "/a/../..",
            "/a%2f..%2fb",
            "/a/..;/b",
            "/a%5c..",
            "/a\\b",
            "/%",
            "/%4",
            "/%zz",
            "/a%00",
            "a",
        ] {
            assert_eq!(resolving.normalise(path), Err(Refusal::BadPath), "{path}");
        }
        let plain = Paths::default();
        assert_eq!(plain.normalise("/a//b").as_deref(), Ok("/a//b"));
        for path in ["/a/../b", "/./b", "/%2e", "/.;a/b"] {
            assert_eq!(plain.normalise(path), Err(Refusal::BadPath), "{path}");
        }
        let strict = paths(
            DotSegments::Refuse,
            DoubleSlashes::Refuse,
            EncodedSlashes::Refuse,
        );
        for path in ["/a//b", "/a%2fb", "/a%5Cb", "//"] {
            assert_eq!(strict.normalise(path), Err(Refusal::BadPath), "{path}");
        }
        assert!(strict.normalise("/a/%20/b").is_ok());
    }

    proptest! {
        #[test]
        fn normalising_twice_is_normalising_once_and_leaves_no_dot_segment(
            path in "/([a./;]|//|/\\.\\.|%2e|%2F|%5c|%41|%25|%zz|\\\\|%00){0,12}",
            dots in prop_oneof![Just(DotSegments::Refuse), Just(DotSegments::Resolve)],
            slashes in prop_oneof![
                Just(DoubleSlashes::Keep), Just(DoubleSlashes::Merge), Just(DoubleSlashes::Refuse)
            ],
            encoded in prop_oneof![Just(EncodedSlashes::Keep), Just(EncodedSlashes::Refuse)],
        ) {
            let paths = paths(dots, slashes, encoded);
            if let Ok(once) = paths.normalise(&path) {
                let twice = paths.normalise(&once);
                prop_assert_eq!(twice.as_deref(), Ok(&*once));
                prop_assert!(!bad_segment(&once));
                let read = Path::read(&once);
                prop_assert_eq!(read.as_ref().map(Path::matched), Ok(&*once));
            }
        }
    }
}
