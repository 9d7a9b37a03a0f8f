//! Entity tags (RFC 9110 8.8.3) and the two ways to compare them.

use http::header::{self, HeaderMap};

/// An entity tag (RFC 9110 8.8.3), read as peers and clients write it: also without quotes, and
/// with a mark of weakness that is only nearly right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tag<'a> {
    pub(super) weak: bool,
    opaque: &'a [u8],
}

impl<'a> Tag<'a> {
    pub(super) fn read(text: &'a [u8]) -> Self {
        let text = text.trim_ascii();
        let mark = text.iter().position(|b| *b == b'"').unwrap_or_default();
        let (mark, rest) = text.split_at_checked(mark).unwrap_or_default();
        let weak = matches!(mark, b"W/" | b"w/" | b"W\\" | b"w\\" | b"W" | b"w");
        let text = if weak { rest } else { text };
        let inner = text
            .strip_prefix(b"\"")
            .and_then(|text| text.strip_suffix(b"\""));
        let opaque = inner.unwrap_or(text);
        Self { weak, opaque }
    }

    /// Weak comparison (RFC 9110 8.8.3.2).
    pub(super) fn is_weakly(&self, other: &Self) -> bool {
        self.opaque == other.opaque
    }

    /// Strong comparison (RFC 9110 8.8.3.2).
    pub(super) fn is_strongly(&self, other: &Self) -> bool {
        !self.weak && !other.weak && self.opaque == other.opaque
    }
}

/// The answer's tag, if it has one that is not empty.
pub(super) fn tag(headers: &HeaderMap) -> Option<Tag<'_>> {
    let value = headers.get(header::ETAG)?.as_bytes().trim_ascii();
    (!value.is_empty()).then(|| Tag::read(value))
}
