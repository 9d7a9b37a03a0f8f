//! The keys that tokens may be signed with, each for the algorithms that it is for (RFC 7517,
//! RFC 7518 6, RFC 8037 2).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm};
use serde_json::{Map, Value};
use std::fmt;

use super::{Algorithm, Bad, LONGEST_KID, MOST_JWKS, MOST_KEYS, MOST_TRIES, object};

/// Keys of one issuer.
#[derive(Clone, Default)]
pub struct Keys(Vec<Key>);

#[derive(Clone)]
struct Key {
    kid: Option<String>,
    /// The one that the set names; `None`: all that its kind is for.
    algorithm: Option<Algorithm>,
    kind: Kind,
}

#[derive(Clone)]
enum Kind {
    Secret(Vec<u8>),
    Rsa { modulus: Vec<u8>, exponent: Vec<u8> },
    P256(Vec<u8>),
    P384(Vec<u8>),
    Ed25519(Vec<u8>),
}

/// Nothing of a key is shown: it may be a secret.
impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} keys", self.0.len())
    }
}

/// Bits of an RSA modulus: fewer can be broken (RFC 7518 3.3), and more cost too much.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

impl Keys {
    /// One secret, for HMAC alone.
    pub fn of_secret(secret: &[u8]) -> Self {
        Self(vec![Key {
            kid: None,
            algorithm: None,
            kind: Kind::Secret(secret.to_vec()),
        }])
    }

    /// A JWK set, and why some of its keys were left out; an `Err` if there is nothing to use.
    /// Neither tells anything of a key but its place and `kid`.
    pub fn of_jwks(json: &str) -> Result<(Self, Vec<String>), String> {
        if json.len() > MOST_JWKS {
            return Err(format!("it is larger than {MOST_JWKS} B"));
        }
        let set = object::read(json.as_bytes()).map_err(|_| "it is no JSON object".to_owned())?;
        let Some(list) = set.get("keys").and_then(Value::as_array) else {
            return Err("it has no list `keys`".to_owned());
        };
        let (mut keys, mut left_out) = (Vec::new(), Vec::new());
        for (place, value) in list.iter().enumerate() {
            let key = value
                .as_object()
                .ok_or("it is no object")
                .and_then(Key::read);
            match key {
                Ok(key) if keys.len() < MOST_KEYS => keys.push(key),
                Ok(_) => left_out.push(format!("key {}: more than {MOST_KEYS}", place + 1)),
                Err(why) => left_out.push(format!("key {}: {why}", place + 1)),
            }
        }
        if keys.is_empty() {
            let why = left_out.join("; ");
            return Err(format!("none of its keys can be used: {why}"));
        }
        Ok((Self(keys), left_out))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Is there none?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Has one of them signed this, by this algorithm? With a `kid` only keys of that name count.
    pub(super) fn check(
        &self,
        algorithm: Algorithm,
        kid: Option<&str>,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), Bad> {
        let named = |key: &&Key| match (kid, &key.kid) {
            (Some(kid), Some(own)) => kid == own,
            // A set of one nameless key, or a secret: names say nothing there.
            (Some(_), None) => self.0.len() == 1,
            (None, _) => true,
        };
        let mut candidates = self.0.iter().filter(named).peekable();
        if candidates.peek().is_none() {
            return Err(Bad::UnknownKey);
        }
        let mut fitting = candidates.filter(|key| key.is_for(algorithm)).peekable();
        if fitting.peek().is_none() {
            return Err(Bad::Algorithm);
        }
        let signed = fitting
            .take(MOST_TRIES)
            .any(|key| key.signed(algorithm, message, signature));
        signed.then_some(()).ok_or(Bad::Signature)
    }
}

impl Key {
    fn read(members: &Map<String, Value>) -> Result<Self, &'static str> {
        let text = |name: &str| members.get(name).and_then(Value::as_str);
        if text("use").is_some_and(|use_| use_ != "sig") {
            return Err("it is not for signatures");
        }
        if let Some(operations) = members.get("key_ops") {
            let operations = operations.as_array().ok_or("its key_ops is no list")?;
            if !operations.iter().any(|own| own.as_str() == Some("verify")) {
                return Err("it is not for checking signatures");
            }
        }
        let kind = match text("kty").ok_or("it has no kty")? {
            "RSA" => Kind::Rsa {
                modulus: number(text("n").ok_or("it has no n")?)?,
                exponent: number(text("e").ok_or("it has no e")?)?,
            },
            "EC" => {
                let (curve, length): (fn(Vec<u8>) -> Kind, _) = match text("crv") {
                    Some("P-256") => (Kind::P256, 32),
                    Some("P-384") => (Kind::P384, 48),
                    _ => return Err("its curve is not known here"),
                };
                let x = bytes(text("x").ok_or("it has no x")?, length)?;
                let y = bytes(text("y").ok_or("it has no y")?, length)?;
                // An uncompressed point (SEC 1 2.3.3).
                curve([&[4][..], &x, &y].concat())
            }
            "OKP" if text("crv") == Some("Ed25519") => {
                Kind::Ed25519(bytes(text("x").ok_or("it has no x")?, 32)?)
            }
            "OKP" => return Err("its curve is not known here"),
            // Whoever can read the set could sign.
            "oct" => return Err("a secret has no place in a set of keys"),
            _ => return Err("its kty is not known here"),
        };
        if let Kind::Rsa { modulus, .. } = &kind
            && !RSA_BITS.contains(&(modulus.len() * 8))
        {
            return Err("an RSA key of this size is not used");
        }
        let algorithm = match members.get("alg") {
            None => None,
            Some(name) => {
                let known = name.as_str().and_then(|name| name.parse().ok());
                Some(known.ok_or("its alg is not known here")?)
            }
        };
        let kid = match members.get("kid") {
            None => None,
            Some(Value::String(kid)) if kid.len() <= LONGEST_KID => Some(kid.clone()),
            Some(_) => return Err("its kid is no name"),
        };
        let key = Self {
            kid,
            algorithm,
            kind,
        };
        if algorithm.is_some_and(|algorithm| !key.is_for(algorithm)) {
            return Err("its alg does not go with its kty");
        }
        Ok(key)
    }

    /// A key is for one kind of algorithm, whatever a token says (RFC 8725 3.1).
    fn is_for(&self, algorithm: Algorithm) -> bool {
        let fits = match &self.kind {
            Kind::Secret(_) => algorithm.is_symmetric(),
            Kind::Rsa { .. } => matches!(
                algorithm,
                Algorithm::RS256
                    | Algorithm::RS384
                    | Algorithm::RS512
                    | Algorithm::PS256
                    | Algorithm::PS384
                    | Algorithm::PS512
            ),
            Kind::P256(_) => algorithm == Algorithm::ES256,
            Kind::P384(_) => algorithm == Algorithm::ES384,
            Kind::Ed25519(_) => algorithm == Algorithm::EdDSA,
        };
        fits && self.algorithm.is_none_or(|own| own == algorithm)
    }

    fn signed(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        match &self.kind {
            Kind::Secret(secret) => {
                let hash = match algorithm {
                    Algorithm::HS256 => hmac::HMAC_SHA256,
                    Algorithm::HS384 => hmac::HMAC_SHA384,
                    Algorithm::HS512 => hmac::HMAC_SHA512,
                    _ => return false,
                };
                // In constant time, as ring has it.
                hmac::verify(&hmac::Key::new(hash, secret), message, signature).is_ok()
            }
            Kind::Rsa { modulus, exponent } => {
                let parameters = match algorithm {
                    Algorithm::RS256 => &signature::RSA_PKCS1_2048_8192_SHA256,
                    Algorithm::RS384 => &signature::RSA_PKCS1_2048_8192_SHA384,
                    Algorithm::RS512 => &signature::RSA_PKCS1_2048_8192_SHA512,
                    Algorithm::PS256 => &signature::RSA_PSS_2048_8192_SHA256,
                    Algorithm::PS384 => &signature::RSA_PSS_2048_8192_SHA384,
                    Algorithm::PS512 => &signature::RSA_PSS_2048_8192_SHA512,
                    _ => return false,
                };
                let (n, e) = (modulus.as_slice(), exponent.as_slice());
                let key = RsaPublicKeyComponents { n, e };
                key.verify(parameters, message, signature).is_ok()
            }
            Kind::P256(point) => by(
                &signature::ECDSA_P256_SHA256_FIXED,
                point,
                message,
                signature,
            ),
            Kind::P384(point) => by(
                &signature::ECDSA_P384_SHA384_FIXED,
                point,
                message,
                signature,
            ),
            Kind::Ed25519(key) => by(&signature::ED25519, key, message, signature),
        }
    }
}

fn by(
    algorithm: &'static dyn VerificationAlgorithm,
    key: &[u8],
    message: &[u8],
    signature: &[u8],
) -> bool {
    UnparsedPublicKey::new(algorithm, key)
        .verify(message, signature)
        .is_ok()
}

/// A number without leading zeros, as ring takes it.
fn number(text: &str) -> Result<Vec<u8>, &'static str> {
    let bytes = URL_SAFE_NO_PAD
        .decode(text)
        .map_err(|_| "it is no base64url")?;
    let start = bytes.iter().position(|&byte| byte != 0);
    let start = start.ok_or("a number of it is zero")?;
    Ok(bytes.get(start..).unwrap_or_default().to_vec())
}

fn bytes(text: &str, length: usize) -> Result<Vec<u8>, &'static str> {
    let bytes = URL_SAFE_NO_PAD
        .decode(text)
        .map_err(|_| "it is no base64url")?;
    (bytes.len() == length)
        .then_some(bytes)
        .ok_or("a coordinate of it has another length")
}
