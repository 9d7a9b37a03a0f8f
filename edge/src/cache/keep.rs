//! May an answer be kept, and for how long (RFC 9111 3 and 4.2)?

use std::time::{Duration, SystemTime};

use http::StatusCode;
use http::header::{self, HeaderMap};

use super::control::Said;
use super::lifetime::Lifetime;
use super::request::Asked;
use super::{Policy, Reason, field, validate, vary};

/// Judges an answer to a request that was sent at `asked_at` and answered at `received`.
///
/// An answer without any time left is kept if edge can ask for it again cheaply, or may hand it
/// out stale.
pub fn keep(
    policy: &Policy,
    asked: &Asked,
    status: StatusCode,
    answer: &HeaderMap,
    asked_at: SystemTime,
    received: SystemTime,
) -> Result<Lifetime, Reason> {
    let said = Said::read(answer);
    permit(policy, asked, status, answer, &said)?;
    let lifetime = lifetime(policy, status, answer, &said, asked_at, received)?;
    let stale = lifetime.stale_while_revalidate.max(lifetime.stale_if_error);
    let worth = lifetime.fresh_for.max(stale) > Duration::ZERO || validate::has_validator(answer);
    if worth {
        Ok(lifetime)
    } else {
        Err(Reason::NoTime)
    }
}

/// What must not be kept, whatever its time (3).
fn permit(
    policy: &Policy,
    asked: &Asked,
    status: StatusCode,
    answer: &HeaderMap,
    said: &Said,
) -> Result<(), Reason> {
    // Not for whoever has asked without that range or condition.
    let part = [
        StatusCode::PARTIAL_CONTENT,
        StatusCode::NOT_MODIFIED,
        StatusCode::PRECONDITION_FAILED,
        StatusCode::RANGE_NOT_SATISFIABLE,
    ]
    .contains(&status);
    // With `must-understand`, understanding is all: `no-store` is for those who do not (5.2.2.3).
    let strange = said.must_understand && !is_understood(status);
    if status.is_informational() || part || strange {
        return Err(Reason::Status);
    }
    if asked.no_store {
        return Err(Reason::NoStore);
    }
    if said.private || (said.no_store && !said.must_understand) {
        return Err(Reason::CacheControl);
    }
    if answer.contains_key(header::SET_COOKIE) {
        return Err(Reason::SetCookie);
    }
    vary::names(policy, answer)?;
    if asked.credentials && !asked.apart && !is_shared(said) {
        return Err(Reason::Credentials);
    }
    Ok(())
}

/// The statuses of RFC 9110 15.
fn is_understood(status: StatusCode) -> bool {
    matches!(
        status.as_u16(),
        200..=206 | 300..=305 | 307 | 308 | 400..=417 | 421 | 422 | 426 | 500..=505
    )
}

/// May it be handed out to requests with credentials (3.5)?
fn is_shared(said: &Said) -> bool {
    said.public || said.must_revalidate || said.s_maxage.is_some()
}

fn lifetime(
    policy: &Policy,
    status: StatusCode,
    answer: &HeaderMap,
    said: &Said,
    asked_at: SystemTime,
    received: SystemTime,
) -> Result<Lifetime, Reason> {
    let forced = policy.overrides.then(|| own_time(policy, status)).flatten();
    let validate_always = said.no_cache && forced.is_none();
    let told = || told_time(policy, said, answer, received);
    let guessed = || guessed_time(policy, status, said, answer, received);
    let time = forced
        .or_else(told)
        .or_else(|| own_time(policy, status))
        .or_else(guessed);
    let must_ask = said.must_revalidate || said.proxy_revalidate || validate_always;
    // `s-maxage` forbids stale use as `proxy-revalidate` does (5.2.2.10), where it counts.
    let may_be_stale = !must_ask && (said.s_maxage.is_none() || forced.is_some());
    let window = |said: Option<Duration>, own: Option<Duration>| {
        let window = said.filter(|_| forced.is_none()).or(own);
        window.filter(|_| may_be_stale).unwrap_or_default()
    };
    // Where the upstream has named a time for failures, it holds for every one.
    let unnamed = may_be_stale && said.stale_if_error.is_none();
    let unreachable = policy.stale_if_unreachable.filter(|_| unnamed);
    Ok(Lifetime {
        received,
        initial_age: initial_age(answer, asked_at, received),
        fresh_for: time.ok_or(Reason::NoTime)?,
        stale_while_revalidate: window(said.stale_while_revalidate, policy.stale_while_revalidate),
        stale_if_error: window(said.stale_if_error, policy.stale_if_error),
        stale_if_unreachable: unreachable.unwrap_or_default(),
        validate_always,
        may_be_stale,
        shared: is_shared(said),
    })
}

/// The route's own time for this status.
fn own_time(policy: &Policy, status: StatusCode) -> Option<Duration> {
    let negative = policy.negative.iter().find(|(own, _)| *own == status);
    let negative = negative.map(|(_, ttl)| *ttl);
    negative.or_else(|| policy.ttl.filter(|_| policy.statuses.contains(&status)))
}

/// What the upstream says about time (4.2.1), raised to the route's least.
fn told_time(
    policy: &Policy,
    said: &Said,
    answer: &HeaderMap,
    received: SystemTime,
) -> Option<Duration> {
    if said.no_cache {
        return Some(Duration::ZERO);
    }
    let expires = || expires_in(answer, received).filter(|_| !said.targeted);
    let told = said.s_maxage.or(said.max_age).or_else(expires)?;
    Some(told.max(policy.ttl_min.unwrap_or_default()))
}

/// `Expires` less `Date`; an `Expires` that is no date has passed (5.3).
fn expires_in(answer: &HeaderMap, received: SystemTime) -> Option<Duration> {
    answer.get(header::EXPIRES)?;
    let expires = field::date(answer, &header::EXPIRES).unwrap_or(SystemTime::UNIX_EPOCH);
    let from = field::date(answer, &header::DATE).unwrap_or(received);
    let left = expires.duration_since(from).unwrap_or_default();
    Some(left.min(field::LONGEST))
}

/// No guess is longer than a day (4.2.2).
const LONGEST_GUESS: Duration = Duration::from_secs(86_400);

/// A part of the time for which the answer has not changed (4.2.2). `public` allows the guess for
/// any status (5.2.2.9).
fn guessed_time(
    policy: &Policy,
    status: StatusCode,
    said: &Said,
    answer: &HeaderMap,
    received: SystemTime,
) -> Option<Duration> {
    let percent = policy.heuristic?;
    if !policy.statuses.contains(&status) && !said.public {
        return None;
    }
    let changed = field::date(answer, &header::LAST_MODIFIED)?;
    let from = field::date(answer, &header::DATE).unwrap_or(received);
    let unchanged = from.duration_since(changed).ok()?;
    Some((unchanged.min(field::LONGEST) * u32::from(percent) / 100).min(LONGEST_GUESS))
}

/// A clock that is off by no more than this makes nothing older.
const CLOCKS_APART: Duration = Duration::from_secs(60);

/// How old the answer was when it came (`corrected_initial_age`, 4.2.3).
///
/// Of several ages the first one counts, and one that cannot be read is none (5.1).
fn initial_age(answer: &HeaderMap, asked_at: SystemTime, received: SystemTime) -> Duration {
    let stated = field::list(answer, &header::AGE).next();
    let stated = stated.and_then(field::seconds).unwrap_or_default();
    let delay = received.duration_since(asked_at).unwrap_or_default();
    let date = field::date(answer, &header::DATE);
    let apparent = date.and_then(|date| received.duration_since(date).ok());
    let apparent = apparent
        .filter(|age| *age > CLOCKS_APART)
        .unwrap_or_default();
    stated
        .saturating_add(delay)
        .max(apparent)
        .min(field::LONGEST)
}

#[cfg(test)]
mod tests;
