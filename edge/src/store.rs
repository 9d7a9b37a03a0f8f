//! Where the cache keeps answers: in memory, bounded in bytes with all overhead, the least used
//! first to go.
//!
//! A resource is what one key names; its variants are the answers that its `Vary` tells apart.
//! Only complete answers come here, so nobody can ever read one that was cut off.

mod mark;
mod top;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use bytes::Bytes;
use http::HeaderMap;
use parking_lot::Mutex;
use pingora::http::ResponseHeader;
use quick_cache::sync::Cache;
use quick_cache::{DefaultHashBuilder, Equivalent, Lifecycle, OptionsBuilder, Weighter};

use crate::cache::{Lifetime, Selection};
use mark::{Held, Marks, Standing};
pub(crate) use mark::{Purge, Target};
pub(crate) use top::Top;

/// See the module.
#[derive(Debug)]
pub(crate) struct Store {
    resources: Cache<Key, Arc<Resource>, Weight, DefaultHashBuilder, Evicting>,
    /// Whoever adds to a resource holds the lock of its part.
    writing: [Mutex<()>; PARTS],
    marks: Arc<Marks>,
    evictions: AtomicU64,
    memory: u64,
    object: u64,
    /// More bytes than this are not kept under one key: the oldest variants go.
    most_of_one: usize,
    /// What has not arrived completely, in bytes, and how much that may be.
    arriving: AtomicU64,
    most_arriving: u64,
}

/// The locks that keep two writers of one resource apart.
const PARTS: usize = 16;
/// More variants of one resource are not kept: the oldest one goes.
const MOST_VARIANTS: usize = 32;
/// So many fifths of the memory are for answers; the rest is for what fetching them needs, and for
/// what the allocator cannot use.
const HELD: u64 = 4;
/// What an answer costs beside its own bytes: the entry, its name, its place in the table.
const OVERHEAD: usize = 1_024;
/// What a place for a field in a head costs beside the field's own bytes.
const FIELD: usize = 128;
/// The allocator rounds up by as much as this part.
const ROUNDING: usize = 8;

/// The bytes of `cache::key`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key(Arc<[u8]>);

/// The same, borrowed.
#[derive(Hash)]
struct Sought<'a>(&'a [u8]);

impl Equivalent<Key> for Sought<'_> {
    fn equivalent(&self, key: &Key) -> bool {
        *self.0 == *key.0
    }
}

/// What one key names: its variants, the newest first.
#[derive(Debug)]
struct Resource(Vec<Arc<Entry>>);

/// One kept answer.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Without hop-by-hop fields, without framing but for `Content-Length`.
    pub(crate) head: ResponseHeader,
    pub(crate) body: Bytes,
    pub(crate) lifetime: Lifetime,
    pub(crate) selection: Selection,
    /// What it answers: host, path and query.
    pub(crate) name: Arc<Name>,
    marks: Held,
    hits: AtomicU64,
}

/// What an answer answers, for purges and for people.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Name {
    pub(crate) route: String,
    pub(crate) host: String,
    /// With the query, if there is one.
    pub(crate) path: String,
}

/// What the store has for a request.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) entry: Option<Arc<Entry>>,
    /// A purge has made it stale since then.
    pub(crate) stale_since: Option<SystemTime>,
    /// Another variant is there: what tells them apart, as this request has it.
    pub(crate) variant: Option<Selection>,
}

/// Room for an answer on its way in.
#[derive(Debug)]
pub(crate) struct Room {
    store: &'static Store,
    bytes: u64,
}

#[derive(Debug, Clone)]
struct Weight;

impl Weighter<Key, Arc<Resource>> for Weight {
    fn weight(&self, key: &Key, resource: &Arc<Resource>) -> u64 {
        let variants = resource.0.iter().map(|entry| entry.bytes());
        (key.0.len() + variants.sum::<usize>()) as u64
    }
}

/// Hands what has to go to the one whose answer took its place: it is dropped outside the lock.
#[derive(Debug, Clone, Copy)]
struct Evicting;

impl Lifecycle<Key, Arc<Resource>> for Evicting {
    type RequestState = Vec<(Key, Arc<Resource>)>;

    fn on_evict(&self, gone: &mut Self::RequestState, key: Key, resource: Arc<Resource>) {
        gone.push((key, resource));
    }
}

impl Entry {
    /// What it costs, in bytes.
    fn bytes(&self) -> usize {
        let fields = self.head.headers.iter().map(|(_, value)| value.len());
        let name = self.name.route.len() + self.name.host.len() + self.name.path.len();
        OVERHEAD
            + self.body.len()
            + self.body.len() / ROUNDING
            + self.head.headers.capacity() * FIELD
            + fields.sum::<usize>()
            + name
            + self.selection.bytes()
            + self.marks.bytes()
    }

    /// It has answered once more.
    pub(crate) fn hit(&self) {
        self.hits.fetch_add(1, Ordering::Relaxed);
    }

    /// The same answer, its head and its time as the upstream has confirmed them; `None` if it
    /// has been purged since `born`.
    pub(crate) fn freshened(
        &self,
        born: u64,
        head: ResponseHeader,
        lifetime: Lifetime,
        selection: Selection,
    ) -> Option<Self> {
        Some(Self {
            head,
            body: self.body.clone(),
            lifetime,
            selection,
            name: self.name.clone(),
            marks: self.marks.renewed(born)?,
            hits: AtomicU64::new(self.hits.load(Ordering::Relaxed)),
        })
    }
}

impl Store {
    /// For a process whose cache may take `memory` bytes; no answer with a body larger than
    /// `object` is held.
    pub(crate) fn new(memory: u64, object: u64) -> Self {
        let held = memory / 5 * HELD;
        // Each shard holds its part of the whole: it must have room for several of the largest.
        // Their number is a power of two.
        let largest = object.saturating_add(OVERHEAD as u64).saturating_mul(4);
        let shards = (held / largest.max(1)).clamp(1, 16).ilog2();
        // Too few, and what is read in a circle is never hit.
        let items = usize::try_from(held / 4_096).unwrap_or(1);
        let options = OptionsBuilder::new()
            .estimated_items_capacity(items.clamp(64, 1 << 20))
            .weight_capacity(held)
            .shards(1 << shards)
            .build();
        // Every option that must be set is set, so there are options.
        let hasher = DefaultHashBuilder::default();
        let resources = match options {
            Ok(options) => Cache::with_options(options, Weight, hasher, Evicting),
            Err(_) => Cache::with(64, held, Weight, hasher, Evicting),
        };
        // What fills a shard would not be taken in, and what was there before would be lost.
        let most_of_one = usize::try_from(resources.shard_capacity() / 2).unwrap_or(usize::MAX);
        Self {
            resources,
            writing: std::array::from_fn(|_| Mutex::default()),
            marks: Arc::default(),
            evictions: AtomicU64::new(0),
            memory,
            object,
            most_of_one,
            arriving: AtomicU64::new(0),
            most_arriving: (memory / 4).max(object),
        }
    }

    /// What is kept under this key for a request with these fields.
    pub(crate) fn find(&self, key: &[u8], request: &HeaderMap) -> Found {
        let Some(resource) = self.resources.get(&Sought(key)) else {
            return Found::default();
        };
        let mut found = Found::default();
        for entry in &resource.0 {
            if !entry.selection.matches(request) {
                continue;
            }
            match self.marks.standing(&entry.marks) {
                Standing::Good => {}
                Standing::Stale(since) => found.stale_since = Some(since),
                Standing::Gone => continue,
            }
            found.entry = Some(entry.clone());
            return found;
        }
        let other = resource.0.iter().find(|entry| !entry.selection.is_empty());
        found.variant = other.map(|entry| entry.selection.again(request));
        found
    }

    /// The moment from which a fetch counts: purges that come later hit what it brings.
    pub(crate) fn generation(&self) -> u64 {
        self.marks.generation()
    }

    /// Has a purge hit, or may it have hit, an answer of this name that was asked for at `born`
    /// and has not come yet?
    pub(crate) fn may_be_purged(&self, born: u64, name: &Name) -> bool {
        self.marks.may_have_hit(born, name)
    }

    /// Keeps this answer, in place of the one that it was told apart from by nothing. `born`: the
    /// generation when it was asked for.
    pub(crate) fn keep(&self, key: &[u8], born: u64, kept: Kept) -> Option<Arc<Entry>> {
        let marks = Marks::hold(&self.marks, born, &kept.name, &kept.tags)?;
        let entry = Arc::new(Entry {
            head: kept.head,
            body: kept.body,
            lifetime: kept.lifetime,
            selection: kept.selection,
            name: kept.name,
            marks,
            hits: AtomicU64::new(0),
        });
        self.put(key, entry.clone());
        Some(entry)
    }

    /// Puts a freshened answer in the place of the one that it was made of.
    pub(crate) fn freshen(&self, key: &[u8], old: &Entry, new: Entry) -> Arc<Entry> {
        let new = Arc::new(new);
        let _writing = self.writing(key).lock();
        let resource = self.resources.peek(&Sought(key));
        let variants = resource.iter().flat_map(|resource| &resource.0);
        // It may have been evicted, purged or replaced since it was read.
        let variants: Vec<_> = variants
            .map(|entry| match std::ptr::eq(&**entry, old) {
                true => new.clone(),
                false => entry.clone(),
            })
            .collect();
        if variants.iter().any(|entry| Arc::ptr_eq(entry, &new)) {
            self.insert(key, variants);
        }
        new
    }

    /// Keeps this answer no longer.
    pub(crate) fn forget(&self, key: &[u8], old: &Entry) {
        let _writing = self.writing(key).lock();
        let Some(resource) = self.resources.peek(&Sought(key)) else {
            return;
        };
        let others = resource
            .0
            .iter()
            .filter(|entry| !std::ptr::eq(&***entry, old));
        let others: Vec<_> = others.cloned().collect();
        if others.is_empty() {
            self.resources.remove(&Sought(key));
        } else if others.len() < resource.0.len() {
            self.insert(key, others);
        }
    }

    fn put(&self, key: &[u8], entry: Arc<Entry>) {
        let _writing = self.writing(key).lock();
        let resource = self.resources.peek(&Sought(key));
        let old = resource.iter().flat_map(|resource| &resource.0);
        let old = old.filter(|old| {
            old.selection != entry.selection && self.marks.standing(&old.marks) != Standing::Gone
        });
        let mut bytes = entry.bytes();
        let old = old.take(MOST_VARIANTS - 1).take_while(|old| {
            bytes += old.bytes();
            bytes <= self.most_of_one
        });
        let old: Vec<_> = old.cloned().collect();
        let variants = std::iter::once(entry).chain(old).collect();
        self.insert(key, variants);
    }

    fn insert(&self, key: &[u8], variants: Vec<Arc<Entry>>) {
        let resource = Arc::new(Resource(variants));
        let mut gone = Vec::new();
        self.resources
            .insert_with_lifecycle(Key(Arc::from(key)), resource, &mut gone);
        // What was there under the same key has made room for nobody else.
        let others = gone.iter().filter(|(other, _)| *other.0 != *key);
        self.evictions
            .fetch_add(others.count() as u64, Ordering::Relaxed);
    }

    fn writing(&self, key: &[u8]) -> &Mutex<()> {
        let part = key.iter().fold(0_usize, |sum, &byte| {
            sum.wrapping_mul(31).wrapping_add(usize::from(byte))
        });
        self.writing.get(part % PARTS).unwrap_or(&self.writing[0])
    }

    /// Takes out of service what the target names; tells how many answers that is.
    pub(crate) fn purge(&self, target: &Target, purge: Purge, now: SystemTime) -> u64 {
        self.marks.purge(target, purge, now)
    }

    /// Room for `bytes` of an answer on its way in; `None`: too much is on its way already, or it
    /// is too large to be kept.
    pub(crate) fn room(&'static self, bytes: u64) -> Option<Room> {
        let mut room = Room {
            store: self,
            bytes: 0,
        };
        room.grow_to(bytes).then_some(room)
    }

    /// The largest body kept, in bytes.
    pub(crate) fn object(&self) -> u64 {
        self.object
    }

    /// Bytes held, with overhead.
    pub(crate) fn bytes(&self) -> u64 {
        self.resources.weight()
    }

    /// Resources held.
    pub(crate) fn entries(&self) -> usize {
        self.resources.len()
    }

    /// Resources that made room for others since the start.
    pub(crate) fn evictions(&self) -> u64 {
        self.evictions.load(Ordering::Relaxed)
    }

    /// The most bytes that it may hold.
    pub(crate) fn memory(&self) -> u64 {
        self.memory
    }

    /// Bytes of answers that have not arrived completely.
    pub(crate) fn arriving(&self) -> u64 {
        self.arriving.load(Ordering::Relaxed)
    }
}

/// What is to be kept.
pub(crate) struct Kept {
    pub(crate) head: ResponseHeader,
    pub(crate) body: Bytes,
    pub(crate) lifetime: Lifetime,
    pub(crate) selection: Selection,
    pub(crate) name: Arc<Name>,
    pub(crate) tags: Vec<String>,
}

impl Room {
    /// Takes room up to this many bytes in all; tells whether there was that much.
    pub(crate) fn grow_to(&mut self, bytes: u64) -> bool {
        if bytes > self.store.object {
            return false;
        }
        let more = bytes.saturating_sub(self.bytes);
        let before = self.store.arriving.fetch_add(more, Ordering::Relaxed);
        self.bytes += more;
        before + more <= self.store.most_arriving
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.store.arriving.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
