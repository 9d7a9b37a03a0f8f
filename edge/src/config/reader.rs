//! Reads a TOML file's tables key by key. The keys asked for *are* the keys allowed, so a key
//! that nobody asks for cannot be ignored in silence.

use std::net::SocketAddr;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use ipnet::IpNet;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::fault::{Fault, Faults, nearest};
use crate::units;

/// Gathers the faults of one file.
pub(super) struct Report<'s> {
    source: &'s str,
    /// Where the file lies: its own paths begin there.
    pub(super) folder: &'s Path,
    faults: Vec<(Range<usize>, String, String)>,
    /// Every key asked for, with its table.
    asked: Vec<(&'static str, &'static str)>,
    unknown: Vec<Unknown>,
    lacking: Vec<Lacking>,
    /// Lines on which a secret may stand, by where it begins: they are not shown.
    secrets: Vec<usize>,
    /// The tables read so far, by what they are called.
    tables: Vec<&'static str>,
}

struct Unknown {
    key: String,
    span: Range<usize>,
    place: &'static str,
    table: usize,
}

/// What comes of a key being absent.
struct Lacking {
    keys: Vec<(usize, &'static str)>,
    span: Range<usize>,
    message: String,
    help: String,
}

/// The number of the file's own table, which is always the first.
pub(super) const FILE: usize = 1;

impl<'s> Report<'s> {
    pub(super) fn new(source: &'s str, folder: &'s Path) -> Self {
        Self {
            source,
            folder,
            faults: Vec::new(),
            asked: Vec::new(),
            unknown: Vec::new(),
            lacking: Vec::new(),
            secrets: Vec::new(),
            tables: Vec::new(),
        }
    }

    pub(super) fn fault(
        &mut self,
        span: &Range<usize>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.faults
            .push((span.clone(), message.into(), help.into()));
    }

    /// As [`Report::fault`], where what stands there may be a secret.
    pub(super) fn secret_fault(
        &mut self,
        span: &Range<usize>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.secrets.push(span.start);
        self.fault(span, message, help);
    }

    /// A fault that comes of `key` being absent from a table. A misspelt key is one fault, not
    /// two: this one is told only if none was misspelt there.
    pub(super) fn lacks(
        &mut self,
        key: (usize, &'static str),
        span: &Range<usize>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.lacks_any(vec![key], span, message, help);
    }

    /// As [`Report::lacks`], where each of several keys would have made it good.
    pub(super) fn lacks_any(
        &mut self,
        keys: Vec<(usize, &'static str)>,
        span: &Range<usize>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.lacking.push(Lacking {
            keys,
            span: span.clone(),
            message: message.into(),
            help: help.into(),
        });
    }

    /// This key in each table called so, for [`Report::lacks_any`].
    pub(super) fn key_of(&self, place: &str, key: &'static str) -> Vec<(usize, &'static str)> {
        let numbered = self.tables.iter().zip(1..);
        let tables = numbered.filter(|(own, _)| **own == place);
        tables.map(|(_, number)| (number, key)).collect()
    }

    /// The keys asked for so far, each with the table it stands in.
    pub(super) fn asked(&self) -> &[(&'static str, &'static str)] {
        &self.asked
    }

    /// All faults in their order in the file; `None` if there are none.
    pub(super) fn finish(mut self, file: &str) -> Option<Faults> {
        let mut explained = Vec::new();
        for Unknown {
            key,
            span,
            place,
            table,
        } in std::mem::take(&mut self.unknown)
        {
            let own: Vec<_> = self
                .asked
                .iter()
                .filter(|(at, _)| *at == place)
                .map(|(_, key)| *key)
                .collect();
            let elsewhere = self
                .asked
                .iter()
                .find(|(at, known)| *at != place && *known == key)
                .map(|(at, _)| *at);
            // A key of another table, to the letter, is no part of one of this table.
            let near = nearest(&key, own.iter().copied());
            let near = near.filter(|near| elsewhere.is_none() || !near.contains(key.as_str()));
            let help = if let Some(near) = near {
                explained.push((table, near));
                format!("did you mean `{near}`?")
            } else if let Some(at) = elsewhere {
                format!("`{key}` belongs in {at}")
            } else {
                own_keys(&own)
            };
            self.fault(&span, format!("unknown key `{key}` in {place}"), help);
        }
        for lacking in std::mem::take(&mut self.lacking) {
            if !lacking.keys.iter().any(|key| explained.contains(key)) {
                self.fault(&lacking.span, lacking.message, lacking.help);
            }
        }
        self.faults.sort_by_key(|(span, ..)| span.start);
        let source = self.source;
        let list: Vec<_> = self
            .faults
            .into_iter()
            .map(|(span, message, help)| {
                let mut fault = Fault::new(source, &span, message, help);
                let line = |at: usize| source.get(..at).map(|before| before.matches('\n').count());
                if self
                    .secrets
                    .iter()
                    .any(|secret| line(*secret) == line(span.start))
                {
                    fault.hide();
                }
                fault
            })
            .collect();
        (!list.is_empty()).then(|| Faults {
            file: file.to_owned(),
            list,
        })
    }
}

fn own_keys(keys: &[&str]) -> String {
    let mut keys = keys.to_vec();
    keys.sort_unstable();
    keys.dedup();
    format!("known here: {}", keys.join(", "))
}

/// One table, read key by key; what is left in the end is a fault.
pub(super) struct Table<'t, 'i> {
    place: &'static str,
    number: usize,
    span: Range<usize>,
    table: Option<&'t DeTable<'i>>,
    taken: Vec<&'static str>,
}

impl<'t, 'i> Table<'t, 'i> {
    /// `place` is the table's name in messages, as `[limit]`.
    pub(super) fn new(
        place: &'static str,
        span: Range<usize>,
        table: Option<&'t DeTable<'i>>,
        report: &mut Report<'_>,
    ) -> Self {
        report.tables.push(place);
        Self {
            place,
            number: report.tables.len(),
            span,
            table,
            taken: Vec::new(),
        }
    }

    /// A value that must be a table; it counts as empty where it is absent or none.
    pub(super) fn of(
        place: &'static str,
        value: Option<&'t Spanned<DeValue<'i>>>,
        report: &mut Report<'_>,
    ) -> Self {
        let span = value.map_or(0..0, Spanned::span);
        let table = value.and_then(|value| value.get_ref().as_table());
        if let (Some(value), None) = (value, table) {
            report.fault(
                &span,
                format!("expected a table, found {}", value.get_ref().type_str()),
                format!("write `{place}`"),
            );
        }
        Self::new(place, span, table, report)
    }

    /// Its number, for [`Report::lacks`].
    pub(super) fn number(&self) -> usize {
        self.number
    }

    /// Does it hold a key at all?
    pub(super) fn is_empty(&self) -> bool {
        self.table.is_none_or(DeTable::is_empty)
    }

    /// Where the table stands.
    pub(super) fn span(&self) -> &Range<usize> {
        &self.span
    }

    /// The value at this key.
    pub(super) fn value(
        &mut self,
        key: &'static str,
        report: &mut Report<'_>,
    ) -> Option<&'t Spanned<DeValue<'i>>> {
        self.taken.push(key);
        if !report.asked.contains(&(self.place, key)) {
            report.asked.push((self.place, key));
        }
        self.table?
            .iter()
            .find(|(own, _)| own.get_ref() == key)
            .map(|(_, value)| value)
    }

    /// The value at this key with its place; `None` if it is absent or, with a fault, not a `T`.
    pub(super) fn placed<T: Read>(
        &mut self,
        key: &'static str,
        report: &mut Report<'_>,
    ) -> Option<(T, Range<usize>)> {
        let value = self.value(key, report)?;
        Some((T::read(value, report)?, value.span()))
    }

    /// The value at this key.
    pub(super) fn get<T: Read>(&mut self, key: &'static str, report: &mut Report<'_>) -> Option<T> {
        self.placed(key, report).map(|(value, _)| value)
    }

    /// The value at this key, or its default.
    pub(super) fn or<T: Read>(
        &mut self,
        key: &'static str,
        default: T,
        report: &mut Report<'_>,
    ) -> T {
        self.get(key, report).unwrap_or(default)
    }

    /// The value at this key, which must not be absent.
    pub(super) fn require<T: Read>(
        &mut self,
        key: &'static str,
        help: &str,
        report: &mut Report<'_>,
    ) -> Option<(T, Range<usize>)> {
        if self.value(key, report).is_none() {
            let span = self.span.clone();
            self.lacks(key, &span, format!("missing key `{key}`"), help, report);
            return None;
        }
        self.placed(key, report)
    }

    /// A fault that comes of `key` being absent here; see [`Report::lacks`].
    pub(super) fn lacks(
        &self,
        key: &'static str,
        span: &Range<usize>,
        message: impl Into<String>,
        help: impl Into<String>,
        report: &mut Report<'_>,
    ) {
        report.lacks((self.number, key), span, message, help);
    }

    /// All keys that were not asked for are unknown.
    pub(super) fn finish(self, report: &mut Report<'_>) {
        for (key, _) in self.table.into_iter().flatten() {
            if !self.taken.iter().any(|taken| taken == key.get_ref()) {
                let unknown = Unknown {
                    key: key.get_ref().to_string(),
                    span: key.span(),
                    place: self.place,
                    table: self.number,
                };
                report.unknown.push(unknown);
            }
        }
    }
}

/// What a value can be read into; a fault is reported where it cannot.
pub(super) trait Read: Sized {
    fn read(value: &Spanned<DeValue<'_>>, report: &mut Report<'_>) -> Option<Self>;
}

/// A thing that can be `"off"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Switch<T> {
    Off,
    On(T),
}

impl<T> Switch<T> {
    pub(super) fn on(self) -> Option<T> {
        match self {
            Self::Off => None,
            Self::On(value) => Some(value),
        }
    }
}

/// A size in bytes, as `"64MiB"`.
pub(super) struct Size(pub(super) u64);

/// Bytes a second, as `"256B/s"`.
pub(super) struct ByteRate(pub(super) u64);

/// A part of the whole, as `"10%"`.
pub(super) struct Percentage(pub(super) u8);

/// A path of the URL kind, as `"/health"`.
pub(super) struct UrlPath(pub(super) String);

impl<T: Read> Read for Switch<T> {
    fn read(value: &Spanned<DeValue<'_>>, report: &mut Report<'_>) -> Option<Self> {
        if value.get_ref().as_str() == Some("off") {
            return Some(Self::Off);
        }
        T::read(value, report).map(Self::On)
    }
}

/// A list, or one member alone.
impl<T: Read> Read for Vec<T> {
    fn read(value: &Spanned<DeValue<'_>>, report: &mut Report<'_>) -> Option<Self> {
        match value.get_ref().as_array() {
            Some(list) => {
                // All of them, before one that is at fault ends it.
                let read: Vec<_> = list.iter().map(|value| T::read(value, report)).collect();
                read.into_iter().collect()
            }
            None => T::read(value, report).map(|one| vec![one]),
        }
    }
}

impl<T: Read> Read for (T, Range<usize>) {
    fn read(value: &Spanned<DeValue<'_>>, report: &mut Report<'_>) -> Option<Self> {
        T::read(value, report).map(|own| (own, value.span()))
    }
}

impl Read for bool {
    fn read(value: &Spanned<DeValue<'_>>, report: &mut Report<'_>) -> Option<Self> {
        let own = value.get_ref().as_bool();
        if own.is_none() {
            report.fault(
                &value.span(),
                format!(
                    "expected true or false, found {}",
                    value.get_ref().type_str()
                ),
                "",
            );
        }
        own
    }
}

impl Read for u64 {
    fn read(value: &Spanned<DeValue<'_>>, report: &mut Report<'_>) -> Option<Self> {
        let integer = value.get_ref().as_integer();
        let own = integer
            .and_then(|own| u64::from_str_radix(&own.as_str().replace('_', ""), own.radix()).ok());
        if let (Some(integer), None) = (integer, own) {
            report.fault(
                &value.span(),
                format!("{} does not fit here", integer.as_str()),
                format!("expected a whole number from 0 to {}", Self::MAX),
            );
        } else if own.is_none() {
            report.fault(
                &value.span(),
                format!(
                    "expected a whole number, found {}",
                    value.get_ref().type_str()
                ),
                "write it without quotes, as 20",
            );
        }
        own
    }
}

impl Read for String {
    fn read(value: &Spanned<DeValue<'_>>, report: &mut Report<'_>) -> Option<Self> {
        text(value, report).map(str::to_owned)
    }
}

impl Read for Duration {
    fn read(value: &Spanned<DeValue<'_>>, report: &mut Report<'_>) -> Option<Self> {
        parsed(value, report, units::duration)
    }
}

impl Read for units::Rate {
    fn read(value: &Spanned<DeValue<'_>>, report: &mut Report<'_>) -> Option<Self> {
        parsed(value, report, units::rate)
    }
}

impl Read for ByteRate {
    fn read(value: &Spanned<DeValue<'_>>, report: &mut Report<'_>) -> Option<Self> {
        parsed(value, report, units::byte_rate).map(Self)
    }
}

impl Read for Size {
    fn read(value: &Spanned<DeValue<'_>>, report: &mut Report<'_>) -> Option<Self> {
        parsed(value, report, units::size).map(Self)
    }
}

impl Read for Percentage {
    fn read(value: &Spanned<DeValue<'_>>, report: &mut Report<'_>) -> Option<Self> {
        parsed(value, report, units::percentage).map(Self)
    }
}

impl Read for SocketAddr {
    fn read(value: &Spanned<DeValue<'_>>, report: &mut Report<'_>) -> Option<Self> {
        let wrong = |_| {
            "expected an address with a port, as \"127.0.0.1:8080\" or \"[::]:8080\"".to_owned()
        };
        parsed(value, report, |text| text.parse().map_err(wrong))
    }
}

impl Read for IpNet {
    fn read(value: &Spanned<DeValue<'_>>, report: &mut Report<'_>) -> Option<Self> {
        parsed(value, report, |text| {
            let address = text.parse::<std::net::IpAddr>().map(IpNet::from);
            let wrong = |_| {
                "expected a network or an address, as \"10.0.0.0/8\" or \"127.0.0.6\"".to_owned()
            };
            text.parse::<IpNet>()
                .or_else(|_| address.map_err(wrong))
                .map(|net| net.trunc())
        })
    }
}

impl Read for UrlPath {
    fn read(value: &Spanned<DeValue<'_>>, report: &mut Report<'_>) -> Option<Self> {
        parsed(value, report, |text| {
            let good =
                text.starts_with('/') && text.bytes().all(|b| b.is_ascii_graphic() && b != b'#');
            if good {
                Ok(Self(text.to_owned()))
            } else {
                Err("expected a path, as \"/health\"".to_owned())
            }
        })
    }
}

pub(super) fn text<'v>(
    value: &'v Spanned<DeValue<'_>>,
    report: &mut Report<'_>,
) -> Option<&'v str> {
    let own = value.get_ref().as_str();
    if own.is_none() {
        report.fault(
            &value.span(),
            format!(
                "expected a text in quotes, found {}",
                value.get_ref().type_str()
            ),
            "",
        );
    }
    own
}

/// Reads a text with `parse`, whose error says what would have been right.
pub(super) fn parsed<T>(
    value: &Spanned<DeValue<'_>>,
    report: &mut Report<'_>,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Option<T> {
    let Some(own) = value.get_ref().as_str() else {
        // What was expected is better said by the parser than by "a text".
        let right = parse("").err().unwrap_or_default();
        report.fault(
            &value.span(),
            format!(
                "expected a text in quotes, found {}",
                value.get_ref().type_str()
            ),
            right,
        );
        return None;
    };
    match parse(own) {
        Ok(parsed) => Some(parsed),
        Err(right) => {
            report.fault(&value.span(), format!("`{own}` does not fit here"), right);
            None
        }
    }
}
