//! The rooms of edge stand on floors: each uses only what stands on its own floor or below, and
//! no two use each other. See ARCHITECTURE.md.
//!
//! Read from the sources' own text, without comments, literals and tests.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may fail loudly"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Enter a new room here and under the same heading in edge/src/lib.rs.
const FLOORS: [(usize, &[&str]); 6] = [
    // Words.
    (0, &["units"]),
    // Policies: no Pingora, no tokio, no clock, no files, no sockets.
    (
        1,
        &[
            "api_key",
            "balance",
            "breaker",
            "cache",
            "certificate",
            "client",
            "compression",
            "cors",
            "credentials",
            "forward",
            "grpc",
            "headers",
            "identity",
            "jwt",
            "limit",
            "message",
            "proxy_protocol",
            "refusal",
            "retry",
            "route",
            "standing",
            "websocket",
        ],
    ),
    // Configuration: may read files.
    (2, &["config"]),
    // Record.
    (3, &["access_log", "exchange", "metrics"]),
    // Doing: only from here on Pingora and tokio.
    (
        4,
        &[
            "admin",
            "alarm",
            "authenticator",
            "connection",
            "conversation",
            "deadline",
            "discovery",
            "door",
            "encoder",
            "fetch",
            "flight",
            "gateway",
            "handshake",
            "health",
            "http2",
            "issuer",
            "keyring",
            "life",
            "plan",
            "resolver",
            "respond",
            "shares",
            "sketch",
            "sockets",
            "store",
            "tls",
            "tunnel",
            "upstream",
        ],
    ),
    // Start.
    (5, &["ask", "demo", "log", "main", "reload", "serve"]),
];

/// The lowest floor that may name Pingora and tokio.
const DOING: usize = 4;
/// The highest floor that has neither clock, file nor socket.
const POLICIES: usize = 1;

fn floor(room: &str) -> Option<usize> {
    let found = FLOORS.iter().find(|(_, rooms)| rooms.contains(&room));
    found.map(|(floor, _)| *floor)
}

/// A source file: its module path without `crate`, and its text.
struct Source {
    module: Vec<String>,
    text: String,
}

fn sources() -> Vec<Source> {
    fn gather(folder: &Path, files: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                gather(&path, files);
            } else if path.extension().is_some_and(|end| end == "rs") {
                files.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    gather(&root, &mut files);
    let source = |path: PathBuf| {
        let stem = path.strip_prefix(&root).unwrap().with_extension("");
        let mut module: Vec<String> = stem
            .iter()
            .map(|part| part.to_str().unwrap().to_owned())
            .collect();
        if module.last().is_some_and(|last| last == "mod") || module == ["lib"] {
            module.pop();
        }
        let text = fs::read_to_string(&path).unwrap();
        Source { module, text }
    };
    files.into_iter().map(source).collect()
}

/// Words and marks of a source, without comments, literals and what stands under `#[cfg(test)]`.
fn tokens(text: &str) -> Vec<String> {
    without_tests(&words(text))
}

fn words(text: &str) -> Vec<String> {
    let text: Vec<char> = text.chars().collect();
    let mut words = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        let next = |place: usize| rest.get(place).copied().unwrap_or(' ');
        let letter = |c: char| c.is_alphanumeric() || c == '_';
        at += match rest[0] {
            '/' if next(1) == '/' => until(rest, &['\n']),
            '/' if next(1) == '*' => block_comment(rest),
            '"' => 1 + quoted(&rest[1..], '"'),
            'r' | 'b' | 'c' if raw_string(rest).is_some() => raw_string(rest).unwrap_or(1),
            'b' if next(1) == '\'' => 2 + quoted(&rest[2..], '\''),
            // A letter between quotes; otherwise it is a lifetime.
            '\'' if next(1) == '\\' || next(2) == '\'' => 1 + quoted(&rest[1..], '\''),
            ':' if next(1) == ':' => {
                words.push("::".to_owned());
                2
            }
            c if letter(c) => {
                let length = rest.iter().take_while(|c| letter(**c)).count();
                words.push(rest[..length].iter().collect());
                length
            }
            c => {
                if !c.is_whitespace() {
                    words.push(c.to_string());
                }
                1
            }
        };
    }
    words
}

fn until(text: &[char], end: &[char]) -> usize {
    let found = text.windows(end.len()).position(|window| window == end);
    found.map_or(text.len(), |found| found + end.len())
}

fn block_comment(text: &[char]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        match text.get(at..at + 2) {
            Some(['/', '*']) => (depth, at) = (depth + 1, at + 2),
            Some(['*', '/']) if depth == 1 => return at + 2,
            Some(['*', '/']) => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
    }
    at
}

/// Up to and with the closing quote.
fn quoted(text: &[char], quote: char) -> usize {
    let mut at = 0;
    while at < text.len() {
        match text[at] {
            '\\' => at += 2,
            c if c == quote => return at + 1,
            _ => at += 1,
        }
    }
    at
}

/// The length of `r"…"`, `r#"…"#`, `br"…"` or `b"…"`, if one begins here.
fn raw_string(text: &[char]) -> Option<usize> {
    let letters = text
        .iter()
        .take_while(|c| matches!(c, 'r' | 'b' | 'c'))
        .count();
    let raw = text[..letters].contains(&'r');
    let marks = text[letters..].iter().take_while(|c| **c == '#').count();
    let start = letters + marks;
    if letters > 2 || (marks > 0 && !raw) || text.get(start) != Some(&'"') {
        return None;
    }
    let body = &text[start + 1..];
    let length = if raw {
        let end: Vec<char> = std::iter::once('"').chain(vec!['#'; marks]).collect();
        until(body, &end)
    } else {
        quoted(body, '"')
    };
    Some(start + 1 + length)
}

/// Leaves out each item under `#[cfg(test)]`: up to its `;`, or to the end of its braces.
fn without_tests(words: &[String]) -> Vec<String> {
    let mut left = Vec::new();
    let mut at = 0;
    while at < words.len() {
        let mark = ["#", "[", "cfg", "(", "test", ")", "]"];
        if !words[at..].iter().take(mark.len()).eq(mark.iter()) {
            left.push(words[at].clone());
            at += 1;
            continue;
        }
        at += mark.len();
        let mut depth = 0;
        while let Some(word) = words.get(at) {
            at += 1;
            match word.as_str() {
                "{" => depth += 1,
                "}" if depth == 1 => break,
                "}" => depth -= 1,
                ";" if depth == 0 => break,
                _ => {}
            }
        }
    }
    left
}

/// Every path that begins with `first`, groups written out: `first::{a, b::c}` is `a` and `b::c`.
fn paths(tokens: &[String], first: &str) -> Vec<Vec<String>> {
    let mut paths = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        let begins = at == 0 || tokens[at - 1] != "::";
        if token == first && begins && tokens.get(at + 1).is_some_and(|next| next == "::") {
            tree(&tokens[at + 2..], &mut Vec::new(), &mut paths);
        }
    }
    paths
}

/// Reads one path or group and returns how many tokens it took.
fn tree(tokens: &[String], above: &mut Vec<String>, paths: &mut Vec<Vec<String>>) -> usize {
    let depth = above.len();
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        if token == "{" {
            at += 1;
            while tokens.get(at).is_some_and(|token| token != "}") {
                at += tree(&tokens[at..], above, paths).max(1);
                // `as name`, then the comma.
                while tokens
                    .get(at)
                    .is_some_and(|token| token != "," && token != "}")
                {
                    at += 1;
                }
                if tokens.get(at).is_some_and(|token| token == ",") {
                    at += 1;
                }
            }
            above.truncate(depth);
            return at + 1;
        }
        let word = token.chars().all(|c| c.is_alphanumeric() || c == '_');
        if !word && token != "*" {
            break;
        }
        above.push(token.clone());
        at += 1;
        if tokens.get(at).is_none_or(|token| token != "::") {
            break;
        }
        at += 1;
    }
    paths.push(above.clone());
    above.truncate(depth);
    at
}

/// What a module of edge names in edge, as paths without `crate`.
fn own_paths(module: &[String], tokens: &[String]) -> Vec<Vec<String>> {
    let mut own = paths(tokens, "crate");
    // The binary sees the library from outside.
    if module == ["main"] {
        own.extend(paths(tokens, "edge"));
    }
    for path in paths(tokens, "super") {
        let ups = path.iter().take_while(|part| *part == "super").count();
        let above = module.len().saturating_sub(ups + 1);
        own.push(
            module[..above]
                .iter()
                .chain(&path[ups..])
                .cloned()
                .collect(),
        );
    }
    for path in &mut own {
        path.retain(|part| part != "self");
    }
    own
}

/// What is wrong with these sources.
fn wrongs(sources: &[Source]) -> Vec<String> {
    let known: BTreeSet<&[String]> = sources.iter().map(|source| &source.module[..]).collect();
    let mut wrongs = Vec::new();
    let mut uses: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for Source { module, text } in sources {
        let name = module.join("::");
        let tokens = tokens(text);
        let Some(room) = module.first() else { continue };
        let Some(own_floor) = floor(room) else {
            wrongs.push(format!(
                "`{room}` stands on no floor: enter it in FLOORS in edge/tests/floors.rs and in edge/src/lib.rs"
            ));
            continue;
        };
        for path in own_paths(module, &tokens) {
            let written = path.join("::");
            let target = path.first().map_or("", String::as_str);
            match floor(target) {
                None => wrongs.push(format!(
                    "{name} uses `{written}`, which stands on no floor: enter `{target}` in FLOORS in edge/tests/floors.rs"
                )),
                Some(floor) if floor > own_floor => wrongs.push(format!(
                    "{name} (floor {own_floor}) uses `{written}` (floor {floor}): nothing is used from above"
                )),
                Some(_) => {}
            }
            if target != *room {
                uses.entry(room.clone())
                    .or_default()
                    .insert(target.to_owned());
                continue;
            }
            // Within a room: parent and child belong together, two children must not be a circle.
            let file = (1..=path.len())
                .rev()
                .map(|length| &path[..length])
                .find(|part| known.contains(part))
                .unwrap_or(module);
            if !file.starts_with(module) && !module.starts_with(file) {
                uses.entry(name.clone())
                    .or_default()
                    .insert(file.join("::"));
            }
        }
        wrongs.extend(
            forbidden(own_floor, &tokens)
                .into_iter()
                .map(|word| format!("{name} (floor {own_floor}) names `{word}`")),
        );
    }
    wrongs.extend(circles(&uses));
    wrongs
}

/// What must not be named on this floor, and is.
fn forbidden(floor: usize, tokens: &[String]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    if floor < DOING {
        let doing = |word: &&String| word.starts_with("pingora") || *word == "tokio";
        found.extend(tokens.iter().filter(doing).cloned());
    }
    if floor > POLICIES {
        return found;
    }
    for sequence in [
        &["Instant", "::", "now"][..],
        &["SystemTime", "::", "now"],
        &[".", "elapsed", "("],
    ] {
        if tokens
            .windows(sequence.len())
            .any(|window| window == sequence)
        {
            found.insert(sequence.concat());
        }
    }
    for path in paths(tokens, "std") {
        let parts: Vec<&str> = path.iter().map(String::as_str).collect();
        let bad = match parts[..] {
            ["fs" | "thread" | "process" | "env", ..] => true,
            ["net", name, ..] => {
                name == "*"
                    || name.starts_with("Tcp")
                    || name.starts_with("Udp")
                    || name.starts_with("ToSocket")
            }
            ["net"] => true,
            _ => false,
        };
        if bad {
            found.insert(format!("std::{}", parts.join("::")));
        }
    }
    found
}

/// Every circle, told once.
fn circles(uses: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    fn walk<'a>(
        uses: &'a BTreeMap<String, BTreeSet<String>>,
        way: &mut Vec<&'a str>,
        done: &mut BTreeSet<&'a str>,
        found: &mut Vec<String>,
    ) {
        let Some(&here) = way.last() else { return };
        for next in uses.get(here).into_iter().flatten() {
            if let Some(start) = way.iter().position(|room| room == next) {
                found.push(format!("a circle: {} → {next}", way[start..].join(" → ")));
            } else if !done.contains(next.as_str()) {
                way.push(next);
                walk(uses, way, done, found);
                way.pop();
            }
        }
        done.insert(here);
    }
    let (mut done, mut found) = (BTreeSet::new(), Vec::new());
    for room in uses.keys() {
        if !done.contains(room.as_str()) {
            walk(uses, &mut vec![room], &mut done, &mut found);
        }
    }
    found
}

#[test]
fn every_room_uses_only_its_own_floor_and_those_below() {
    let sources = sources();
    let rooms: BTreeSet<_> = sources
        .iter()
        .flat_map(|source| source.module.first())
        .collect();
    assert!(sources.len() > 30, "{} files found", sources.len());
    assert!(
        sources.iter().any(|source| source.module.len() > 1),
        "no file in a subfolder found"
    );
    let gone: Vec<_> = FLOORS
        .iter()
        .flat_map(|(_, rooms)| rooms.iter())
        .filter(|room| !rooms.iter().any(|own| own == *room))
        .collect();
    assert!(
        gone.is_empty(),
        "FLOORS names {gone:?}, of which there is no file"
    );
    let wrongs = wrongs(&sources);
    assert!(wrongs.is_empty(), "{}", wrongs.join("\n"));
}

/// A module between braces would be read as part of its file.
#[test]
fn every_module_is_a_file() {
    for Source { module, text } in sources() {
        let tokens = tokens(&text);
        let inline = tokens
            .windows(3)
            .find(|window| window[0] == "mod" && window[2] == "{");
        assert!(inline.is_none(), "{}: {inline:?}", module.join("::"));
    }
}

#[test]
fn the_library_lists_the_same_floors() {
    let library = include_str!("../src/lib.rs");
    let mut listed: BTreeMap<usize, BTreeSet<&str>> = BTreeMap::new();
    let mut here = None;
    for line in library.lines() {
        if let Some((number, _)) = line
            .strip_prefix("// ")
            .and_then(|line| line.split_once(':'))
        {
            here = number.parse().ok();
        } else if let Some((_, room)) = line.split_once("mod ") {
            let here = here.unwrap_or_else(|| panic!("no floor stands above `{line}`"));
            listed
                .entry(here)
                .or_default()
                .insert(room.trim_end_matches(';'));
        }
    }
    for (floor, rooms) in FLOORS {
        let rooms: BTreeSet<_> = rooms
            .iter()
            .copied()
            .filter(|room| *room != "main")
            .collect();
        assert_eq!(
            listed.remove(&floor),
            Some(rooms),
            "floor {floor} in edge/src/lib.rs"
        );
    }
    assert!(listed.is_empty(), "{listed:?}");
}

// Does this test see what it looks for?

fn told(module: &str, text: &str) -> Vec<String> {
    let module = module.split("::").map(str::to_owned).collect();
    let text = text.to_owned();
    wrongs(&[Source { module, text }])
}

#[test]
fn an_upward_import_is_told() {
    for text in [
        "use crate::gateway::Gateway;",
        "use crate::{client::{self, Client}, gateway::Gateway};",
        "use crate::{client, gateway as way};",
        "fn a() { crate::gateway::b(); }",
        "pub(crate) use crate :: gateway;",
        "use super::gateway::Gateway;",
        "const A: &str = \"// \\\" /*\"; use crate::gateway;",
        "const A: char = '\"'; use crate::gateway; const B: char = '\"';",
        "fn a<'a>(b: &'a str) { let _ = br#\"\"\"#; crate::gateway::b() }",
        "#[cfg(test)] use crate::metrics; use crate::gateway;",
        "#[cfg(test)] mod tests { fn a() { } } use crate::gateway;",
    ] {
        let told = told("limit", text);
        assert_eq!(told.len(), 1, "{text}: {told:?}");
        assert!(
            told[0].starts_with("limit (floor 1) uses `gateway") && told[0].contains("(floor 4)"),
            "{told:?}"
        );
    }
    let below = told("limit::clients", "use super::super::gateway::{Gateway, b};");
    assert_eq!(below.len(), 2, "{below:?}");
}

#[test]
fn what_is_allowed_is_not_told() {
    for (module, text) in [
        ("limit", "use crate::client::Client; use crate::units;"),
        (
            "limit",
            "// use crate::gateway;\n/* crate::gateway /* */ tokio */ const A: &str = \"crate::gateway\";",
        ),
        (
            "limit",
            "#[cfg(test)]\nmod tests { use crate::gateway; fn a() { std::time::Instant::now(); } }",
        ),
        (
            "limit",
            "const A: &str = r#\"crate::gateway\"#; const B: u8 = b'\\'';",
        ),
        (
            "limit::clients",
            "use super::quota::Quota; use super::Client;",
        ),
        (
            "limit",
            "use std::net::{IpAddr, SocketAddr}; use std::time::{Duration, Instant};",
        ),
        ("config", "fn a() { std::fs::read(\"\"); }"),
        (
            "gateway",
            "use crate::limit; use pingora::Error; use tokio::time;",
        ),
    ] {
        assert_eq!(told(module, text), [""; 0], "{text}");
    }
}

#[test]
fn a_room_on_no_floor_is_told_where_to_go() {
    assert!(told("attic", "").concat().contains("enter it in FLOORS"));
    assert!(
        told("limit", "use crate::attic;")
            .concat()
            .contains("enter `attic` in FLOORS")
    );
    assert!(told("limit", "use super::*;").concat().contains("FLOORS"));
}

#[test]
fn a_clock_a_file_and_pingora_are_told() {
    for text in [
        "use pingora::Error;",
        "use pingora_limits::rate::Rate;",
        "fn a() { tokio::spawn(b()); }",
        "fn a() { let now = Instant::now(); }",
        "fn a() { std::time::SystemTime::now(); }",
        "fn a(b: Instant) { b.elapsed(); }",
        "use std::fs;",
        "use std::{fmt, fs::File};",
        "use std::net::{IpAddr, TcpStream};",
        "use std::net;",
    ] {
        let told = told("limit", text);
        assert_eq!(told.len(), 1, "{text}: {told:?}");
    }
    assert_eq!(told("metrics", "use tokio::time;").len(), 1);
}

#[test]
fn a_circle_is_told() {
    let source = |module: &str, text: &str| Source {
        module: module.split("::").map(str::to_owned).collect(),
        text: text.to_owned(),
    };
    let rooms = [
        source("limit", "use crate::client;"),
        source("client", "use crate::route;"),
        source("route", "use crate::limit;"),
    ];
    assert_eq!(
        wrongs(&rooms),
        ["a circle: client → route → limit → client"]
    );
    let files = [
        source("limit", "mod clients; mod quota; use clients::Clients;"),
        source(
            "limit::clients",
            "use super::quota::Quota; use super::Limits;",
        ),
        source("limit::quota", "use super::clients::Clients;"),
    ];
    assert_eq!(
        wrongs(&files),
        ["a circle: limit::clients → limit::quota → limit::clients"]
    );
}
