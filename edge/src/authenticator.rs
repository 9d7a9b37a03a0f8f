//! Who a client is: what it shows, held against keys, hashes or names.
//!
//! Nothing is fetched for a request. Bad proofs have a bucket of their own for each address, which
//! is asked before anything is looked at: who guesses is stopped, and costs no signature.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::HeaderMap;
use parking_lot::Mutex;

use crate::client::Client;
use crate::config::{Auth, Proof, RouteAuth};
use crate::credentials::{self, BEARER, Place};
use crate::forward;
use crate::identity::{Certificate, Identity, Subjects};
use crate::issuer::Issuer;
use crate::jwt::{self, Claims, Verified};
use crate::keyring::Keyring;
use crate::limit::{Bucket, By, Clients, Quota};
use crate::metrics::Metrics;
use crate::refusal::Refusal;
use crate::sketch::Sketch;

/// One `[auth.NAME]` at work.
pub(crate) struct Authenticator {
    pub(crate) settings: Auth,
    keys: Keys,
    /// The bad proofs of each address.
    failures: Option<Clients>,
}

enum Keys {
    /// With what a token must say, and the tokens that were found good lately.
    Issuer(Box<Issuer>, jwt::Settings, Verified),
    /// With what was used of the keys' own limits.
    Keyring(Keyring, Mutex<HashMap<String, (Quota, Arc<Bucket>)>>),
    /// Those of whom are let in.
    Certificates(Subjects),
}

/// Tokens found good that are remembered, of all clients together.
const MOST_VERIFIED: usize = 10_000;
/// A token of an unknown key waits so long for the issuer's new keys, if they are on their way.
const PATIENCE: Duration = Duration::from_secs(1);

/// What a request shows.
pub(crate) struct Shown<'a> {
    pub(crate) headers: &'a HeaderMap,
    pub(crate) query: Option<&'a str>,
    /// Is it to become a WebSocket?
    pub(crate) websocket: bool,
    /// The certificate of the client, as its connection or a trusted proxy shows it.
    pub(crate) certificate: Option<Arc<Certificate>>,
    pub(crate) client: Client,
    /// The name of the route that it wants to use.
    pub(crate) route: &'a str,
    /// Since edge began.
    pub(crate) now: Duration,
}

/// Who was found, and where that stood.
pub(crate) struct Proven {
    pub(crate) identity: Identity,
    /// Where credentials stood that peers must not see.
    pub(crate) places: Vec<Place>,
    /// The limit of an API key's own.
    pub(crate) own_limit: Option<(Quota, Arc<Bucket>)>,
}

impl Authenticator {
    /// Begins to get keys and to follow files; must be called within a runtime. `before` goes on if
    /// it says the same.
    pub(crate) fn new(
        settings: &Auth,
        clients: usize,
        before: &[Arc<Self>],
        metrics: &Arc<Metrics>,
    ) -> Arc<Self> {
        let same = before.iter().find(|before| before.settings == *settings);
        if let Some(same) = same {
            return same.clone();
        }
        let failures = settings
            .failures
            .map(|quota| Clients::new(quota, clients, Some(Box::new(Sketch::new(quota, clients)))));
        Arc::new(Self {
            keys: Keys::new(settings, metrics),
            settings: settings.clone(),
            failures,
        })
    }

    /// The scheme by which credentials are asked for (RFC 9110 11.6.1); `None`: they are no part of
    /// a request.
    pub(crate) fn challenge(&self) -> Option<&'static str> {
        match self.keys {
            Keys::Issuer(..) => Some(BEARER),
            Keys::Keyring(..) => Some("ApiKey"),
            Keys::Certificates(_) => None,
        }
    }

    /// Who asks, and may it here? An `Err` is the answer.
    pub(crate) async fn prove(
        &self,
        shown: &Shown<'_>,
        wanted: &RouteAuth,
        by: &By,
    ) -> Result<Proven, Refusal> {
        let key = shown.client.key;
        if let Some(failures) = &self.failures
            && let Some(retry_after) = failures.wait(key, shown.now)
        {
            return Err(Refusal::AuthFailures { retry_after });
        }
        let proven = self.look(shown, wanted, by).await;
        let guessed = proven.as_ref().err().is_some_and(is_guess);
        if let Some(failures) = self.failures.as_ref().filter(|_| guessed) {
            // It is asked before the next proof is looked at.
            let _ = failures.take(key, shown.now);
        }
        proven
    }

    async fn look(
        &self,
        shown: &Shown<'_>,
        wanted: &RouteAuth,
        by: &By,
    ) -> Result<Proven, Refusal> {
        match &self.keys {
            Keys::Issuer(issuer, settings, verified) => {
                let (token, place) = self.credentials(shown)?;
                let claims = verify(&token, issuer, verified, settings).await?;
                permit(&claims, wanted, settings)?;
                Ok(Proven {
                    identity: self.bearer(&claims, &token, settings, by),
                    places: self.hidden(shown, place),
                    own_limit: None,
                })
            }
            Keys::Keyring(keyring, buckets) => {
                let (given, place) = self.credentials(shown)?;
                let keys = keyring.keys();
                let key = keys.find(given.as_bytes(), shown.route)?;
                let own_limit = key.limit.map(|quota| {
                    let mut buckets = buckets.lock();
                    // One more than there are keys, at most: some belong to keys that have gone.
                    if buckets.len() > keys.len() {
                        buckets.retain(|name, _| keys.knows(name));
                    }
                    let kept = buckets.get(&key.name).filter(|(own, _)| *own == quota);
                    let bucket = kept.map(|(_, bucket)| bucket.clone()).unwrap_or_default();
                    buckets.insert(key.name.clone(), (quota, bucket.clone()));
                    (quota, bucket)
                });
                Ok(Proven {
                    identity: self.named(key.name.clone()),
                    places: self.hidden(shown, place),
                    own_limit,
                })
            }
            Keys::Certificates(subjects) => {
                let certificate = shown.certificate.as_deref();
                let name = certificate.and_then(|certificate| subjects.permits(certificate));
                let name = name.ok_or(Refusal::CertificateNotAllowed)?;
                Ok(Proven {
                    identity: self.named(name),
                    places: Vec::new(),
                    own_limit: None,
                })
            }
        }
    }

    /// What was shown, and where.
    fn credentials<'a>(&self, shown: &Shown<'a>) -> Result<(Cow<'a, str>, &Place), Refusal> {
        let is_jwt = matches!(self.keys, Keys::Issuer(..));
        for place in &self.settings.from {
            if is_jwt && place.is_for_websockets() && !shown.websocket {
                continue;
            }
            let found = place.find(shown.headers, shown.query);
            match found {
                Ok(Some(found)) if !found.is_empty() => return Ok((found, place)),
                Ok(_) => {}
                Err(_) if is_jwt => return Err(Refusal::TokenMalformed),
                Err(_) => return Err(Refusal::KeyUnknown),
            }
        }
        Err(Refusal::CredentialsMissing)
    }

    /// The places that peers must not see: what stands beside the proof nobody has looked at, and a
    /// peer might take it for proven; the proof itself passes where it may (`forward`).
    fn hidden(&self, shown: &Shown<'_>, proof: &Place) -> Vec<Place> {
        let passes = |place: &Place| self.settings.forward && !place.is_for_websockets();
        let places = self.settings.from.iter();
        let hidden = places.filter(|place| match *place == proof {
            true => !passes(place),
            false => place.find(shown.headers, shown.query) != Ok(None),
        });
        hidden.cloned().collect()
    }

    fn bearer(&self, claims: &Claims, token: &str, settings: &jwt::Settings, by: &By) -> Identity {
        let counted = match by {
            By::Claim(path) => claims.get(path),
            _ => None,
        };
        // Who has no name is nobody else without one.
        let nameless = claims.name().is_empty();
        let counted = counted.or_else(|| nameless.then(|| credentials::digest(token)));
        let named = self.named(claims.name().to_owned());
        let mut fields = named.fields;
        fields.extend(claims.fields(settings));
        Identity {
            counted,
            fields,
            ..named
        }
    }

    fn named(&self, name: String) -> Identity {
        let value = forward::value(&name);
        let field = self.settings.field.clone().zip(value);
        Identity {
            name,
            counted: None,
            fields: field.into_iter().collect(),
        }
    }

    /// The fields that tell the peer who asks: those of a client's own never pass.
    pub(crate) fn told(&self) -> impl Iterator<Item = &http::HeaderName> {
        let claims = match &self.keys {
            Keys::Issuer(_, settings, _) => &settings.fields[..],
            _ => &[],
        };
        let claims = claims.iter().map(|(_, name)| name);
        self.settings.field.iter().chain(claims)
    }
}

impl Keys {
    fn new(settings: &Auth, metrics: &Arc<Metrics>) -> Self {
        match &settings.proof {
            Proof::Jwt {
                keys,
                ca,
                settings: wanted,
            } => {
                let issuer = Issuer::new(&settings.name, keys, ca.as_deref(), metrics);
                let verified = Verified::new(MOST_VERIFIED);
                Self::Issuer(Box::new(issuer), wanted.clone(), verified)
            }
            Proof::ApiKey { keys } => Self::Keyring(Keyring::new(keys), Mutex::default()),
            Proof::Certificate { subjects } => Self::Certificates(subjects.clone()),
        }
    }
}

/// What the token says, if it is good. One of an unknown key waits for the issuer's new keys.
async fn verify(
    token: &str,
    issuer: &Issuer,
    verified: &Verified,
    settings: &jwt::Settings,
) -> Result<Arc<Claims>, Refusal> {
    let look = || match issuer.keys() {
        Some(held) => {
            let (generation, keys) = &*held;
            let now = SystemTime::now();
            let seen = verified.verify(token, keys, settings, *generation, now);
            Ok((seen, *generation))
        }
        None => Err(Refusal::IssuerUnavailable),
    };
    let (mut seen, before) = look()?;
    if matches!(seen, Err(jwt::Bad::UnknownKey)) && issuer.refreshed(before, PATIENCE).await {
        (seen, _) = look()?;
    }
    seen.map_err(Refusal::from)
}

/// Does the token reach so far?
fn permit(claims: &Claims, wanted: &RouteAuth, settings: &jwt::Settings) -> Result<(), Refusal> {
    if !claims.has_scopes(&wanted.scopes) {
        let scopes = wanted.scopes.join(" ");
        return Err(Refusal::ScopeMissing { scopes });
    }
    let roles = settings.roles.as_ref();
    if wanted.roles.is_empty() || roles.is_some_and(|path| claims.has_role(&wanted.roles, path)) {
        return Ok(());
    }
    Err(Refusal::RoleMissing)
}

/// Could this have been a guess? Whom a token was once given, but too early or too late or for
/// something else, does not guess. Nor does who names an unknown key: no signature was looked at, and
/// it may be one that has come since the issuer was last asked.
fn is_guess(refusal: &Refusal) -> bool {
    matches!(
        refusal,
        Refusal::TokenMalformed
            | Refusal::TokenAlgorithm
            | Refusal::TokenSignature
            | Refusal::KeyUnknown
    )
}
