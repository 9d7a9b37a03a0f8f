//! The path as the peer sees it.

use std::borrow::Cow;

use super::pattern::Pattern;

/// How a route changes the path before the peer sees it. Query and escapes pass as they came.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Rewrite {
    /// Not at all.
    #[default]
    Keep,
    /// Without its first so many segments.
    Strip(usize),
    /// Put together anew.
    Build(Vec<Piece>),
}

/// A piece of a rewritten path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// This text.
    Text(String),
    /// The segment of the request's path at this place.
    Segment(usize),
    /// All segments of the request's path from this place on.
    Rest(usize),
}

impl Rewrite {
    /// `strip_prefix = "/api"` on a route with this pattern; the error says what would be right.
    pub fn strip(prefix: &str, pattern: &Pattern) -> Result<Self, String> {
        let wrong = || {
            format!(
                "expected the beginning of the route's path `{}`",
                pattern.text()
            )
        };
        let prefix = prefix.strip_prefix('/').ok_or_else(wrong)?;
        let prefix: Vec<&str> = prefix
            .strip_suffix('/')
            .unwrap_or(prefix)
            .split('/')
            .collect();
        if prefix == [""] {
            return Err(wrong());
        }
        let mut own = pattern.literal_segments();
        if prefix.iter().all(|segment| own.next() == Some(segment)) {
            Ok(Self::Strip(prefix.len()))
        } else {
            Err(wrong())
        }
    }

    /// `rewrite = "/v1/{id}/*"` on a route with this pattern; the error says what would be right.
    pub fn build(template: &str, pattern: &Pattern) -> Result<Self, String> {
        let own = Pattern::read(template)?;
        let path = template.strip_prefix('/').unwrap_or(template);
        let mut pieces = Vec::new();
        for segment in path.split('/') {
            pieces.push(Piece::Text("/".to_owned()));
            let name = segment
                .strip_prefix('{')
                .and_then(|segment| segment.strip_suffix('}'));
            pieces.push(match name {
                Some(name) => {
                    let missing =
                        || format!("the route's path `{}` has no `{{{name}}}`", pattern.text());
                    Piece::Segment(pattern.parameter(name).ok_or_else(missing)?)
                }
                None if segment == "*" && own.takes_rest() => Piece::Rest(pattern.segments().len()),
                None => Piece::Text(segment.to_owned()),
            });
        }
        if own.takes_rest() && !pattern.takes_rest() {
            return Err(format!(
                "`*` needs a `*` in the route's path `{}`",
                pattern.text()
            ));
        }
        Ok(Self::Build(pieces))
    }

    /// The path for the peer.
    pub fn apply<'a>(&self, path: &'a str) -> Cow<'a, str> {
        match self {
            Self::Keep => Cow::Borrowed(path),
            Self::Strip(count) => match from(path, *count) {
                Some(rest) => Cow::Owned(format!("/{rest}")),
                None => Cow::Borrowed("/"),
            },
            Self::Build(pieces) => {
                Cow::Owned(pieces.iter().map(|piece| piece.read(path)).collect())
            }
        }
    }
}

impl Piece {
    fn read<'a>(&'a self, path: &'a str) -> &'a str {
        match self {
            Self::Text(text) => text,
            Self::Segment(place) => from(path, *place)
                .and_then(|rest| rest.split('/').next())
                .unwrap_or_default(),
            Self::Rest(place) => from(path, *place).unwrap_or_default(),
        }
    }
}

/// What stands behind the first `count` segments; `None` if there are no more than those.
fn from(path: &str, count: usize) -> Option<&str> {
    path.splitn(count + 2, '/').nth(count + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn built(pattern: &str, template: &str, path: &str) -> String {
        let pattern = Pattern::read(pattern).unwrap();
        Rewrite::build(template, &pattern)
            .unwrap()
            .apply(path)
            .into_owned()
    }

    fn stripped(pattern: &str, prefix: &str, path: &str) -> String {
        let pattern = Pattern::read(pattern).unwrap();
        Rewrite::strip(prefix, &pattern)
            .unwrap()
            .apply(path)
            .into_owned()
    }

    #[test]
    fn a_stripped_prefix_leaves_a_path() {
        assert_eq!(stripped("/api/*", "/api", "/api/info"), "/info");
        assert_eq!(stripped("/api/*", "/api", "/api"), "/");
        assert_eq!(stripped("/api/*", "/api/", "/api/"), "/");
        assert_eq!(stripped("/a/b/*", "/a", "/a/b/c%2Fd"), "/b/c%2Fd");
        assert_eq!(stripped("/api/*", "/api", "/%61pi/x//y"), "/x//y");
    }

    #[test]
    fn a_rewrite_puts_parameters_and_the_rest_in_their_places() {
        assert_eq!(
            built("/users/{id}", "/v1/people/{id}", "/users/7%20a"),
            "/v1/people/7%20a"
        );
        assert_eq!(built("/old/*", "/new/*", "/old/a/b"), "/new/a/b");
        assert_eq!(built("/old/*", "/new/*", "/old"), "/new/");
        assert_eq!(built("/{a}/{b}", "/{b}/{a}", "/1/2"), "/2/1");
        assert_eq!(built("/x", "/", "/x"), "/");
    }

    #[test]
    fn what_the_pattern_does_not_have_cannot_be_rewritten() {
        let pattern = Pattern::read("/users/{id}").unwrap();
        assert!(
            Rewrite::build("/x/{name}", &pattern)
                .unwrap_err()
                .contains("{name}")
        );
        assert!(Rewrite::build("/x/*", &pattern).is_err());
        assert!(Rewrite::strip("/user", &pattern).is_err());
        assert!(Rewrite::strip("/users/7", &pattern).is_err());
        assert!(Rewrite::strip("/", &pattern).is_err());
    }
}
