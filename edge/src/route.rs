//! Which rule a request falls under: the first route that fits is taken.

mod path;
mod pattern;
mod rewrite;

pub use path::{DotSegments, DoubleSlashes, EncodedSlashes, Path, Paths, bad_segment};
pub use pattern::{Host, Pattern};
pub use rewrite::Rewrite;

use std::collections::HashMap;

use http::Method;
use pattern::Segment;

use crate::refusal::Refusal;

/// Which requests a route takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Match {
    /// The paths.
    pub path: Pattern,
    /// The hosts; empty: any.
    pub hosts: Vec<Host>,
    /// The methods; empty: those that edge knows, but CONNECT and TRACE. GET takes HEAD along (RFC 9110 9.3.2).
    pub methods: Vec<Method>,
}

impl Match {
    fn fits_host(&self, host: &str) -> bool {
        self.hosts.is_empty() || self.hosts.iter().any(|rule| rule.fits(host))
    }

    fn fits_method(&self, method: &Method) -> bool {
        match *method {
            Method::CONNECT | Method::TRACE => false,
            Method::HEAD if self.methods.contains(&Method::GET) => true,
            _ if self.methods.is_empty() => knows(method),
            _ => self.methods.contains(method),
        }
    }

    /// Does this take every request that `other` takes? Says "no" where it is not sure.
    pub fn covers(&self, other: &Self) -> bool {
        let hosts = self.hosts.is_empty()
            || (!other.hosts.is_empty()
                && other.hosts.iter().all(|host| self.hosts.contains(host)));
        let methods = match self.methods.is_empty() {
            true => other.methods.iter().all(knows),
            false => {
                let own = |method| self.methods.contains(method);
                !other.methods.is_empty() && other.methods.iter().all(own)
            }
        };
        hosts && methods && self.path.covers(&other.path)
    }
}

/// Is this a method that edge knows (RFC 9110 9.3, RFC 5789)? Any other passes only where a route
/// names it.
fn knows(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET
            | Method::HEAD
            | Method::POST
            | Method::PUT
            | Method::DELETE
            | Method::OPTIONS
            | Method::PATCH
            | Method::TRACE
            | Method::CONNECT
    )
}

/// All routes, found by their paths' segments: the cost grows with the length of the path, not
/// with the number of routes.
#[derive(Debug, Default)]
pub struct Routes {
    matches: Vec<Match>,
    nodes: Vec<Node>,
}

/// What follows one run of segments. The lists hold routes in their order in the file.
#[derive(Debug, Default)]
struct Node {
    literal: HashMap<Box<str>, usize, foldhash::fast::RandomState>,
    parameter: Option<usize>,
    /// The routes whose pattern ends here.
    ends: Vec<usize>,
    /// The routes whose pattern ends here in `*`.
    rest: Vec<usize>,
}

impl Routes {
    /// The routes in the order of the file.
    pub fn new(matches: Vec<Match>) -> Self {
        let mut routes = Self {
            matches: Vec::new(),
            nodes: vec![Node::default()],
        };
        for (index, rule) in matches.iter().enumerate() {
            let mut at = 0;
            for segment in rule.path.segments() {
                at = routes.step(at, segment);
            }
            if let Some(node) = routes.nodes.get_mut(at) {
                let list = if rule.path.takes_rest() {
                    &mut node.rest
                } else {
                    &mut node.ends
                };
                list.push(index);
            }
        }
        routes.matches = matches;
        routes
    }

    fn step(&mut self, at: usize, segment: &Segment) -> usize {
        let next = self.nodes.len();
        let Some(node) = self.nodes.get_mut(at) else {
            return at;
        };
        let to = match segment {
            Segment::Literal(text) => *node.literal.entry(text.clone()).or_insert(next),
            Segment::Parameter(_) => *node.parameter.get_or_insert(next),
        };
        if to == next {
            self.nodes.push(Node::default());
        }
        to
    }

    /// The first route that fits, as its place in the file.
    ///
    /// 404 where no route fits host and path; where only the method does not fit, 405 with what is
    /// allowed, or 501 if edge does not know it.
    pub fn find(&self, host: &str, path: &Path<'_>, method: &Method) -> Result<usize, Refusal> {
        let mut best: Option<usize> = None;
        self.visit(path, &mut |fitting| {
            let earlier = fitting
                .iter()
                .take_while(|&&index| best.is_none_or(|best| index < best));
            let fits = |rule: &Match| rule.fits_host(host) && rule.fits_method(method);
            let found = earlier
                .copied()
                .find(|&index| self.matches.get(index).is_some_and(fits));
            best = found.or(best);
        });
        best.ok_or_else(|| match self.no_route(host, path) {
            Refusal::MethodNotAllowed { .. } if !knows(method) => Refusal::MethodUnknown,
            refusal => refusal,
        })
    }

    fn no_route(&self, host: &str, path: &Path<'_>) -> Refusal {
        let mut allow: Vec<&str> = Vec::new();
        let mut fits = false;
        self.visit(path, &mut |fitting| {
            let rules = fitting.iter().filter_map(|&index| self.matches.get(index));
            for rule in rules.filter(|rule| rule.fits_host(host)) {
                fits = true;
                for method in &rule.methods {
                    allow.push(method.as_str());
                    if method == Method::GET {
                        allow.push("HEAD");
                    }
                }
                if rule.methods.is_empty() {
                    allow.extend(["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]);
                }
            }
        });
        if !fits {
            return Refusal::NoRoute;
        }
        allow.sort_unstable();
        allow.dedup();
        Refusal::MethodNotAllowed {
            allow: allow.join(", "),
        }
    }

    /// Shows every list of routes whose pattern fits the path. Branches only where a literal and
    /// a parameter both fit, so never more often than there are nodes.
    fn visit(&self, path: &Path<'_>, show: &mut impl FnMut(&[usize])) {
        self.visit_from(0, path.matched().strip_prefix('/'), show);
    }

    fn visit_from(&self, at: usize, left: Option<&str>, show: &mut impl FnMut(&[usize])) {
        let Some(node) = self.nodes.get(at) else {
            return;
        };
        if !node.rest.is_empty() {
            show(&node.rest);
        }
        let Some(left) = left else {
            return show(&node.ends);
        };
        let (segment, left) = match left.split_once('/') {
            Some((segment, left)) => (segment, Some(left)),
            None => (left, None),
        };
        if let Some(&next) = node.literal.get(segment) {
            self.visit_from(next, left, show);
        }
        if let Some(next) = node.parameter.filter(|_| !segment.is_empty()) {
            self.visit_from(next, left, show);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rule(path: &str, hosts: &[&str], methods: &[&str]) -> Match {
        Match {
            path: Pattern::read(path).unwrap(),
            hosts: hosts.iter().map(|host| Host::read(host).unwrap()).collect(),
            methods: methods
                .iter()
                .map(|method| method.parse().unwrap())
                .collect(),
        }
    }

    fn find(routes: &Routes, host: &str, path: &str, method: &Method) -> Result<usize, Refusal> {
        routes.find(host, &Path::read(path).unwrap(), method)
    }

    #[test]
    fn the_first_route_that_fits_is_taken() {
        let routes = Routes::new(vec![
            rule("/users/me", &[], &[]),
            rule("/users/{id}", &[], &[]),
            rule("/users/*", &[], &[]),
            rule("/*", &[], &[]),
            rule("/users/late", &[], &[]),
        ]);
        let get = |path| find(&routes, "a", path, &Method::GET).unwrap();
        assert_eq!(get("/users/me"), 0);
        assert_eq!(get("/users/7"), 1);
        assert_eq!(get("/users/late"), 1);
        assert_eq!(get("/users/7/orders"), 2);
        assert_eq!(get("/users"), 2);
        assert_eq!(get("/users/"), 2);
        assert_eq!(get("/usersx"), 3);
        assert_eq!(get("/"), 3);
    }

    #[test]
    fn only_a_wrong_method_is_405_and_says_what_would_do() {
        let routes = Routes::new(vec![
            rule("/a", &[], &["GET"]),
            rule("/a", &[], &["PUT"]),
            rule("/b", &["x"], &[]),
        ]);
        let refused = find(&routes, "h", "/a", &Method::DELETE).unwrap_err();
        assert_eq!(
            refused,
            Refusal::MethodNotAllowed {
                allow: "GET, HEAD, PUT".to_owned()
            }
        );
        assert_eq!(find(&routes, "h", "/a", &Method::HEAD), Ok(0));
        assert_eq!(find(&routes, "h", "/a", &Method::PUT), Ok(1));
        assert_eq!(
            find(&routes, "h", "/b", &Method::GET),
            Err(Refusal::NoRoute)
        );
        assert_eq!(
            find(&routes, "h", "/c", &Method::GET),
            Err(Refusal::NoRoute)
        );
        assert!(matches!(
            find(&routes, "x", "/b", &Method::TRACE),
            Err(Refusal::MethodNotAllowed { .. })
        ));
    }

    #[test]
    fn hosts_are_told_apart() {
        let routes = Routes::new(vec![
            rule("/*", &["a.example"], &[]),
            rule("/*", &["*.example"], &[]),
        ]);
        assert_eq!(find(&routes, "a.example", "/", &Method::GET), Ok(0));
        assert_eq!(find(&routes, "b.example", "/", &Method::GET), Ok(1));
        assert_eq!(
            find(&routes, "example", "/", &Method::GET),
            Err(Refusal::NoRoute)
        );
    }

    #[test]
    fn an_escaped_letter_is_the_letter() {
        let routes = Routes::new(vec![rule("/health", &[], &[]), rule("/*", &[], &[])]);
        assert_eq!(find(&routes, "h", "/h%65alth", &Method::GET), Ok(0));
    }

    #[test]
    fn a_route_may_be_written_with_escapes_too() {
        let routes = ["/h%65alth", "/%c3%a9", "/a%2fb"].map(|path| rule(path, &[], &[]));
        let routes = Routes::new(routes.to_vec());
        for (path, place) in [
            ("/health", 0),
            ("/%C3%A9", 1),
            ("/%c3%A9", 1),
            ("/a%2Fb", 2),
        ] {
            assert_eq!(find(&routes, "h", path, &Method::GET), Ok(place), "{path}");
        }
    }

    fn patterns() -> impl Strategy<Value = String> {
        let segment = prop_oneof![Just("a"), Just("b"), Just("{x}"), Just("")];
        (prop::collection::vec(segment, 0..4), any::<bool>()).prop_map(|(mut segments, rest)| {
            if let Some(first) = segments.iter().position(|&segment| segment == "{x}") {
                let mut place = 0;
                segments.retain(|&segment| {
                    place += 1;
                    segment != "{x}" || place == first + 1
                });
            }
            if rest {
                segments.push("*");
            }
            format!("/{}", segments.join("/"))
        })
    }

    proptest! {
        /// The law: what the tree finds is what a walk through the file from top to bottom finds.
        #[test]
        fn the_tree_finds_what_a_walk_through_the_file_finds(
            patterns in prop::collection::vec((patterns(), prop::bool::weighted(0.3)), 1..20),
            segments in prop::collection::vec(prop_oneof![Just("a"), Just("b"), Just("c"), Just("")], 0..5),
        ) {
            let rules: Vec<_> = patterns.iter()
                .map(|(path, put)| rule(path, &[], if *put { &["PUT"] } else { &[] })).collect();
            let path = format!("/{}", segments.join("/"));
            let walk = rules.iter().position(|rule| rule.path.fits(&path) && rule.fits_method(&Method::GET));
            let found = find(&Routes::new(rules.clone()), "h", &path, &Method::GET);
            prop_assert_eq!(found.ok(), walk);
        }
    }
}
