//! What a shared cache may keep and hand out (RFC 9111), decided for safety: no client ever sees
//! another's answer.
//!
//! Each room is one step: `request` reads what the client wants, `keep` judges an answer, `reuse`
//! judges what is kept; `key` and `vary` tell answers apart, `validate` and `range` answer
//! conditions, `invalidate` and `tag` say what to forget, `status` tells the client (RFC 9211).
//! None of them knows a clock, a store or the network.

use std::time::Duration;

use http::header::HeaderName;
use http::{Method, StatusCode};

mod control;
mod entity_tag;
mod field;
mod invalidate;
mod keep;
mod key;
mod lifetime;
mod range;
mod request;
mod reuse;
mod status;
mod tag;
mod validate;
mod vary;

pub use control::{Directive, directives};
pub use invalidate::{invalidates, targets};
pub use keep::keep;
pub use key::{Asking, key};
pub use lifetime::Lifetime;
pub use range::{Part, content_range, part};
pub use request::{Asked, admit};
pub use reuse::{Despite, Reuse, Why, reuse};
pub use status::{Fwd, Told};
pub use tag::{FIELDS as TAG_FIELDS, LONGEST_TAG, MOST_TAGS, tags};
pub use validate::{conditions, has_validator, is_answered_by, not_modified, same, updates};
pub use vary::{MOST_VARY, Selection, names};

/// How a route caches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// How long an answer stays fresh whose upstream says nothing about it; `None`: it is not kept.
    pub ttl: Option<Duration>,
    /// `ttl` holds whatever the upstream says about time. `no-store`, `private`, `Set-Cookie` and
    /// `Vary: *` are heeded all the same.
    pub overrides: bool,
    /// What the upstream says about time counts for at least this long (never for no-store,
    /// private, no-cache).
    pub ttl_min: Option<Duration>,
    /// Where neither the upstream nor `ttl` says how long: this percentage of the time since
    /// `Last-Modified` (RFC 9111 4.2.2), at most a day.
    pub heuristic: Option<u8>,
    /// The methods answered from the cache: GET, and HEAD by default.
    pub methods: Vec<Method>,
    /// `ttl` and `heuristic` hold for answers of these statuses.
    pub statuses: Vec<StatusCode>,
    /// `ttl` of its own for a status (errors, mostly).
    pub negative: Vec<(StatusCode, Duration)>,
    /// Answers are told apart by these request fields as if the upstream named them in `Vary`.
    pub vary: Vec<HeaderName>,
    /// What of the request tells answers apart beside route, scheme and host.
    pub key: Vec<KeyPart>,
    /// Names of query parameters that do not count; a last `*` stands for any rest.
    pub ignore_query: Vec<String>,
    /// What becomes of answers to requests with credentials (`Authorization`, `Cookie`).
    pub private_by: PrivateBy,
    /// How long past its time an answer is handed out while edge asks again (RFC 5861 3), where
    /// the upstream does not say.
    pub stale_while_revalidate: Option<Duration>,
    /// How long past its time an answer stands in for an upstream that fails (RFC 5861 4), where
    /// the upstream does not say.
    pub stale_if_error: Option<Duration>,
    /// How long past its time an answer stands in for an upstream that does not answer at all,
    /// where nothing forbids it (RFC 9111 4.2.4). The key `stale_if_error` sets it, too.
    pub stale_if_unreachable: Option<Duration>,
    /// Larger bodies are not kept; `None`: `[cache] object` alone decides.
    pub max_object: Option<u64>,
}

/// Unless the route says otherwise, an answer stands in for an upstream that is gone for so long.
pub const UNREACHABLE: Duration = Duration::from_secs(3_600);

impl Policy {
    /// `cache = "1h"` (Some) or `cache = { ttl = "off" }` (None): everything else as by default.
    pub fn new(ttl: Option<Duration>) -> Self {
        Self {
            ttl,
            overrides: false,
            ttl_min: None,
            heuristic: None,
            methods: vec![Method::GET, Method::HEAD],
            statuses: vec![
                StatusCode::OK,
                StatusCode::NON_AUTHORITATIVE_INFORMATION,
                StatusCode::NO_CONTENT,
                StatusCode::MULTIPLE_CHOICES,
                StatusCode::MOVED_PERMANENTLY,
                StatusCode::PERMANENT_REDIRECT,
            ],
            negative: Vec::new(),
            vary: Vec::new(),
            key: vec![KeyPart::Path, KeyPart::Query],
            ignore_query: Vec::new(),
            private_by: PrivateBy::Nobody,
            stale_while_revalidate: None,
            stale_if_error: None,
            stale_if_unreachable: Some(UNREACHABLE),
            max_object: None,
        }
    }
}

/// A part of the request that tells answers apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyPart {
    /// The path.
    Path,
    /// The query, without the parameters that do not count.
    Query,
    /// One parameter of the query, as `query:page`.
    QueryName(String),
    /// A request field, as `header:Accept-Language`.
    Header(HeaderName),
}

/// What becomes of answers to requests with credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PrivateBy {
    /// Only answers that the upstream says may be shared (`public`, `s-maxage`, `must-revalidate`:
    /// RFC 9111 3.5) are kept for requests with credentials, and handed out to them.
    #[default]
    Nobody,
    /// Each identity's answers are kept apart: the credentials' digest is part of the key.
    Identity,
}

/// Why the cache was passed by, or an answer not kept; the word in log and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The route does not cache this method.
    Method,
    /// The request has a body.
    Body,
    /// The request's target is not UTF-8: what edge reads is not what the peer would.
    Target,
    /// `Connection` takes fields away that may tell answers apart.
    Connection,
    /// The request is for one state alone (`If-Match`, `If-Unmodified-Since`).
    Precondition,
    /// The request carries credentials, and the answer is not said to be for all.
    Credentials,
    /// The client says `no-store`.
    NoStore,
    /// The answer's status is one that edge never keeps or does not understand.
    Status,
    /// The upstream says `no-store` or `private`.
    CacheControl,
    /// The answer sets a cookie.
    SetCookie,
    /// The answer varies by everything, or by more than edge tells apart.
    Vary,
    /// Nothing says how long, or it has no time and no validator.
    NoTime,
    /// The body is larger than the route or the store keeps.
    TooLarge,
}

impl Reason {
    /// Every reason: the metric's labels.
    pub const ALL: [Self; 13] = [
        Self::Method,
        Self::Body,
        Self::Target,
        Self::Connection,
        Self::Precondition,
        Self::Credentials,
        Self::NoStore,
        Self::Status,
        Self::CacheControl,
        Self::SetCookie,
        Self::Vary,
        Self::NoTime,
        Self::TooLarge,
    ];

    /// The word in log and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Method => "method",
            Self::Body => "body",
            Self::Target => "target",
            Self::Connection => "connection",
            Self::Precondition => "precondition",
            Self::Credentials => "credentials",
            Self::NoStore => "no_store",
            Self::Status => "status",
            Self::CacheControl => "cache_control",
            Self::SetCookie => "set_cookie",
            Self::Vary => "vary",
            Self::NoTime => "no_time",
            Self::TooLarge => "too_large",
        }
    }
}

#[cfg(test)]
mod tests;
