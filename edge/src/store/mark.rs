//! Purges in constant time: what one purge can name together hangs on one mark, and a purge
//! writes its number on that mark. An answer that is older than the number on one of its marks
//! is out of service; that is found out when it is next asked for.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;

use super::Name;

/// What a purge names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// Everything.
    All,
    /// All answers that the upstream has given this tag.
    Tag(String),
    /// This path with this query (or none), on one host or on every one.
    Url { host: Option<String>, path: String },
    /// This path, with every query, and all paths below it.
    Prefix { host: Option<String>, path: String },
}

/// What becomes of what is purged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purge {
    /// It answers nobody any more.
    Hard,
    /// It is stale from now on: revalidated at the next request, handed out where that fails and
    /// may.
    Soft,
}

/// May an answer still be handed out?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    Good,
    /// Stale since then, at the latest.
    Stale(SystemTime),
    Gone,
}

/// Below this depth paths are purged together.
const DEEPEST: usize = 8;
/// Purges that are remembered for what is still arriving.
const MOST_RECENT: usize = 16_384;
/// What a mark costs, in bytes: itself, and its place in the table.
const COST: usize = 96;

/// All marks that hang on something.
#[derive(Debug, Default)]
pub(super) struct Marks {
    generation: AtomicU64,
    hasher: RandomState,
    /// By the hash of what a purge would name.
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    marks: HashMap<u64, Arc<Mark>>,
    /// The latest purges, the oldest first: what was asked for before one and comes after it is
    /// hit by it, too.
    recent: VecDeque<Recent>,
    /// The number of the latest purge that is no longer remembered.
    forgotten: u64,
}

#[derive(Debug)]
struct Recent {
    number: u64,
    id: u64,
    /// Of a tag, which no answer is known to have before it is there.
    tag: bool,
}

#[derive(Debug, Default)]
struct Mark {
    /// The number of the latest hard purge, and of the latest soft one.
    gone: AtomicU64,
    stale: AtomicU64,
    /// When the latest soft one was, in seconds since 1970.
    stale_since: AtomicU64,
    /// The answers that hang on it and are younger than the latest hard purge. Changed only under
    /// the lock of [`Known`].
    count: AtomicU64,
}

/// The marks that an answer hangs on. Dropped with it.
#[derive(Debug)]
pub(super) struct Held {
    all: Arc<Marks>,
    born: u64,
    marks: Box<[(u64, Arc<Mark>)]>,
    /// At this generation its standing was good.
    good: AtomicU64,
}

impl Marks {
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Hangs an answer that was asked for at `born` on all its marks; `None` if it has been
    /// purged meanwhile.
    pub(super) fn hold(this: &Arc<Self>, born: u64, name: &Name, tags: &[String]) -> Option<Held> {
        let mut ids = this.ids(name);
        ids.extend(tags.iter().map(|tag| this.hasher.hash_one(('t', tag))));
        ids.sort_unstable();
        ids.dedup();
        let mut known = this.known.lock();
        if known.has_hit(born, &ids) {
            return None;
        }
        Some(this.hang(&mut known, born, &ids))
    }

    /// Has a purge after `born` hit an answer of this name that is still on its way, or may it
    /// have?
    pub(super) fn may_have_hit(&self, born: u64, name: &Name) -> bool {
        if self.generation() == born {
            return false;
        }
        let ids = self.ids(name);
        let known = self.known.lock();
        known.has_hit(born, &ids) || known.since(born).any(|purge| purge.tag)
    }

    fn hang(self: &Arc<Self>, known: &mut Known, born: u64, ids: &[u64]) -> Held {
        let marks = ids.iter().map(|&id| {
            let mark = known.marks.entry(id).or_default().clone();
            mark.count.fetch_add(1, Ordering::Relaxed);
            (id, mark)
        });
        Held {
            all: self.clone(),
            born,
            marks: marks.collect(),
            good: AtomicU64::new(born),
        }
    }

    pub(super) fn standing(&self, held: &Held) -> Standing {
        let generation = self.generation();
        if held.good.load(Ordering::Relaxed) == generation {
            return Standing::Good;
        }
        let is_after = |number: &AtomicU64| number.load(Ordering::Acquire) > held.born;
        if held.is_gone() {
            Standing::Gone
        } else if let Some((_, mark)) = held.marks.iter().find(|(_, mark)| is_after(&mark.stale)) {
            let since = Duration::from_secs(mark.stale_since.load(Ordering::Relaxed));
            Standing::Stale(SystemTime::UNIX_EPOCH + since)
        } else {
            held.good.store(generation, Ordering::Relaxed);
            Standing::Good
        }
    }

    /// Tells how many answers hang on what is purged. One that a hard purge of something else has
    /// hit before counts again until it is dropped.
    pub(super) fn purge(&self, target: &Target, purge: Purge, now: SystemTime) -> u64 {
        let id = self.id(target);
        let mut known = self.known.lock();
        let number = self.generation.load(Ordering::Relaxed) + 1;
        let affected = known
            .marks
            .get(&id)
            .map_or(0, |mark| mark.hit(number, purge, now));
        if purge == Purge::Hard {
            known.marks.remove(&id);
        }
        let tag = matches!(target, Target::Tag(_));
        known.recent.push_back(Recent { number, id, tag });
        if known.recent.len() > MOST_RECENT
            && let Some(oldest) = known.recent.pop_front()
        {
            known.forgotten = oldest.number;
        }
        // Last of all: whoever sees the new number sees the mark.
        self.generation.store(number, Ordering::Release);
        affected
    }

    fn id(&self, target: &Target) -> u64 {
        match target {
            Target::All => self.hasher.hash_one('a'),
            Target::Tag(tag) => self.hasher.hash_one(('t', tag)),
            Target::Url { host, path } => self.hasher.hash_one(('u', host.as_deref(), path)),
            Target::Prefix { host, path } => {
                let path = prefixes(path).last().unwrap_or_default();
                self.hasher.hash_one(('p', host.as_deref(), path))
            }
        }
    }

    /// Whatever but a tag a purge of this answer might name.
    fn ids(&self, name: &Name) -> Vec<u64> {
        let mut ids = vec![self.hasher.hash_one('a')];
        for host in [None, Some(name.host.as_str())] {
            ids.push(self.hasher.hash_one(('u', host, &name.path)));
            let prefixes = prefixes(&name.path);
            ids.extend(prefixes.map(|prefix| self.hasher.hash_one(('p', host, prefix))));
        }
        ids
    }
}

impl Known {
    /// Has a purge after `born` hit, or may it have, what hangs on these marks?
    fn has_hit(&self, born: u64, ids: &[u64]) -> bool {
        self.forgotten > born || self.since(born).any(|purge| ids.contains(&purge.id))
    }

    fn since(&self, born: u64) -> impl Iterator<Item = &Recent> {
        let recent = self.recent.iter().rev();
        recent.take_while(move |purge| purge.number > born)
    }
}

impl Mark {
    /// Writes a purge's number on it; tells how many answers that hits.
    fn hit(&self, number: u64, purge: Purge, now: SystemTime) -> u64 {
        match purge {
            Purge::Hard => {
                self.gone.store(number, Ordering::Release);
                self.count.swap(0, Ordering::Relaxed)
            }
            Purge::Soft => {
                let since = now.duration_since(SystemTime::UNIX_EPOCH);
                let since = since.unwrap_or_default().as_secs();
                self.stale_since.store(since, Ordering::Relaxed);
                self.stale.store(number, Ordering::Release);
                self.count.load(Ordering::Relaxed)
            }
        }
    }
}

/// A path and all above it, without query and last slash: of `/a/b/?c` the prefixes are the empty
/// one, `/a` and `/a/b`.
fn prefixes(path: &str) -> impl Iterator<Item = &str> {
    let path = path.split('?').next().unwrap_or_default();
    let path = path.trim_end_matches('/');
    let ends = path.match_indices('/').map(|(end, _)| end);
    let ends = ends.chain(std::iter::once(path.len()));
    ends.take(DEEPEST).filter_map(|end| path.get(..end))
}

impl Held {
    /// Hangs another answer on the same marks that was asked for at `born`; `None` if a purge has
    /// hit it meanwhile, or a hard one this answer: what is gone does not come back.
    pub(super) fn renewed(&self, born: u64) -> Option<Self> {
        let ids: Vec<u64> = self.marks.iter().map(|(id, _)| *id).collect();
        let mut known = self.all.known.lock();
        let purged = self.is_gone() || known.has_hit(born, &ids);
        (!purged).then(|| self.all.hang(&mut known, born, &ids))
    }

    fn is_gone(&self) -> bool {
        let mut marks = self.marks.iter();
        marks.any(|(_, mark)| mark.gone.load(Ordering::Acquire) > self.born)
    }

    /// What they cost, in bytes.
    pub(super) fn bytes(&self) -> usize {
        // Most marks are shared; its own are those of its URL and its path.
        self.marks.len() * 24 + 4 * COST
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut known = self.all.known.lock();
        for (id, mark) in &self.marks {
            // A hard purge has counted it out.
            let counted = mark.gone.load(Ordering::Relaxed) <= self.born;
            if counted && mark.count.fetch_sub(1, Ordering::Relaxed) == 1 {
                known.marks.remove(id);
            }
        }
    }
}

#[cfg(test)]
mod tests;
