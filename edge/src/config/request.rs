//! `[request]` and a route's `body`.

use std::ops::Range;

use toml::Spanned;
use toml::de::DeValue;

use super::forms::{choice, number};
use super::reader::{Read, Report, Size, Switch, Table};
use crate::message::{LARGEST_HEAD, MOST_FIELDS};
use crate::route::{DotSegments, DoubleSlashes, EncodedSlashes, Paths};

/// `[request]`: what a request may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// The longest target.
    pub target: usize,
    /// The most header fields.
    pub fields: usize,
    /// The most bytes that they may come to.
    pub fields_size: usize,
    /// The largest body, for all routes that set none of their own; `None`: any.
    pub body: Option<u64>,
    /// How paths are written.
    pub paths: Paths,
}

impl Default for Request {
    fn default() -> Self {
        Self {
            target: 8 << 10,
            fields: 100,
            fields_size: 32 << 10,
            body: None,
            paths: Paths::default(),
        }
    }
}

impl Request {
    /// Of a head that is larger than this nothing more is read. One that is not, but larger than
    /// it may be, is refused with a line in the log.
    pub fn largest_head(&self) -> usize {
        (2 * (self.target + self.fields_size)).max(64 << 10)
    }
}

/// Target and fields together are never more than a head may be.
const LARGEST: usize = LARGEST_HEAD / 2;

/// `[request]`.
pub(super) fn read_request(mut table: Table<'_, '_>, report: &mut Report<'_>) -> Request {
    let default = Request::default();
    let request = Request {
        target: size(&mut table, "target", default.target, report),
        fields: number(&mut table, "fields", 1..=MOST_FIELDS, report)
            .map_or(default.fields, |(fields, _)| fields),
        fields_size: size(&mut table, "fields_size", default.fields_size, report),
        body: read_body(&mut table, default.body, report),
        paths: Paths {
            dot_segments: table.or("dot_segments", DotSegments::default(), report),
            double_slashes: table.or("double_slashes", DoubleSlashes::default(), report),
            encoded_slashes: table.or("encoded_slashes", EncodedSlashes::default(), report),
        },
    };
    table.finish(report);
    request
}

/// `body`, in `[request]` or in a route.
pub(super) fn read_body(
    table: &mut Table<'_, '_>,
    inherited: Option<u64>,
    report: &mut Report<'_>,
) -> Option<u64> {
    let own = table.get::<Switch<Size>>("body", report);
    own.map_or(inherited, |own| own.on().map(|Size(bytes)| bytes))
}

fn size(
    table: &mut Table<'_, '_>,
    key: &'static str,
    default: usize,
    report: &mut Report<'_>,
) -> usize {
    let Some((Size(bytes), span)) = table.placed::<Size>(key, report) else {
        return default;
    };
    let fits = usize::try_from(bytes)
        .ok()
        .filter(|&bytes| bytes <= LARGEST);
    if fits.is_none() {
        too_large(&span, report);
    }
    fits.unwrap_or(default)
}

fn too_large(span: &Range<usize>, report: &mut Report<'_>) {
    report.fault(
        span,
        "larger than a head may be",
        format!("expected at most \"{}KiB\"", LARGEST >> 10),
    );
}

impl Read for DotSegments {
    fn read(value: &Spanned<DeValue<'_>>, report: &mut Report<'_>) -> Option<Self> {
        let words = [("refuse", Self::Refuse), ("resolve", Self::Resolve)];
        choice(value, report, &words)
    }
}

impl Read for DoubleSlashes {
    fn read(value: &Spanned<DeValue<'_>>, report: &mut Report<'_>) -> Option<Self> {
        let words = [
            ("keep", Self::Keep),
            ("merge", Self::Merge),
            ("refuse", Self::Refuse),
        ];
        choice(value, report, &words)
    }
}

impl Read for EncodedSlashes {
    fn read(value: &Spanned<DeValue<'_>>, report: &mut Report<'_>) -> Option<Self> {
        choice(
            value,
            report,
            &[("keep", Self::Keep), ("refuse", Self::Refuse)],
        )
    }
}
