//! Between the cache's policy and Pingora's cache.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderValue};
use pingora::cache::key::HashBinary;
use pingora::cache::{
    CacheKey, CacheMeta, CacheOptionOverrides, CachePhase, NoCacheReason, RespCacheable,
    VarianceBuilder,
};
use pingora::http::ResponseHeader;
use pingora::proxy::Session;

use super::request::{forwarded, host_and_port};
use super::{Context, Gateway, Held};
use crate::exchange::{CacheState, Exchange};
use crate::{cache, respond};

impl Gateway {
    /// Lets the cache take part where the route has one and the request may use it.
    pub(super) fn enable_cache(&self, session: &mut Session, context: &mut Context) {
        if context.rule().is_none_or(|rule| rule.cache.is_none()) {
            return;
        }
        let exchange = &mut context.exchange;
        let request = session.req_header();
        if let Err(reason) = cache::admit(&request.method, &request.headers) {
            exchange.cache = CacheState::Bypass;
            exchange.cache_reason = Some(reason.as_str());
            return;
        }
        exchange.cache = CacheState::Miss;
        let mut wait = CacheOptionOverrides::default();
        wait.wait_timeout = context.connection.deadline.left();
        let (lock, predictor) = (Some(self.lock), Some(self.predictor as _));
        session
            .cache
            .enable(self.store, None, predictor, lock, Some(wait));
        session.cache.set_max_file_size_bytes(self.store.object());
    }
}

pub(super) fn key(session: &Session, context: &Held) -> CacheKey {
    let request = session.req_header();
    let host = host_and_port(request).unwrap_or_default();
    let (path, query) = (request.uri.path(), request.uri.query());
    let forwarded = forwarded(&request.headers, context);
    let scheme = forwarded.proto.unwrap_or(context.exchange.scheme);
    let told = forwarded.host.map(HeaderValue::as_bytes);
    let route = context.rule().map_or(0, |rule| rule.kept_under);
    CacheKey::new(cache::key(route, scheme, host, told, path, query), "")
}

/// May the answer be kept, and until when?
pub(super) fn judge(answer: &ResponseHeader, context: &mut Held) -> RespCacheable {
    let uncacheable = RespCacheable::Uncacheable(NoCacheReason::OriginNotCache);
    let Some(policy) = context.rule().and_then(|rule| rule.cache) else {
        return uncacheable;
    };
    if answer.status.is_informational() {
        return uncacheable;
    }
    let now = SystemTime::now();
    match cache::keep(policy, answer.status, &answer.headers, now) {
        Ok(left) => {
            let age = cache::age(&answer.headers, now);
            let created = now.checked_sub(age).unwrap_or(now);
            let meta = CacheMeta::new(now + left, created, 0, 0, answer.clone());
            RespCacheable::Cacheable(meta)
        }
        Err(reason) => {
            context.exchange.cache_reason = Some(reason.as_str());
            uncacheable
        }
    }
}

/// What tells the variants of an answer apart: the request's fields that its `Vary` names.
pub(super) fn variance(answer: &HeaderMap, request: &HeaderMap) -> Option<HashBinary> {
    let names = cache::vary(answer).unwrap_or_default();
    let mut variance = VarianceBuilder::new();
    for name in &names {
        // Length before text: two fields are not one field with a comma.
        let mut value = Vec::new();
        for field in request.get_all(name) {
            value.extend_from_slice(&field.len().to_be_bytes());
            value.extend_from_slice(field.as_bytes());
        }
        variance.add_owned_value(name.as_str(), value);
    }
    variance.finalize()
}

/// Notes what the cache did, and says it as RFC 9211 does; `None` on a route without a cache.
pub(super) fn status(session: &Session, exchange: &mut Exchange) -> Option<String> {
    if exchange.cache == CacheState::Off {
        return None;
    }
    exchange.cache = match session.cache.phase() {
        CachePhase::Hit => CacheState::Hit,
        CachePhase::Miss => CacheState::Miss,
        CachePhase::Expired => CacheState::Expired,
        CachePhase::Revalidated | CachePhase::RevalidatedNoCache(_) => CacheState::Revalidated,
        CachePhase::Stale | CachePhase::StaleUpdating => CacheState::Stale,
        CachePhase::Bypass => CacheState::Bypass,
        CachePhase::Disabled(_) | CachePhase::Uninit | CachePhase::CacheKey => exchange.cache,
    };
    if let CachePhase::Disabled(reason) = session.cache.phase() {
        exchange.cache_reason.get_or_insert(match reason {
            NoCacheReason::ResponseTooLarge | NoCacheReason::PredictedResponseTooLarge => {
                "too_large"
            }
            _ => "lock",
        });
    } else if exchange.cache == CacheState::Bypass {
        exchange.cache_reason.get_or_insert("not_kept_before");
    }
    let meta = session.cache.maybe_cache_meta();
    let now = SystemTime::now();
    let left = meta.map(|meta| meta.fresh_until().duration_since(now).unwrap_or_default());
    let ttl = left.map(|left| (left + Duration::from_millis(500)).as_secs());
    respond::cache_status(exchange, ttl)
}
