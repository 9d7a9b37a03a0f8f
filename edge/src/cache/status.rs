//! What the cache did, told to the client as `Cache-Status` (RFC 9211).

use std::fmt::{self, Display, Formatter};

/// Why the request went on to the upstream (2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fwd {
    /// The cache takes no part in such requests.
    Bypass,
    /// The method must go on.
    Method,
    /// Nothing is kept under this URI.
    UriMiss,
    /// Something is, but not for a request with these fields.
    VaryMiss,
    /// Something fresh is, but the client wants it asked for.
    Request,
    /// Something is, but stale.
    Stale,
    /// Something is, but not all that is asked for.
    Partial,
}

impl Fwd {
    /// The word on the wire, in log and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bypass => "bypass",
            Self::Method => "method",
            Self::UriMiss => "uri-miss",
            Self::VaryMiss => "vary-miss",
            Self::Request => "request",
            Self::Stale => "stale",
            Self::Partial => "partial",
        }
    }
}

/// What is told of one request; its text is always a structured field.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Told {
    /// Answered from what was kept (2.1). Excludes `fwd`, and goes before it.
    pub hit: bool,
    /// Why the upstream was asked.
    pub fwd: Option<Fwd>,
    /// What status it answered; told with `fwd` alone (2.3).
    pub fwd_status: Option<u16>,
    /// Its answer is kept; told with `fwd` alone (2.5).
    pub stored: bool,
    /// Another request's answer did for this one; told with `fwd` alone (2.6).
    pub collapsed: bool,
    /// Seconds left; negative when stale (2.4).
    pub ttl: Option<i64>,
    /// Anything else, in a word or a text of ASCII (2.8).
    pub detail: Option<&'static str>,
}

/// No number in a structured field is larger (RFC 8941 3.3.1).
const LARGEST: i64 = 999_999_999_999_999;

impl Display for Told {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("edge")?;
        if self.hit {
            f.write_str("; hit")?;
        } else if let Some(fwd) = self.fwd {
            self.tell_forward(fwd, f)?;
        }
        if let Some(ttl) = self.ttl {
            write!(f, "; ttl={}", ttl.clamp(-LARGEST, LARGEST))?;
        }
        self.detail.map_or(Ok(()), |detail| tell_detail(detail, f))
    }
}

impl Told {
    fn tell_forward(&self, fwd: Fwd, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "; fwd={}", fwd.as_str())?;
        if let Some(status) = self.fwd_status {
            write!(f, "; fwd-status={status}")?;
        }
        if self.stored {
            f.write_str("; stored")?;
        }
        if self.collapsed {
            f.write_str("; collapsed")?;
        }
        Ok(())
    }
}

/// A word stands as it is, anything else in quotes, without what quotes cannot hold.
fn tell_detail(detail: &str, f: &mut Formatter<'_>) -> fmt::Result {
    let mut bytes = detail.bytes();
    let letter = bytes.next().is_some_and(|b| b.is_ascii_alphabetic());
    if letter && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.')) {
        return write!(f, "; detail={detail}");
    }
    f.write_str("; detail=\"")?;
    for char in detail.chars().filter(|char| matches!(char, ' '..='~')) {
        if matches!(char, '"' | '\\') {
            f.write_str("\\")?;
        }
        write!(f, "{char}")?;
    }
    f.write_str("\"")
}

#[cfg(test)]
mod tests {
    use super::*;
    use sfv::Parser;

    /// RFC 9211 2.
    #[test]
    fn what_the_cache_did_is_told_in_order() {
        let miss = Told {
            fwd: Some(Fwd::UriMiss),
            fwd_status: Some(200),
            stored: true,
            collapsed: true,
            ttl: Some(60),
            detail: Some("no_time"),
            ..Told::default()
        };
        let hit = Told {
            hit: true,
            ttl: Some(-3),
            ..miss.clone()
        };
        let odd = Told {
            detail: Some("a \"b\"\\ü\n"),
            ttl: Some(i64::MIN),
            ..Told::default()
        };
        for (told, text) in [
            (
                miss,
                "edge; fwd=uri-miss; fwd-status=200; stored; collapsed; ttl=60; detail=no_time",
            ),
            (hit, "edge; hit; ttl=-3; detail=no_time"),
            (odd, r#"edge; ttl=-999999999999999; detail="a \"b\"\\""#),
            (Told::default(), "edge"),
        ] {
            assert_eq!(told.to_string(), text);
            assert!(Parser::parse_list(text.as_bytes()).is_ok(), "{text}");
        }
    }
}
