//! What it costs to prove who asks.

#![expect(clippy::unwrap_used, reason = "a bench may fail loudly")]

mod harness;

use std::hint::black_box;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use criterion::{Criterion, criterion_group, criterion_main};
use edge::jwt::{Algorithm, Keys, Settings, Verified, verify};
use ring::hmac;
use ring::rand::SystemRandom;
use ring::rsa::PublicKeyComponents;
use ring::signature::{Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair};

criterion_group! {
    name = benches;
    config = harness::short();
    targets = tokens
}
criterion_main!(benches);

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn signed(algorithm: Algorithm, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
    let header = format!(r#"{{"alg":"{algorithm}","typ":"JWT"}}"#);
    let claims = r#"{"iss":"https://issuer.example","aud":"api","sub":"alice","exp":1800000060,"scope":"read write"}"#;
    let message = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(header),
        URL_SAFE_NO_PAD.encode(claims)
    );
    let signature = sign(message.as_bytes());
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn tokens(c: &mut Criterion) {
    let settings = |algorithm| Settings {
        algorithms: vec![algorithm],
        issuers: vec!["https://issuer.example".to_owned()],
        audiences: vec!["api".to_owned()],
        leeway: Duration::from_secs(30),
        roles: None,
        fields: Vec::new(),
        name: "sub".parse().unwrap(),
        require_exp: true,
    };
    let rsa = RsaKeyPair::from_pkcs8(include_bytes!("../edge/tests/keys/rsa.pk8")).unwrap();
    let public = PublicKeyComponents::<Vec<u8>>::from(rsa.public());
    let (n, e) = (
        URL_SAFE_NO_PAD.encode(public.n),
        URL_SAFE_NO_PAD.encode(public.e),
    );
    let rsa_set = format!(r#"{{"keys":[{{"kty":"RSA","n":"{n}","e":"{e}"}}]}}"#);
    let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
    let ed = Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap();
    let x = URL_SAFE_NO_PAD.encode(ed.public_key().as_ref());
    let ed_set = format!(r#"{{"keys":[{{"kty":"OKP","crv":"Ed25519","x":"{x}"}}]}}"#);
    let by_rsa = signed(Algorithm::RS256, |message| {
        let mut signature = vec![0; rsa.public().modulus_len()];
        rsa.sign(
            &RSA_PKCS1_SHA256,
            &SystemRandom::new(),
            message,
            &mut signature,
        )
        .unwrap();
        signature
    });
    let by_ed = signed(Algorithm::EdDSA, |message| {
        ed.sign(message).as_ref().to_vec()
    });
    let by_secret = signed(Algorithm::HS256, |message| {
        hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET), message)
            .as_ref()
            .to_vec()
    });
    for (algorithm, token, keys) in [
        (Algorithm::RS256, by_rsa, Keys::of_jwks(&rsa_set).unwrap().0),
        (Algorithm::EdDSA, by_ed, Keys::of_jwks(&ed_set).unwrap().0),
        (Algorithm::HS256, by_secret, Keys::of_secret(SECRET)),
    ] {
        let settings = settings(algorithm);
        c.bench_function(&format!("door/token by {algorithm}"), |b| {
            b.iter(|| verify(black_box(&token), &keys, &settings, now()).unwrap());
        });
        let verified = Verified::new(10_000);
        c.bench_function(&format!("door/token by {algorithm}, seen before"), |b| {
            b.iter(|| {
                verified
                    .verify(black_box(&token), &keys, &settings, 1, now())
                    .unwrap()
            });
        });
    }
}
