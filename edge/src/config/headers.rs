//! `[headers]` and a route's `headers`.

use std::ops::Range;

use http::HeaderName;
use toml::Spanned;
use toml::de::DeValue;

use super::reader::{Report, Table, parsed};
use crate::headers::{Changes, Rules, Template, may_change};

/// More fields than this are not changed.
const MOST: usize = 64;

/// What is changed, and where it is said.
pub(super) type Placed = (Rules, Range<usize>);

/// The keys that `[headers]` and a route's `headers` share.
pub(super) fn read_headers(
    place: &'static str,
    value: Option<&Spanned<DeValue<'_>>>,
    report: &mut Report<'_>,
) -> Placed {
    let span = value.map_or(0..0, Spanned::span);
    let mut table = Table::of(place, value, report);
    let security = table.get::<bool>("security", report);
    let request = read_changes(&mut table, "request", "changes of a request", report);
    let response = read_changes(&mut table, "response", "changes of a response", report);
    table.finish(report);
    let rules = Rules {
        request,
        response,
        security,
    };
    (rules, span)
}

fn read_changes(
    table: &mut Table<'_, '_>,
    key: &'static str,
    place: &'static str,
    report: &mut Report<'_>,
) -> Changes {
    let Some(value) = table.value(key, report) else {
        return Changes::default();
    };
    let mut own = Table::of(place, Some(value), report);
    let set = read_fields(own.value("set", report), report);
    let add = read_fields(own.value("add", report), report);
    let remove = own.get::<Vec<(HeaderName, Range<usize>)>>("remove", report);
    own.finish(report);
    let remove = remove.unwrap_or_default();
    for (name, span) in &remove {
        forbidden(name, span, report);
    }
    let changes = Changes {
        remove: remove.into_iter().map(|(name, _)| name).collect(),
        set,
        add,
    };
    let count = changes.remove.len() + changes.templates().count();
    if count > MOST {
        report.fault(
            &value.span(),
            format!("{count} fields"),
            format!("expected at most {MOST}"),
        );
    }
    let mut seen = Vec::new();
    let names = changes
        .remove
        .iter()
        .chain(changes.templates().map(|(name, _)| name));
    for name in names {
        if seen.contains(&name) {
            let message = format!("`{name}` stands here twice");
            report.fault(
                &value.span(),
                message,
                "`set` takes the place of all that came: once is enough",
            );
        }
        seen.push(name);
    }
    changes
}

/// `{ X-Env = "prod" }`: field and value.
fn read_fields(
    value: Option<&Spanned<DeValue<'_>>>,
    report: &mut Report<'_>,
) -> Vec<(HeaderName, Template)> {
    let Some(value) = value else {
        return Vec::new();
    };
    let Some(table) = value.get_ref().as_table() else {
        report.fault(
            &value.span(),
            "expected a table",
            "as `{ X-Env = \"prod\" }`",
        );
        return Vec::new();
    };
    let mut fields = Vec::new();
    for (key, value) in table {
        let span = key.span();
        let name = HeaderName::try_from(key.get_ref().as_ref());
        let template = parsed(value, report, Template::read);
        match name {
            Ok(name) => {
                forbidden(&name, &span, report);
                fields.extend(template.map(|template| (name, template)));
            }
            Err(_) => {
                let message = format!("`{}` is no name of a field", key.get_ref());
                report.fault(&span, message, "as `X-Env`");
            }
        }
    }
    fields
}

fn forbidden(name: &HeaderName, span: &Range<usize>, report: &mut Report<'_>) {
    if let Err(why) = may_change(name) {
        report.fault(
            span,
            format!("`{name}` cannot be changed: {why}"),
            "leave it out",
        );
    }
}
