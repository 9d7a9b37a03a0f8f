//! The words of a route's `cache`: statuses, parts of the key, names.

use std::ops::Range;

use http::StatusCode;
use http::header::HeaderName;
use toml::Spanned;
use toml::de::DeValue;

use crate::cache::{KeyPart, PrivateBy};
use crate::config::reader::{Read, Report, parsed};

/// A status whose answers are whole and can be kept.
pub(super) fn read_status(
    text: &str,
    span: &Range<usize>,
    report: &mut Report<'_>,
) -> Option<StatusCode> {
    let status = text.parse::<StatusCode>().ok().filter(|status| {
        (200..600).contains(&status.as_u16())
            && *status != StatusCode::PARTIAL_CONTENT
            && *status != StatusCode::NOT_MODIFIED
    });
    if status.is_none() {
        report.fault(
            span,
            format!("`{text}` is no status whose answers can be kept"),
            "expected 200 to 599, but not 206 and 304",
        );
    }
    status
}

/// A name of a query parameter that does not count, or the beginning of such names before `*`.
#[derive(PartialEq)]
pub(super) struct Ignored(pub(super) String);

/// The name of a query parameter, as it stands in the URL.
fn is_query_name(text: &str) -> bool {
    let good = |b: u8| b.is_ascii_graphic() && !matches!(b, b'&' | b'=' | b'#' | b'*');
    !text.is_empty() && text.bytes().all(good)
}

impl Read for StatusCode {
    fn read(value: &Spanned<DeValue<'_>>, report: &mut Report<'_>) -> Option<Self> {
        let number = u64::read(value, report)?;
        read_status(&number.to_string(), &value.span(), report)
    }
}

impl Read for HeaderName {
    fn read(value: &Spanned<DeValue<'_>>, report: &mut Report<'_>) -> Option<Self> {
        let right = "a header's name, as \"Accept-Encoding\"";
        parsed(value, report, |text| {
            if text == "*" {
                return Err(format!(
                    "no two requests share an answer then: expected {right}"
                ));
            }
            Self::from_bytes(text.as_bytes()).map_err(|_| format!("expected {right}"))
        })
    }
}

impl Read for KeyPart {
    fn read(value: &Spanned<DeValue<'_>>, report: &mut Report<'_>) -> Option<Self> {
        let right = "expected \"path\", \"query\", one parameter as \"query:page\", or one header \
                     as \"header:Accept-Language\"";
        parsed(value, report, |text| {
            let part = match text.split_once(':') {
                None if text == "path" => Some(Self::Path),
                None if text == "query" => Some(Self::Query),
                Some(("query", name)) if is_query_name(name) => {
                    Some(Self::QueryName(name.to_owned()))
                }
                Some(("header", name)) => HeaderName::from_bytes(name.as_bytes())
                    .ok()
                    .filter(|name| name.as_str() != "*")
                    .map(Self::Header),
                _ => None,
            };
            part.ok_or_else(|| right.to_owned())
        })
    }
}

impl Read for Ignored {
    fn read(value: &Spanned<DeValue<'_>>, report: &mut Report<'_>) -> Option<Self> {
        let right = "expected a parameter's name, as \"fbclid\", or the beginning of some, as \
                     \"utm_*\"";
        parsed(value, report, |text| match text {
            "*" => Err("to ignore all of the query, leave \"query\" out of `key`".to_owned()),
            _ if is_query_name(text.strip_suffix('*').unwrap_or(text)) => Ok(Self(text.to_owned())),
            _ => Err(right.to_owned()),
        })
    }
}

impl Read for PrivateBy {
    fn read(value: &Spanned<DeValue<'_>>, report: &mut Report<'_>) -> Option<Self> {
        parsed(value, report, |text| match text {
            "identity" => Ok(Self::Identity),
            "off" => Ok(Self::Nobody),
            _ => Err("expected \"identity\" or \"off\"".to_owned()),
        })
    }
}
