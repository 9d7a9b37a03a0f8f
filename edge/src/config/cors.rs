//! A route's `cors`.

use std::ops::Range;
use std::time::Duration;

use http::{HeaderName, Method, header};
use toml::Spanned;
use toml::de::DeValue;

use super::forms::{distinct, written};
use super::reader::{Read, Report, Switch, Table};
use crate::cors::{Origins, Policy};
use crate::websocket::Origin;

/// A browser keeps to a preflight for so long, unless the file says otherwise, and at most.
const MAX_AGE: Duration = Duration::from_secs(600);
const MOST_AGE: Duration = Duration::from_secs(86_400);
/// The most members of a list here.
const MOST: usize = 64;

/// `cors = { origins = ["https://app.example"], … }`, or `"off"`.
pub(super) fn read_cors(
    table: &mut Table<'_, '_>,
    methods: &[Method],
    report: &mut Report<'_>,
) -> Option<Policy> {
    let value = table.value("cors", report)?;
    if value.get_ref().as_str() == Some("off") {
        return None;
    }
    let mut own = Table::of("a route's cors", Some(value), report);
    let origins = read_origins(&mut own, report);
    let given = own.value("methods", report).map(Spanned::span);
    let listed = distinct::<Method>(&mut own, "methods", MOST, report);
    if let (Some(span), Some(listed)) = (given, &listed) {
        let none = |method: &&Method| !methods.is_empty() && !methods.contains(method);
        for method in listed.iter().filter(none) {
            let message = format!("the route does not take {method}");
            report.fault(
                &span,
                message,
                "leave it out, or add it to the route's `methods`",
            );
        }
    }
    let headers = distinct::<HeaderName>(&mut own, "headers", MOST, report);
    let expose = distinct::<HeaderName>(&mut own, "expose", MOST, report);
    let credentials = own.placed::<bool>("credentials", report);
    let max_age = own.placed::<Switch<Duration>>("max_age", report);
    own.finish(report);
    if let Some((Switch::On(age), span)) = &max_age
        && *age > MOST_AGE
    {
        let message = format!("\"{}\" does not fit here", written(*age));
        report.fault(
            span,
            message,
            "expected at most \"1d\": browsers keep to nothing longer",
        );
    }
    let origins = origins?;
    if let (Origins::Any, Some((true, span))) = (&origins, &credentials) {
        let help = "name the origins, or leave `credentials` out";
        report.fault(
            span,
            "not every page may have a person's cookies sent along",
            help,
        );
    }
    Some(Policy {
        origins,
        methods: listed.unwrap_or_else(|| methods.to_vec()),
        headers: headers.unwrap_or_else(|| vec![header::CONTENT_TYPE]),
        expose: expose.unwrap_or_default(),
        credentials: credentials.is_some_and(|(yes, _)| yes),
        max_age: max_age.map_or(MAX_AGE, |(age, _)| age.on().unwrap_or_default()),
    })
}

fn read_origins(table: &mut Table<'_, '_>, report: &mut Report<'_>) -> Option<Origins> {
    let help = "as `origins = [\"https://app.example\"]`, or `origins = \"*\"` for all";
    let value = table.value("origins", report);
    if value.is_some_and(|value| value.get_ref().as_str() == Some("*")) {
        return Some(Origins::Any);
    }
    let (list, span) = table.require::<Vec<OneOrAll>>("origins", help, report)?;
    if list.is_empty() || list.len() > MOST {
        report.fault(
            &span,
            format!("{} members", list.len()),
            format!("expected 1 to {MOST}"),
        );
    }
    let mut some = Vec::new();
    for OneOrAll(origin, at) in list {
        match origin {
            None => return Some(Origins::Any),
            Some(origin) if some.contains(&origin) => {
                report.fault(&at, "this stands here twice", "leave one out");
            }
            Some(origin) => some.push(origin),
        }
    }
    Some(Origins::Some(some))
}

/// An origin, or `*`.
struct OneOrAll(Option<Origin>, Range<usize>);

impl Read for OneOrAll {
    fn read(value: &Spanned<DeValue<'_>>, report: &mut Report<'_>) -> Option<Self> {
        let all = value.get_ref().as_str() == Some("*");
        let origin = match all {
            true => None,
            false => Some(<Origin as Read>::read(value, report)?),
        };
        Some(Self(origin, value.span()))
    }
}
