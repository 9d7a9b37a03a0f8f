//! The fetches under way, so that one serves all who ask for the same.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::{Duration, Instant};

use foldhash::quality::RandomState;
use http::HeaderMap;
use parking_lot::Mutex;
use quick_cache::sync::Cache;

use super::{Flight, Reader};
use crate::cache::Selection;

/// The fetches that others may join.
#[derive(Debug)]
pub(crate) struct Flights {
    parts: [Mutex<Table>; PARTS],
    /// Keys whose answers could not be kept lately: nobody waits for another's.
    alone: Cache<u64, Instant>,
    hasher: RandomState,
}

/// The fetches of each key: of variants there may be several.
type Table = HashMap<Arc<[u8]>, Vec<Arc<Flight>>>;

/// The table of fetches is locked in so many parts.
const PARTS: usize = 16;
/// Keys that are remembered as not to be kept.
const MOST_ALONE: usize = 1 << 16;
/// For so long everybody fetches for himself what could not be kept.
const ALONE: Duration = Duration::from_secs(10);

/// How somebody takes part in a fetch.
#[derive(Debug)]
pub(crate) enum Boarding {
    /// Nobody fetches it yet: this one must.
    Lead(Arc<Flight>, Reader),
    /// Somebody does.
    Join(Reader),
    /// Somebody has, since this one looked at what is kept.
    Kept,
}

/// A request that looks for a fetch.
pub(crate) struct Boarder<'a> {
    pub(crate) key: &'a Arc<[u8]>,
    /// Its fields.
    pub(crate) request: &'a HeaderMap,
    /// The variant that it is for, where the fields that tell variants apart are known.
    pub(crate) expected: Option<&'a Selection>,
    pub(crate) now: Instant,
    /// It joins no fetch that has been without a head for so long.
    pub(crate) patience: Duration,
    /// The store's generation.
    pub(crate) born: u64,
    /// Has a purge passed a fetch begun at this generation?
    pub(crate) passed: &'a dyn Fn(u64) -> bool,
    /// Is something kept for it that was not when it looked? A fetch keeps what it brings before
    /// it leaves the table, so that nobody misses both.
    pub(crate) kept: &'a dyn Fn() -> bool,
}

impl Boarder<'_> {
    fn may_join(&self, flight: &Flight) -> bool {
        let variant = match (&flight.expected, self.expected) {
            (Some(other), Some(own)) => other == own,
            (Some(other), None) => other.matches(self.request),
            // Where it is known that there are variants, one of unknown fields is not waited for.
            (None, Some(_)) => false,
            (None, None) => true,
        };
        variant && !(self.passed)(flight.born)
    }
}

impl Flights {
    pub(crate) fn new() -> Self {
        Self {
            parts: std::array::from_fn(|_| Mutex::default()),
            alone: Cache::new(MOST_ALONE),
            hasher: RandomState::default(),
        }
    }

    /// The fetch in which this request may take part, if there is one; else it must begin one.
    pub(crate) fn board(&self, boarder: &Boarder<'_>) -> Boarding {
        let mut part = self.part(boarder.key).lock();
        let flights = part.entry(boarder.key.clone()).or_default();
        let mut open = flights
            .iter()
            .rev()
            .filter(|flight| boarder.may_join(flight));
        let joined = open.find_map(|flight| {
            flight.join(|state| state.takes(boarder.request, boarder.now, boarder.patience))
        });
        if let Some(reader) = joined {
            return Boarding::Join(reader);
        }
        if (boarder.kept)() {
            if flights.is_empty() {
                part.remove(boarder.key);
            }
            return Boarding::Kept;
        }
        let expected = boarder.expected.cloned();
        let (flight, reader) = Flight::begin(boarder.now, boarder.born, expected);
        flights.push(flight.clone());
        Boarding::Lead(flight, reader)
    }

    /// The fetch has ended, or nobody shall join it any more.
    pub(crate) fn remove(&self, key: &Arc<[u8]>, flight: &Arc<Flight>) {
        let mut part = self.part(key).lock();
        if let Some(flights) = part.get_mut(key) {
            flights.retain(|other| !Arc::ptr_eq(other, flight));
            if flights.is_empty() {
                part.remove(key);
            }
        }
    }

    /// Is what the key names fetched by everybody for himself?
    pub(crate) fn is_alone(&self, key: &[u8], now: Instant) -> bool {
        let since = self.alone.get(&self.hasher.hash_one(key));
        since.is_some_and(|since| now.saturating_duration_since(since) < ALONE)
    }

    /// Could what the key names be kept?
    pub(crate) fn learn(&self, key: &[u8], kept: bool, now: Instant) {
        let key = self.hasher.hash_one(key);
        if !kept {
            self.alone.insert(key, now);
        } else if self.alone.peek(&key).is_some() {
            self.alone.remove(&key);
        }
    }

    fn part(&self, key: &[u8]) -> &Mutex<Table> {
        let part = usize::try_from(self.hasher.hash_one(key) % PARTS as u64).unwrap_or(0);
        self.parts.get(part).unwrap_or(&self.parts[0])
    }
}
