//! What a token must be, and where the keys are that it is signed with.

use std::fs;
use std::ops::Range;
use std::time::Duration;

use http::HeaderName;
use toml::Spanned;
use toml::de::DeValue;

use super::super::forms::{Pem, distinct, pem, written};
use super::super::reader::{Read, Report, Table, parsed, text};
use super::{KeySource, MOST, Proof};
use crate::jwt::{self, Algorithm, ClaimPath};

pub(super) fn read_jwt(table: &mut Table<'_, '_>, report: &mut Report<'_>) -> Option<Proof> {
    let jwks = table.value("jwks", report);
    let secret = table.value("secret", report);
    let ca = table
        .value("ca", report)
        .map(|value| (pem(value, Pem::Authorities, report), value.span()));
    let keys = match (jwks, secret) {
        (Some(jwks), None) => read_jwks(jwks, report),
        (None, Some(secret)) => read_secret(secret, report),
        (Some(_), Some(secret)) => {
            let help = "leave one of them out, or write another `[auth.NAME]`";
            report.fault(
                &secret.span(),
                "`jwks` and `secret` exclude each other",
                help,
            );
            None
        }
        (None, None) => {
            let (span, number) = (table.span().clone(), table.number());
            let help = "as `jwks = \"https://issuer.example/jwks.json\"` or `secret = { env = \"JWT_SECRET\" }`";
            report.lacks_any(
                vec![(number, "jwks"), (number, "secret")],
                &span,
                "no keys to prove tokens by",
                help,
            );
            None
        }
    };
    let https = matches!(&keys, Some(KeySource::Url(url)) if url.starts_with("https://"));
    if let (false, Some((_, span)), Some(_)) = (https, &ca, &keys) {
        report.fault(
            span,
            "`ca` does nothing without `jwks` at an https:// URL",
            "leave it out",
        );
    }
    let by_secret = matches!(
        keys,
        Some(KeySource::SecretFile(_) | KeySource::SecretEnv(_))
    );
    let algorithms = read_algorithms(table, by_secret, keys.is_some(), report);
    let issuers = one_or_more(table, "issuer", report);
    let audiences = one_or_more(table, "audience", report);
    let leeway = table.placed::<Duration>("leeway", report);
    if let Some((leeway, span)) = &leeway
        && *leeway > MOST_LEEWAY
    {
        report.fault(
            span,
            format!("\"{}\" does not fit here", written(*leeway)),
            "expected at most \"10m\"",
        );
    }
    let roles = table.get::<ClaimPath>("roles", report);
    let name = table.get::<ClaimPath>("name", report);
    let fields = read_fields(table, report);
    let require_exp = table.or("require_exp", true, report);
    Some(Proof::Jwt {
        keys: keys?,
        ca: ca.and_then(|(ca, _)| ca),
        settings: jwt::Settings {
            algorithms,
            issuers,
            audiences,
            leeway: leeway.map_or(LEEWAY, |(leeway, _)| leeway),
            roles,
            fields,
            name: match name {
                Some(name) => name,
                None => "sub".parse().ok()?,
            },
            require_exp,
        },
    })
}

/// How far clocks may differ, unless the file says otherwise, and at most.
const LEEWAY: Duration = Duration::from_secs(30);
const MOST_LEEWAY: Duration = Duration::from_secs(600);

fn read_jwks(value: &Spanned<DeValue<'_>>, report: &mut Report<'_>) -> Option<KeySource> {
    let given = text(value, report)?;
    if given.starts_with("https://") || given.starts_with("http://") {
        let good = given.parse::<http::Uri>().is_ok_and(|url| {
            url.host().is_some_and(|host| !host.is_empty())
                && url
                    .authority()
                    .is_some_and(|authority| !authority.as_str().contains('@'))
        });
        if !good {
            let help = "as \"https://issuer.example/.well-known/jwks.json\"";
            report.fault(
                &value.span(),
                format!("`{given}` is no URL of a key set"),
                help,
            );
        }
        return good.then(|| KeySource::Url(given.to_owned()));
    }
    let path = report.folder.join(given);
    let read = match fs::metadata(&path) {
        Ok(about) if !about.is_file() => Err("it is no file".to_owned()),
        Ok(about) if about.len() > jwt::MOST_JWKS as u64 => {
            Err(format!("it is larger than {} B", jwt::MOST_JWKS))
        }
        Ok(_) => fs::read_to_string(&path).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    let read = read.and_then(|json| jwt::Keys::of_jwks(&json));
    if let Err(why) = &read {
        let help = "expected a JWK set (RFC 7517), or an https:// URL of one";
        report.fault(
            &value.span(),
            format!("`{given}` cannot be used: {why}"),
            help,
        );
    }
    read.is_ok().then_some(KeySource::File(path))
}

/// `{ file = "jwt-secret" }` or `{ env = "JWT_SECRET" }`.
fn read_secret(value: &Spanned<DeValue<'_>>, report: &mut Report<'_>) -> Option<KeySource> {
    const HELP: &str =
        "as `secret = { file = \"jwt-secret\" }` or `secret = { env = \"JWT_SECRET\" }`";
    if value.get_ref().is_str() {
        // It may be the secret itself: the message does not repeat it.
        report.secret_fault(&value.span(), "a secret does not stand in this file", HELP);
        return None;
    }
    let mut table = Table::of("a secret", Some(value), report);
    let file = table.get::<String>("file", report);
    let env = table.get::<String>("env", report);
    let number = table.number();
    table.finish(report);
    let source = match (file, env) {
        (Some(file), None) => KeySource::SecretFile(report.folder.join(file)),
        (None, Some(env)) => KeySource::SecretEnv(env),
        (None, None) => {
            let keys = vec![(number, "file"), (number, "env")];
            report.lacks_any(keys, &value.span(), "no place of the secret", HELP);
            return None;
        }
        (Some(_), Some(_)) => {
            report.fault(
                &value.span(),
                "`file` and `env` exclude each other",
                "leave one of them out",
            );
            return None;
        }
    };
    if let Err(why) = source.secret() {
        report.fault(
            &value.span(),
            format!("{source} cannot be used: {why}"),
            HELP,
        );
        return None;
    }
    Some(source)
}

fn read_algorithms(
    table: &mut Table<'_, '_>,
    by_secret: bool,
    known: bool,
    report: &mut Report<'_>,
) -> Vec<Algorithm> {
    let value = table.value("algorithms", report);
    let list = value.and_then(|value| Vec::<(Algorithm, Range<usize>)>::read(value, report));
    let Some(list) = list else {
        return Algorithm::usual(by_secret);
    };
    if let (true, Some(value)) = (list.is_empty(), value) {
        report.fault(
            &value.span(),
            "no algorithm: no token would pass",
            "leave `algorithms` out",
        );
    }
    for (algorithm, span) in &list {
        if known && algorithm.is_symmetric() != by_secret {
            let help = match by_secret {
                true => "a secret signs by HS256, HS384 or HS512",
                false => "a key set signs by RS…, PS…, ES… or EdDSA; for HS… write `secret`",
            };
            report.fault(
                span,
                format!("{algorithm} does not go with these keys"),
                help,
            );
        }
    }
    list.into_iter().map(|(algorithm, _)| algorithm).collect()
}

/// A text, or a list of texts; empty: anything goes.
fn one_or_more(
    table: &mut Table<'_, '_>,
    key: &'static str,
    report: &mut Report<'_>,
) -> Vec<String> {
    match table.value(key, report) {
        None => Vec::new(),
        Some(value) if value.get_ref().is_str() => {
            String::read(value, report).into_iter().collect()
        }
        Some(_) => distinct(table, key, MOST, report).unwrap_or_default(),
    }
}

/// `claims = { sub = "X-User", "realm_access.roles" = "X-Roles" }`: what the peer is told.
fn read_fields(table: &mut Table<'_, '_>, report: &mut Report<'_>) -> Vec<(ClaimPath, HeaderName)> {
    let Some(value) = table.value("claims", report) else {
        return Vec::new();
    };
    let Some(claims) = value.get_ref().as_table() else {
        report.fault(
            &value.span(),
            "expected a table",
            "as `claims = { sub = \"X-User\" }`",
        );
        return Vec::new();
    };
    let mut fields: Vec<(ClaimPath, HeaderName)> = Vec::new();
    for (claim, field) in claims {
        let path = claim.get_ref().parse::<ClaimPath>();
        if let Err(why) = &path {
            report.fault(
                &claim.span(),
                why.clone(),
                "as \"sub\" or \"realm_access.roles\"",
            );
        }
        let Some(name) = HeaderName::read(field, report) else {
            continue;
        };
        if fields.iter().any(|(_, other)| *other == name) {
            report.fault(&field.span(), "this stands here twice", "leave one out");
        }
        fields.extend(path.ok().map(|path| (path, name)));
    }
    if fields.len() > MOST {
        report.fault(
            &value.span(),
            format!("{} members", fields.len()),
            format!("expected at most {MOST}"),
        );
    }
    fields
}

impl Read for Algorithm {
    fn read(value: &Spanned<DeValue<'_>>, report: &mut Report<'_>) -> Option<Self> {
        parsed(value, report, |text| {
            text.parse().map_err(|_: crate::jwt::Bad| {
                format!("`{text}` is no algorithm for tokens that edge takes: \"RS256\", \"ES256\", \"EdDSA\", \"HS256\" …")
            })
        })
    }
}

impl Read for ClaimPath {
    fn read(value: &Spanned<DeValue<'_>>, report: &mut Report<'_>) -> Option<Self> {
        parsed(value, report, str::parse)
    }
}
