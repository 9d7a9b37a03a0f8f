//! JSON Web Tokens: who signed one, for whom, until when (RFC 7519, RFC 8725).
//!
//! A signature is checked before anything that a token says is believed, and only by an algorithm
//! that its key is for: what a token says of itself chooses among the keys that are known, and
//! nothing else (RFC 8725 3.1). Keys are those of the configuration; what a token brings along or
//! points at (`jwk`, `jku`, `x5c`, `x5u`) is never looked at.

mod claims;
mod keys;
mod object;
#[cfg(test)]
mod tests;
mod verified;

pub use claims::{ClaimPath, Claims};
pub use keys::Keys;
pub use verified::Verified;

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderName;
use serde_json::Value;

use crate::refusal::Refusal;

/// A longer token is none, and nothing of it is decoded.
pub const MOST_TOKEN: usize = 8 << 10;
/// A larger set of keys is not read.
pub const MOST_JWKS: usize = 256 << 10;
/// More keys of one set are not kept.
pub const MOST_KEYS: usize = 100;
/// A token without `kid` is tried against no more keys: each costs a signature.
const MOST_TRIES: usize = 4;
/// A longer `kid` names no key.
const LONGEST_KID: usize = 256;

/// What a token must be and say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// By which it may be signed.
    pub algorithms: Vec<Algorithm>,
    /// One of them must be its `iss`; empty: anybody, or nobody.
    pub issuers: Vec<String>,
    /// One of them must be in its `aud`; empty: anything, or nothing.
    pub audiences: Vec<String>,
    /// So far may the clocks of edge and of the issuer differ.
    pub leeway: Duration,
    /// Where it has the roles of its bearer.
    pub roles: Option<ClaimPath>,
    /// Which claims the peer is told, and in which fields.
    pub fields: Vec<(ClaimPath, HeaderName)>,
    /// Who its bearer is.
    pub name: ClaimPath,
    /// Must it end?
    pub require_exp: bool,
}

/// How a token may be signed (RFC 7518 3.1, RFC 8037). There is no `none`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "they are called what they are")]
pub enum Algorithm {
    HS256,
    HS384,
    HS512,
    RS256,
    RS384,
    RS512,
    PS256,
    PS384,
    PS512,
    ES256,
    ES384,
    EdDSA,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::HS256,
        Self::HS384,
        Self::HS512,
        Self::RS256,
        Self::RS384,
        Self::RS512,
        Self::PS256,
        Self::PS384,
        Self::PS512,
        Self::ES256,
        Self::ES384,
        Self::EdDSA,
    ];

    /// Does whoever checks it know what it takes to sign?
    pub fn is_symmetric(self) -> bool {
        matches!(self, Self::HS256 | Self::HS384 | Self::HS512)
    }

    /// Those that hold where nothing else is said.
    pub fn usual(by_secret: bool) -> Vec<Self> {
        if by_secret {
            return vec![Self::HS256];
        }
        let all = Self::ALL.into_iter();
        all.filter(|algorithm| !algorithm.is_symmetric()).collect()
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl FromStr for Algorithm {
    type Err = Bad;

    /// Names are told apart by case (RFC 7515 4.1.1).
    fn from_str(text: &str) -> Result<Self, Bad> {
        let known = Self::ALL.into_iter();
        let mut named = known.filter(|algorithm| algorithm.to_string() == text);
        named.next().ok_or(Bad::Algorithm)
    }
}

/// What is wrong with a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bad {
    /// It is none.
    Malformed,
    /// It is signed in a way that may not be.
    Algorithm,
    /// Nobody knows the key that it names.
    UnknownKey,
    /// It is not signed by the key that it names.
    Signature,
    /// Its time is over.
    Expired,
    /// Its time has not come.
    NotYet,
    /// It is of another issuer.
    Issuer,
    /// It is for somebody else.
    Audience,
}

impl From<Bad> for Refusal {
    fn from(bad: Bad) -> Self {
        match bad {
            Bad::Malformed => Self::TokenMalformed,
            Bad::Algorithm => Self::TokenAlgorithm,
            Bad::UnknownKey => Self::TokenKey,
            Bad::Signature => Self::TokenSignature,
            Bad::Expired => Self::TokenExpired,
            Bad::NotYet => Self::TokenNotYet,
            Bad::Issuer => Self::TokenIssuer,
            Bad::Audience => Self::TokenAudience,
        }
    }
}

/// What a token says, if it is good at this time.
pub fn verify(
    token: &str,
    keys: &Keys,
    settings: &Settings,
    now: SystemTime,
) -> Result<Claims, Bad> {
    let claims = signed(token, keys, settings)?;
    judge(&claims, settings, now)?;
    Ok(claims)
}

/// What a token says, if it is signed as it must be.
fn signed(token: &str, keys: &Keys, settings: &Settings) -> Result<Claims, Bad> {
    if token.len() > MOST_TOKEN {
        return Err(Bad::Malformed);
    }
    let (message, signature) = token.rsplit_once('.').ok_or(Bad::Malformed)?;
    let (header, payload) = message.split_once('.').ok_or(Bad::Malformed)?;
    let header = object::read(&decode(header)?)?;
    let signature = decode(signature)?;
    if header.get("typ").is_some_and(|kind| !kind.is_string()) {
        return Err(Bad::Malformed);
    }
    // What must be understood is not (RFC 7515 4.1.11), nor is a payload that is no base64url.
    if header.contains_key("crit") || header.contains_key("b64") || header.contains_key("enc") {
        return Err(Bad::Malformed);
    }
    let algorithm = match header.get("alg") {
        Some(Value::String(name)) => name.parse::<Algorithm>()?,
        _ => return Err(Bad::Malformed),
    };
    if !settings.algorithms.contains(&algorithm) {
        return Err(Bad::Algorithm);
    }
    let kid = match header.get("kid") {
        None => None,
        Some(Value::String(kid)) if kid.len() <= LONGEST_KID => Some(kid.as_str()),
        Some(Value::String(_)) => return Err(Bad::UnknownKey),
        Some(_) => return Err(Bad::Malformed),
    };
    // The payload must be one before a signature is computed for it.
    let payload = decode(payload)?;
    keys.check(algorithm, kid, message.as_bytes(), &signature)?;
    Claims::read(&payload, settings)
}

/// Base64url without padding, and in the one way to write it (RFC 7515 2).
fn decode(part: &str) -> Result<Vec<u8>, Bad> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| Bad::Malformed)
}

/// Is the token for edge, and now?
fn judge(claims: &Claims, settings: &Settings, now: SystemTime) -> Result<(), Bad> {
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = now.as_secs_f64();
    let leeway = settings.leeway.as_secs_f64();
    match claims.ends() {
        // "On or after" its end it must not be accepted (RFC 7519 4.1.4).
        Some(end) if now >= end + leeway => return Err(Bad::Expired),
        None if settings.require_exp => return Err(Bad::Malformed),
        _ => {}
    }
    if claims.begins().is_some_and(|begin| now + leeway < begin) {
        return Err(Bad::NotYet);
    }
    if !settings.issuers.is_empty() && !claims.is_issued_by(&settings.issuers) {
        return Err(Bad::Issuer);
    }
    if !settings.audiences.is_empty() && !claims.is_for(&settings.audiences) {
        return Err(Bad::Audience);
    }
    Ok(())
}
