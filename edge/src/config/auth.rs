//! `[auth.NAME]`: how clients prove who they are.

mod token;

use std::fmt;
use std::fs;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use http::HeaderName;
use toml::Spanned;
use toml::de::DeValue;

use super::fault::Unread;
use super::forms::{choice, distinct};
use super::keys::read_keys;
use super::reader::{FILE, Read, Report, Switch, Table, parsed};
use crate::credentials::Place;
use crate::identity::{Subject, Subjects};
use crate::jwt;
use crate::limit::Quota;
use crate::units::Rate;

/// `[auth.NAME]`: one way to prove who one is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Auth {
    /// Its name.
    pub name: String,
    /// What is proven by what.
    pub proof: Proof,
    /// Where credentials are looked for, in this order; empty: they are no part of the message.
    pub from: Vec<Place>,
    /// Do credentials pass on to the peer? Out of a query or a subprotocol they never do.
    pub forward: bool,
    /// The field that tells the peer who asks; the client's own never passes.
    pub field: Option<HeaderName>,
    /// How many bad proofs of one address are looked at.
    pub failures: Option<Quota>,
}

/// What is proven by what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proof {
    /// Tokens, signed by one of these keys.
    Jwt {
        /// Where the keys are.
        keys: KeySource,
        /// Whom to believe about the server that has them (PEM); `None`: the system's authorities.
        ca: Option<PathBuf>,
        /// What a token must say.
        settings: jwt::Settings,
    },
    /// A key that only one client has.
    ApiKey {
        /// The file with the keys' hashes.
        keys: PathBuf,
    },
    /// A certificate that the client, or a trusted proxy for it, has shown.
    Certificate {
        /// Whose.
        subjects: Subjects,
    },
}

/// Where the keys are that tokens are signed with.
#[derive(Clone, PartialEq, Eq)]
pub enum KeySource {
    /// A JWK set (RFC 7517) at this URL.
    Url(String),
    /// A JWK set in this file.
    File(PathBuf),
    /// A secret in this file.
    SecretFile(PathBuf),
    /// The secret in this variable of the environment.
    SecretEnv(String),
}

impl fmt::Debug for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(url) => f.write_str(url),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::SecretFile(path) => write!(f, "a secret in {}", path.display()),
            Self::SecretEnv(name) => write!(f, "a secret in ${name}"),
        }
    }
}

/// The least secret for HMAC, in bytes: as long as the shortest hash (RFC 7518 3.2).
const LEAST_SECRET: usize = 32;
/// A larger file holds no secret.
const MOST_SECRET: u64 = 64 << 10;
/// So many bad proofs of one address are looked at, unless the file says otherwise.
const FAILURES: (u64, Duration) = (5, Duration::from_secs(60));
/// The most members of a list here.
const MOST: usize = 64;

impl KeySource {
    /// The secret's bytes; an `Err` says what is wrong with them, and nothing of them.
    ///
    /// One line end after a secret in a file is not part of it: editors write one.
    pub fn secret(&self) -> Result<Option<Vec<u8>>, String> {
        let bytes = match self {
            Self::Url(_) | Self::File(_) => return Ok(None),
            Self::SecretFile(path) => {
                let about = fs::metadata(path).map_err(|error| error.to_string())?;
                if !about.is_file() || about.len() > MOST_SECRET {
                    return Err("it is no file that could hold a secret".to_owned());
                }
                let mut bytes = fs::read(path).map_err(|error| error.to_string())?;
                for end in [b'\n', b'\r'] {
                    if bytes.last() == Some(&end) {
                        bytes.pop();
                    }
                }
                bytes
            }
            Self::SecretEnv(name) => match std::env::var(name) {
                Ok(value) => value.into_bytes(),
                Err(_) => return Err(format!("the variable {name} is not set")),
            },
        };
        if bytes.len() < LEAST_SECRET {
            return Err(format!(
                "a secret of {} bytes can be guessed: at least {LEAST_SECRET} are needed",
                bytes.len()
            ));
        }
        Ok(Some(bytes))
    }
}

/// One, its place, and the number of its table.
pub(super) type Placed = (Auth, Range<usize>, usize);

/// What was read of them.
#[derive(Default)]
pub(super) struct Auths {
    pub(super) good: Vec<Placed>,
    /// The names of those with faults, which have been told.
    faulty: Vec<String>,
}

pub(super) fn read_auths(value: Option<&Spanned<DeValue<'_>>>, report: &mut Report<'_>) -> Auths {
    let tables = value.and_then(|value| value.get_ref().as_table());
    if let (Some(value), None) = (value, tables) {
        report.fault(&value.span(), "expected tables", "write `[auth.NAME]`");
    }
    let mut auths = Auths::default();
    for (name, value) in tables.into_iter().flatten() {
        match read_auth(name.get_ref(), value, report) {
            Some((auth, table)) => auths.good.push((auth, name.span(), table)),
            None => auths.faulty.push(name.get_ref().to_string()),
        }
    }
    auths.good.sort_by_key(|(_, span, _)| span.start);
    auths
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Jwt,
    ApiKey,
    Certificate,
}

const KINDS: [(&str, Kind); 3] = [
    ("jwt", Kind::Jwt),
    ("api_key", Kind::ApiKey),
    ("certificate", Kind::Certificate),
];

fn read_auth(
    name: &str,
    value: &Spanned<DeValue<'_>>,
    report: &mut Report<'_>,
) -> Option<(Auth, usize)> {
    let given = value.get_ref().as_table();
    let given = given.and_then(|table| table.iter().find(|(key, _)| key.get_ref() == "type"));
    let known = given.and_then(|(_, kind)| kind.get_ref().as_str());
    let known = known.and_then(|word| KINDS.iter().find(|(own, _)| *own == word));
    let kind = match (known, given) {
        (Some((_, kind)), _) => *kind,
        (None, Some((_, kind))) => {
            choice(kind, report, &KINDS);
            return None;
        }
        (None, None) => meant(value),
    };
    let place = match kind {
        Kind::Jwt => "[auth.NAME] by jwt",
        Kind::ApiKey => "[auth.NAME] by api_key",
        Kind::Certificate => "[auth.NAME] by certificate",
    };
    let mut table = Table::of(place, Some(value), report);
    let help = "as `type = \"jwt\"`, \"api_key\" or \"certificate\"";
    let typed = table.require::<String>("type", help, report);
    let (from, forward) = match kind {
        Kind::Jwt => read_from(&mut table, kind, Place::Authorization, report),
        Kind::ApiKey => {
            let usual = Place::Header(HeaderName::from_static("x-api-key"));
            read_from(&mut table, kind, usual, report)
        }
        // It is no part of the message.
        Kind::Certificate => (Vec::new(), false),
    };
    let proof = match kind {
        Kind::Jwt => token::read_jwt(&mut table, report),
        Kind::ApiKey => read_api_key(&mut table, report),
        Kind::Certificate => read_certificate(&mut table, report),
    };
    let field = match kind {
        Kind::Jwt => None,
        _ => table.get::<HeaderName>("field", report),
    };
    let failures = match kind {
        Kind::Certificate => None,
        _ => read_failures(&mut table, report),
    };
    let number = table.number();
    table.finish(report);
    typed?;
    let auth = Auth {
        name: name.to_owned(),
        proof: proof?,
        from,
        forward,
        field,
        failures,
    };
    Some((auth, number))
}

/// Which kind was meant, where `type` is missing or misspelt.
fn meant(value: &Spanned<DeValue<'_>>) -> Kind {
    let has = |key: &str| {
        let table = value.get_ref().as_table();
        table.is_some_and(|table| table.iter().any(|(own, _)| own.get_ref() == key))
    };
    match () {
        () if has("keys") => Kind::ApiKey,
        () if has("subjects") => Kind::Certificate,
        () => Kind::Jwt,
    }
}

fn read_failures(table: &mut Table<'_, '_>, report: &mut Report<'_>) -> Option<Quota> {
    let (count, per) = FAILURES;
    match table.get::<Switch<Rate>>("failures", report) {
        Some(failures) => failures
            .on()
            .map(|rate| Quota::new(rate.count, rate.per, rate.count)),
        None => Some(Quota::new(count, per, count)),
    }
}

/// Where to look, and whether what is found there passes on.
fn read_from(
    table: &mut Table<'_, '_>,
    kind: Kind,
    usual: Place,
    report: &mut Report<'_>,
) -> (Vec<Place>, bool) {
    let given = table.value("from", report);
    let given = given.map(|value| read_places(value, report));
    for (place, span) in given.iter().flatten() {
        if kind == Kind::ApiKey && *place == Place::Subprotocol {
            let help =
                "expected \"header:NAME\", \"query:NAME\", \"cookie:NAME\" or \"authorization\"";
            report.fault(span, "an API key is no subprotocol", help);
        }
    }
    let places = given.map(|given| given.into_iter().map(|(place, _)| place).collect());
    (
        places.unwrap_or_else(|| vec![usual]),
        table.or("forward", false, report),
    )
}

/// One place, or a list of them.
fn read_places(
    value: &Spanned<DeValue<'_>>,
    report: &mut Report<'_>,
) -> Vec<(Place, Range<usize>)> {
    let Some(list) = value.get_ref().as_array() else {
        let place = Place::read(value, report);
        return place
            .into_iter()
            .map(|place| (place, value.span()))
            .collect();
    };
    if list.is_empty() || list.len() > MOST {
        report.fault(
            &value.span(),
            format!("{} members", list.len()),
            format!("expected 1 to {MOST}"),
        );
    }
    let mut places: Vec<(Place, Range<usize>)> = Vec::new();
    for value in list.iter() {
        let Some(place) = Place::read(value, report) else {
            continue;
        };
        if places.iter().any(|(other, _)| *other == place) {
            report.fault(&value.span(), "this stands here twice", "leave one out");
        }
        places.push((place, value.span()));
    }
    places
}

fn read_api_key(table: &mut Table<'_, '_>, report: &mut Report<'_>) -> Option<Proof> {
    let (given, span) = table.require::<String>("keys", "as `keys = \"keys.toml\"`", report)?;
    let path = report.folder.join(&given);
    if let Err(unread) = read_keys(&path) {
        let why = match &unread {
            Unread::File(_, error) => format!("`{given}` cannot be read: {error}"),
            Unread::Faults(faults) => {
                let first = faults.list.first();
                let first = first.map(|fault| format!("line {}: {}", fault.line, fault.message));
                format!(
                    "`{given}` has {} faults: {}",
                    faults.list.len(),
                    first.unwrap_or_default()
                )
            }
        };
        let help = "as `[[key]] name = \"billing\", sha256 = \"…\"`, of which `printf %s KEY | sha256sum` makes the hash";
        report.fault(&span, why, help);
        return None;
    }
    Some(Proof::ApiKey { keys: path })
}

fn read_certificate(table: &mut Table<'_, '_>, report: &mut Report<'_>) -> Option<Proof> {
    let help = "as `subjects = [\"spiffe://cluster.local/ns/default/sa/*\"]`";
    let (subjects, span) =
        table.require::<Vec<(String, Range<usize>)>>("subjects", help, report)?;
    if subjects.is_empty() || subjects.len() > MOST {
        report.fault(
            &span,
            format!("{} members", subjects.len()),
            format!("expected 1 to {MOST}"),
        );
    }
    let mut list = Vec::new();
    for (subject, span) in subjects {
        match Subject::read(&subject) {
            Ok(pattern) => list.push(pattern),
            Err(why) => report.fault(&span, why, help),
        }
    }
    Some(Proof::Certificate {
        subjects: Subjects::new(list),
    })
}

/// What a route asks of those who want in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteAuth {
    /// The place among the ways to prove who one is.
    pub by: usize,
    /// All of these scopes are needed.
    pub scopes: Vec<String>,
    /// One of these roles is needed; empty: none.
    pub roles: Vec<String>,
}

/// `auth = "jwt"`, or `auth = { by = "jwt", scopes = ["read"], roles = ["admin"] }`.
pub(super) fn read_route_auth(
    table: &mut Table<'_, '_>,
    auths: &Auths,
    report: &mut Report<'_>,
) -> Option<(RouteAuth, Range<usize>)> {
    let value = table.value("auth", report)?;
    let (name, scopes, roles) = if value.get_ref().is_str() {
        ((String::read(value, report)?, value.span()), None, None)
    } else {
        let mut own = Table::of("a route's auth", Some(value), report);
        let by = own.require::<String>("by", "the name of an `[auth.NAME]`", report);
        let scopes = own.value("scopes", report).map(Spanned::span);
        let scopes = scopes.zip(distinct::<String>(&mut own, "scopes", MOST, report));
        let roles = own.value("roles", report).map(Spanned::span);
        let roles = roles.zip(distinct::<String>(&mut own, "roles", MOST, report));
        own.finish(report);
        (by?, scopes, roles)
    };
    let (name, span) = name;
    if auths.faulty.contains(&name) {
        return None;
    }
    let auths = &auths.good;
    let Some(by) = auths.iter().position(|(auth, ..)| auth.name == name) else {
        let names = || auths.iter().map(|(auth, ..)| auth.name.as_str());
        let help = match super::fault::nearest(&name, names()) {
            Some(near) => format!("did you mean `{near}`?"),
            None if auths.is_empty() => format!("write `[auth.{name}]` with `type`"),
            None => format!("known: {}", names().collect::<Vec<_>>().join(", ")),
        };
        report.lacks(
            (FILE, "auth"),
            &span,
            format!("no auth is named `{name}`"),
            help,
        );
        return None;
    };
    let (auth, _, number) = auths.get(by)?;
    for (key, span) in [("scopes", &scopes), ("roles", &roles)]
        .into_iter()
        .filter_map(|(key, list)| Some((key, &list.as_ref()?.0)))
    {
        match &auth.proof {
            Proof::Jwt { settings, .. } if key == "roles" && settings.roles.is_none() => {
                let help = format!(
                    "write `roles = \"realm_access.roles\"` in [auth.{name}]: the claim that holds them"
                );
                let message = "nobody says where a token has its roles";
                report.lacks((*number, "roles"), span, message, help);
            }
            Proof::Jwt { .. } => {}
            _ => {
                let message = format!("only a token has {key}, and `{name}` is none");
                report.fault(span, message, format!("leave `{key}` out"));
            }
        }
    }
    for (scope, span) in scopes
        .iter()
        .flat_map(|(span, list)| list.iter().map(move |scope| (scope, span)))
    {
        // RFC 6749 3.3; it stands quoted in `WWW-Authenticate`.
        let good = |b: u8| b.is_ascii_graphic() && b != b'"' && b != b'\\';
        if scope.is_empty() || !scope.bytes().all(good) {
            report.fault(
                span,
                format!("`{scope}` is no scope"),
                "expected a word without spaces",
            );
        }
    }
    let list = |list: Option<(_, Vec<String>)>| list.map(|(_, list)| list).unwrap_or_default();
    Some((
        RouteAuth {
            by,
            scopes: list(scopes),
            roles: list(roles),
        },
        value.span(),
    ))
}

impl Read for Place {
    fn read(value: &Spanned<DeValue<'_>>, report: &mut Report<'_>) -> Option<Self> {
        parsed(value, report, str::parse)
    }
}
