//! The file of API keys: `[[key]]` with a name and the SHA-256 of the key.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::fault::{Fault, Faults, Unread};
use super::limits::a_second_of;
use super::reader::{FILE, Report, Table};
use crate::api_key::{Hash, Key, Keys, MOST};
use crate::limit::Quota;
use crate::units::Rate;

/// A larger file is not read.
const MOST_BYTES: u64 = 32 << 20;

/// Reads a file of API keys; all that is wrong with it is told at once, and nothing of a key.
pub fn read_keys(path: &Path) -> Result<Keys, Unread> {
    let name = path.display().to_string();
    let unread = |error| Unread::File(name.clone(), error);
    let about = fs::metadata(path).map_err(unread)?;
    if !about.is_file() || about.len() > MOST_BYTES {
        let kind = io::ErrorKind::InvalidData;
        return Err(unread(io::Error::new(kind, "it is no file of API keys")));
    }
    let source = fs::read_to_string(path).map_err(unread)?;
    parse(&name, &source).map_err(Unread::Faults)
}

fn parse(name: &str, source: &str) -> Result<Keys, Faults> {
    let mut report = Report::new(source, Path::new(""));
    let (root, errors) = DeTable::parse_recoverable(source);
    for error in errors {
        let span = error.span().unwrap_or(0..0);
        // Not what stands there: it may be a key.
        report.fault(
            &span,
            "this is no TOML",
            "as `[[key]]`, `name = \"billing\"`, `sha256 = \"…\"`",
        );
    }
    let mut file = Table::new(
        "the file of API keys",
        0..0,
        Some(root.get_ref()),
        &mut report,
    );
    let keys = read_list(file.value("key", &mut report), &mut report);
    file.finish(&mut report);
    match report.finish(name) {
        Some(mut faults) => {
            faults.list.iter_mut().for_each(Fault::hide);
            Err(faults)
        }
        None => Ok(Keys::new(keys)),
    }
}

fn read_list(value: Option<&Spanned<DeValue<'_>>>, report: &mut Report<'_>) -> Vec<Key> {
    let list = value.and_then(|value| value.get_ref().as_array());
    let span = value.map_or(0..0, Spanned::span);
    let count = list.map_or(0, |list| list.len());
    if count == 0 {
        let help = "write `[[key]]` with `name` and `sha256`";
        report.lacks((FILE, "key"), &span, "no key: nobody would be let in", help);
    }
    if count > MOST {
        report.fault(
            &span,
            format!("{count} keys"),
            format!("expected at most {MOST}"),
        );
    }
    let (mut names, mut hashes) = (HashSet::new(), HashSet::new());
    let mut keys = Vec::new();
    for value in list.into_iter().flatten() {
        let table = Table::of("[[key]]", Some(value), report);
        let Some(key) = read_key(table, report) else {
            continue;
        };
        if !names.insert(key.name.clone()) {
            let message = format!("two keys are named `{}`", key.name);
            report.fault(&value.span(), message, "give each a name of its own");
        }
        if !hashes.insert(key.hash) {
            let help = "give each client a key of its own";
            report.fault(&value.span(), "this key is another's, too", help);
        }
        keys.push(key);
    }
    keys
}

fn read_key(mut table: Table<'_, '_>, report: &mut Report<'_>) -> Option<Key> {
    let name = table.require::<String>("name", "who has the key, as `name = \"billing\"`", report);
    if let Some((name, span)) = &name
        && (name.is_empty() || name.len() > 128 || name.chars().any(char::is_control))
    {
        report.fault(span, "this is no name", "expected 1 to 128 characters");
    }
    let help = "64 hexadecimal digits: `printf %s KEY | sha256sum`";
    let hash = table.require::<String>("sha256", help, report);
    let hash = hash.and_then(|(text, span)| {
        let hash = digits(&text);
        if hash.is_none() {
            // It may be the key itself: the message does not repeat it.
            report.fault(&span, "this is no SHA-256", help);
        }
        hash
    });
    let routes = table.get::<Vec<String>>("routes", report);
    let limit = table.value("limit", report).map(|value| {
        let mut own = Table::of("a key's limit", Some(value), report);
        let rate = own.require::<Rate>("per_client", "as `per_client = \"50/s\"`", report);
        let burst = own.placed::<u64>("burst", report);
        own.finish(report);
        if let Some((0, span)) = &burst {
            report.fault(
                span,
                "a burst of 0 lets nobody through",
                "expected at least 1",
            );
        }
        let burst = burst.map(|(burst, _)| burst);
        rate.map(|(rate, _)| {
            Quota::new(
                rate.count,
                rate.per,
                burst.unwrap_or_else(|| a_second_of(rate)),
            )
        })
    });
    table.finish(report);
    Some(Key {
        name: name?.0,
        hash: hash?,
        routes,
        limit: limit.flatten(),
    })
}

fn digits(text: &str) -> Option<Hash> {
    if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let mut hash = Hash::default();
    for (place, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * place..2 * place + 2)?, 16).ok()?;
    }
    Some(hash)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const HASH: &str = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae";

    #[test]
    fn keys_are_read_with_their_limits() {
        let source = format!(
            "[[key]]\nname = \"a\"\nsha256 = \"{HASH}\"\nroutes = [\"/api/*\"]\nlimit = {{ per_client = \"5/s\" }}\n"
        );
        let keys = parse("keys.toml", &source).unwrap();
        let key = keys.find(b"foo", "/api/*").unwrap();
        assert_eq!(key.name, "a");
        assert_eq!(key.limit, Some(Quota::new(5, Duration::from_secs(1), 5)));
        assert_eq!(keys.len(), 1);
    }

    #[test]
    fn all_faults_are_told_at_once_and_no_key() {
        let source = format!(
            "[[key]]\nname = \"a\"\nsha256 = \"my-secret-key\"\n[[key]]\nnames = \"b\"\nsha256 = \"{HASH}\"\n\
             [[key]]\nname = \"c\"\nsha256 = \"{HASH}\"\nlimit = {{ burst = 0 }}\n"
        );
        let faults = parse("keys.toml", &source).unwrap_err();
        let told = faults.to_string();
        assert!(!told.contains("my-secret-key"), "{told}");
        for expected in [
            "no SHA-256",
            "did you mean `name`",
            "missing key `per_client`",
            "burst of 0",
        ] {
            assert!(told.contains(expected), "{expected} in {told}");
        }
        assert_eq!(faults.list.len(), 4, "{told}");
    }

    #[test]
    fn two_of_one_name_or_hash_are_faults() {
        let key = |name: &str| format!("[[key]]\nname = \"{name}\"\nsha256 = \"{HASH}\"\n");
        let told = |source: &str| parse("k", source).unwrap_err().to_string();
        let both = told(&(key("a") + &key("a")));
        assert!(
            both.contains("two keys") && both.contains("another's"),
            "{both}"
        );
        assert!(told("").contains("no key"));
        assert!(told("[[key]\nname = my-secret").contains("no TOML"));
        assert!(!told("[[key]]\nsha256 = my-secret").contains("my-secret"));
    }
}
