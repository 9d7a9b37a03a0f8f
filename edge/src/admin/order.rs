//! What an operator wants purged, as it stands in the query of `/cache/purge`.

use std::fmt;

use http::Uri;
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::{Deserialize, Serialize};

use crate::cache::LONGEST_TAG;
use crate::store::{Purge, Target};

/// What is to be purged, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Order {
    pub(crate) named: Named,
    pub(crate) purge: Purge,
}

/// What is to be purged, as the operator writes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Named {
    Tag(String),
    Url(String),
    Prefix(String),
    All(bool),
}

/// Why an order is none, and what would be right.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    Several,
    Unknown(String),
    NotText(&'static str),
    Value(&'static str),
    Tag(String),
    Url(String),
    Prefix(String),
}

/// All forms of an order.
const RIGHT: &str = "?tag=users, ?url=/path or ?url=http://host/path, \
     ?prefix=/path or ?prefix=http://host/path, or ?all, each with &soft or without";

impl Order {
    /// Reads the query. It must name exactly one target that an answer can have.
    pub(crate) fn read(query: &str) -> Result<(Self, Target), Fault> {
        let (mut found, mut purge) = (None, Purge::Hard);
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = match pair.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (pair, None),
            };
            let named = match name {
                "soft" => {
                    purge = valueless("soft", value, Purge::Soft)?;
                    continue;
                }
                "all" => valueless("all", value, Named::All(true))?,
                "tag" => Named::Tag(text("tag", value)?),
                "url" => Named::Url(text("url", value)?),
                "prefix" => Named::Prefix(text("prefix", value)?),
                _ => return Err(Fault::Unknown(name.to_owned())),
            };
            if found.replace(named).is_some() {
                return Err(Fault::Several);
            }
        }
        let named = found.ok_or(Fault::None)?;
        let target = named.target()?;
        Ok((Self { named, purge }, target))
    }

    /// The query that is read as this order.
    pub(crate) fn to_query(&self) -> String {
        let soft = if self.purge == Purge::Soft {
            "&soft"
        } else {
            ""
        };
        match &self.named {
            Named::All(_) => format!("all{soft}"),
            Named::Tag(value) | Named::Url(value) | Named::Prefix(value) => {
                let value = utf8_percent_encode(value, NON_ALPHANUMERIC);
                format!("{}={value}{soft}", self.named.as_str())
            }
        }
    }
}

impl Named {
    /// Its name in the query, the log and the metrics.
    pub(crate) fn as_str(&self) -> &'static str {
        match self {
            Self::Tag(_) => "tag",
            Self::Url(_) => "url",
            Self::Prefix(_) => "prefix",
            Self::All(_) => "all",
        }
    }

    /// Its value as it is written; empty for everything.
    pub(crate) fn value(&self) -> &str {
        match self {
            Self::Tag(value) | Self::Url(value) | Self::Prefix(value) => value,
            Self::All(_) => "",
        }
    }

    fn target(&self) -> Result<Target, Fault> {
        match self {
            Self::All(_) => Ok(Target::All),
            Self::Tag(tag) if is_tag(tag) => Ok(Target::Tag(tag.clone())),
            Self::Tag(tag) => Err(Fault::Tag(tag.clone())),
            Self::Url(url) => {
                let (host, path) = place(url).ok_or_else(|| Fault::Url(url.clone()))?;
                Ok(Target::Url { host, path })
            }
            Self::Prefix(prefix) => {
                let place = place(prefix).filter(|(_, path)| !path.contains('?'));
                let (host, path) = place.ok_or_else(|| Fault::Prefix(prefix.clone()))?;
                Ok(Target::Prefix { host, path })
            }
        }
    }
}

fn valueless<T>(name: &'static str, value: Option<&str>, meant: T) -> Result<T, Fault> {
    match value {
        None | Some("") => Ok(meant),
        Some(_) => Err(Fault::Value(name)),
    }
}

/// The value as it was before somebody put it into a query. `+` stays `+`: in a URL it is no space.
fn text(name: &'static str, value: Option<&str>) -> Result<String, Fault> {
    let decoded = percent_decode_str(value.unwrap_or_default()).decode_utf8();
    decoded.map(Into::into).map_err(|_| Fault::NotText(name))
}

/// Can an answer have this tag (`cache::tags`)?
fn is_tag(tag: &str) -> bool {
    (1..=LONGEST_TAG).contains(&tag.len()) && tag.bytes().all(|b| b.is_ascii_graphic())
}

/// The host, if it is named, and the path with its query, in the form in which clients' requests
/// are read.
fn place(text: &str) -> Option<(Option<String>, String)> {
    let uri: Uri = text.parse().ok().filter(|_| !text.contains('#'))?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let host = match (uri.scheme_str(), uri.authority()) {
        (None, None) if path.starts_with('/') => None,
        (Some("http" | "https"), Some(host)) if !host.as_str().contains('@') => {
            Some(host.as_str().to_ascii_lowercase())
        }
        _ => return None,
    };
    let slash = if path.starts_with('/') { "" } else { "/" };
    Some((host, format!("{slash}{path}")))
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => write!(f, "nothing to purge is named; try {RIGHT}"),
            Self::Several => write!(
                f,
                "more than one thing to purge is named; try one of {RIGHT}"
            ),
            Self::Unknown(name) => write!(
                f,
                "unknown parameter `{name}`; write & within a value as %26, and try {RIGHT}"
            ),
            Self::NotText(name) => write!(f, "the value of `{name}` is no UTF-8"),
            Self::Value(name) => write!(f, "`{name}` has no value; leave it out or write &{name}"),
            Self::Tag(tag) => write!(
                f,
                "no answer has the tag `{tag}`: a tag is 1 to {LONGEST_TAG} visible ASCII \
                 characters without a space; purge several tags one by one"
            ),
            Self::Url(url) => write!(
                f,
                "`{url}` is no URL of an answer; try /path?query or http://host/path?query, \
                 without #, and what is no ASCII as clients send it"
            ),
            Self::Prefix(prefix) => write!(
                f,
                "`{prefix}` is no path prefix; try /path or http://host/path, without query and #"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn target(query: &str) -> Target {
        Order::read(query).unwrap().1
    }

    fn url(host: Option<&str>, path: &str) -> Target {
        let (host, path) = (host.map(str::to_owned), path.to_owned());
        Target::Url { host, path }
    }

    fn prefix(host: Option<&str>, path: &str) -> Target {
        let (host, path) = (host.map(str::to_owned), path.to_owned());
        Target::Prefix { host, path }
    }

    #[test]
    fn one_target_is_read() {
        for (query, read) in [
            ("tag=users", Target::Tag("users".to_owned())),
            ("tag=a+b%2Bc", Target::Tag("a+b+c".to_owned())),
            ("all", Target::All),
            ("all=&", Target::All),
            ("url=/a?x=1%26y=2", url(None, "/a?x=1&y=2")),
            ("url=%2Fa%3F", url(None, "/a?")),
            ("url=/a%2520b", url(None, "/a%20b")),
            ("url=http://A.Test:81/B", url(Some("a.test:81"), "/B")),
            ("url=https%3A%2F%2Fa.test", url(Some("a.test"), "/")),
            ("url=HTTP://a.test?x", url(Some("a.test"), "/?x")),
            ("url=http://[::1]:80/", url(Some("[::1]:80"), "/")),
            ("prefix=/api/", prefix(None, "/api/")),
            ("prefix=http://a.test", prefix(Some("a.test"), "/")),
        ] {
            assert_eq!(target(query), read, "{query}");
            assert_eq!(Order::read(query).unwrap().0.purge, Purge::Hard);
            let (soft, same) = Order::read(&format!("soft&{query}")).unwrap();
            assert_eq!((soft.purge, same), (Purge::Soft, read), "{query}");
        }
    }

    #[test]
    fn what_is_no_order_is_refused() {
        for (query, fault) in [
            ("", Fault::None),
            ("soft", Fault::None),
            ("tag=a&tag=a", Fault::Several),
            ("all&url=/", Fault::Several),
            ("url=/a?x=1&y=2", Fault::Unknown("y".to_owned())),
            ("Tag=a", Fault::Unknown("Tag".to_owned())),
            ("tag=%ff", Fault::NotText("tag")),
            ("all=yes", Fault::Value("all")),
            ("tag=a&soft=false", Fault::Value("soft")),
            ("tag", Fault::Tag(String::new())),
            ("tag=a%20b", Fault::Tag("a b".to_owned())),
            ("prefix=/a?b", Fault::Prefix("/a?b".to_owned())),
            ("prefix=api", Fault::Prefix("api".to_owned())),
        ] {
            assert_eq!(Order::read(query).unwrap_err(), fault, "{query}");
        }
        for url in [
            "",
            "a",
            "*",
            "a/b",
            "ftp://a/b",
            "http://u@a/b",
            "/a b",
            "/a#b",
            "http:///a",
        ] {
            let query = Order {
                named: Named::Url(url.to_owned()),
                purge: Purge::Hard,
            };
            let fault = Order::read(&query.to_query()).unwrap_err();
            assert_eq!(fault, Fault::Url(url.to_owned()));
        }
    }

    #[test]
    fn every_fault_says_what_would_be_right() {
        for query in ["", "all&all", "x", "all=1", "tag", "url=a", "prefix=a"] {
            let fault = Order::read(query).unwrap_err().to_string();
            let right = ["try ", "write ", "leave ", "a tag is "];
            assert!(right.iter().any(|word| fault.contains(word)), "{fault}");
        }
    }

    fn named() -> impl Strategy<Value = Named> {
        let tag = "[!-~]{1,9}".prop_map(Named::Tag);
        let url = "(https?://[a-z]{1,3}(:80)?)?/[!$-;=?-Z_a-z~ü]{0,9}".prop_map(Named::Url);
        let prefix = "/[a-z%&+=/]{0,9}".prop_map(Named::Prefix);
        prop_oneof![tag, url, prefix, Just(Named::All(true))]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(named in named(), soft: bool) {
            let purge = if soft { Purge::Soft } else { Purge::Hard };
            let order = Order { named, purge };
            prop_assert_eq!(Order::read(&order.to_query()).unwrap().0, order);
        }

        #[test]
        fn whatever_is_read_is_an_order_or_a_fault(query in "(tag|url|prefix|all|soft|[=&%/?:a-f0-9]){0,12}") {
            if let Err(fault) = Order::read(&query) {
                prop_assert!(!fault.to_string().is_empty());
            }
        }
    }
}
