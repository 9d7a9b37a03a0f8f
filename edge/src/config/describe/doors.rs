//! Who a route lets in, and what it changes, in words.

use std::fmt;

use super::super::{Auth, Config, Proof, Route};
use super::words;
use crate::compression;
use crate::cors::{Origins, Policy};
use crate::headers::{Changes, Rules};
use crate::limit::By;

/// The lines of a route that say more than the usual.
pub(super) fn describe(config: &Config, route: &Route, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    if let Some(body) = route.body {
        writeln!(f, "  body       {body} B at most")?;
    }
    for (word, networks) in [
        ("allow", &route.addresses.allow),
        ("deny", &route.addresses.deny),
    ] {
        if !networks.is_empty() {
            writeln!(f, "  {word:<10} {}", words(networks))?;
        }
    }
    if let Some(policy) = &route.cors {
        describe_cors(policy, f)?;
    }
    if let Some(policy) = &route.compress {
        describe_compress(policy, f)?;
    }
    for rules in &route.headers {
        describe_headers(rules, f)?;
    }
    if let Some(wanted) = &route.auth
        && let Some(auth) = config.auths.get(wanted.by)
    {
        describe_auth(auth, f)?;
        for (word, list) in [("scopes", &wanted.scopes), ("roles", &wanted.roles)] {
            if !list.is_empty() {
                writeln!(f, "             {word} {}", list.join(" "))?;
            }
        }
    }
    let settings = &route.limit.settings;
    if settings.by != By::Address {
        writeln!(f, "  by         {}", settings.by)?;
    }
    if let Some(quota) = &settings.per_address {
        writeln!(f, "  per_address {quota}")?;
    }
    Ok(())
}

fn describe_auth(auth: &Auth, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let proof = match &auth.proof {
        Proof::Jwt { keys, settings, .. } => {
            format!("tokens by {}, keys: {keys}", words(&settings.algorithms))
        }
        Proof::ApiKey { keys } => format!("API keys of {}", keys.display()),
        Proof::Certificate { subjects } => {
            let subjects: Vec<_> = subjects.iter().map(ToString::to_string).collect();
            format!("certificates of {}", subjects.join(", "))
        }
    };
    writeln!(f, "  auth       {}: {proof}", auth.name)?;
    if !auth.from.is_empty() {
        let forward = if auth.forward {
            "passed on"
        } else {
            "not passed on"
        };
        writeln!(f, "             from {}, {forward}", words(&auth.from))?;
    }
    if let Some(failures) = &auth.failures {
        writeln!(f, "             failures {failures}")?;
    }
    Ok(())
}

fn describe_cors(policy: &Policy, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    // Written out, so that no key of it stays untold.
    let Policy {
        origins,
        methods,
        headers,
        expose,
        credentials,
        max_age,
    } = policy;
    let origins = match origins {
        Origins::Any => "*".to_owned(),
        Origins::Some(list) => words(list),
    };
    let methods = if methods.is_empty() {
        "any".to_owned()
    } else {
        words(methods)
    };
    let seconds = max_age.as_secs();
    writeln!(
        f,
        "  cors       origins {origins}, credentials {credentials}"
    )?;
    writeln!(
        f,
        "             methods {methods}, headers {}",
        words(headers)
    )?;
    writeln!(
        f,
        "             expose {}, max_age {seconds}s",
        words(expose)
    )
}

fn describe_compress(policy: &compression::Policy, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    // Written out, so that no key of it stays untold.
    let compression::Policy {
        encodings,
        min_size,
        types,
        level,
    } = policy;
    let level = level.map_or("usual".to_owned(), |level| level.to_string());
    writeln!(
        f,
        "  compress   encodings {}, min_size {min_size} B, level {level}",
        words(encodings)
    )?;
    writeln!(f, "             types {}", words(types))
}

fn describe_headers(rules: &Rules, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    if let Some(security) = rules.security {
        writeln!(f, "  headers    security {security}")?;
    }
    for (word, changes) in [("request", &rules.request), ("response", &rules.response)] {
        let Changes { remove, set, add } = changes;
        for name in remove {
            writeln!(f, "  headers    {word} remove {name}")?;
        }
        for (verb, list) in [("set", set), ("add", add)] {
            for (name, template) in list {
                writeln!(f, "  headers    {word} {verb} {name}: {template}")?;
            }
        }
    }
    Ok(())
}
