//! What a route's `path` and `host` say.

use std::fmt;

use super::path::normal;

/// The paths that a route takes: `/health` exactly, `/api/*` that and all below, `/users/{id}`
/// one segment of any text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    text: String,
    segments: Vec<Segment>,
    rest: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Segment {
    Literal(Box<str>),
    Parameter(Box<str>),
}

impl Pattern {
    /// Reads a pattern; the error says what would have been right.
    pub fn read(text: &str) -> Result<Self, String> {
        let Some(path) = text.strip_prefix('/') else {
            return Err("a path begins with `/`".to_owned());
        };
        if let Some(odd) = path
            .chars()
            .find(|c| c.is_whitespace() || matches!(c, '?' | '#'))
        {
            return Err(format!(
                "a path holds no `{odd}`: it is matched without the query"
            ));
        }
        if !path.chars().all(|c| c.is_ascii_graphic()) {
            return Err("a path is plain ASCII: write other characters as `%C3%A9`".to_owned());
        }
        if super::bad_segment(text) {
            return Err(
                "a path with `.` or `..` is never matched: such requests are refused".to_owned(),
            );
        }
        let (path, rest) = match path.strip_suffix('*') {
            Some("") => (None, true),
            Some(before) => match before.strip_suffix('/') {
                Some(before) => (Some(before), true),
                None => {
                    return Err("`*` stands alone behind the last `/`, as in \"/api/*\"".to_owned());
                }
            },
            None => (Some(path), false),
        };
        let mut segments: Vec<Segment> = Vec::new();
        for segment in path.into_iter().flat_map(|path| path.split('/')) {
            let segment = read_segment(segment)?;
            if matches!(segment, Segment::Parameter(_)) && segments.contains(&segment) {
                return Err("each `{name}` stands only once".to_owned());
            }
            segments.push(segment);
        }
        Ok(Self {
            text: text.to_owned(),
            segments,
            rest,
        })
    }

    /// The pattern as written.
    pub fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Does it end in `*`?
    pub fn takes_rest(&self) -> bool {
        self.rest
    }

    /// Where among the segments does `{name}` stand?
    pub fn parameter(&self, name: &str) -> Option<usize> {
        self.segments
            .iter()
            .position(|segment| matches!(segment, Segment::Parameter(own) if **own == *name))
    }

    /// With how many literal segments does it begin?
    pub fn literal_segments(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().map_while(|segment| match segment {
            Segment::Literal(text) => Some(&**text),
            Segment::Parameter(_) => None,
        })
    }

    /// Does it take every path that `other` takes?
    pub(super) fn covers(&self, other: &Self) -> bool {
        let long_enough = if self.rest {
            self.segments.len() <= other.segments.len()
        } else {
            self.segments.len() == other.segments.len() && !other.rest
        };
        let mut pairs = self.segments.iter().zip(&other.segments);
        long_enough
            && pairs.all(|pair| match pair {
                (Segment::Parameter(_), Segment::Parameter(_)) => true,
                (Segment::Parameter(_), Segment::Literal(text)) => !text.is_empty(),
                (own, other) => own == other,
            })
    }

    /// The law that the tree of all routes must keep.
    #[cfg(test)]
    pub(super) fn fits(&self, path: &str) -> bool {
        let path: Vec<&str> = path.strip_prefix('/').unwrap().split('/').collect();
        let long_enough = if self.rest {
            path.len() >= self.segments.len()
        } else {
            path.len() == self.segments.len()
        };
        long_enough
            && self
                .segments
                .iter()
                .zip(path)
                .all(|(own, segment)| match own {
                    Segment::Literal(text) => **text == *segment,
                    Segment::Parameter(_) => !segment.is_empty(),
                })
    }
}

fn read_segment(text: &str) -> Result<Segment, String> {
    let name = text
        .strip_prefix('{')
        .and_then(|text| text.strip_suffix('}'));
    match name {
        Some(name)
            if !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') =>
        {
            Ok(Segment::Parameter(name.into()))
        }
        None if !text.contains(['{', '}', '*']) => Ok(Segment::Literal(normal(text).into())),
        _ => Err("a parameter is a whole segment, as in \"/users/{id}\"".to_owned()),
    }
}

/// A host that a route takes: `api.example.org`, or `*.example.org` for all names below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// This name.
    Exact(String),
    /// Every name that ends so; kept with its leading dot.
    Below(String),
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Below(end) => write!(f, "*{end}"),
        }
    }
}

impl Host {
    /// Reads a host rule; the error says what would have been right.
    pub fn read(text: &str) -> Result<Self, String> {
        let name = text.strip_prefix("*.").unwrap_or(text);
        let good =
            |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '[' | ']' | ':');
        let ported = name.rsplit_once(':').is_some_and(|_| !name.ends_with(']'));
        if name.is_empty() || !name.chars().all(good) || ported {
            return Err(
                "expected a host without port, \"api.example.org\" or \"*.example.org\"".to_owned(),
            );
        }
        let name = name.to_ascii_lowercase();
        Ok(if text.starts_with("*.") {
            Self::Below(format!(".{name}"))
        } else {
            Self::Exact(name)
        })
    }

    pub(super) fn fits(&self, host: &str) -> bool {
        match self {
            Self::Exact(name) => name.eq_ignore_ascii_case(host),
            Self::Below(end) => {
                let start = host.len().checked_sub(end.len()).filter(|&start| start > 0);
                start
                    .and_then(|start| host.get(start..))
                    .is_some_and(|tail| tail.eq_ignore_ascii_case(end))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_that_would_never_fit_are_refused() {
        for text in [
            "",
            "api",
            "/a*",
            "/*/a",
            "/a?b=1",
            "/{}",
            "/a{id}",
            "/{id}x",
            "/{id}/{id}",
            "/a/../b",
            "/a b",
            "/a/**",
            "/é",
            "/a\u{7f}",
        ] {
            assert!(Pattern::read(text).is_err(), "{text}");
        }
        for text in [
            "/",
            "/*",
            "/a",
            "/a/",
            "/a/*",
            "/{id}",
            "/a/{id}/b/*",
            "/a.b-c~d",
        ] {
            assert!(Pattern::read(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn a_wider_pattern_covers_a_narrower_one() {
        let covers = |wide: &str, narrow: &str| {
            Pattern::read(wide)
                .unwrap()
                .covers(&Pattern::read(narrow).unwrap())
        };
        assert!(
            covers("/*", "/a/b")
                && covers("/a/*", "/a/{id}")
                && covers("/a/*", "/a")
                && covers("/{x}", "/a")
        );
        assert!(covers("/a", "/a") && covers("/a/*", "/a/b/*"));
        assert!(
            !covers("/a", "/a/*")
                && !covers("/a", "/{x}")
                && !covers("/{x}", "/")
                && !covers("/a/*", "/b")
        );
    }

    #[test]
    fn a_host_rule_reads_names_not_ports() {
        assert!(Host::read("a.example:80").is_err());
        assert!(Host::read("https://a.example").is_err());
        assert!(Host::read("*").is_err());
        assert!(Host::read("*.Example.org").unwrap().fits("A.EXAMPLE.ORG"));
        assert!(!Host::read("*.example.org").unwrap().fits("example.org"));
        assert!(!Host::read("*.example.org").unwrap().fits("evilexample.org"));
        assert!(Host::read("[::1]").unwrap().fits("[::1]"));
    }
}
