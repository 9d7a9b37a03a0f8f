//! The configuration as whoever writes it meets it: what the documents show reads without fault,
//! and what is wrong is told with its place and what would have been right.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test may fail loudly"
)]

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use edge::config::{Config, Faults};
use proptest::prelude::*;
use toml::de::{DeTable, DeValue};

const REFERENCE: &str = include_str!("../../docs/configuration.md");

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The TOML blocks of a document, each with the line it begins on.
fn blocks(document: &str) -> Vec<(usize, String)> {
    let mut blocks = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (number, line) in document.lines().enumerate() {
        match &mut open {
            Some(_) if line.trim() == "```" => blocks.extend(open.take()),
            Some((_, text)) => {
                text.push_str(line);
                text.push('\n');
            }
            None if line.trim() == "```toml" => open = Some((number + 2, String::new())),
            None => {}
        }
    }
    assert!(open.is_none(), "a block is not closed");
    blocks
}

/// The block under "Full example" in the reference.
fn full_example() -> String {
    let (_, after) = REFERENCE
        .split_once("\n## Full example\n")
        .expect("the reference has a full example");
    blocks(after)[0].1.clone()
}

/// A folder with the files that the examples name.
fn folder() -> &'static Path {
    static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("config");
        fs::create_dir_all(&folder).unwrap();
        for name in ["tls", "shop", "edge"] {
            let made = rcgen::generate_simple_self_signed([format!("{name}.example.org")]).unwrap();
            fs::write(folder.join(format!("{name}.crt")), made.cert.pem()).unwrap();
            let key = made.signing_key.serialize_pem();
            fs::write(folder.join(format!("{name}.key")), key).unwrap();
            for authority in ["clients.pem", "ca.pem"] {
                fs::write(folder.join(authority), made.cert.pem()).unwrap();
            }
        }
        fs::write(
            folder.join("jwt-secret"),
            "0123456789abcdef0123456789abcdef\n",
        )
        .unwrap();
        let hash = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae";
        let keys = format!("[[key]]\nname = \"billing\"\nsha256 = \"{hash}\"\n");
        fs::write(folder.join("keys.toml"), keys).unwrap();
        folder
    });
    &FOLDER
}

/// Reads it as if it were a file in that folder.
fn read(source: &str) -> Result<Config, Faults> {
    Config::read(folder().join("edge.toml").to_str().unwrap(), source)
}

fn faults(source: &str) -> Faults {
    match read(source) {
        Ok(_) => panic!("read without fault:\n{source}"),
        Err(faults) => faults,
    }
}

/// The one fault of this file as `line:column: message (help)`.
fn only_fault(source: &str) -> String {
    let list = told(source);
    assert_eq!(list.len(), 1, "{list:#?}");
    list[0].clone()
}

fn told(source: &str) -> Vec<String> {
    let list = faults(source).list;
    list.iter()
        .map(|fault| {
            format!(
                "{}:{}: {} ({})",
                fault.line, fault.column, fault.message, fault.help
            )
        })
        .collect()
}

/// A good file with one upstream and one route, and `more` in the route.
fn route_with(more: &str) -> String {
    format!(
        "[upstream.echo]\npeers = [\"127.0.0.1:8081\"]\n[[route]]\npath = \"/api/*\"\nupstream = \"echo\"\n{more}\n"
    )
}

/// A good file, behind `head`.
fn file_with(head: &str) -> String {
    format!("{head}\n{}", route_with(""))
}

// What the documents say.

#[test]
fn every_example_reads_without_fault() {
    let mut documents: Vec<PathBuf> = fs::read_dir(root().join("docs"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    documents.push(root().join("README.md"));
    let (mut found, mut wrong) = (0, Vec::new());
    for path in documents {
        let markdown = path.extension().is_some_and(|end| end == "md");
        let Some(document) = fs::read_to_string(&path).ok().filter(|_| markdown) else {
            continue;
        };
        for (line, text) in blocks(&document) {
            found += 1;
            if let Err(faults) = read(&text) {
                wrong.push(format!("{} at line {line}: {faults}", path.display()));
            }
        }
    }
    assert!(found >= 6, "{found} blocks found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_file_in_conf_reads_without_fault() {
    let mut found = 0;
    for entry in fs::read_dir(root().join("conf")).unwrap() {
        let path = entry.unwrap().path();
        if let Err(faults) = Config::load(&path) {
            panic!("{faults}");
        }
        found += 1;
    }
    assert!(found > 0, "no file in conf/");
}

/// The rows of the reference, as (table, key): a heading names the table, a row begins with the
/// key.
fn rows() -> BTreeSet<(String, String)> {
    let mut table = String::new();
    let mut rows = BTreeSet::new();
    for line in REFERENCE.lines() {
        if let Some(heading) = line.strip_prefix('#') {
            table = heading.trim_start_matches('#').trim().to_lowercase();
        } else if let Some(row) = line.strip_prefix("| `")
            && let Some((key, _)) = row.split_once('`')
        {
            rows.insert((table.clone(), key.to_owned()));
        }
    }
    rows
}

#[test]
fn every_key_is_in_the_reference() {
    let rows = rows();
    let keys = Config::keys();
    assert!(keys.len() > 40, "{} keys", keys.len());
    let missing: Vec<_> = keys
        .iter()
        .filter(|(table, key)| !rows.contains(&(table.to_lowercase(), (*key).to_owned())))
        .collect();
    assert!(missing.is_empty(), "no row for {missing:?}");
}

#[test]
fn every_row_of_the_reference_is_a_key() {
    let keys: BTreeSet<_> = Config::keys()
        .into_iter()
        .map(|(table, key)| (table.to_lowercase(), key.to_owned()))
        .collect();
    let tables: BTreeSet<_> = keys.iter().map(|(table, _)| table.clone()).collect();
    let pattern = |key: &str| key.starts_with('/');
    let stale: Vec<_> = rows()
        .into_iter()
        .filter(|row| tables.contains(&row.0) && !pattern(&row.1) && !keys.contains(row))
        .collect();
    assert!(stale.is_empty(), "edge does not know {stale:?}");
}

/// A key of the full example: its table as edge names it, itself, its place.
struct Used {
    table: &'static str,
    key: String,
    span: Range<usize>,
}

/// Every key of a file. Names of upstreams are no keys.
fn used(source: &str) -> Vec<Used> {
    fn walk(table: &DeTable<'_>, place: &'static str, list: &mut Vec<Used>) {
        for (key, value) in table {
            list.push(Used {
                table: place,
                key: key.get_ref().to_string(),
                span: key.span(),
            });
            match (place, key.get_ref().as_ref(), value.get_ref()) {
                ("the file", "upstream", DeValue::Table(upstreams)) => {
                    for upstream in upstreams.values() {
                        let table = upstream.get_ref().as_table().unwrap();
                        walk(table, "[upstream.NAME]", list);
                    }
                }
                ("the file", "auth", DeValue::Table(auths)) => {
                    for auth in auths.values() {
                        let table = auth.get_ref().as_table().unwrap();
                        let kind = table.get("type").unwrap().get_ref().as_str().unwrap();
                        let place = match kind {
                            "jwt" => "[auth.NAME] by jwt",
                            "api_key" => "[auth.NAME] by api_key",
                            _ => "[auth.NAME] by certificate",
                        };
                        walk(table, place, list);
                    }
                }
                // Its keys are names of fields.
                ("changes of a request" | "changes of a response", "set" | "add", _) => {}
                // Its keys are claims.
                ("[auth.NAME] by jwt", "claims", _) => {}
                // Its keys are statuses.
                ("a route's cache", "negative", _) => {}
                (_, key, DeValue::Table(table)) => walk(table, below(place, key), list),
                ("[tls]", "certificates", DeValue::Array(members))
                | ("[upstream.NAME]", "peers", DeValue::Array(members)) => {
                    let tables = members.iter().filter_map(|one| one.get_ref().as_table());
                    tables.for_each(|table| walk(table, below(place, key.get_ref()), list));
                }
                ("the file", "route", DeValue::Array(routes)) => {
                    for route in routes.iter() {
                        walk(route.get_ref().as_table().unwrap(), "[[route]]", list);
                    }
                }
                _ => {}
            }
        }
    }
    fn below(place: &str, key: &str) -> &'static str {
        match (place, key) {
            ("the file", "server") => "[server]",
            ("the file", "admin") => "[admin]",
            ("the file", "log") => "[log]",
            ("the file", "limit") => "[limit]",
            ("the file", "timeout") => "[timeout]",
            ("the file", "websocket") => "[websocket]",
            ("the file", "cache") => "[cache]",
            ("the file", "tls") => "[tls]",
            ("the file", "dns") => "[dns]",
            ("[tls]", "certificates") => "a certificate",
            ("[upstream.NAME]", "peers") => "a peer",
            ("[upstream.NAME]", "health") => "an upstream's health",
            ("[upstream.NAME]", "eject") => "an upstream's eject",
            ("[upstream.NAME]", "breaker") => "an upstream's breaker",
            ("[upstream.NAME]", "retry") => "an upstream's retry",
            ("[upstream.NAME]", "tls") => "an upstream's tls",
            ("[limit]", "status") => "[limit] status",
            (_, "burst") => "burst",
            ("[auth.NAME] by jwt", "secret") => "a secret",
            ("the file", "request") => "[request]",
            ("the file", "headers") => "[headers]",
            ("[headers]" | "a route's headers", "request") => "changes of a request",
            ("[headers]" | "a route's headers", "response") => "changes of a response",
            ("[[route]]", "headers") => "a route's headers",
            ("[[route]]", "compress") => "a route's compress",
            ("[[route]]", "cors") => "a route's cors",
            ("[[route]]", "auth") => "a route's auth",
            ("[[route]]", "cache") => "a route's cache",
            ("[[route]]", "limit") => "a route's limit",
            ("[[route]]", "timeout") => "a route's timeout",
            ("[[route]]", "websocket") => "a route's websocket",
            ("a route's limit", "status") => "a route's limit.status",
            _ => panic!("the test does not know the table `{key}` in {place}: enter it here"),
        }
    }
    let mut list = Vec::new();
    walk(
        DeTable::parse(source).unwrap().get_ref(),
        "the file",
        &mut list,
    );
    list
}

#[test]
fn the_full_example_uses_every_key() {
    let used: BTreeSet<_> = used(&full_example())
        .into_iter()
        .map(|used| (used.table.to_owned(), used.key))
        .collect();
    let keys: BTreeSet<_> = Config::keys()
        .into_iter()
        .map(|(table, key)| (table.to_owned(), key.to_owned()))
        .collect();
    let mut used = used;
    // No test sets a variable: others run beside it.
    used.insert(("a secret".to_owned(), "env".to_owned()));
    let (missing, unknown): (Vec<_>, Vec<_>) = (
        keys.difference(&used).collect(),
        used.difference(&keys).collect(),
    );
    assert!(
        missing.is_empty() && unknown.is_empty(),
        "missing {missing:?}, unknown {unknown:?}"
    );
}

/// The ways in which a key is misspelt: a letter dropped, doubled, swapped with the next or
/// replaced by its neighbour on the keyboard, a hyphen for an underscore, an `s` more or less, a
/// capital.
fn misspelt(key: &str) -> BTreeSet<String> {
    let letters: Vec<char> = key.chars().collect();
    let mut mutants = BTreeSet::new();
    for (at, letter) in letters.iter().enumerate() {
        let mut dropped = letters.clone();
        dropped.remove(at);
        mutants.insert(dropped);
        let mut doubled = letters.clone();
        doubled.insert(at, *letter);
        mutants.insert(doubled);
        if at + 1 < letters.len() {
            let mut swapped = letters.clone();
            swapped.swap(at, at + 1);
            mutants.insert(swapped);
        }
        let row = ["qwertyuiop", "asdfghjkl", "zxcvbnm"]
            .into_iter()
            .find(|row| row.contains(*letter));
        if let Some(row) = row {
            let mut replaced = letters.clone();
            let next = row.find(*letter).unwrap() + 1;
            replaced[at] = row.chars().chain(['x']).nth(next).unwrap();
            mutants.insert(replaced);
        }
    }
    let mut mutants: BTreeSet<String> = mutants
        .into_iter()
        .map(|letters| letters.into_iter().collect())
        .collect();
    mutants.insert(key.replace('_', "-"));
    mutants.insert(key.replace('_', ""));
    mutants.insert(format!("{key}s"));
    mutants.extend(key.strip_suffix('s').map(str::to_owned));
    mutants.insert(key[..1].to_uppercase() + &key[1..]);
    mutants.remove(key);
    mutants
}

#[test]
fn a_misspelt_key_is_told_with_its_line_and_the_right_one() {
    let source = full_example();
    let keys = Config::keys();
    let (mut tried, mut misses) = (0, Vec::new());
    for Used { table, key, span } in used(&source) {
        for mutant in misspelt(&key) {
            if keys.contains(&(table, mutant.as_str())) {
                continue;
            }
            tried += 1;
            let mut text = source.clone();
            text.replace_range(span.clone(), &mutant);
            let line = source[..span.start].matches('\n').count() + 1;
            let start = source[..span.start].rfind('\n').map_or(0, |at| at + 1);
            let faults = faults(&text);
            let message = format!("unknown key `{mutant}` in {table}");
            let fault = faults.list.iter().find(|fault| fault.message == message);
            let fault = fault.unwrap_or_else(|| panic!("not \"{message}\":\n{faults}"));
            assert_eq!(
                (fault.line, fault.column),
                (line, span.start - start + 1),
                "{message}"
            );
            if fault.help != format!("did you mean `{key}`?") {
                misses.push(format!(
                    "{table} {key}: `{mutant}` suggests \"{}\"",
                    fault.help
                ));
            }
        }
    }
    println!(
        "{tried} misspelt keys, {} misses:\n{}",
        misses.len(),
        misses.join("\n")
    );
    assert!(tried > 1_000, "{tried} misspelt keys");
    assert!(
        misses.len() * 20 <= tried,
        "{} of {tried} misspelt keys are not understood:\n{}",
        misses.len(),
        misses.join("\n")
    );
}

#[test]
fn a_misspelt_key_is_one_fault_and_draws_no_others_after_it() {
    let source = full_example();
    let mut more = Vec::new();
    for Used { table, key, span } in used(&source) {
        let mut text = source.clone();
        text.insert(span.end, 'x');
        let faults = faults(&text);
        if faults.list.len() > 1 {
            more.push(format!("{table} {key}:\n{faults}"));
        }
    }
    assert!(more.is_empty(), "{}", more.join("\n\n"));
}

// What is told of faults.

#[test]
fn the_report_shows_place_line_and_the_right_word() {
    let source = "[timeout]\nresponse = \"3s\"\n\n# For peers that are near.\nconect = \"1s\"\n\n[upstream.echo]\n\
                  peers = [\"127.0.0.1:8081\"]\n\n[[route]]\npath = \"/\"\nupstream = \"ecoh\"\n";
    let report = Config::read("conf/edge.toml", source)
        .unwrap_err()
        .to_string();
    assert_eq!(
        report,
        "conf/edge.toml:5:1: unknown key `conect` in [timeout]\n\
         \x20   5 | conect = \"1s\"\n\
         \x20     | ^^^^^^ did you mean `connect`?\n\
         conf/edge.toml:12:12: no upstream is named `ecoh`\n\
         \x20  12 | upstream = \"ecoh\"\n\
         \x20     |            ^^^^^^ did you mean `echo`?"
    );
}

#[test]
fn all_faults_are_told_at_once_in_their_order() {
    let source = r#"[server]
listen = "localhost"
per_client = "10/s"
[limit]
per_client = "10"
burst = "20"
[timeout]
conect = "1s"
[upstream.echo]
peers = ["127.0.0.1:8081", "http://b"]
[[route]]
path = "/api/*"
upstream = "ecoh"
"#;
    let places: Vec<_> = told(source);
    let expected = [
        "2:10: `localhost` does not fit here",
        "3:1: unknown key `per_client` in [server] (`per_client` belongs in [limit])",
        "5:14: `10` does not fit here",
        "6:9: expected a whole number, found string",
        "8:1: unknown key `conect` in [timeout] (did you mean `connect`?)",
        "10:28: `http://b` is no peer",
        "13:12: no upstream is named `ecoh` (did you mean `echo`?)",
    ];
    assert_eq!(places.len(), expected.len(), "{places:#?}");
    for (place, expected) in places.iter().zip(expected) {
        assert!(place.starts_with(expected), "{place}\nis not {expected}");
    }
}

#[test]
fn an_error_of_syntax_has_its_place() {
    for (source, place) in [
        (file_with("[server]\nlisten = \n"), (2, 10)),
        (file_with("[server\nlisten = \"127.0.0.1:1\""), (1, 8)),
        (file_with("[log]\nlevel = \"info"), (2, 14)),
        (
            file_with("[log]\nlevel = \"info\"\nlevel = \"warn\""),
            (3, 1),
        ),
        (file_with("[server]\ndrain = 5 s"), (2, 9)),
    ] {
        let list = faults(&source).list;
        assert!(
            list.iter().any(|fault| (fault.line, fault.column) == place),
            "{place:?} is not among {:#?}",
            told(&source)
        );
    }
}

#[test]
fn a_wrong_type_says_what_would_be_right() {
    for (head, expected) in [
        (
            "[server]\nlisten = 8080",
            "2:10: expected a text in quotes, found integer (expected an address with a port",
        ),
        (
            "[server]\nconnections = \"many\"",
            "2:15: expected a whole number, found string (write it without quotes, as 20)",
        ),
        (
            "[server]\nconnections = 1.5",
            "2:15: expected a whole number, found float",
        ),
        (
            "[server]\ndrain = 25",
            "2:9: expected a text in quotes, found integer (expected a duration such as \"250ms\"",
        ),
        (
            "[log]\naccess = \"yes\"",
            "2:10: expected true or false, found string",
        ),
        (
            "[log]\nlevel = 1",
            "2:9: expected a text in quotes, found integer",
        ),
        (
            "limit = \"10/s\"",
            "1:9: expected a table, found string (write `[limit]`)",
        ),
        (
            "[limit]\nper_client = 10",
            "2:14: expected a text in quotes, found integer (expected a rate such as \"10/s\"",
        ),
        (
            "[limit]\nper_client = \"10/s\"\nburst = -5",
            "3:9: -5 does not fit here (expected a whole number from 0 to 18446744073709551615)",
        ),
        (
            "[limit]\nper_client = \"10/s\"\nburst = 99999999999999999999",
            "3:9: 99999999999999999999 does not fit here",
        ),
    ] {
        let told = only_fault(&file_with(head));
        assert!(told.starts_with(expected), "{told}\nis not {expected}");
    }
}

#[test]
fn a_wrong_unit_says_what_would_be_right() {
    for (head, right) in [
        ("[timeout]\nresponse = \"3\"", "\"3s\""),
        ("[timeout]\nresponse = \"3sec\"", "\"3s\""),
        ("[timeout]\nresponse = \"0s\"", "zero is no time"),
        ("[timeout]\nconnect = \"off\"", "\"3s\""),
        ("[timeout]\nbody_rate = \"256B\"", "\"256B/s\""),
        ("[timeout]\nbody_rate = \"10/s\"", "\"256B/s\""),
        ("[limit]\nglobal = \"10rps\"", "\"10/s\""),
        ("[limit]\nglobal = \"0/s\"", "\"off\""),
        ("[cache]\nmemory = \"64MB\"", "\"64MiB\""),
        ("[server]\nlisten = \"8080\"", "\"127.0.0.1:8080\""),
        ("[server]\nlisten = \"127.0.0.1\"", "\"127.0.0.1:8080\""),
        (
            "[server]\ntrusted_proxies = [\"10.0.0.0/40\"]",
            "\"10.0.0.0/8\"",
        ),
        ("[server]\nipv6_prefix = 129", "1 to 128"),
        ("[server]\nconnections = 0", "1 to 10000000"),
        (
            "[limit]\nper_client = \"1/s\"\nstatus = { per_client = 200 }",
            "400 to 599",
        ),
        ("[log]\nlevel = \"warning\"", "did you mean `warn`?"),
        (
            "[cache]\nmemory = \"1KiB\"\nobject = \"2KiB\"",
            "at most `memory`",
        ),
        (
            "[cache]\nobject = \"1KiB\"\n[[route]]\npath = \"/a\"\nupstream = \"echo\"\n\
             cache = { ttl = \"1h\", max_object = \"2KiB\" }",
            "raise `[cache] object`",
        ),
    ] {
        let told = only_fault(&file_with(head));
        assert!(told.contains(right), "{told}\ndoes not say {right}");
    }
}

#[test]
fn a_misplaced_key_says_where_it_belongs() {
    assert_eq!(
        only_fault(&file_with("[server]\nper_client = \"10/s\"")),
        "2:1: unknown key `per_client` in [server] (`per_client` belongs in [limit])"
    );
    assert_eq!(
        only_fault(&file_with("[limit]\nmemory = \"64MiB\"")),
        "2:1: unknown key `memory` in [limit] (`memory` belongs in [cache])"
    );
    assert_eq!(
        only_fault(&file_with("[cache]\nwords = 1")),
        "2:1: unknown key `words` in [cache] (known here: memory, object)"
    );
}

#[test]
fn an_unknown_upstream_says_which_there_are() {
    let with = |name: &str| {
        format!(
            "[upstream.echo]\npeers = [\"a:1\"]\n[[route]]\npath = \"/\"\nupstream = \"{name}\"\n"
        )
    };
    assert_eq!(
        only_fault(&with("ehco")),
        "5:12: no upstream is named `ehco` (did you mean `echo`?)"
    );
    assert_eq!(
        only_fault(&with("warehouse")),
        "5:12: no upstream is named `warehouse` (known: echo)"
    );
}

#[test]
fn an_upstream_that_nobody_uses_is_a_fault() {
    let source = route_with("[upstream.spare]\npeers = [\"127.0.0.1:8082\"]");
    assert_eq!(
        only_fault(&source),
        "6:11: no route uses the upstream `spare` (name it in a route, or leave it out)"
    );
}

#[test]
fn a_route_that_is_never_reached_is_a_fault() {
    let source = route_with("[[route]]\npath = \"/api/info\"\nupstream = \"echo\"");
    assert_eq!(
        only_fault(&source),
        "7:8: this route is never reached: `/api/*` above takes all its requests (put the narrower route first)"
    );
    let narrower_first =
        route_with("methods = [\"GET\"]\n[[route]]\npath = \"/api/info\"\nupstream = \"echo\"");
    assert!(Config::read("", &narrower_first).is_ok());
}

#[test]
fn what_excludes_each_other_is_a_fault() {
    assert_eq!(
        only_fault(&route_with("websocket = true\ncache = \"1h\"")),
        "7:9: a WebSocket cannot be cached (leave out `cache` or `websocket`)"
    );
    assert_eq!(
        only_fault(&route_with("rewrite = \"/v1/*\"\nstrip_prefix = \"/api\"")),
        "7:16: `rewrite` and `strip_prefix` exclude each other (leave one of them out)"
    );
    assert_eq!(
        only_fault(&route_with("methods = [\"PUT\"]\ncache = \"1h\"")),
        "7:9: only answers to GET and HEAD are cached, and the route takes neither (add \"GET\" to `methods`)"
    );
    assert!(
        only_fault(&route_with("methods = [\"PUT\"]\nwebsocket = true"))
            .contains("a WebSocket begins with GET")
    );
    assert!(Config::read("", &route_with("websocket = true\ncache = \"off\"")).is_ok());
}

#[test]
fn two_listeners_on_one_address_are_a_fault() {
    for (server, admin) in [
        ("127.0.0.1:8080", "127.0.0.1:8080"),
        ("0.0.0.0:8080", "127.0.0.1:8080"),
        ("[::]:9090", "127.0.0.1:9090"),
    ] {
        let source = file_with(&format!(
            "[server]\nlisten = \"{server}\"\n[admin]\nlisten = \"{admin}\""
        ));
        let told = only_fault(&source);
        assert!(
            told.starts_with("2:10: [server] and [admin] both listen on"),
            "{told}"
        );
    }
    let free = file_with("[server]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"");
    assert!(Config::read("", &free).is_ok());
}

#[test]
fn what_is_wrong_with_certificates_is_told_with_its_place() {
    let good = "certificates = [{ cert = \"tls.crt\", key = \"tls.key\" }]";
    for (keys, expected) in [
        (good, "1:1: missing key `listen`"),
        (
            "listen = \"127.0.0.1:1\"",
            "1:1: missing key `certificates`",
        ),
        (
            &format!("listen = \"127.0.0.1:8080\"\n{good}"),
            "2:10: [server] and [tls] both listen on 127.0.0.1:8080",
        ),
        (
            &format!("listen = \"127.0.0.1:1\"\n{good}\nclient = \"optional\""),
            "4:10: without `client_ca` clients are not asked",
        ),
        (
            &format!(
                "listen = \"127.0.0.1:1\"\n{good}\nclient_ca = \"ca.pem\"\nclient = \"maybe\""
            ),
            "5:10: `maybe` does not fit here (expected one of \"required\", \"optional\")",
        ),
        (
            &format!("listen = \"127.0.0.1:1\"\n{good}\nclient_ca = \"tls.key\""),
            "4:13: `tls.key` does not fit here (expected certificates of authorities in PEM",
        ),
        (
            "listen = \"127.0.0.1:1\"\ncertificates = []",
            "3:16: 0 certificates (expected 1 to 1000)",
        ),
        (
            "listen = \"127.0.0.1:1\"\ncertificates = { cert = \"tls.crt\" }",
            "3:16: missing key `key`",
        ),
        (
            "listen = \"127.0.0.1:1\"\ncertificates = { cert = \"tls.key\", key = \"tls.key\" }",
            "3:25: `tls.key` does not fit here (expected a certificate in PEM",
        ),
        (
            "listen = \"127.0.0.1:1\"\ncertificates = { cert = \"tls.crt\", key = \"tls.crt\" }",
            "3:42: `tls.crt` does not fit here (expected a private key in PEM",
        ),
        (
            "listen = \"127.0.0.1:1\"\ncertificates = { cert = \"none.crt\", key = \"tls.key\" }",
            "3:25: `none.crt` cannot be read: no such file (a path begins at the folder",
        ),
    ] {
        let told = only_fault(&file_with(&format!("[tls]\n{keys}")));
        assert!(told.starts_with(expected), "{told}\nis not {expected}");
    }
    for (keys, right) in [
        ("cert = \"edge.crt\"", "set `key` as well"),
        ("key = \"edge.key\"", "set `cert` as well"),
        (
            "ca = \"ca.pem\", verify = false",
            "leave out `ca` or `verify`",
        ),
    ] {
        let source = route_with("").replace("[[route]]", &format!("tls = {{ {keys} }}\n[[route]]"));
        let told = only_fault(&source);
        assert!(told.starts_with("3:") && told.contains(right), "{told}");
    }
}

#[test]
fn a_named_file_lies_beside_the_configuration() {
    let tls = "[tls]\nlisten = \"127.0.0.1:1\"\ncertificates = { cert = \"tls.crt\", key = \"tls.key\" }\n";
    let config = read(&file_with(&format!("{tls}client_ca = \"ca.pem\""))).unwrap();
    let own = config.tls.unwrap();
    assert_eq!(own.certificates[0].cert, folder().join("tls.crt"));
    assert_eq!(own.certificates[0].key, folder().join("tls.key"));
    assert_eq!(own.client_ca, Some(folder().join("ca.pem")));
    assert!(own.client_required);
    let config = read(&file_with(tls)).unwrap();
    assert!(!config.tls.unwrap().client_required);
}

#[test]
fn a_burst_without_a_limit_is_a_fault() {
    assert_eq!(
        only_fault(&file_with("[limit]\nburst = 20")),
        "2:9: a burst without a `per_client` limit does nothing (set `per_client`, or leave the burst out)"
    );
    let only_client = "[limit]\nper_client = \"10/s\"\nburst = { per_client = 20, global = 200 }";
    assert_eq!(
        only_fault(&file_with(only_client)),
        "3:37: a burst without a `global` limit does nothing (set `global`, or leave the burst out)"
    );
    assert_eq!(
        only_fault(&file_with("[limit]\nper_client = \"10/s\"\nburst = 0")),
        "3:9: a burst of 0 lets nobody through (expected at least 1)"
    );
}

#[test]
fn an_empty_file_says_what_is_missing() {
    for source in ["", "\n", "# nothing but a comment"] {
        assert_eq!(
            only_fault(source),
            "1:1: no route: nothing would be answered (write `[[route]]` with `path` and `upstream`)"
        );
    }
}

#[test]
fn a_route_without_path_or_upstream_says_what_is_missing() {
    let list = told("[[route]]\nmethods = [\"GET\"]");
    assert_eq!(list.len(), 2, "{list:#?}");
    assert!(list[0].starts_with("1:1: missing key `path`"), "{list:#?}");
    assert!(
        list[1].starts_with("1:1: missing key `upstream`"),
        "{list:#?}"
    );
}

#[test]
fn a_key_with_a_dot_is_the_same_as_a_table() {
    let dotted = file_with("limit.per_client = \"10/s\"\nlimit.burst.per_client = 20");
    let table = file_with("[limit]\nper_client = \"10/s\"\nburst = 20");
    assert_eq!(Config::read("", &dotted), Config::read("", &table));
}

#[test]
fn a_line_that_fills_a_screen_can_still_be_shown() {
    let long = "x".repeat(100_000);
    let report = faults(&file_with(&format!("{long} = 1 # {long}"))).to_string();
    assert!(report.contains("unknown key"));
    let far = format!("a = [{}]", "\"b\", ".repeat(30_000));
    assert!(faults(&format!("{far} c")).to_string().contains("1:"));
}

// What a route takes from the file.

#[test]
fn a_body_has_a_rate_unless_it_may_take_for_ever_or_the_file_says_so() {
    let rate = |file: &str, route: &str| {
        let source = format!("[timeout]\n{file}\n{}", route_with(route));
        let mut config = read(&source).unwrap_or_else(|faults| panic!("{faults}"));
        config.routes.remove(0).timeout.body_rate
    };
    let off = "timeout = { body = \"off\" }";
    assert_eq!(rate("", ""), Some(256));
    assert_eq!(rate("", off), None, "a stream may be silent");
    assert_eq!(rate("body = \"off\"", ""), None);
    assert_eq!(rate("body_rate = \"off\"", ""), None);
    assert_eq!(
        rate("body = \"off\"\nbody_rate = \"1KiB/s\"", ""),
        Some(1_024)
    );
    let both = "timeout = { body = \"off\", body_rate = \"2B/s\" }";
    assert_eq!(rate("", both), Some(2));
    assert_eq!(
        rate("body_rate = \"1KiB/s\"", "timeout = \"5s\""),
        Some(1_024)
    );
}

#[test]
fn a_route_takes_from_the_file_what_it_does_not_set() {
    let head = "[limit]\nper_client = \"10/s\"\nglobal = \"100/s\"\nburst = 20\nstatus = { global = 429 }\n\
                [timeout]\nconnect = \"1s\"\nresponse = \"3s\"\nbody = \"9s\"\n";
    let read = |more: &str| {
        let source = format!("{head}{}", route_with(more));
        let mut config =
            Config::read("edge.toml", &source).unwrap_or_else(|faults| panic!("{faults}"));
        (config.routes.remove(0), config.limit, config.timeout)
    };

    let (route, limit, timeout) = read("");
    assert_eq!((route.limit.settings, route.timeout), (limit, timeout));
    assert!(!route.limit.own_per_client && !route.limit.own_global);

    let (route, limit, _) = read("limit = { per_client = \"5/s\" }");
    let own = route.limit.settings;
    assert_eq!(
        own.per_client.unwrap().within(Duration::ZERO),
        5,
        "the file's burst is for the file's rate"
    );
    assert_eq!((own.global, own.status), (limit.global, limit.status));
    assert!(route.limit.own_per_client && !route.limit.own_global);

    let (route, limit, _) = read("limit = { burst = 7 }");
    assert_eq!(
        route.limit.settings.per_client,
        limit.per_client.map(|quota| quota.with_burst(7))
    );
    assert!(route.limit.own_per_client && !route.limit.own_global);

    let (route, limit, _) = read("limit = { per_client = \"off\", status = { global = 503 } }");
    assert_eq!(route.limit.settings.per_client, None);
    assert_eq!(route.limit.settings.global, limit.global);
    assert_eq!(route.limit.settings.status.global.as_u16(), 503);
    assert!(!route.limit.own_global);

    let (route, limit, _) = read("limit = \"off\"");
    let own = route.limit.settings;
    assert_eq!(
        (own.per_client, own.global, own.status),
        (None, None, limit.status)
    );

    let seconds = Duration::from_secs;
    let (route, _, timeout) = read("timeout = \"5s\"");
    assert_eq!(route.timeout.response, Some(seconds(5)));
    assert_eq!(
        (route.timeout.connect, route.timeout.body),
        (timeout.connect, timeout.body)
    );

    let (route, _, timeout) = read("timeout = { connect = \"2s\" }");
    assert_eq!(route.timeout.connect, seconds(2));
    assert_eq!(
        (route.timeout.response, route.timeout.body),
        (timeout.response, timeout.body)
    );

    let (route, ..) = read("timeout = \"off\"");
    assert_eq!(route.timeout.response, None);
}

#[test]
fn what_is_left_out_has_the_default_of_the_reference() {
    let config = Config::read("", &route_with("")).unwrap();
    let seconds = Duration::from_secs;
    assert_eq!(config.server.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(config.admin.to_string(), "127.0.0.1:9090");
    assert!(config.server.trust.proxies.is_empty());
    assert_eq!(config.server.trust.ipv6_prefix, 64);
    assert_eq!(
        (config.server.drain, config.server.drain_delay),
        (seconds(25), seconds(1))
    );
    assert_eq!(
        (config.server.connections, config.clients),
        (20_000, 100_000)
    );
    assert_eq!(
        (config.log.level.as_str(), config.log.access),
        ("info", true)
    );
    assert_eq!((config.limit.per_client, config.limit.global), (None, None));
    let status = config.limit.status;
    assert_eq!(
        (status.per_client.as_u16(), status.global.as_u16()),
        (429, 503)
    );
    let timeout = config.timeout;
    assert_eq!((timeout.connect, timeout.head), (seconds(1), seconds(10)));
    assert_eq!(timeout.response, Some(seconds(30)));
    assert_eq!(timeout.body, Some(seconds(60)));
    assert_eq!(timeout.keepalive, seconds(75));
    assert_eq!(
        (config.cache.memory, config.cache.object),
        (64 << 20, 1 << 20)
    );
    let small = Config::read("", &file_with("[cache]\nmemory = \"512KiB\"")).unwrap();
    assert_eq!(small.cache.object, 512 << 10);
    let route = &config.routes[0];
    assert_eq!(route.name, "/api/*");
    assert!(
        route.websocket.is_none() && route.cache.is_none() && config.upstreams[0].health.is_none()
    );
}

#[test]
fn a_websocket_has_the_bounds_of_the_reference_unless_it_sets_its_own() {
    let seconds = Duration::from_secs;
    let read = |file: &str, more: &str| {
        let source = format!("{file}\n{}", route_with(more));
        let mut config = Config::read("", &source).unwrap_or_else(|faults| panic!("{faults}"));
        config.routes.remove(0).websocket
    };
    assert_eq!(read("", "websocket = false"), None);
    let default = read("", "websocket = true").unwrap();
    assert_eq!(read("", "websocket = {}").as_ref(), Some(&default));
    assert!(!default.own_per_client && !default.own_global && !default.own_messages);
    let own = default.settings;
    assert_eq!(
        (own.times.idle, own.times.lifetime),
        (Some(seconds(3_600)), None)
    );
    assert_eq!(
        (own.times.ping, own.times.pong),
        (Some(seconds(30)), Some(seconds(10)))
    );
    assert_eq!((own.message, own.frame), (Some(4 << 20), Some(1 << 20)));
    assert_eq!((own.per_client, own.global), (Some(20), Some(10_000)));
    assert_eq!(own.messages_per_client.unwrap().within(Duration::ZERO), 100);
    assert_eq!((own.origins, own.subprotocols), (None, None));

    let file = "[websocket]\nper_client = 5\nidle = \"off\"\nmessages_per_client = \"1/s\"";
    let route = "websocket = { ping = \"off\", global = \"off\", origins = \"same\" }";
    let websocket = read(file, route).unwrap();
    assert!(!websocket.own_per_client && !websocket.own_messages && websocket.own_global);
    let own = websocket.settings;
    assert_eq!((own.times.idle, own.times.ping), (None, None));
    assert_eq!((own.per_client, own.global), (Some(5), None));
    assert_eq!(own.origins.unwrap().len(), 1);
}

#[test]
fn what_a_request_may_be_is_read_and_a_route_may_take_larger_bodies() {
    use edge::route::{DotSegments, DoubleSlashes, EncodedSlashes, Paths};
    let default = Config::read("", &route_with("")).unwrap();
    let request = default.request;
    assert_eq!(
        (request.target, request.fields, request.fields_size),
        (8 << 10, 100, 32 << 10)
    );
    assert_eq!((request.body, default.routes[0].body), (None, None));
    assert_eq!(request.paths, Paths::default());
    let file = "[request]\ntarget = \"1KiB\"\nfields = 256\nfields_size = \"511KiB\"\n\
                body = \"2MiB\"\ndot_segments = \"resolve\"\ndouble_slashes = \"merge\"\n\
                encoded_slashes = \"refuse\"\n";
    let own = |keys: &str| Config::read("", &(file.to_owned() + &route_with(keys))).unwrap();
    let config = own("");
    let paths = Paths {
        dot_segments: DotSegments::Resolve,
        double_slashes: DoubleSlashes::Merge,
        encoded_slashes: EncodedSlashes::Refuse,
    };
    assert_eq!((config.request.target, config.request.fields), (1_024, 256));
    assert_eq!(config.request.paths, paths);
    assert_eq!(config.routes[0].body, Some(2 << 20));
    assert_eq!(own("body = \"off\"").routes[0].body, None);
    assert_eq!(own("body = \"1GiB\"").routes[0].body, Some(1 << 30));
    let told = config.to_string();
    assert!(told.contains("takes targets of 1024 B, 256 fields of 523264 B"));
    assert!(told.contains("resolves dot segments, merges double slashes, refuses encoded ones"));
    assert!(told.contains("  body       2097152 B"), "{told}");
}

#[test]
fn what_no_request_can_be_is_a_fault() {
    for (key, said) in [
        ("target = \"512KiB\"", "expected at most \"511KiB\""),
        ("fields_size = \"1GiB\"", "expected at most \"511KiB\""),
        ("fields = 257", "expected 1 to 256"),
        ("fields = 0", "expected 1 to 256"),
        ("body = \"10MB\"", "a size such as"),
        ("body = 5", "expected"),
        (
            "dot_segments = \"keep\"",
            "expected one of \"refuse\", \"resolve\"",
        ),
        ("double_slashes = \"mrege\"", "did you mean `merge`?"),
        (
            "encoded_slashes = \"decode\"",
            "expected one of \"keep\", \"refuse\"",
        ),
        ("dots = \"refuse\"", "unknown key `dots` in [request]"),
    ] {
        let fault = only_fault(&file_with(&format!("[request]\n{key}")));
        assert!(fault.contains(said), "{key}: {fault}");
    }
}

#[test]
fn a_bound_on_websockets_that_does_nothing_is_a_fault() {
    let route = |keys: &str| only_fault(&route_with(&format!("websocket = {{ {keys} }}")));
    for (keys, said) in [
        ("ping = \"off\", pong = \"5s\"", "nobody owes a pong"),
        (
            "message = \"1KiB\", frame = \"2KiB\"",
            "expected at most `message`",
        ),
        ("per_client = 0", "expected 1 to 10000000, or \"off\""),
        ("global = \"many\"", "whole number"),
        ("origins = [\"app.example\"]", "as \"https://app.example\""),
        ("subprotocols = \"a b\"", "as \"chat.v2\""),
        ("lifetime = \"0s\"", "expected"),
    ] {
        let fault = route(keys);
        assert!(fault.contains(said), "{keys}: {fault}");
    }
    let moved = only_fault(&file_with("[timeout]\nidle = \"1h\""));
    assert!(moved.contains("`idle` belongs in [websocket]"), "{moved}");
}

#[test]
fn a_route_compresses_as_it_says_and_nothing_by_default() {
    let read = |more: &str| {
        Config::read("", &route_with(more))
            .unwrap()
            .routes
            .remove(0)
    };
    for off in ["", "compress = false"] {
        assert_eq!(read(off).compress, None);
    }
    let usual = Some(edge::compression::Policy::default());
    for on in ["compress = true", "compress = {}"] {
        assert_eq!(read(on).compress, usual);
    }
    let keys =
        "encodings = \"gzip\", min_size = \"2KiB\", types = \"text/event-stream\", level = 9";
    let own = read(&format!("compress = {{ {keys} }}")).compress.unwrap();
    assert_eq!(own.encodings, [edge::compression::Encoding::Gzip]);
    assert_eq!((own.min_size, own.level), (2_048, Some(9)));
    assert_eq!(own.types[0].to_string(), "text/event-stream");
}

#[test]
fn what_cannot_be_compressed_so_is_a_fault() {
    for (value, said) in [
        ("\"gzip\"", "expected true or false"),
        (
            "{ encodings = [\"deflate\"] }",
            "expected \"br\", \"zstd\" or \"gzip\"",
        ),
        ("{ encodings = [] }", "expected 1 to 3"),
        ("{ encodings = [\"br\", \"br\"] }", "stands here twice"),
        ("{ types = [\"text\"] }", "expected a type, as \"text/*\""),
        ("{ types = [\"*/*\"] }", "expected a type, as \"text/*\""),
        (
            "{ types = [\"application/grpc\"] }",
            "never compressed by edge",
        ),
        ("{ types = [] }", "expected 1 to 64"),
        ("{ level = 0 }", "expected 1 (fast) to 9 (small)"),
        ("{ level = 10 }", "expected 1 (fast) to 9 (small)"),
        ("{ min_size = 5 }", "expected"),
        ("{ minsize = \"1KiB\" }", "did you mean `min_size`?"),
    ] {
        let fault = only_fault(&route_with(&format!("compress = {value}")));
        assert!(fault.contains(said), "{value}: {fault}");
    }
}

#[test]
fn a_cache_of_methods_that_its_route_does_not_take_is_a_fault() {
    let with = |methods: &str, own: &str| {
        route_with(&format!(
            "methods = {methods}\ncache = {{ ttl = \"1h\", methods = {own} }}"
        ))
    };
    assert_eq!(
        only_fault(&with("[\"HEAD\", \"PUT\"]", "\"GET\"")),
        "7:9: only answers to GET are cached, which the route does not take (add \"GET\" to `methods`)"
    );
    // A method that no cache answers is one fault, not two.
    only_fault(&with("\"GET\"", "\"PUT\""));
    for (methods, own) in [("\"GET\"", "\"HEAD\""), ("\"HEAD\"", "[\"GET\", \"HEAD\"]")] {
        assert!(Config::read("", &with(methods, own)).is_ok(), "{own}");
    }
}

#[test]
fn every_fault_in_a_list_is_told() {
    let list = told(&route_with("host = [\"*\", \"a\", \"b:1\"]"));
    assert_eq!(list.len(), 2, "{list:#?}");
    assert!(list[0].starts_with("6:9: ") && list[1].starts_with("6:19: "));
}

#[test]
fn the_table_and_the_short_form_of_cache_are_the_same() {
    let read = |more: &str| Config::read("", &route_with(more)).unwrap();
    assert_eq!(read("cache = \"1h\""), read("cache = { ttl = \"1h\" }"));
    assert_eq!(read("cache = \"off\""), read(""));
    let apart = read("[route.cache]\nttl = \"1h\"");
    assert_eq!(read("cache = \"1h\""), apart);
}

// Whatever the file holds, edge answers.

/// Reads and shows; a panic in either is what the laws below look for.
fn read_and_show(source: &str) {
    match read(source) {
        Ok(config) => drop(config.to_string()),
        Err(faults) => {
            let lines = source.lines().count().max(1);
            assert!(!faults.list.is_empty());
            for fault in &faults.list {
                // A fault at the end of the file stands on the line after the last.
                assert!((1..=lines + 1).contains(&fault.line) && fault.column >= 1);
            }
            drop(faults.to_string());
        }
    }
}

/// Words of the configuration, so that texts get past the first fault.
fn words() -> impl Strategy<Value = String> {
    let keys = Config::keys().into_iter().map(|(_, key)| key);
    let more = [
        "[",
        "]",
        "[[",
        "]]",
        "{",
        "}",
        "=",
        ".",
        ",",
        "\n",
        "\n[",
        "\n[[route]]\n",
        "\"",
        "'''",
        "\"/api/*\"",
        "\"10/s\"",
        "\"off\"",
        "true",
        "20",
        "-1",
        "0x_f",
        "1e9",
        "nan",
        "#",
        "\\",
        "\u{0}",
        "ü",
        "1979-05-27",
        "upstream.a",
        "peers = []",
    ];
    let word = prop::sample::select(keys.chain(more).collect::<Vec<_>>());
    prop::collection::vec(word, 0..60).prop_map(|words| words.join(" "))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_text_makes_reading_panic(text in any::<String>()) {
        read_and_show(&text);
    }

    #[test]
    fn no_heap_of_words_makes_reading_panic(text in words()) {
        read_and_show(&text);
    }

    #[test]
    fn no_damage_to_the_full_example_makes_reading_panic(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..3), 1..6),
    ) {
        let mut bytes = full_example().into_bytes();
        for (place, byte, how) in damage {
            let place = place.index(bytes.len());
            match how {
                0 => bytes[place] = byte,
                1 => bytes.insert(place, byte),
                _ => drop(bytes.remove(place)),
            }
        }
        read_and_show(&String::from_utf8_lossy(&bytes));
    }
}

// The binary.

/// Runs edge; one that does not end within ten seconds is ended and fails the test.
fn edge(arguments: &[&str]) -> Output {
    let mut edge = Command::new(env!("CARGO_BIN_EXE_edge"))
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let began = Instant::now();
    while edge.try_wait().unwrap().is_none() {
        if began.elapsed() > Duration::from_secs(10) {
            edge.kill().unwrap();
            let output = edge.wait_with_output().unwrap();
            panic!("edge {arguments:?} does not end: {output:?}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    edge.wait_with_output().unwrap()
}

fn said(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

/// A file that is there for one test.
fn file(name: &str, source: &str) -> String {
    let path = folder().join(name);
    fs::write(&path, source).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn check_says_what_each_route_gets_and_exits_0() {
    let path = file("good.toml", &full_example());
    let (code, out, err) = said(&edge(&["check", &path]));
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert!(out.contains(": ok\n"), "{out}");
    assert!(
        out.contains("route live") && out.contains("route /api/*"),
        "{out}"
    );
}

#[test]
fn check_tells_all_faults_on_stderr_and_exits_2() {
    let path = file(
        "faulty.toml",
        &file_with("[timeout]\nconect = \"1s\"\nresponse = \"3\""),
    );
    let (code, out, err) = said(&edge(&["check", &path]));
    assert_eq!((code, out.as_str()), (Some(2), ""));
    assert!(
        err.contains(&format!("{path}:2:1: unknown key `conect`")),
        "{err}"
    );
    assert!(
        err.contains(&format!("{path}:3:12: `3` does not fit here")),
        "{err}"
    );
    let (code, out, served) = said(&edge(&["-c", &path]));
    assert_eq!((code, out.as_str()), (Some(2), ""));
    assert_eq!(served, err);
}

#[test]
fn a_file_that_is_not_there_is_told_in_one_line_and_exits_2() {
    for arguments in [
        ["-c", "/nowhere/edge.toml"],
        ["check", "/nowhere/edge.toml"],
    ] {
        let (code, out, err) = said(&edge(&arguments));
        assert_eq!((code, out.as_str()), (Some(2), ""));
        assert!(
            err.contains("/nowhere/edge.toml: No such file") && err.lines().count() == 1,
            "{err}"
        );
    }
}

#[test]
fn a_file_that_is_no_text_is_told_and_exits_2() {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bytes.toml");
    fs::write(&path, [0xff, 0xfe, 0, 1]).unwrap();
    let path = path.to_str().unwrap();
    let (code, _, err) = said(&edge(&["check", path]));
    assert_eq!(code, Some(2));
    assert!(err.starts_with(path) && err.contains("UTF-8"), "{err}");
}

#[test]
fn help_and_version_work() {
    let (code, out, _) = said(&edge(&["--help"]));
    assert_eq!(code, Some(0));
    assert!(out.contains("check") && out.contains("--config"), "{out}");
    let (code, out, _) = said(&edge(&["--version"]));
    assert_eq!(code, Some(0));
    assert_eq!(out, format!("edge {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_wrong_command_line_exits_2() {
    for arguments in [&["--nonsense"][..], &["check"], &[]] {
        let (code, _, err) = said(&edge(arguments));
        assert_eq!(code, Some(2), "{arguments:?}");
        assert!(err.contains("Usage"), "{err}");
    }
}

#[test]
fn a_port_that_is_taken_ends_edge_at_once() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    for (name, head, table) in [
        (
            "traffic-taken.toml",
            format!("[server]\nlisten = \"{address}\"\n[admin]\nlisten = \"127.0.0.1:0\""),
            "[server] listen",
        ),
        (
            "admin-taken.toml",
            format!("[server]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"{address}\""),
            "[admin] listen",
        ),
    ] {
        let path = file(name, &file_with(&head));
        let began = Instant::now();
        let (code, _, err) = said(&edge(&["-c", &path]));
        assert_eq!(code, Some(1), "{err}");
        assert!(began.elapsed() < Duration::from_secs(5));
        assert!(
            err.starts_with(&format!("edge: {table} {address}: ")),
            "{err}"
        );
        assert!(err.contains("in use") && err.lines().count() == 1, "{err}");
    }
}
