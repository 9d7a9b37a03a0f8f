//! Who may open a WebSocket: the law, with the time as an argument.

use crate::{credential, hs256, refusal::Refusal, secret::Secret, settings::Settings};
use hyper::HeaderMap;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, errors::ErrorKind};
use serde::Deserialize;
use std::{
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// How far the clock of whoever makes tokens may be off ours.
const LEEWAY: Duration = Duration::from_secs(5);
/// The longest that a token is held to be good for. A clock can always add it to now.
const LONGEST: Duration = Duration::from_secs(100 * 366 * 24 * 3_600);
/// HS256 needs a key as long as its hash (RFC 7518, section 3.2).
const SHORTEST_SECRET: usize = 32;
/// 128 bits, were each of them left to chance.
const SHORTEST_KEY: usize = 16;

/// Who may open a WebSocket: everybody, or whoever has a token or the key.
pub(crate) struct Gate {
    tokens: Option<Tokens>,
    key: Option<Secret>,
}

/// What let somebody in, and for how long.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Pass {
    /// `jwt` or `api_key`, or nothing where everybody may come in.
    pub(crate) by: Option<&'static str>,
    pub(crate) lasts: Option<Duration>,
}

impl Gate {
    /// Reads the secrets that the settings name.
    pub(crate) fn read(settings: &Settings) -> Result<Self, String> {
        let secret = one(
            "the JWT secret",
            settings.jwt_secret_file.as_deref(),
            settings.jwt_secret.as_ref(),
            SHORTEST_SECRET,
        )?;
        let key = one(
            "the API key",
            settings.api_key_file.as_deref(),
            settings.api_key.as_ref(),
            SHORTEST_KEY,
        )?;
        if key.as_ref().is_some_and(|key| !sendable(key.bytes())) {
            return Err("the API key has a byte that no header carries: \
                expected visible ASCII characters, without spaces"
                .to_owned());
        }
        let audience = settings.jwt_audience.as_deref();
        if secret.is_none() && audience.is_some() {
            return Err("--jwt-audience is set without a JWT secret".to_owned());
        }
        Ok(Self {
            tokens: secret.map(|secret| Tokens::new(&secret, audience)),
            key,
        })
    }

    /// Whether this request may open a WebSocket. A right key needs no token, nor the other way
    /// round.
    pub(crate) fn admit(
        &self,
        headers: &HeaderMap,
        query: Option<&str>,
        now: SystemTime,
    ) -> Result<Pass, Refusal> {
        let told = headers.get("x-api-key");
        let wrong_key = match (&self.key, told) {
            (Some(key), Some(told)) if key.is(told.as_bytes()) => {
                return Ok(Pass {
                    by: Some("api_key"),
                    lasts: None,
                });
            }
            (Some(_), Some(_)) => Some(Refusal::KeyWrong),
            _ => None,
        };
        match (&self.tokens, &self.key) {
            (None, None) => Ok(Pass {
                by: None,
                lasts: None,
            }),
            (None, Some(_)) => Err(wrong_key.unwrap_or(Refusal::KeyMissing)),
            (Some(tokens), _) => {
                let token = credential::token(headers, query);
                let token = token.ok_or(wrong_key.unwrap_or(Refusal::TokenMissing))?;
                Ok(Pass {
                    by: Some("jwt"),
                    lasts: Some(tokens.verify(&token, now)?),
                })
            }
        }
    }
}

/// The one secret of those that may be set.
fn one(
    name: &str,
    file: Option<&Path>,
    own: Option<&Secret>,
    shortest: usize,
) -> Result<Option<Secret>, String> {
    let secret = match (file, own) {
        (None, None) => return Ok(None),
        (Some(_), Some(_)) => {
            return Err(format!("{name} is set twice: keep the file or the text"));
        }
        (Some(file), None) => Secret::read(file).map_err(|error| format!("{name}: {error}"))?,
        (None, Some(own)) => own.clone(),
    };
    match secret.bytes().len() {
        0 => Err(format!(
            "{name} is empty: expected at least {shortest} bytes, such as `openssl rand -hex 32` makes"
        )),
        short if short < shortest => Err(format!(
            "{name} has {short} bytes: expected at least {shortest}, such as `openssl rand -hex 32` makes"
        )),
        _ => Ok(Some(secret)),
    }
}

fn sendable(key: &[u8]) -> bool {
    key.iter().all(u8::is_ascii_graphic)
}

/// JSON Web Tokens (RFC 7519), signed with HS256 and nothing else.
struct Tokens {
    key: DecodingKey,
    rules: Validation,
}

/// What counts of a token's claims: seconds since 1970, perhaps with a fraction.
#[derive(Deserialize)]
struct Claims {
    exp: Option<f64>,
    nbf: Option<f64>,
}

impl Tokens {
    fn new(secret: &Secret, audience: Option<&str>) -> Self {
        hs256::install();
        let mut rules = Validation::new(Algorithm::HS256);
        // The time is judged below: the crate would look at a clock of its own.
        rules.validate_exp = false;
        rules.validate_nbf = false;
        rules.required_spec_claims.clear();
        if let Some(audience) = audience {
            rules.set_audience(&[audience]);
            rules.set_required_spec_claims(&["aud"]);
        }
        Self {
            key: DecodingKey::from_secret(secret.bytes()),
            rules,
        }
    }

    /// How long this token is still good for.
    fn verify(&self, token: &[u8], now: SystemTime) -> Result<Duration, Refusal> {
        let token = jsonwebtoken::decode::<Claims>(token, &self.key, &self.rules);
        let token = token.map_err(|error| match error.kind() {
            ErrorKind::InvalidAlgorithm => Refusal::TokenAlgorithm,
            ErrorKind::InvalidSignature => Refusal::TokenSignature,
            ErrorKind::InvalidAudience | ErrorKind::MissingRequiredClaim(_) => {
                Refusal::TokenAudience
            }
            _ => Refusal::TokenMalformed,
        })?;
        // Who does not understand what is critical must refuse it (RFC 7515, section 4.1.11).
        if token.header.crit.is_some() {
            return Err(Refusal::TokenMalformed);
        }
        token.claims.judge(now)
    }
}

impl Claims {
    /// How long until the end, from now on.
    fn judge(&self, now: SystemTime) -> Result<Duration, Refusal> {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let moment =
            |seconds| Duration::try_from_secs_f64(seconds).map_err(|_| Refusal::TokenMalformed);
        let exp = moment(self.exp.ok_or(Refusal::TokenEndless)?)?;
        let nbf = moment(self.nbf.unwrap_or_default())?;
        if nbf > now + LEEWAY {
            return Err(Refusal::TokenEarly);
        }
        match exp.saturating_add(LEEWAY).checked_sub(now) {
            None | Some(Duration::ZERO) => Err(Refusal::TokenExpired),
            Some(left) => Ok(left.min(LONGEST)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
    use hyper::header::HeaderValue;
    use ring::hmac;
    use serde_json::{Value, json};

    const SECRET: &str = "a secret of thirty-two bytes, ok";
    const KEY: &str = "a-key-of-sixteen";
    const NOW: u64 = 1_800_000_000;

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(NOW)
    }

    fn gate(settings: &Settings) -> Gate {
        Gate::read(settings).unwrap()
    }

    fn by_token() -> Gate {
        gate(&Settings {
            jwt_secret: Some(SECRET.into()),
            ..Settings::default()
        })
    }

    /// Signed by hand, so that a mistake in how we use the crate would show.
    fn signed(header: &Value, claims: &Value, secret: &str) -> String {
        let code = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        let part = |json: &Value| code(json.to_string().as_bytes());
        let message = format!("{}.{}", part(header), part(claims));
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        let signature = hmac::sign(&key, message.as_bytes());
        format!("{message}.{}", code(signature.as_ref()))
    }

    fn token(claims: &Value) -> String {
        signed(&json!({"alg": "HS256"}), claims, SECRET)
    }

    fn admit(gate: &Gate, token: &str) -> Result<Pass, Refusal> {
        let query = format!("access_token={token}");
        gate.admit(&HeaderMap::new(), Some(&query), now())
    }

    fn with_key(key: &'static str) -> HeaderMap {
        HeaderMap::from_iter([("x-api-key".parse().unwrap(), HeaderValue::from_static(key))])
    }

    #[test]
    fn without_a_secret_everybody_may_come_in() {
        let pass = gate(&Settings::default()).admit(&HeaderMap::new(), None, now());
        let free = Pass {
            by: None,
            lasts: None,
        };
        assert_eq!(pass, Ok(free));
    }

    #[test]
    fn a_right_token_lets_in_until_it_ends() {
        let pass = admit(&by_token(), &token(&json!({"exp": NOW + 60, "nbf": NOW}))).unwrap();
        assert_eq!(pass.by, Some("jwt"));
        assert_eq!(pass.lasts, Some(Duration::from_secs(60) + LEEWAY));
    }

    #[test]
    fn the_token_of_the_rfc_is_right_and_has_ended() {
        // RFC 7515, appendix A.1; the key is in base64url there.
        let key = "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";
        let key = BASE64_URL_SAFE_NO_PAD.decode(key).unwrap();
        let token = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9\
            .eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ\
            .dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
        let gate = gate(&Settings {
            jwt_secret: Some(key.into()),
            ..Settings::default()
        });
        let query = format!("access_token={token}");
        let before = UNIX_EPOCH + Duration::from_secs(1_300_819_379);
        let pass = gate.admit(&HeaderMap::new(), Some(&query), before);
        assert_eq!(pass.unwrap().by, Some("jwt"));
        assert_eq!(admit(&gate, token), Err(Refusal::TokenExpired));
    }

    #[test]
    fn every_fault_of_a_token_has_its_own_word() {
        let gate = by_token();
        let good = token(&json!({"exp": NOW + 60}));
        let (signed_part, signature) = good.rsplit_once('.').unwrap();
        let other_claims = {
            let claims = BASE64_URL_SAFE_NO_PAD.encode(json!({"exp": NOW + 9_999}).to_string());
            let head = signed_part.split_once('.').unwrap().0;
            format!("{head}.{claims}.{signature}")
        };
        let none = {
            let head = BASE64_URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
            format!("{head}.{}.", signed_part.split_once('.').unwrap().1)
        };
        let claims = json!({"exp": NOW + 60});
        let hs512 = signed(&json!({"alg": "HS512"}), &claims, SECRET);
        let critical = json!({"alg": "HS256", "crit": ["b64"], "b64": true});
        for (token, refusal) in [
            (String::new(), Refusal::TokenMalformed),
            ("a.b.c".to_owned(), Refusal::TokenMalformed),
            (signed_part.to_owned(), Refusal::TokenMalformed),
            (format!("{good}.x"), Refusal::TokenMalformed),
            (none, Refusal::TokenMalformed),
            (signed(&critical, &claims, SECRET), Refusal::TokenMalformed),
            (token(&json!({"exp": "soon"})), Refusal::TokenMalformed),
            (token(&json!({"exp": -1})), Refusal::TokenMalformed),
            (token(&json!({"exp": 1e300})), Refusal::TokenMalformed),
            (hs512, Refusal::TokenAlgorithm),
            (other_claims, Refusal::TokenSignature),
            (format!("{signed_part}."), Refusal::TokenSignature),
            (
                signed(
                    &json!({"alg": "HS256"}),
                    &claims,
                    "another secret, also of 32 bytes",
                ),
                Refusal::TokenSignature,
            ),
            (token(&json!({})), Refusal::TokenEndless),
            (token(&json!({"exp": NOW - 60})), Refusal::TokenExpired),
            (
                token(&json!({"exp": NOW + 60, "nbf": NOW + 30})),
                Refusal::TokenEarly,
            ),
            (
                token(&json!({"exp": NOW + 60, "aud": "others"})),
                Refusal::TokenAudience,
            ),
        ] {
            assert_eq!(admit(&gate, &token), Err(refusal), "{token}");
        }
        let nothing = gate.admit(&HeaderMap::new(), None, now());
        assert_eq!(nothing, Err(Refusal::TokenMissing));
    }

    #[test]
    fn clocks_may_differ_by_the_leeway_and_no_more() {
        let gate = by_token();
        let leeway = LEEWAY.as_secs();
        let ended = |ago: u64| admit(&gate, &token(&json!({"exp": NOW - ago})));
        assert_eq!(
            ended(leeway - 1).unwrap().lasts,
            Some(Duration::from_secs(1))
        );
        assert_eq!(ended(leeway), Err(Refusal::TokenExpired));
        let begins = |from_now: u64| {
            admit(
                &gate,
                &token(&json!({"exp": NOW + 60, "nbf": NOW + from_now})),
            )
            .map(|_| ())
        };
        assert_eq!(begins(leeway), Ok(()));
        assert_eq!(begins(leeway + 1), Err(Refusal::TokenEarly));
    }

    #[test]
    fn a_token_for_ever_is_good_for_a_time_that_clocks_can_add() {
        let pass = admit(&by_token(), &token(&json!({"exp": u64::MAX / 2}))).unwrap();
        assert_eq!(pass.lasts, Some(LONGEST));
    }

    #[test]
    fn an_audience_that_is_set_must_be_named() {
        let gate = gate(&Settings {
            jwt_secret: Some(SECRET.into()),
            jwt_audience: Some("echo".to_owned()),
            ..Settings::default()
        });
        for (audience, admitted) in [
            (json!("echo"), true),
            (json!(["others", "echo"]), true),
            (json!("others"), false),
            (Value::Null, false),
        ] {
            let token = token(&json!({"exp": NOW + 60, "aud": audience}));
            assert_eq!(admit(&gate, &token).is_ok(), admitted, "{audience}");
        }
    }

    #[test]
    fn with_both_set_either_admits() {
        let gate = gate(&Settings {
            jwt_secret: Some(SECRET.into()),
            api_key: Some(KEY.into()),
            ..Settings::default()
        });
        let good = format!("access_token={}", token(&json!({"exp": NOW + 60})));
        let bad = "access_token=a.b.c";
        let by = |headers, query| gate.admit(&headers, query, now()).map(|pass| pass.by);
        assert_eq!(by(with_key(KEY), None), Ok(Some("api_key")));
        assert_eq!(by(with_key(KEY), Some(bad)), Ok(Some("api_key")));
        assert_eq!(by(HeaderMap::new(), Some(&good)), Ok(Some("jwt")));
        assert_eq!(by(with_key("wrong"), Some(&good)), Ok(Some("jwt")));
        assert_eq!(by(with_key("wrong"), None), Err(Refusal::KeyWrong));
        assert_eq!(
            by(with_key("wrong"), Some(bad)),
            Err(Refusal::TokenMalformed)
        );
        assert_eq!(by(HeaderMap::new(), None), Err(Refusal::TokenMissing));
    }

    #[test]
    fn with_a_key_alone_tokens_count_for_nothing() {
        let gate = gate(&Settings {
            api_key: Some(KEY.into()),
            ..Settings::default()
        });
        let good = token(&json!({"exp": NOW + 60}));
        assert_eq!(admit(&gate, &good), Err(Refusal::KeyMissing));
        let wrong = gate.admit(&with_key("a-key-of-sixteeN"), None, now());
        assert_eq!(wrong, Err(Refusal::KeyWrong));
    }

    #[test]
    fn a_secret_that_cannot_be_right_is_told_what_would_be() {
        let jwt = |secret: &str| Settings {
            jwt_secret: Some(secret.into()),
            ..Settings::default()
        };
        let key = |key: &str| Settings {
            api_key: Some(key.into()),
            ..Settings::default()
        };
        for (settings, told) in [
            (
                jwt(""),
                "the JWT secret is empty: expected at least 32 bytes",
            ),
            (
                jwt("\n"),
                "the JWT secret is empty: expected at least 32 bytes",
            ),
            (
                jwt("thirty-one bytes are not enough"),
                "the JWT secret has 31 bytes: expected at least 32",
            ),
            (key(""), "the API key is empty: expected at least 16 bytes"),
            (
                key("short"),
                "the API key has 5 bytes: expected at least 16",
            ),
            (
                key("a key with spaces in"),
                "the API key has a byte that no header carries",
            ),
            (
                Settings {
                    jwt_secret_file: Some("/nowhere/at/all".into()),
                    ..Settings::default()
                },
                "the JWT secret: cannot read /nowhere/at/all: ",
            ),
            (
                Settings {
                    jwt_secret_file: Some("/nowhere/at/all".into()),
                    ..jwt(SECRET)
                },
                "the JWT secret is set twice: keep the file or the text",
            ),
            (
                Settings {
                    jwt_audience: Some("echo".to_owned()),
                    ..Settings::default()
                },
                "--jwt-audience is set without a JWT secret",
            ),
        ] {
            let error = Gate::read(&settings).err().unwrap();
            assert!(error.starts_with(told), "{error}");
        }
    }
}
