//! What to forget after a request that changes things (RFC 9111 4.4).

use http::header::{self, HeaderMap};
use http::{Method, StatusCode};

/// Does this answer tell that something has changed? A method that edge does not know may change
/// things; an answer of failure tells that nothing has.
pub fn invalidates(method: &Method, status: StatusCode) -> bool {
    let safe = matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE
    );
    !safe && (status.is_success() || status.is_redirection())
}

/// The paths with their queries to forget under this scheme and host: the request's own first,
/// then those that the answer names in `Location` and `Content-Location`, each once.
///
/// What the answer names at another origin is left alone: it may not speak for it.
pub fn targets(scheme: &str, host: &str, path: &str, answer: &HeaderMap) -> Vec<String> {
    let mut targets = vec![path.to_owned()];
    for name in [header::LOCATION, header::CONTENT_LOCATION] {
        let reference = answer.get(name).and_then(|value| value.to_str().ok());
        let target = reference.and_then(|text| resolve(scheme, host, path, text.trim_ascii()));
        targets.extend(target.filter(|target| !targets.contains(target)));
    }
    targets
}

/// Resolves a reference against the request (RFC 3986 5.2); `None` where it leads elsewhere.
fn resolve(scheme: &str, host: &str, path: &str, reference: &str) -> Option<String> {
    let local = below_scheme(scheme, before(reference, &['#']))?;
    if let Some(rest) = local.strip_prefix("//") {
        let named = before(rest, &['/', '?']);
        let rest = rest.get(named.len()..)?;
        let slash = if rest.starts_with('/') { "" } else { "/" };
        return is_same_host(scheme, host, named).then(|| clean(&format!("{slash}{rest}")));
    }
    let own = before(path, &['?']);
    Some(match local.chars().next() {
        None => path.to_owned(),
        Some('/') => clean(local),
        Some('?') => format!("{own}{local}"),
        Some(_) => {
            let folder = own.rfind('/').and_then(|end| own.get(..=end));
            clean(&format!("{}{local}", folder.unwrap_or("/")))
        }
    })
}

/// The text up to the first of these marks.
fn before<'a>(text: &'a str, marks: &[char]) -> &'a str {
    text.split(marks).next().unwrap_or_default()
}

/// The reference without its scheme; `None` if it has another one.
fn below_scheme<'a>(scheme: &str, reference: &'a str) -> Option<&'a str> {
    // A colon behind the first segment is part of a path.
    match before(reference, &['/', '?']).split_once(':') {
        None => Some(reference),
        Some((named, _)) if named.eq_ignore_ascii_case(scheme) => reference.get(named.len() + 1..),
        Some(_) => None,
    }
}

/// Host and port are the same, the scheme's own port said or not.
fn is_same_host(scheme: &str, one: &str, other: &str) -> bool {
    let port = if scheme.eq_ignore_ascii_case("https") {
        ":443"
    } else {
        ":80"
    };
    let [one, other] = [one, other].map(|host| host.strip_suffix(port).unwrap_or(host));
    one.eq_ignore_ascii_case(other)
}

/// The path without its dot segments (RFC 3986 5.2.4), the query as it is.
fn clean(target: &str) -> String {
    let path = before(target, &['?']);
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let dots = matches!(segment, "." | "..");
        if segment == ".." {
            kept.pop();
        } else if !dots {
            kept.push(segment);
        }
        if dots && segments.peek().is_none() {
            kept.push("");
        }
    }
    let query = target.get(path.len()..).unwrap_or_default();
    format!("/{}{query}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    use super::super::tests::headers;
    use super::*;
    use proptest::prelude::*;

    /// RFC 9111 4.4, RFC 9110 9.2.1.
    #[test]
    fn what_changes_things_and_succeeds_makes_edge_forget() {
        for (method, status, forgets) in [
            ("POST", 200, true),
            ("PUT", 204, true),
            ("DELETE", 303, true),
            ("M-SEARCH", 200, true),
            ("POST", 404, false),
            ("POST", 500, false),
            ("GET", 200, false),
            ("HEAD", 200, false),
            ("OPTIONS", 200, false),
            ("TRACE", 200, false),
        ] {
            let named = Method::from_bytes(method.as_bytes()).unwrap();
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(invalidates(&named, status), forgets, "{method} {status}");
        }
    }

    /// RFC 3986 5.4 and RFC 9111 4.4.
    #[test]
    fn references_lead_to_paths_of_the_same_origin() {
        for (reference, target) in [
            ("target", Some("/a/target")),
            ("/x/y?z", Some("/x/y?z")),
            ("/x#f", Some("/x")),
            ("../x", Some("/x")),
            ("../../x", Some("/x")),
            ("./", Some("/a/")),
            ("..", Some("/")),
            ("?z=../1", Some("/a/b?z=../1")),
            ("http://h.test/x", Some("/x")),
            ("HTTP://H.TEST:80/x", Some("/x")),
            ("http://h.test", Some("/")),
            ("http://h.test?z", Some("/?z")),
            ("//h.test/x//y", Some("/x//y")),
            ("x:y", None),
            ("./x:y", Some("/a/x:y")),
            ("https://h.test/x", None),
            ("http://h.test:81/x", None),
            ("http://other.test/x", None),
            ("//other.test/x", None),
            ("http://u@h.test/x", None),
            ("mailto:x", None),
            ("", None),
        ] {
            let found = targets(
                "http",
                "h.test",
                "/a/b?c=d",
                &headers(&[("location", reference)]),
            );
            let expected: Vec<_> = std::iter::once("/a/b?c=d").chain(target).collect();
            assert_eq!(found, expected, "{reference}");
        }
    }

    #[test]
    fn each_target_is_named_once_and_the_own_first() {
        let answer = headers(&[("content-location", "/x"), ("location", "/x")]);
        assert_eq!(targets("http", "h", "/b", &answer), ["/b", "/x"]);
        let own = headers(&[("content-location", "/b")]);
        assert_eq!(targets("https", "h:443", "/b", &own), ["/b"]);
    }

    proptest! {
        #[test]
        fn every_target_is_a_path_without_dot_segments(reference in "[a-c./:?#]{0,20}") {
            let answer = headers(&[("location", &reference)]);
            for target in targets("http", "a", "/b/c", &answer) {
                prop_assert!(target.starts_with('/'), "{}", target);
                let path = target.split('?').next().unwrap();
                prop_assert!(path.split('/').all(|one| one != "." && one != ".."), "{}", target);
            }
        }
    }
}
