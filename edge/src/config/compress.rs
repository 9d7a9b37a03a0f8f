//! A route's `compress`.

use toml::Spanned;
use toml::de::DeValue;

use super::forms::distinct;
use super::reader::{Read, Report, Size, Table, parsed};
use crate::compression::{Encoding, Policy, Type};

/// The most types that a route lists.
const MOST_TYPES: usize = 64;
/// The highest level: what the libraries have beyond is not for bodies that somebody waits for.
const MOST_LEVEL: u8 = 9;

/// `compress = true`, or a table.
pub(super) fn read_compress(table: &mut Table<'_, '_>, report: &mut Report<'_>) -> Option<Policy> {
    let value = table.value("compress", report)?;
    if !value.get_ref().is_table() {
        return bool::read(value, report)?.then(Policy::default);
    }
    let mut own = Table::of("a route's compress", Some(value), report);
    let usual = Policy::default();
    let encodings = distinct::<Encoding>(&mut own, "encodings", Encoding::ALL.len(), report);
    let size = own.get::<Size>("min_size", report);
    let types = distinct::<Type>(&mut own, "types", MOST_TYPES, report);
    let level = own.placed::<u64>("level", report);
    own.finish(report);
    let level = level.and_then(|(level, span)| {
        let fits = u8::try_from(level).ok();
        let fits = fits.filter(|level| (1..=MOST_LEVEL).contains(level));
        if fits.is_none() {
            report.fault(
                &span,
                format!("{level} does not fit here"),
                format!("expected 1 (fast) to {MOST_LEVEL} (small)"),
            );
        }
        fits
    });
    Some(Policy {
        encodings: encodings.unwrap_or(usual.encodings),
        min_size: size.map_or(usual.min_size, |Size(bytes)| bytes),
        types: types.unwrap_or(usual.types),
        level,
    })
}

impl Read for Encoding {
    fn read(value: &Spanned<DeValue<'_>>, report: &mut Report<'_>) -> Option<Self> {
        parsed(value, report, Self::read)
    }
}

impl Read for Type {
    fn read(value: &Spanned<DeValue<'_>>, report: &mut Report<'_>) -> Option<Self> {
        parsed(value, report, Self::read)
    }
}
