//! Where the cache keeps answers: in memory, bounded in bytes with all overhead, the least used
//! first to go.
//!
//! An answer is kept only when it is complete, so nobody can ever read one that was cut off.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use pingora::cache::key::{CacheHashKey, HashBinary};
use pingora::cache::storage::{
    HandleHit, HandleMiss, HitHandler, MissFinishType, MissHandler, PurgeOutcome, PurgeTarget,
    PurgeType, Storage,
};
use pingora::cache::trace::SpanHandle;
use pingora::cache::{CacheKey, CacheMeta};
use pingora::http::ResponseHeader;
use pingora::{Error, ErrorType, Result};
use quick_cache::sync::Cache;
use quick_cache::{DefaultHashBuilder, Lifecycle, OptionsBuilder, Weighter};

/// See the module. Kept for the life of the process, as Pingora asks.
pub(crate) struct Store {
    answers: Cache<HashBinary, Arc<Answer>, Weight, DefaultHashBuilder, Evictions>,
    evictions: Evictions,
    object: usize,
}

/// One kept answer.
struct Answer {
    fresh_until: SystemTime,
    created: SystemTime,
    updated: SystemTime,
    epoch: Option<SystemTime>,
    stale_while_revalidate: u32,
    stale_if_error: u32,
    variance: Option<HashBinary>,
    header: ResponseHeader,
    body: Bytes,
}

/// What an answer costs beside its own bytes: the entry, its place in the table, the header
/// map's slots, rounded up.
const OVERHEAD: u64 = 1_024;

#[derive(Clone)]
struct Weight;

impl Weighter<HashBinary, Arc<Answer>> for Weight {
    fn weight(&self, _: &HashBinary, answer: &Arc<Answer>) -> u64 {
        let fields = answer
            .header
            .headers
            .iter()
            .map(|(name, value)| 2 * name.as_str().len() + value.len() + 64);
        OVERHEAD + (answer.body.len() + fields.sum::<usize>()) as u64
    }
}

#[derive(Clone, Default)]
struct Evictions(Arc<AtomicU64>);

impl Lifecycle<HashBinary, Arc<Answer>> for Evictions {
    /// The last answer evicted: it is freed when the shard's lock has been given back.
    type RequestState = Option<Arc<Answer>>;

    fn on_evict(&self, evicted: &mut Self::RequestState, _: HashBinary, answer: Arc<Answer>) {
        *evicted = Some(answer);
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Store {
    /// A store of at most `memory` bytes, in which one answer takes at most `object`.
    pub(crate) fn new(memory: u64, object: u64) -> Self {
        let evictions = Evictions::default();
        // Each shard holds its part of the whole: it must have room for several of the largest.
        let shards = usize::try_from(memory / (4 * (object + OVERHEAD)))
            .unwrap_or(1)
            .clamp(1, 16);
        let options = OptionsBuilder::new()
            .estimated_items_capacity(
                usize::try_from(memory / 8_192)
                    .unwrap_or(1)
                    .clamp(64, 1 << 20),
            )
            .weight_capacity(memory)
            .shards(shards)
            .build();
        // Every option that must be set is set, so there are options.
        let answers = match options {
            Ok(options) => Cache::with_options(
                options,
                Weight,
                DefaultHashBuilder::default(),
                evictions.clone(),
            ),
            Err(_) => Cache::with(
                64,
                memory,
                Weight,
                DefaultHashBuilder::default(),
                evictions.clone(),
            ),
        };
        Self {
            answers,
            evictions,
            object: usize::try_from(object).unwrap_or(usize::MAX),
        }
    }

    /// Bytes held, with overhead.
    pub(crate) fn bytes(&self) -> u64 {
        self.answers.weight()
    }

    /// Answers held.
    pub(crate) fn entries(&self) -> usize {
        self.answers.len()
    }

    /// Answers that made room for others since the start.
    pub(crate) fn evictions(&self) -> u64 {
        self.evictions.0.load(Ordering::Relaxed)
    }

    /// The largest answer kept, in bytes.
    pub(crate) fn object(&self) -> usize {
        self.object
    }
}

impl Answer {
    fn new(meta: &CacheMeta, body: Bytes) -> Self {
        Self {
            fresh_until: meta.fresh_until(),
            created: meta.created(),
            updated: meta.updated(),
            epoch: meta.epoch_override(),
            stale_while_revalidate: meta.stale_while_revalidate_sec(),
            stale_if_error: meta.stale_if_error_sec(),
            variance: meta.variance(),
            header: meta.response_header_copy(),
            body,
        }
    }

    fn meta(&self) -> CacheMeta {
        let header = self.header.clone();
        let (swr, sie) = (self.stale_while_revalidate, self.stale_if_error);
        let mut meta = CacheMeta::new(self.fresh_until, self.created, swr, sie, header);
        // A new meta counts as updated when it was created; its age runs from the epoch.
        let epoch = self
            .epoch
            .or((self.updated != self.created).then_some(self.updated));
        if let Some(epoch) = epoch {
            meta.set_epoch_override(epoch);
        }
        if let Some(variance) = self.variance {
            meta.set_variance(variance);
        }
        meta
    }
}

#[async_trait]
impl Storage for Store {
    async fn lookup(
        &'static self,
        key: &CacheKey,
        _: &SpanHandle,
    ) -> Result<Option<(CacheMeta, HitHandler)>> {
        let answer = self.answers.get(&key.combined_bin());
        Ok(answer.map(|answer| {
            let hit = Hit {
                left: Some(answer.body.clone()),
                whole: answer.body.clone(),
            };
            (answer.meta(), Box::new(hit) as HitHandler)
        }))
    }

    async fn get_miss_handler(
        &'static self,
        key: &CacheKey,
        meta: &CacheMeta,
        _: &SpanHandle,
    ) -> Result<MissHandler> {
        let answer = Answer::new(meta, Bytes::new());
        Ok(Box::new(Miss {
            store: self,
            key: key.combined_bin(),
            answer,
            body: BytesMut::new(),
            complete: false,
        }))
    }

    async fn purge(
        &'static self,
        target: PurgeTarget<'_>,
        _: PurgeType,
        _: &SpanHandle,
    ) -> Result<PurgeOutcome> {
        let removed = self.answers.remove(&target.key().combined_bin());
        Ok(if removed.is_some() {
            PurgeOutcome::Purged(None)
        } else {
            PurgeOutcome::NotFound
        })
    }

    async fn update_meta(
        &'static self,
        key: &CacheKey,
        meta: &CacheMeta,
        _: &SpanHandle,
    ) -> Result<bool> {
        let key = key.combined_bin();
        // It may have been evicted since it was read: then there is nothing to update.
        let Some(old) = self.answers.peek(&key) else {
            return Ok(false);
        };
        self.answers
            .insert(key, Arc::new(Answer::new(meta, old.body.clone())));
        Ok(true)
    }

    fn as_any(&self) -> &(dyn Any + Send + Sync) {
        self
    }
}

/// An answer on its way out; the bytes are shared, not copied.
struct Hit {
    whole: Bytes,
    left: Option<Bytes>,
}

#[async_trait]
impl HandleHit for Hit {
    async fn read_body(&mut self) -> Result<Option<Bytes>> {
        Ok(self.left.take().filter(|body| !body.is_empty()))
    }

    async fn finish(
        self: Box<Self>,
        _: &'static (dyn Storage + Sync),
        _: &CacheKey,
        _: &SpanHandle,
    ) -> Result<()> {
        Ok(())
    }

    fn can_seek(&self) -> bool {
        true
    }

    fn seek(&mut self, start: usize, end: Option<usize>) -> Result<()> {
        let end = end.map_or(self.whole.len(), |end| end.min(self.whole.len()));
        if start >= end {
            return Error::e_explain(ErrorType::InternalError, "a range outside the answer");
        }
        self.left = Some(self.whole.slice(start..end));
        Ok(())
    }

    fn get_eviction_weight(&self) -> usize {
        self.whole.len()
    }

    fn as_any(&self) -> &(dyn Any + Send + Sync) {
        self
    }

    fn as_any_mut(&mut self) -> &mut (dyn Any + Send + Sync) {
        self
    }
}

/// An answer on its way in.
struct Miss {
    store: &'static Store,
    key: HashBinary,
    answer: Answer,
    body: BytesMut,
    complete: bool,
}

#[async_trait]
impl HandleMiss for Miss {
    async fn write_body(&mut self, data: Bytes, eof: bool) -> Result<()> {
        if self.body.len().saturating_add(data.len()) > self.store.object {
            return Error::e_explain(
                ErrorType::InternalError,
                "the answer outgrew `cache.object`",
            );
        }
        self.body.extend_from_slice(&data);
        self.complete |= eof;
        Ok(())
    }

    async fn finish(self: Box<Self>) -> Result<MissFinishType> {
        if !self.complete {
            return Error::e_explain(ErrorType::InternalError, "the answer never became complete");
        }
        let size = self.body.len();
        // Room that the writing reserved and did not need would be kept for an hour.
        let body = Bytes::copy_from_slice(&self.body);
        self.store.answers.insert(
            self.key,
            Arc::new(Answer {
                body,
                ..self.answer
            }),
        );
        Ok(MissFinishType::Created(size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pingora::cache::trace::Span;
    use std::time::Duration;

    fn store(memory: u64) -> &'static Store {
        Box::leak(Box::new(Store::new(memory, memory / 4)))
    }

    fn meta() -> CacheMeta {
        let now = SystemTime::now();
        CacheMeta::new(
            now + Duration::from_secs(60),
            now,
            0,
            0,
            ResponseHeader::build(200, None).unwrap(),
        )
    }

    async fn keep(
        store: &'static Store,
        key: &CacheKey,
        body: &[u8],
        complete: bool,
    ) -> Result<()> {
        let mut miss = store
            .get_miss_handler(key, &meta(), &Span::inactive().handle())
            .await?;
        miss.write_body(Bytes::copy_from_slice(body), complete)
            .await?;
        miss.finish().await.map(drop)
    }

    async fn body(store: &'static Store, key: &CacheKey) -> Option<Bytes> {
        let (_, mut hit) = store
            .lookup(key, &Span::inactive().handle())
            .await
            .unwrap()?;
        hit.read_body().await.unwrap()
    }

    #[tokio::test]
    async fn what_was_kept_is_found_again() {
        let (store, key) = (store(1 << 20), CacheKey::new("a", ""));
        keep(store, &key, b"hello", true).await.unwrap();
        assert_eq!(body(store, &key).await.unwrap(), "hello");
        assert!(body(store, &CacheKey::new("b", "")).await.is_none());
    }

    #[tokio::test]
    async fn a_cut_off_answer_is_never_kept() {
        let (store, key) = (store(1 << 20), CacheKey::new("a", ""));
        assert!(keep(store, &key, b"hel", false).await.is_err());
        assert!(body(store, &key).await.is_none());
    }

    #[tokio::test]
    async fn the_store_never_outgrows_its_bound() {
        let store = store(256 << 10);
        for number in 0..2_000 {
            keep(
                store,
                &CacheKey::new(number.to_string(), ""),
                &[7; 2_000],
                true,
            )
            .await
            .unwrap();
            assert!(store.bytes() <= 256 << 10);
        }
        assert!(store.entries() > 20 && store.evictions() > 1_000);
    }

    #[tokio::test]
    async fn a_range_is_read_from_the_whole() {
        let (store, key) = (store(1 << 20), CacheKey::new("a", ""));
        keep(store, &key, b"hello", true).await.unwrap();
        let (_, mut hit) = store
            .lookup(&key, &Span::inactive().handle())
            .await
            .unwrap()
            .unwrap();
        hit.seek(1, Some(3)).unwrap();
        assert_eq!(hit.read_body().await.unwrap().unwrap(), "el");
        hit.seek(4, Some(99)).unwrap();
        assert_eq!(hit.read_body().await.unwrap().unwrap(), "o");
        assert!(hit.seek(5, None).is_err());
    }
}
