//! `[request]`: what a request may be.

use super::forms::{choice, number};
use super::reader::{Report, Size, Switch, Table};
use crate::message::Bounds;
use crate::route::{Paths, Slashes};

/// `[request]`
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Request {
    /// How large its head may be.
    pub bounds: Bounds,
    /// How large its body may be; `None`: as large as it likes.
    pub body: Option<u64>,
    /// What becomes of paths that could be read in two ways.
    pub paths: Paths,
}

/// Pingora itself takes no larger head, and no more fields.
const MOST_HEAD: u64 = 512 << 10;
const MOST_FIELDS: usize = 255;

pub(super) fn read_request(mut table: Table<'_, '_>, report: &mut Report<'_>) -> Request {
    let usual = Bounds::default();
    let fields = number(&mut table, "fields", 1..=MOST_FIELDS, report);
    let bounds = Bounds {
        target: read_size(&mut table, "target", usual.target, report),
        fields: fields.map_or(usual.fields, |(fields, _)| fields),
        fields_size: read_size(&mut table, "fields_size", usual.fields_size, report),
    };
    let body = read_body(&mut table, None, report);
    let slashes = |table: &mut Table<'_, '_>,
                   key,
                   words: &[(&'static str, Slashes)],
                   report: &mut Report<'_>| {
        let value = table.value(key, report);
        value
            .and_then(|value| choice(value, report, words))
            .unwrap_or_default()
    };
    let (keep, merge, refuse) = (
        ("keep", Slashes::Keep),
        ("merge", Slashes::Merge),
        ("refuse", Slashes::Refuse),
    );
    let double_slashes = slashes(&mut table, "double_slashes", &[keep, merge, refuse], report);
    let encoded_slashes = slashes(&mut table, "encoded_slashes", &[keep, refuse], report);
    let dots = table.value("dot_segments", report);
    let dots =
        dots.and_then(|value| choice(value, report, &[("refuse", false), ("resolve", true)]));
    table.finish(report);
    Request {
        bounds,
        body,
        paths: Paths {
            resolve_dots: dots.unwrap_or(false),
            double_slashes,
            encoded_slashes,
        },
    }
}

/// `body = "1MiB"`, or `"off"`: in the file, and in a route.
pub(super) fn read_body(
    table: &mut Table<'_, '_>,
    inherited: Option<u64>,
    report: &mut Report<'_>,
) -> Option<u64> {
    let given = table.get::<Switch<Size>>("body", report);
    given.map_or(inherited, |given| given.on().map(|Size(bytes)| bytes))
}

fn read_size(
    table: &mut Table<'_, '_>,
    key: &'static str,
    usual: usize,
    report: &mut Report<'_>,
) -> usize {
    let Some((Size(bytes), span)) = table.placed::<Size>(key, report) else {
        return usual;
    };
    if !(64..=MOST_HEAD).contains(&bytes) {
        report.fault(
            &span,
            format!("{bytes} B do not fit here"),
            "expected \"64B\" to \"512KiB\"",
        );
    }
    usize::try_from(bytes).unwrap_or(usual)
}
