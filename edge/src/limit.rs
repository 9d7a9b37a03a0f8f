//! Fair shares: so many requests for each client, so many for all together.
//!
//! The client's bucket comes first: a greedy client must not drain what all share. Nothing is
//! given back when the shared bucket then refuses, or refused clients could ask for free.

mod clients;
mod quota;

pub use clients::{Clients, Overflow};
pub use quota::{Bucket, Quota};

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, Method, StatusCode};
use ring::digest::{SHA256, digest};

use crate::client::Client;
use crate::jwt::ClaimPath;
use crate::refusal::Refusal;

/// What a limit answers when it refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// Past the client's own limit.
    pub per_client: StatusCode,
    /// Past the limit that all share.
    pub global: StatusCode,
}

impl Default for Status {
    fn default() -> Self {
        Self {
            per_client: StatusCode::TOO_MANY_REQUESTS,
            global: StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// Who is one client.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum By {
    /// Whoever has the address.
    #[default]
    Address,
    /// Whom a token, an API key or a certificate names.
    Identity,
    /// Whoever has this value of a token's claim; without it, whom the token names.
    Claim(ClaimPath),
    /// Whoever sends this value in a field; without it, whoever has the address.
    Header(HeaderName),
}

impl By {
    /// Must somebody have proven who he is before his bucket is known?
    pub fn needs_identity(&self) -> bool {
        matches!(self, Self::Identity | Self::Claim(_))
    }

    /// Whose bucket it is, as long as nobody has proven anything; `None`: that must come first.
    fn key(&self, client: Client, headers: &HeaderMap) -> Option<u128> {
        match self {
            Self::Address => Some(client.key),
            Self::Header(name) => {
                let value = headers.get(name);
                Some(value.map_or(client.key, |value| key_of(value.as_bytes())))
            }
            Self::Identity | Self::Claim(_) => None,
        }
    }
}

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address => f.write_str("address"),
            Self::Identity => f.write_str("identity"),
            Self::Claim(name) => write!(f, "claim:{name}"),
            Self::Header(name) => write!(f, "header:{name}"),
        }
    }
}

/// What limits count by where that is a text: 128 bits of its SHA-256, so that nobody can choose a
/// text that is taken for another's.
pub fn key_of(text: &[u8]) -> u128 {
    let digest = digest(&SHA256, text);
    let start = digest.as_ref().first_chunk().copied();
    u128::from_be_bytes(start.unwrap_or_default())
}

/// The limits as the configuration gives them, for the file or for a route.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    /// Who is one client.
    pub by: By,
    /// Each client's share.
    pub per_client: Option<Quota>,
    /// What one address may ask, whoever it says that it is; before anything is proven.
    pub per_address: Option<Quota>,
    /// What all clients share.
    pub global: Option<Quota>,
    /// What a refusal answers.
    pub status: Status,
}

/// How many clients are told apart at once, unless the configuration says otherwise.
pub const DEFAULT_CLIENTS: usize = 100_000;

/// The limits of one route, with what has been used of them. Routes that set none of their own
/// share the file's buckets.
#[derive(Clone, Default)]
pub struct Limits {
    /// Who is one client.
    pub by: By,
    /// Each address's bucket.
    pub per_address: Option<Arc<Clients>>,
    /// Each client's bucket.
    pub per_client: Option<Arc<Clients>>,
    /// The bucket that all share.
    pub global: Option<(Quota, Arc<Bucket>)>,
    /// What a refusal answers.
    pub status: Status,
}

/// What the limits said, for the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// No limit applies: none is set.
    Unlimited,
    /// Within the limits.
    Allowed,
}

impl Limits {
    /// Takes one request from the address's bucket; and where nothing must be proven to know the
    /// client, from the client's and then from the shared one. What is left of it is
    /// [`Limits::take_proven`]'s.
    ///
    /// `now` is the time since any fixed moment before the first request.
    pub fn take(
        &self,
        client: Client,
        headers: &HeaderMap,
        now: Duration,
    ) -> Result<Decision, Refusal> {
        if let Some(addresses) = &self.per_address {
            let taken = addresses.take(client.key, now);
            taken.map_err(|retry_after| self.client_limit(retry_after))?;
        }
        match self.by.key(client, headers) {
            Some(key) => self.take_proven(key, now),
            None => Ok(Decision::Unlimited),
        }
    }

    fn client_limit(&self, retry_after: Duration) -> Refusal {
        Refusal::ClientLimit {
            status: self.status.per_client,
            retry_after,
        }
    }

    /// Takes one request from the bucket of the client with this key, once that is known, and then
    /// from the shared one.
    pub fn take_proven(&self, client: u128, now: Duration) -> Result<Decision, Refusal> {
        if let Some(clients) = &self.per_client {
            let taken = clients.take(client, now);
            taken.map_err(|retry_after| self.client_limit(retry_after))?;
        }
        self.take_shared(now)
    }

    /// Takes one request from the shared bucket.
    pub fn take_shared(&self, now: Duration) -> Result<Decision, Refusal> {
        let status = self.status;
        if let Some((quota, bucket)) = &self.global {
            bucket
                .take(quota, now)
                .map_err(|retry_after| Refusal::GlobalLimit {
                    status: status.global,
                    retry_after,
                })?;
        }
        let limited = self.per_client.is_some() || self.global.is_some();
        Ok(if limited {
            Decision::Allowed
        } else {
            Decision::Unlimited
        })
    }
}

/// Is this a CORS preflight (Fetch standard 4.8)? The browser sends it, not the person: one that edge
/// answers itself costs nothing.
pub fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
    method == Method::OPTIONS
        && headers.contains_key(http::header::ORIGIN)
        && headers.contains_key(http::header::ACCESS_CONTROL_REQUEST_METHOD)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    #[test]
    fn who_one_is_without_a_proof_is_an_address_or_what_is_sent() {
        let name = HeaderName::from_static("x-tenant");
        let sent = HeaderMap::from_iter([(name.clone(), http::HeaderValue::from_static("a"))]);
        let (one, none) = (client(1), HeaderMap::new());
        let by = By::Header(name);
        assert_eq!(by.key(one, &sent), Some(key_of(b"a")));
        assert_eq!(by.key(one, &none), Some(one.key));
        assert_eq!(By::Address.key(one, &sent), Some(one.key));
        for proven in [By::Identity, By::Claim("sub".parse().unwrap())] {
            assert_eq!(proven.key(one, &sent), None);
        }
    }

    fn client(number: u32) -> Client {
        let address = IpAddr::V4(number.into());
        Client {
            address,
            key: u128::from(number),
        }
    }

    fn limits(per_client: u64, global: u64) -> Limits {
        let quota = |count| Quota::new(count, Duration::from_secs(1), count);
        Limits {
            per_client: Some(Arc::new(Clients::new(quota(per_client), 1_000, None))),
            global: Some((quota(global), Arc::default())),
            ..Limits::default()
        }
    }

    #[test]
    fn a_greedy_client_leaves_the_others_their_share() {
        let limits = limits(10, 100);
        let now = Duration::from_secs(1);
        let greedy = (0..1_000)
            .filter(|_| limits.take(client(1), &HeaderMap::new(), now).is_ok())
            .count();
        assert_eq!(greedy, 10);
        let others = (2..11).flat_map(|n| (0..10).map(move |_| n));
        assert!(
            others
                .into_iter()
                .all(|n| limits.take(client(n), &HeaderMap::new(), now).is_ok())
        );
    }

    #[test]
    fn past_the_shared_limit_everybody_waits() {
        let limits = limits(10, 100);
        let now = Duration::from_secs(1);
        let passed = (0..300)
            .filter(|n| limits.take(client(n % 30), &HeaderMap::new(), now).is_ok())
            .count();
        assert_eq!(passed, 100);
        let refused = limits.take(client(99), &HeaderMap::new(), now).unwrap_err();
        assert_eq!(
            (refused.status().as_u16(), refused.reason()),
            (503, "global_limit")
        );
    }

    #[test]
    fn no_limit_counts_nothing() {
        assert_eq!(
            Limits::default().take(client(1), &HeaderMap::new(), Duration::ZERO),
            Ok(Decision::Unlimited)
        );
    }

    #[test]
    fn only_a_whole_preflight_is_free() {
        let mut headers = HeaderMap::new();
        headers.insert("origin", "https://a.example".parse().unwrap());
        assert!(!is_preflight(&Method::OPTIONS, &headers));
        headers.insert("access-control-request-method", "PUT".parse().unwrap());
        assert!(is_preflight(&Method::OPTIONS, &headers));
        assert!(!is_preflight(&Method::GET, &headers));
    }
}
