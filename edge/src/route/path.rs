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

/// What becomes of paths that edge and a peer might read differently.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Paths {
    /// Are dot segments resolved (RFC 3986 5.2.4), or refused?
    pub resolve_dots: bool,
    /// Empty segments, as in `/a//b`.
    pub double_slashes: Slashes,
    /// Slashes within a segment: `%2F`, `%5C` and `\`.
    pub encoded_slashes: Slashes,
}

/// What becomes of slashes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Slashes {
    /// They stay as they are.
    #[default]
    Keep,
    /// Several become one.
    Merge,
    /// A path with them is refused.
    Refuse,
}

impl Paths {
    /// The one way to write this path, in which routes, cache, limits and the peer all see it.
    pub fn normalise<'a>(&self, raw: &'a str) -> Result<Cow<'a, str>, Refusal> {
        if !raw.starts_with('/') {
            return Err(Refusal::BadPath);
        }
        let plain = !raw.bytes().any(|b| matches!(b, b'%' | b'\\')) && !raw.contains("/.");
        if plain && !raw.contains("//") {
            return Ok(Cow::Borrowed(raw));
        }
        let mut path = normal(raw);
        let encoded = || path.contains('\\') || path.contains("%2F") || path.contains("%5C");
        if self.encoded_slashes == Slashes::Refuse && encoded() {
            return Err(Refusal::BadPath);
        }
        if path.contains("//") {
            match self.double_slashes {
                Slashes::Keep => {}
                Slashes::Refuse => return Err(Refusal::BadPath),
                Slashes::Merge => path = Cow::Owned(merged(&path)),
            }
        }
        if self.resolve_dots {
            path = Cow::Owned(resolved(&path)?);
        }
        // What is still one, for it hides behind an encoded slash, leads nobody knows where.
        match bad_segment(&path) {
            true => Err(Refusal::BadPath),
            false => Ok(path),
        }
    }
}

fn merged(path: &str) -> String {
    let mut merged = String::with_capacity(path.len());
    for c in path.chars() {
        if c != '/' || !merged.ends_with('/') {
            merged.push(c);
        }
    }
    merged
}

/// RFC 3986 5.2.4; a path that climbs above its root is none.
fn resolved(path: &str) -> Result<String, Refusal> {
    let mut kept: Vec<&str> = Vec::new();
    let mut open = false;
    for segment in path.split('/').skip(1) {
        open = matches!(segment, "." | "..");
        match segment {
            "." => {}
            ".." => drop(kept.pop().ok_or(Refusal::BadPath)?),
            other => kept.push(other),
        }
    }
    let mut resolved = String::with_capacity(path.len());
    for segment in kept {
        resolved.push('/');
        resolved.push_str(segment);
    }
    if open || resolved.is_empty() {
        resolved.push('/');
    }
    Ok(resolved)
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

    fn normalised(raw: &str, paths: Paths) -> Result<String, Refusal> {
        paths.normalise(raw).map(Cow::into_owned)
    }

    const KEEP: Paths = Paths {
        resolve_dots: false,
        double_slashes: Slashes::Keep,
        encoded_slashes: Slashes::Keep,
    };

    #[test]
    fn a_path_is_written_in_one_way() {
        let resolving = Paths {
            resolve_dots: true,
            ..KEEP
        };
        let merging = Paths {
            double_slashes: Slashes::Merge,
            ..KEEP
        };
        for (paths, raw, expected) in [
            (KEEP, "/a/%62", "/a/b"),
            (KEEP, "/a%2fb//c", "/a%2Fb//c"),
            (merging, "//a///b/", "/a/b/"),
            (resolving, "/a/./b/../c", "/a/c"),
            (resolving, "/a/%2e%2E/c", "/c"),
            (resolving, "/a/..", "/"),
            (resolving, "/a/b/.", "/a/b/"),
            (resolving, "/a/b/..", "/a/"),
        ] {
            assert_eq!(normalised(raw, paths).as_deref(), Ok(expected), "{raw}");
        }
        let strict = Paths {
            double_slashes: Slashes::Refuse,
            encoded_slashes: Slashes::Refuse,
            ..KEEP
        };
        for (paths, raw) in [
            (KEEP, "/a/../b"),
            (KEEP, "/a/%2e%2e/b"),
            (KEEP, "/a%2f..%2fb"),
            (KEEP, "a"),
            (resolving, "/.."),
            (resolving, "/a/../../b"),
            (resolving, "/a%2f..%2fb"),
            (resolving, "/a\\..\\b"),
            (strict, "/a//b"),
            (strict, "/a%2Fb"),
            (strict, "/a%5cb"),
            (strict, "/a\\b"),
        ] {
            assert_eq!(normalised(raw, paths), Err(Refusal::BadPath), "{raw}");
        }
    }

    proptest! {
        /// Whoever reads it again reads the same, and nobody finds a way up in it.
        #[test]
        fn what_is_normal_stays_so(raw in "/[a.%2eEfF5cC/\\\\]{0,24}", dots in any::<bool>(), merge in any::<bool>()) {
            let double_slashes = if merge { Slashes::Merge } else { Slashes::Keep };
            let paths = Paths { resolve_dots: dots, double_slashes, ..KEEP };
            if let Ok(once) = normalised(&raw, paths) {
                prop_assert_eq!(normalised(&once, paths), Ok(once.clone()));
                prop_assert!(!bad_segment(&once));
                prop_assert!(Path::read(&once).is_ok());
            }
        }

        #[test]
        fn no_path_panics_and_reading_twice_is_reading_once(path in "/[a-z%0-9A-F./\\\\é]{0,40}") {
            if let Ok(read) = Path::read(&path) {
                prop_assert_eq!(read.raw(), &path);
                prop_assert_eq!(read.raw().matches('/').count(), read.matched().matches('/').count());
            }
        }
    }
}
