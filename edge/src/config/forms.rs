//! The forms that several tables share: numbers and times within bounds, one word of a few,
//! lists without doubles, and files that the configuration names.

use std::fmt::Display;
use std::fs;
use std::io::{self, ErrorKind};
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use toml::Spanned;
use toml::de::DeValue;

use super::fault::nearest;
use super::reader::{Read, Report, Table, text};
use crate::certificate::{self, Identity};

/// A whole number within bounds, with its place.
pub(super) fn number<T: TryFrom<u64> + PartialOrd + Display>(
    table: &mut Table<'_, '_>,
    key: &'static str,
    bounds: RangeInclusive<T>,
    report: &mut Report<'_>,
) -> Option<(T, Range<usize>)> {
    let (given, span) = table.placed::<u64>(key, report)?;
    let fits = T::try_from(given).ok().filter(|own| bounds.contains(own));
    if fits.is_none() {
        report.fault(
            &span,
            format!("{given} does not fit here"),
            format!("expected {} to {}", bounds.start(), bounds.end()),
        );
    }
    Some((fits?, span))
}

/// A duration within bounds, with its place.
pub(super) fn time(
    table: &mut Table<'_, '_>,
    key: &'static str,
    bounds: RangeInclusive<Duration>,
    report: &mut Report<'_>,
) -> Option<(Duration, Range<usize>)> {
    let (given, span) = table.placed::<Duration>(key, report)?;
    within(given, &bounds, &span, report).then_some((given, span))
}

/// Tells of a time outside its bounds.
pub(super) fn within(
    given: Duration,
    bounds: &RangeInclusive<Duration>,
    span: &Range<usize>,
    report: &mut Report<'_>,
) -> bool {
    let fits = bounds.contains(&given);
    if !fits {
        let (least, most) = (written(*bounds.start()), written(*bounds.end()));
        report.fault(
            span,
            format!("\"{}\" does not fit here", written(given)),
            format!("expected \"{least}\" to \"{most}\""),
        );
    }
    fits
}

/// A duration as a file has it, in the largest unit that says it whole.
pub(super) fn written(time: Duration) -> String {
    let units = [
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1_000),
    ];
    let length = time.as_millis();
    let whole = units
        .into_iter()
        .find(|(_, unit)| length > 0 && length.is_multiple_of(*unit));
    let (unit, size) = whole.unwrap_or(("ms", 1));
    format!("{}{unit}", length / size)
}

/// One word of a few.
pub(super) fn choice<T: Clone>(
    value: &Spanned<DeValue<'_>>,
    report: &mut Report<'_>,
    words: &[(&'static str, T)],
) -> Option<T> {
    let given = text(value, report)?;
    let found = words.iter().find(|(word, _)| *word == given);
    if found.is_none() {
        let names = words.iter().map(|(word, _)| *word);
        let help = nearest(given, names.clone()).map_or_else(
            || {
                let names: Vec<_> = names.map(|word| format!("\"{word}\"")).collect();
                format!("expected one of {}", names.join(", "))
            },
            |near| format!("did you mean `{near}`?"),
        );
        report.fault(&value.span(), format!("`{given}` does not fit here"), help);
    }
    found.map(|(_, own)| own.clone())
}

/// A list whose members are all different.
pub(super) fn distinct<T: Read + PartialEq>(
    table: &mut Table<'_, '_>,
    key: &'static str,
    most: usize,
    report: &mut Report<'_>,
) -> Option<Vec<T>> {
    let (list, whole) = table.placed::<Vec<(T, Range<usize>)>>(key, report)?;
    if list.is_empty() || list.len() > most {
        report.fault(
            &whole,
            format!("{} members", list.len()),
            format!("expected 1 to {most}"),
        );
    }
    let mut once = Vec::new();
    for (member, span) in list {
        if once.contains(&member) {
            report.fault(&span, "this stands here twice", "leave one out");
        } else {
            once.push(member);
        }
    }
    Some(once)
}

/// What a file with PEM blocks must hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pem {
    /// A chain.
    Certificates,
    /// A private key.
    Key,
    /// Certificates of authorities.
    Authorities,
}

/// A larger file than this holds no certificates.
const MOST_BYTES: u64 = 4 << 20;

/// The path of a file with a PEM block of this kind, seen from where edge runs.
pub(super) fn pem(
    value: &Spanned<DeValue<'_>>,
    kind: Pem,
    report: &mut Report<'_>,
) -> Option<PathBuf> {
    let given = text(value, report)?;
    let path = report.folder.join(given);
    let fault = match readable(&path) {
        Err(error) => Some((
            format!("`{given}` cannot be read: {error}"),
            "a path begins at the folder of the configuration file",
        )),
        Ok(bytes) => {
            holds(&bytes, kind).map(|right| (format!("`{given}` does not fit here"), right))
        }
    };
    let good = fault.is_none();
    if let Some((message, help)) = fault {
        report.fault(&value.span(), message, help);
    }
    good.then_some(path)
}

/// Does this key belong to this certificate, and can both be used? If not, that is told at `span`.
pub(super) fn identity(cert: &Path, key: &Path, span: &Range<usize>, report: &mut Report<'_>) {
    // What cannot be read has been told.
    let (Ok(cert), Ok(key)) = (readable(cert), readable(key)) else {
        return;
    };
    if let Err(why) = Identity::read(&cert, &key) {
        let right = "expected a certificate with its own private key";
        report.fault(
            span,
            format!("the certificate cannot be used: {why}"),
            right,
        );
    }
}

/// The bytes of a file that is one, and of a size that can be.
fn readable(path: &Path) -> Result<Vec<u8>, String> {
    let told = |error: io::Error| match error.kind() {
        ErrorKind::NotFound => "no such file".to_owned(),
        ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => error.to_string(),
    };
    // Before it is opened: a pipe would keep edge waiting.
    let about = fs::metadata(path).map_err(told)?;
    if !about.is_file() {
        return Err("it is no file".to_owned());
    }
    if about.len() > MOST_BYTES {
        return Err(format!("it is larger than {MOST_BYTES} B"));
    }
    fs::read(path).map_err(told)
}

/// What would have been right, where it is not.
fn holds(bytes: &[u8], kind: Pem) -> Option<&'static str> {
    let good = match kind {
        Pem::Certificates => CertificateDer::from_pem_slice(bytes).is_ok(),
        Pem::Authorities => certificate::authorities(bytes).is_ok(),
        Pem::Key => PrivateKeyDer::from_pem_slice(bytes).is_ok(),
    };
    let right = match kind {
        Pem::Certificates => "expected a certificate in PEM: -----BEGIN CERTIFICATE-----",
        Pem::Authorities => {
            "expected certificates of authorities in PEM: -----BEGIN CERTIFICATE-----"
        }
        Pem::Key => "expected a private key in PEM: -----BEGIN PRIVATE KEY-----",
    };
    (!good).then_some(right)
}
