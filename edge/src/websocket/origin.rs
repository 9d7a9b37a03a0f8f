//! Which pages may open a WebSocket: a browser names the page's origin (RFC 6454, RFC 6455 10.2),
//! and sends the person's cookies along whoever wrote the page.

use std::fmt;

/// A page that may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Any page of the host that is asked.
    Same,
    /// This origin, in small letters and without the scheme's own port.
    Exact(String),
    /// All hosts below this one: `scheme` and `.host[:port]`.
    Below(String, String),
}

/// Whom a page asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Site<'a> {
    /// Its host, with its port if it was named.
    pub host: &'a str,
    /// Was it asked through TLS? If that is not known: no.
    pub secure: bool,
}

impl<'a> From<&'a str> for Site<'a> {
    fn from(host: &'a str) -> Self {
        let secure = false;
        Self { host, secure }
    }
}

impl Origin {
    /// Reads `same`, `https://app.example`, `https://*.example` or `null`.
    pub fn read(text: &str) -> Result<Self, String> {
        let wrong = || "expected \"same\", or an origin as \"https://app.example\" or \"https://*.example\"";
        match text {
            "same" => return Ok(Self::Same),
            "null" => return Ok(Self::Exact("null".to_owned())),
            _ => {}
        }
        let origin = normal(text).ok_or_else(wrong)?;
        let (scheme, host) = origin.split_once("://").ok_or_else(wrong)?;
        let below = host.strip_prefix('*');
        let plain = below.map_or(host, |rest| rest.strip_prefix('.').unwrap_or("*"));
        let good = |b: u8| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b);
        if plain.is_empty() || !plain.bytes().all(good) {
            return Err(wrong().to_owned());
        }
        Ok(match below {
            Some(host) => Self::Below(scheme.to_owned(), host.to_owned()),
            None => Self::Exact(origin),
        })
    }

    /// Does this rule take a page of `origin`, that asks this site? What anybody on the way may have
    /// written, a page without TLS, is not of the site that has it.
    pub fn fits(&self, origin: &str, site: Site<'_>) -> bool {
        if let Self::Exact(own) = self
            && own == "null"
        {
            return origin == "null";
        }
        let Some(origin) = normal(origin) else {
            return false;
        };
        let Some((scheme, page)) = origin.split_once("://") else {
            return false;
        };
        match self {
            Self::Same => {
                let known = scheme == "https" || (scheme == "http" && !site.secure);
                let own = normal(&format!("{scheme}://{}", site.host));
                known && own.is_some_and(|own| own == origin)
            }
            Self::Exact(own) => *own == origin,
            Self::Below(own, host) => {
                own == scheme && page.len() > host.len() && page.ends_with(host.as_str())
            }
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Same => f.write_str("same"),
            Self::Exact(origin) => f.write_str(origin),
            Self::Below(scheme, host) => write!(f, "{scheme}://*{host}"),
        }
    }
}

/// In small letters, and without the port that the scheme has anyway (RFC 6454 6.2).
fn normal(origin: &str) -> Option<String> {
    let origin = origin.to_ascii_lowercase();
    let (scheme, host) = origin.split_once("://")?;
    let port = match scheme {
        "http" | "ws" => ":80",
        "https" | "wss" => ":443",
        _ => "",
    };
    let host = Some(port)
        .filter(|port| !port.is_empty())
        .and_then(|port| host.strip_suffix(port))
        .unwrap_or(host);
    (!scheme.is_empty() && !host.is_empty()).then(|| format!("{scheme}://{host}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fits(rule: &str, origin: &str, host: &str) -> bool {
        Origin::read(rule).unwrap().fits(origin, host.into())
    }

    #[test]
    fn the_same_host_is_the_same_port_too() {
        assert!(fits("same", "https://a.example", "a.example"));
        assert!(fits("same", "https://A.example", "a.EXAMPLE:443"));
        assert!(fits("same", "http://a.example:30080", "a.example:30080"));
        assert!(!fits("same", "http://a.example", "a.example:30080"));
        assert!(!fits("same", "https://b.example", "a.example"));
        assert!(!fits("same", "null", "null"));
        assert!(!fits("same", "ftp://a.example", "a.example"));
        let secure = Site {
            host: "a.example",
            secure: true,
        };
        assert!(Origin::Same.fits("https://a.example", secure));
        assert!(!Origin::Same.fits("http://a.example", secure));
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        assert!(fits("https://a.example:443", "https://a.example", "x"));
        for other in [
            "http://a.example",
            "https://a.example:8443",
            "https://b.a.example",
            "https://a.example.evil",
            "a.example",
            "null",
        ] {
            assert!(!fits("https://a.example", other, "x"), "{other}");
        }
        assert!(fits("null", "null", "x"));
    }

    #[test]
    fn a_star_stands_for_hosts_below() {
        assert!(fits("https://*.example", "https://a.example", "x"));
        assert!(fits("https://*.example", "https://b.a.example", "x"));
        for other in [
            "https://example",
            "https://.example",
            "https://evilexample",
            "http://a.example",
        ] {
            assert!(!fits("https://*.example", other, "x"), "{other}");
        }
    }

    #[test]
    fn what_is_no_origin_is_refused_with_the_right_form() {
        for text in [
            "",
            "*",
            "a.example",
            "https://",
            "https://a/b",
            "https://*",
            "https://*a",
            "https://a b",
        ] {
            let error = Origin::read(text).unwrap_err();
            assert!(error.contains("https://app.example"), "{text}: {error}");
        }
    }
}
