use super::*;
use proptest::prelude::*;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256,
    RSA_PSS_SHA256, RsaKeyPair,
};
use std::sync::LazyLock;

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
const NOW: u64 = 1_800_000_000;

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOW)
}

fn settings(algorithms: &[Algorithm]) -> Settings {
    Settings {
        algorithms: algorithms.to_vec(),
        issuers: vec!["https://issuer.example".to_owned()],
        audiences: vec!["edge".to_owned()],
        leeway: Duration::from_secs(30),
        roles: Some("realm_access.roles".parse().unwrap()),
        fields: vec![
            ("sub".parse().unwrap(), HeaderName::from_static("x-user")),
            ("roles".parse().unwrap(), HeaderName::from_static("x-roles")),
        ],
        name: "sub".parse().unwrap(),
        require_exp: true,
    }
}

fn base64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn good_claims() -> String {
    format!(
        r#"{{"iss":"https://issuer.example","aud":["other","edge"],"sub":"alice","exp":{},"scope":"read write","roles":["a","b"],"realm_access":{{"roles":["admin"]}}}}"#,
        NOW + 60
    )
}

fn by_secret(header: &str, claims: &str, secret: &[u8]) -> String {
    let message = format!("{}.{}", base64(header), base64(claims));
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret);
    let signature = ring::hmac::sign(&key, message.as_bytes());
    format!("{message}.{}", base64(signature))
}

fn hs256(claims: &str) -> String {
    by_secret(r#"{"alg":"HS256","typ":"JWT"}"#, claims, SECRET)
}

fn with_secret(token: &str) -> Result<Claims, Bad> {
    let keys = Keys::of_secret(SECRET);
    verify(token, &keys, &settings(&[Algorithm::HS256]), now())
}

static RSA: LazyLock<RsaKeyPair> =
    LazyLock::new(|| RsaKeyPair::from_pkcs8(include_bytes!("../../tests/keys/rsa.pk8")).unwrap());
static EC: LazyLock<EcdsaKeyPair> = LazyLock::new(|| {
    let rng = SystemRandom::new();
    let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
    let document = EcdsaKeyPair::generate_pkcs8(algorithm, &rng).unwrap();
    EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &rng).unwrap()
});
static ED: LazyLock<Ed25519KeyPair> = LazyLock::new(|| {
    let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
    Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap()
});

fn jwks() -> String {
    let public = ring::rsa::PublicKeyComponents::<Vec<u8>>::from(RSA.public());
    let (n, e) = (base64(public.n), base64(public.e));
    let point = EC.public_key().as_ref();
    let (x, y) = (base64(&point[1..33]), base64(&point[33..]));
    let ed = base64(ED.public_key().as_ref());
    format!(
        r#"{{"keys":[{{"kty":"RSA","kid":"r","use":"sig","n":"{n}","e":"{e}"}},
        {{"kty":"EC","kid":"e","crv":"P-256","alg":"ES256","x":"{x}","y":"{y}"}},
        {{"kty":"OKP","kid":"d","crv":"Ed25519","x":"{ed}"}},
        {{"kty":"oct","kid":"o","k":"AAAA"}},{{"kty":"RSA","kid":"enc","use":"enc","n":"{n}","e":"{e}"}}]}}"#
    )
}

fn signed_by(algorithm: Algorithm, header: &str, claims: &str) -> String {
    let message = format!("{}.{}", base64(header), base64(claims));
    let rng = SystemRandom::new();
    let signature = match algorithm {
        Algorithm::ES256 => EC.sign(&rng, message.as_bytes()).unwrap().as_ref().to_vec(),
        Algorithm::EdDSA => ED.sign(message.as_bytes()).as_ref().to_vec(),
        algorithm => {
            let padding: &dyn ring::signature::RsaEncoding = match algorithm {
                Algorithm::PS256 => &RSA_PSS_SHA256,
                _ => &RSA_PKCS1_SHA256,
            };
            let mut signature = vec![0; RSA.public().modulus_len()];
            RSA.sign(padding, &rng, message.as_bytes(), &mut signature)
                .unwrap();
            signature
        }
    };
    format!("{message}.{}", base64(signature))
}

fn with_set(token: &str) -> Result<Claims, Bad> {
    let (keys, _) = Keys::of_jwks(&jwks()).unwrap();
    verify(token, &keys, &settings(&Algorithm::usual(false)), now())
}

#[test]
fn good_tokens_say_who_asks() {
    for (algorithm, kid) in [
        (Algorithm::RS256, "r"),
        (Algorithm::PS256, "r"),
        (Algorithm::ES256, "e"),
        (Algorithm::EdDSA, "d"),
    ] {
        for header in [
            format!(r#"{{"alg":"{algorithm}","kid":"{kid}"}}"#),
            format!(r#"{{"alg":"{algorithm}"}}"#),
        ] {
            let claims = with_set(&signed_by(algorithm, &header, &good_claims())).unwrap();
            assert_eq!(claims.name(), "alice", "{header}");
        }
    }
    let claims = with_secret(&hs256(&good_claims())).unwrap();
    assert!(claims.has_scopes(&["read".to_owned(), "write".to_owned()]));
    assert!(!claims.has_scopes(&["rea".to_owned()]));
    let roles = "realm_access.roles".parse().unwrap();
    assert!(claims.has_role(&["x".to_owned(), "admin".to_owned()], &roles));
    assert!(!claims.has_role(&["x".to_owned()], &roles));
    let fields = claims.fields(&settings(&[]));
    let told: Vec<_> = fields
        .iter()
        .map(|(_, value)| value.to_str().unwrap())
        .collect();
    assert_eq!(told, ["alice", "a,b"]);
    assert_eq!(claims.expires(), Some(now() + Duration::from_secs(60)));
}

#[test]
fn what_of_a_set_cannot_be_used_is_left_out_and_told() {
    let (keys, left_out) = Keys::of_jwks(&jwks()).unwrap();
    assert_eq!((keys.len(), left_out.len()), (3, 2), "{left_out:?}");
    for bad in [
        "",
        "[]",
        "{}",
        r#"{"keys":[]}"#,
        r#"{"keys":[{"kty":"oct","k":"AAAA"}]}"#,
        r#"{"keys":[],"keys":[]}"#,
    ] {
        assert!(Keys::of_jwks(bad).is_err(), "{bad}");
    }
    let small = format!(
        r#"{{"keys":[{{"kty":"RSA","n":"{}","e":"AQAB"}}]}}"#,
        base64([255; 128])
    );
    assert!(Keys::of_jwks(&small).unwrap_err().contains("size"));
    assert!(Keys::of_jwks(&" ".repeat(MOST_JWKS + 1)).is_err());
}

/// RFC 8725 2.1, 3.1.
#[test]
fn a_token_does_not_choose_how_it_is_checked() {
    for none in ["none", "None", "NONE", "nOnE", ""] {
        let header = format!(r#"{{"alg":"{none}"}}"#);
        for signature in ["", "AAAA"] {
            let token = format!("{}.{}.{signature}", base64(&header), base64(good_claims()));
            assert_eq!(with_secret(&token), Err(Bad::Algorithm), "{none}");
            assert_eq!(with_set(&token), Err(Bad::Algorithm), "{none}");
        }
    }
    // The public key as the secret.
    for public in [
        RSA.public().as_ref(),
        EC.public_key().as_ref(),
        jwks().as_bytes(),
    ] {
        for header in [r#"{"alg":"HS256","kid":"r"}"#, r#"{"alg":"HS256"}"#] {
            let token = by_secret(header, &good_claims(), public);
            assert_eq!(with_set(&token), Err(Bad::Algorithm));
        }
    }
    // Of the right kind, but not the key's; of the right key, but pinned to another.
    let header = r#"{"alg":"RS256","kid":"e"}"#;
    assert_eq!(
        with_set(&signed_by(Algorithm::RS256, header, &good_claims())),
        Err(Bad::Algorithm)
    );
    let token = signed_by(Algorithm::RS256, r#"{"alg":"RS256"}"#, &good_claims());
    assert_eq!(with_secret(&token), Err(Bad::Algorithm));
    let swapped = signed_by(
        Algorithm::RS256,
        r#"{"alg":"PS256","kid":"r"}"#,
        &good_claims(),
    );
    assert_eq!(with_set(&swapped), Err(Bad::Signature));
}

#[test]
fn keys_are_those_of_the_configuration_alone() {
    for kid in ["x", "../../etc/passwd", "' OR 1=1 --", "r\\u0000", "R"] {
        let header = format!(r#"{{"alg":"RS256","kid":"{kid}"}}"#);
        let token = signed_by(Algorithm::RS256, &header, &good_claims());
        assert_eq!(with_set(&token), Err(Bad::UnknownKey), "{kid}");
    }
    let long = format!(r#"{{"alg":"RS256","kid":"{}"}}"#, "r".repeat(300));
    assert_eq!(
        with_set(&signed_by(Algorithm::RS256, &long, &good_claims())),
        Err(Bad::UnknownKey)
    );
    // What it brings along is not looked at.
    let other = Ed25519KeyPair::from_pkcs8(
        Ed25519KeyPair::generate_pkcs8(&SystemRandom::new())
            .unwrap()
            .as_ref(),
    )
    .unwrap();
    let header = format!(
        r#"{{"alg":"EdDSA","jku":"https://evil.example/","jwk":{{"kty":"OKP","crv":"Ed25519","x":"{}"}}}}"#,
        base64(other.public_key().as_ref())
    );
    let message = format!("{}.{}", base64(header), base64(good_claims()));
    let token = format!("{message}.{}", base64(other.sign(message.as_bytes())));
    assert_eq!(with_set(&token), Err(Bad::Signature));
}

#[test]
fn what_is_no_token_is_malformed() {
    let good = hs256(&good_claims());
    let (message, signature) = good.rsplit_once('.').unwrap();
    let (header, payload) = message.split_once('.').unwrap();
    let long = hs256(&good_claims().replace("alice", &"a".repeat(64 << 10)));
    for token in [
        "",
        ".",
        "..",
        "a",
        "a.b",
        message,
        &format!("{good}."),
        &format!("{good}.a"),
        &format!(".{payload}.{signature}"),
        &format!("{good}="),
        &format!("{header}=.{payload}.{signature}"),
        &format!(" {good}"),
        &format!("{header}.{payload}.{signature}\n"),
        &long,
        "eyJhbGciOiJSU0EtT0FFUCJ9.a.b.c.d",
    ] {
        assert_eq!(with_secret(token), Err(Bad::Malformed), "{:.60}", token);
    }
    for header in [
        "{}",
        "[]",
        r#"{"alg":1}"#,
        r#"{"alg":["HS256"]}"#,
        r#"{"alg":"HS256","alg":"HS256"}"#,
        r#"{"alg":"none","alg":"HS256"}"#,
        r#"{"alg":"HS256","crit":["exp"]}"#,
        r#"{"alg":"HS256","b64":false}"#,
        r#"{"alg":"HS256","enc":"A128GCM"}"#,
        r#"{"alg":"HS256","kid":1}"#,
        r#"{"alg":"HS256"} x"#,
        "\u{feff}{\"alg\":\"HS256\"}",
    ] {
        let token = by_secret(header, &good_claims(), SECRET);
        assert_eq!(with_secret(&token), Err(Bad::Malformed), "{header}");
    }
    let deep = format!(r#"{{"a":{}1{}}}"#, "[".repeat(1_000), "]".repeat(1_000));
    for claims in [
        "",
        "[]",
        "1",
        r#"{"sub":"a","sub":"b","exp":1900000000}"#,
        r#"{"a":{"b":1,"b":2},"exp":1900000000}"#,
        &deep,
    ] {
        assert_eq!(
            with_secret(&hs256(claims)),
            Err(Bad::Malformed),
            "{claims:.60}"
        );
    }
    assert_eq!(
        with_secret(&format!("{header}..{signature}")),
        Err(Bad::Signature)
    );
    // The last bits of base64url that are no part of a byte.
    let mut odd = good.clone();
    let last = odd.pop().unwrap();
    odd.push(char::from_u32(u32::from(last) + 1).unwrap());
    assert!(with_secret(&odd).is_err());
}

#[test]
fn times_are_judged_with_leeway_and_must_be_numbers() {
    let at = |claims: &str| {
        let claims = good_claims().replace(&format!("\"exp\":{}", NOW + 60), claims);
        with_secret(&hs256(&claims)).map(|_| ())
    };
    for (claims, expected) in [
        (format!("\"exp\":{}", NOW - 29), Ok(())),
        (format!("\"exp\":{}", NOW - 30), Err(Bad::Expired)),
        (format!("\"exp\":{}.5", NOW - 30), Ok(())),
        ("\"exp\":0".to_owned(), Err(Bad::Expired)),
        (format!("\"exp\":{},\"nbf\":{}", NOW + 9, NOW + 30), Ok(())),
        (
            format!("\"exp\":{},\"nbf\":{}", NOW + 99, NOW + 31),
            Err(Bad::NotYet),
        ),
        ("\"nbf\":1".to_owned(), Err(Bad::Malformed)),
        ("\"exp\":-1".to_owned(), Err(Bad::Malformed)),
        ("\"exp\":1e300".to_owned(), Err(Bad::Malformed)),
        (
            "\"exp\":99999999999999999999999".to_owned(),
            Err(Bad::Malformed),
        ),
        (format!("\"exp\":\"{}\"", NOW + 60), Err(Bad::Malformed)),
        ("\"exp\":null".to_owned(), Err(Bad::Malformed)),
        (
            format!("\"exp\":{},\"iat\":\"x\"", NOW + 60),
            Err(Bad::Malformed),
        ),
    ] {
        assert_eq!(at(&claims), expected, "{claims}");
    }
}

#[test]
fn tokens_of_and_for_others_are_refused() {
    for (from, to, expected) in [
        (
            "https://issuer.example\"",
            "https://issuer.example/\"",
            Bad::Issuer,
        ),
        ("\"iss\":\"https://issuer.example\",", "", Bad::Issuer),
        ("[\"other\",\"edge\"]", "\"edge2\"", Bad::Audience),
        ("[\"other\",\"edge\"]", "[]", Bad::Audience),
        ("[\"other\",\"edge\"]", "{\"edge\":1}", Bad::Audience),
        ("\"aud\":[\"other\",\"edge\"],", "", Bad::Audience),
    ] {
        let claims = good_claims().replace(from, to);
        assert_eq!(with_secret(&hs256(&claims)), Err(expected), "{claims}");
    }
    let one = good_claims().replace("[\"other\",\"edge\"]", "\"edge\"");
    assert!(with_secret(&hs256(&one)).is_ok());
}

#[test]
fn a_claim_with_dots_in_its_name_comes_first() {
    let claims = good_claims().replace(
        "{\"iss\"",
        "{\"https://x.example/roles\":[\"r\"],\"a.b\":1,\"a\":{\"b\":2},\"iss\"",
    );
    let claims = with_secret(&hs256(&claims)).unwrap();
    let get = |path: &str| claims.get(&path.parse().unwrap());
    assert_eq!(get("https://x.example/roles").as_deref(), Some("r"));
    assert_eq!(get("a.b").as_deref(), Some("1"));
    assert_eq!(get("realm_access.roles").as_deref(), Some("admin"));
    assert_eq!((get("realm_access"), get("none")), (None, None));
}

#[test]
fn a_token_is_remembered_but_not_beyond_its_time_nor_its_keys() {
    let (verified, keys) = (Verified::new(10), Keys::of_secret(SECRET));
    let settings = settings(&[Algorithm::HS256]);
    let token = hs256(&good_claims());
    let ask =
        |keys: &Keys, generation, now| verified.verify(&token, keys, &settings, generation, now);
    assert!(ask(&keys, 1, now()).is_ok());
    let none = Keys::default();
    assert!(ask(&none, 1, now()).is_ok(), "it is remembered");
    assert_eq!(ask(&none, 2, now()), Err(Bad::UnknownKey));
    assert!(ask(&keys, 1, now()).is_ok());
    let late = now() + Duration::from_secs(100);
    assert_eq!(ask(&keys, 1, late), Err(Bad::Expired));
    for n in 0..100 {
        let token = hs256(&good_claims().replace("alice", &format!("a{n}")));
        verified.verify(&token, &keys, &settings, 1, now()).unwrap();
    }
    assert!(verified.len() <= 11);
}

proptest! {
    #[test]
    fn nothing_makes_it_panic(token in "[A-Za-z0-9_.=-]{0,200}", any in ".{0,100}") {
        let _ = (with_secret(&token), with_set(&token), with_secret(&any));
        let _ = Keys::of_jwks(&any);
    }

    #[test]
    fn no_claims_make_it_panic(claims in "\\{(\"(exp|nbf|aud|iss|sub)\":[0-9a-z\\[\\]\"{}.-]{0,12},?){0,5}\\}") {
        let _ = with_secret(&hs256(&claims));
    }

    /// Every bit of a signature counts.
    #[test]
    fn a_changed_signature_is_wrong(bit in 0usize..256) {
        let token = hs256(&good_claims());
        let (message, signature) = token.rsplit_once('.').unwrap();
        let mut bytes = URL_SAFE_NO_PAD.decode(signature).unwrap();
        bytes[bit / 8] ^= 1 << (bit % 8);
        prop_assert_eq!(with_secret(&format!("{message}.{}", base64(bytes))), Err(Bad::Signature));
    }
}
