//! What a token says of its bearer.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderName, HeaderValue};
use serde_json::{Map, Value};

use super::{Bad, Settings, object};
use crate::forward;

/// What a good token says.
#[derive(Debug, Clone, PartialEq)]
pub struct Claims {
    members: Map<String, Value>,
    name: String,
    ends: Option<f64>,
    begins: Option<f64>,
}

/// The name of a claim, or the way to one within others, as `realm_access.roles`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ClaimPath(String);

/// Longer values of a claim are told to nobody.
const LONGEST_TOLD: usize = 4 << 10;
/// A time beyond the year 9999 is none.
const LATEST: f64 = 253_402_300_800.0;

impl Claims {
    pub(super) fn read(payload: &[u8], settings: &Settings) -> Result<Self, Bad> {
        let members = object::read(payload)?;
        let (ends, begins) = (moment(&members, "exp")?, moment(&members, "nbf")?);
        moment(&members, "iat")?;
        let claims = Self {
            name: String::new(),
            members,
            ends,
            begins,
        };
        Ok(Self {
            name: claims.get(&settings.name).unwrap_or_default(),
            ..claims
        })
    }

    /// Who its bearer is; empty if it does not say.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Until when it is good.
    pub fn expires(&self) -> Option<SystemTime> {
        let end = Duration::try_from_secs_f64(self.ends?).ok()?;
        UNIX_EPOCH.checked_add(end)
    }

    pub(super) fn ends(&self) -> Option<f64> {
        self.ends
    }

    pub(super) fn begins(&self) -> Option<f64> {
        self.begins
    }

    pub(super) fn is_issued_by(&self, issuers: &[String]) -> bool {
        let issuer = self.members.get("iss").and_then(Value::as_str);
        issuer.is_some_and(|issuer| issuers.iter().any(|own| own == issuer))
    }

    /// One, or several (RFC 7519 4.1.3).
    pub(super) fn is_for(&self, audiences: &[String]) -> bool {
        let audience = self.members.get("aud");
        audience
            .is_some_and(|audience| words(audience).any(|own| audiences.iter().any(|a| a == own)))
    }

    /// Does it reach so far? Scopes stand in one text (`scope`, RFC 8693 4.2), or in a list
    /// (`scope` or `scp`).
    pub fn has_scopes(&self, wanted: &[String]) -> bool {
        let said = ["scope", "scp"].map(|name| self.members.get(name));
        let has = |wanted: &String| {
            let mut said = said.into_iter().flatten().flat_map(words);
            said.any(|said| said.split(' ').any(|scope| scope == wanted))
        };
        wanted.iter().all(has)
    }

    /// Has its bearer one of these roles?
    pub fn has_role(&self, wanted: &[String], roles: &ClaimPath) -> bool {
        let Some(roles) = self.at(roles) else {
            return false;
        };
        words(roles).any(|role| wanted.iter().any(|wanted| wanted == role))
    }

    /// A claim as text: several values with commas between them; what holds others is none, nor is
    /// what would read as other values.
    pub fn get(&self, path: &ClaimPath) -> Option<String> {
        match self.at(path)? {
            Value::Array(list) => {
                let plain = |value| text(value).filter(|text| !text.contains(','));
                let texts: Option<Vec<_>> = list.iter().map(plain).collect();
                Some(texts?.join(","))
            }
            value => text(value),
        }
    }

    /// What the peer is told. What does not fit into a field is left out.
    pub fn fields(&self, settings: &Settings) -> Vec<(HeaderName, HeaderValue)> {
        let fields = settings.fields.iter();
        let told = fields.filter_map(|(path, name)| {
            let text = self.get(path).filter(|text| text.len() <= LONGEST_TOLD)?;
            Some((name.clone(), forward::value(&text)?))
        });
        told.collect()
    }

    /// A claim whose own name is the whole path comes before one within others: names with dots in
    /// them are URLs (RFC 7519 4.2).
    fn at(&self, path: &ClaimPath) -> Option<&Value> {
        if let Some(own) = self.members.get(&path.0) {
            return Some(own);
        }
        let mut parts = path.0.split('.');
        let first = self.members.get(parts.next()?)?;
        parts.try_fold(first, |value, part| value.get(part))
    }
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// One text, or those of a list.
fn words(value: &Value) -> impl Iterator<Item = &str> {
    let list = value
        .as_array()
        .map_or(std::slice::from_ref(value), Vec::as_slice);
    list.iter().filter_map(Value::as_str)
}

/// Seconds since 1970, perhaps with a fraction (RFC 7519 2).
fn moment(members: &Map<String, Value>, name: &str) -> Result<Option<f64>, Bad> {
    let Some(value) = members.get(name) else {
        return Ok(None);
    };
    let moment = value
        .as_f64()
        .filter(|moment| (0.0..LATEST).contains(moment));
    moment.map(Some).ok_or(Bad::Malformed)
}

impl fmt::Display for ClaimPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ClaimPath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const LONGEST: usize = 256;
        let good = (1..=LONGEST).contains(&text.len())
            && text.split('.').all(|part| !part.is_empty())
            && !text.chars().any(char::is_control);
        match good {
            true => Ok(Self(text.to_owned())),
            false => {
                Err("expected the name of a claim, as \"sub\" or \"realm_access.roles\"".to_owned())
            }
        }
    }
}
