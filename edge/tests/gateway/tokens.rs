//! Tokens, as tests make them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use ring::rand::SystemRandom;
use ring::rsa::PublicKeyComponents;
use ring::signature::{Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair};

pub(crate) const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

/// Seconds since 1970, so far from now.
pub(crate) fn at(seconds: i64) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(Duration::as_secs(&now)).unwrap() + seconds
}

/// Claims of alice that are good for a minute, and these.
pub(crate) fn claims(more: &str) -> String {
    format!(r#"{{"sub":"alice","exp":{}{more}}}"#, at(60))
}

fn encoded(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Signed by the secret.
pub(crate) fn by_secret(header: &str, claims: &str, secret: &[u8]) -> String {
    let message = format!("{}.{}", encoded(header), encoded(claims));
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let signature = hmac::sign(&key, message.as_bytes());
    format!("{message}.{}", encoded(signature))
}

pub(crate) fn hs256(claims: &str) -> String {
    by_secret(r#"{"alg":"HS256"}"#, claims, SECRET)
}

/// One who issues tokens, by an Ed25519 key of this name.
pub(crate) struct Issuer {
    kid: String,
    key: Ed25519KeyPair,
}

impl Issuer {
    pub(crate) fn new(kid: &str) -> Self {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Self {
            kid: kid.to_owned(),
            key: Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap(),
        }
    }

    pub(crate) fn token(&self, claims: &str) -> String {
        let header = format!(r#"{{"alg":"EdDSA","kid":"{}"}}"#, self.kid);
        let message = format!("{}.{}", encoded(header), encoded(claims));
        let signature = self.key.sign(message.as_bytes());
        format!("{message}.{}", encoded(signature))
    }

    fn jwk(&self) -> String {
        let (kid, x) = (&self.kid, encoded(self.key.public_key().as_ref()));
        format!(r#"{{"kty":"OKP","crv":"Ed25519","kid":"{kid}","x":"{x}"}}"#)
    }
}

/// The key set of these.
pub(crate) fn jwks(issuers: &[&Issuer]) -> String {
    let keys: Vec<_> = issuers.iter().map(|issuer| issuer.jwk()).collect();
    format!(r#"{{"keys":[{}]}}"#, keys.join(","))
}

/// An RSA key in a set, and what signs by it.
pub(crate) fn rsa() -> (String, RsaKeyPair) {
    let key = RsaKeyPair::from_pkcs8(include_bytes!("../keys/rsa.pk8")).unwrap();
    let public = PublicKeyComponents::<Vec<u8>>::from(key.public());
    let (n, e) = (encoded(public.n), encoded(public.e));
    (
        format!(r#"{{"keys":[{{"kty":"RSA","n":"{n}","e":"{e}"}}]}}"#),
        key,
    )
}

pub(crate) fn rs256(key: &RsaKeyPair, claims: &str) -> String {
    let message = format!("{}.{}", encoded(r#"{"alg":"RS256"}"#), encoded(claims));
    let mut signature = vec![0; key.public().modulus_len()];
    key.sign(
        &RSA_PKCS1_SHA256,
        &SystemRandom::new(),
        message.as_bytes(),
        &mut signature,
    )
    .unwrap();
    format!("{message}.{}", encoded(signature))
}
