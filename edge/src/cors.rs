//! Which pages of other sites may ask (the Fetch standard's CORS protocol, 3.2).
//!
//! A browser asks before it lets a page send what a form could not (a preflight), and looks at
//! every answer before it lets the page read it.

use http::Method;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use std::time::Duration;

use crate::refusal::Refusal;
use crate::websocket::{Origin, Site};

/// Who may ask from where, and what the page may see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Pages of which origins.
    pub origins: Origins,
    /// Which methods, beside those that need no preflight; empty: those of the route, or any.
    pub methods: Vec<Method>,
    /// Which fields, beside those that need no preflight.
    pub headers: Vec<HeaderName>,
    /// Which fields of an answer a page may read, beside the usual ones.
    pub expose: Vec<HeaderName>,
    /// May a page have the person's cookies sent along?
    pub credentials: bool,
    /// How long a browser may keep to what a preflight said.
    pub max_age: Duration,
}

/// Pages of which origins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origins {
    /// All of them.
    Any,
    /// These.
    Some(Vec<Origin>),
}

/// Fields for an answer.
pub type Fields = Vec<(HeaderName, HeaderValue)>;

/// More requested fields than this are not looked at: no honest page has so many.
const MOST_HEADERS: usize = 64;
/// A longer origin is none.
const LONGEST_ORIGIN: usize = 512;

impl Policy {
    /// What a preflight is answered; an `Err` if pages of this origin may not ask so.
    pub fn preflight<'a>(
        &self,
        request: &HeaderMap,
        site: impl Into<Site<'a>>,
    ) -> Result<Fields, Refusal> {
        let site = site.into();
        let origin = origin(request).filter(|origin| self.permits(origin, site));
        let origin = origin.ok_or(Refusal::PreflightRefused)?;
        let method = requested_method(request).ok_or(Refusal::PreflightRefused)?;
        let simple = [Method::GET, Method::HEAD, Method::POST].contains(&method);
        if !(simple || self.methods.is_empty() || self.methods.contains(&method)) {
            return Err(Refusal::PreflightRefused);
        }
        let wanted = request
            .get_all(header::ACCESS_CONTROL_REQUEST_HEADERS)
            .iter();
        let wanted = wanted.flat_map(|field| field.as_bytes().split(|&b| b == b','));
        let mut headers: Vec<HeaderName> = Vec::new();
        for name in wanted {
            let name = HeaderName::from_bytes(name.trim_ascii());
            let name = name.map_err(|_| Refusal::PreflightRefused)?;
            if !self.headers.contains(&name) && !SAFELISTED.contains(&name) {
                return Err(Refusal::PreflightRefused);
            }
            if headers.len() == MOST_HEADERS {
                return Err(Refusal::PreflightRefused);
            }
            headers.push(name);
        }
        let mut fields = self.allow_origin(origin);
        let methods: Vec<_> = match self.methods.is_empty() {
            true => vec![method.as_str()],
            false => self.methods.iter().map(Method::as_str).collect(),
        };
        put(&mut fields, header::ACCESS_CONTROL_ALLOW_METHODS, &methods);
        let headers: Vec<_> = headers.iter().map(HeaderName::as_str).collect();
        put(&mut fields, header::ACCESS_CONTROL_ALLOW_HEADERS, &headers);
        let age = HeaderValue::from(self.max_age.as_secs());
        fields.push((header::ACCESS_CONTROL_MAX_AGE, age));
        Ok(fields)
    }

    /// What any answer to a request with these fields is given, whatever it says; empty where the
    /// page may not read it: the browser then keeps it from the page.
    pub fn answer<'a>(&self, request: &HeaderMap, site: impl Into<Site<'a>>) -> Fields {
        let site = site.into();
        let permitted = origin(request).filter(|origin| self.permits(origin, site));
        let Some(origin) = permitted else {
            return Vec::new();
        };
        let mut fields = self.allow_origin(origin);
        let expose: Vec<_> = self.expose.iter().map(HeaderName::as_str).collect();
        put(&mut fields, header::ACCESS_CONTROL_EXPOSE_HEADERS, &expose);
        fields
    }

    /// Do answers differ by who asks? Then caches must know (`Vary`).
    pub fn varies(&self) -> bool {
        self.origins != Origins::Any
    }

    fn permits(&self, origin: &str, site: Site<'_>) -> bool {
        match &self.origins {
            Origins::Any => true,
            Origins::Some(list) => list.iter().any(|own| own.fits(origin, site)),
        }
    }

    fn allow_origin(&self, origin: &str) -> Fields {
        let value = match self.origins {
            Origins::Any => Ok(HeaderValue::from_static("*")),
            // It came as a field's value and goes back as one.
            Origins::Some(_) => HeaderValue::from_str(origin),
        };
        let Ok(value) = value else { return Vec::new() };
        let mut fields = vec![(header::ACCESS_CONTROL_ALLOW_ORIGIN, value)];
        if self.credentials {
            let yes = HeaderValue::from_static("true");
            fields.push((header::ACCESS_CONTROL_ALLOW_CREDENTIALS, yes));
        }
        fields
    }
}

/// What a page may send without a preflight (Fetch 2.2.2), as far as it is a matter of names.
const SAFELISTED: [HeaderName; 4] = [
    header::ACCEPT,
    header::ACCEPT_LANGUAGE,
    header::CONTENT_LANGUAGE,
    header::RANGE,
];

/// What a peer may not say for itself where edge speaks of it.
pub const OWN: [HeaderName; 6] = [
    header::ACCESS_CONTROL_ALLOW_ORIGIN,
    header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
    header::ACCESS_CONTROL_ALLOW_METHODS,
    header::ACCESS_CONTROL_ALLOW_HEADERS,
    header::ACCESS_CONTROL_MAX_AGE,
    header::ACCESS_CONTROL_EXPOSE_HEADERS,
];

/// The method that a preflight is about.
pub fn requested_method(request: &HeaderMap) -> Option<Method> {
    let method = request.get(header::ACCESS_CONTROL_REQUEST_METHOD)?;
    Method::from_bytes(method.as_bytes()).ok()
}

/// The page's origin; `None` too where there are two.
fn origin(request: &HeaderMap) -> Option<&str> {
    let mut origins = request.get_all(header::ORIGIN).iter();
    let origin = origins.next()?.to_str().ok()?;
    (origins.next().is_none() && origin.len() <= LONGEST_ORIGIN).then_some(origin)
}

fn put(fields: &mut Fields, name: HeaderName, words: &[&str]) {
    if words.is_empty() {
        return;
    }
    // Names and methods are tokens.
    if let Ok(value) = HeaderValue::try_from(words.join(", ")) {
        fields.push((name, value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn policy(origins: &[&str]) -> Policy {
        let some = origins.iter().map(|own| Origin::read(own).unwrap());
        Policy {
            origins: match origins {
                ["*"] => Origins::Any,
                _ => Origins::Some(some.collect()),
            },
            methods: vec![Method::PUT],
            headers: vec![header::CONTENT_TYPE, HeaderName::from_static("x-a")],
            expose: vec![HeaderName::from_static("x-b")],
            credentials: false,
            max_age: Duration::from_secs(600),
        }
    }

    fn request(fields: &[(&'static str, &str)]) -> HeaderMap {
        let fields = fields.iter();
        fields
            .map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()))
            .collect()
    }

    fn said<'a>(fields: &'a Fields, name: &HeaderName) -> Option<&'a str> {
        let found = fields.iter().find(|(own, _)| own == name);
        found.map(|(_, value)| value.to_str().unwrap())
    }

    #[test]
    fn a_preflight_is_told_what_the_page_may() {
        let asked = request(&[
            ("origin", "https://a.example"),
            ("access-control-request-method", "PUT"),
            ("access-control-request-headers", "content-type,x-a"),
        ]);
        let policy = policy(&["https://*.example"]);
        let fields = policy.preflight(&asked, "h").unwrap();
        for (name, value) in [
            (header::ACCESS_CONTROL_ALLOW_ORIGIN, "https://a.example"),
            (header::ACCESS_CONTROL_ALLOW_METHODS, "PUT"),
            (header::ACCESS_CONTROL_ALLOW_HEADERS, "content-type, x-a"),
            (header::ACCESS_CONTROL_MAX_AGE, "600"),
        ] {
            assert_eq!(said(&fields, &name), Some(value), "{name}");
        }
        assert_eq!(
            said(&fields, &header::ACCESS_CONTROL_ALLOW_CREDENTIALS),
            None
        );
    }

    #[test]
    fn what_a_page_may_not_ask_is_refused() {
        let policy = policy(&["https://a.example"]);
        for (origin, method, headers) in [
            ("https://b.example", "PUT", ""),
            ("http://a.example", "PUT", ""),
            ("https://a.example.evil", "PUT", ""),
            ("null", "PUT", ""),
            ("https://a.example", "DELETE", ""),
            ("https://a.example", "put", ""),
            ("https://a.example", "PUT", "x-c"),
            ("https://a.example", "PUT", "x-a, bad name"),
            ("https://a.example", "PUT", "*"),
        ] {
            let mut asked = request(&[
                ("origin", origin),
                ("access-control-request-method", method),
            ]);
            if !headers.is_empty() {
                asked.insert("access-control-request-headers", headers.parse().unwrap());
            }
            let answer = policy.preflight(&asked, "h");
            assert_eq!(
                answer,
                Err(Refusal::PreflightRefused),
                "{origin} {method} {headers}"
            );
        }
        let many = vec!["x-a"; MOST_HEADERS + 1].join(",");
        let asked = request(&[
            ("origin", "https://a.example"),
            ("access-control-request-method", "PUT"),
            ("access-control-request-headers", &many),
        ]);
        assert!(policy.preflight(&asked, "h").is_err());
    }

    #[test]
    fn an_answer_names_the_origin_that_asked_or_all() {
        let asked = request(&[("origin", "https://a.example")]);
        let one = policy(&["https://a.example"]);
        let fields = one.answer(&asked, "h");
        assert_eq!(
            said(&fields, &header::ACCESS_CONTROL_ALLOW_ORIGIN),
            Some("https://a.example")
        );
        assert_eq!(
            said(&fields, &header::ACCESS_CONTROL_EXPOSE_HEADERS),
            Some("x-b")
        );
        assert!(
            one.answer(&request(&[("origin", "https://b.example")]), "h")
                .is_empty()
        );
        assert!(one.answer(&request(&[]), "h").is_empty());
        let all = policy(&["*"]);
        assert_eq!(
            said(
                &all.answer(&asked, "h"),
                &header::ACCESS_CONTROL_ALLOW_ORIGIN
            ),
            Some("*")
        );
        assert!(one.varies() && !all.varies());
    }

    proptest! {
        /// No origin is named that was not the one that asked, and nothing panics.
        #[test]
        fn nobody_is_let_in_by_another_name(origin in "[ -~]{0,40}", method in "[ -~]{0,10}", headers in "[ -~]{0,40}") {
            let asked = request(&[
                ("origin", &origin),
                ("access-control-request-method", &method),
                ("access-control-request-headers", &headers),
            ]);
            let policy = policy(&["https://a.example", "https://*.b.example"]);
            let _ = policy.preflight(&asked, "h");
            let fields = policy.answer(&asked, "h");
            if let Some(named) = said(&fields, &header::ACCESS_CONTROL_ALLOW_ORIGIN) {
                prop_assert_eq!(named, origin.trim());
            }
        }
    }
}
