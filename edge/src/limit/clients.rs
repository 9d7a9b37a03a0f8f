//! A bucket for each client, in a table that cannot grow past its bound.
//!
//! A bucket that is full again says nothing that a missing one does not, so it is dropped when
//! its place is needed. Clients beyond the bound are counted by an [`Overflow`].

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use foldhash::fast::RandomState;
use parking_lot::Mutex;

use super::quota::{Quota, nanoseconds};

/// Counts the clients for whom the table has no place, in fixed memory. It may count too much,
/// never too little.
pub trait Overflow: Send + Sync {
    /// Takes one request for `client`, or tells how long until one more may fit.
    fn take(&self, client: u64, now: Duration) -> Result<(), Duration>;

    /// How long until one more request fits, without taking one; `None`: it may now.
    fn wait(&self, client: u64, now: Duration) -> Option<Duration>;
}

/// Each client's bucket.
pub struct Clients {
    quota: Quota,
    /// The most clients that have a bucket at once.
    most: usize,
    /// How many have one now.
    held: AtomicUsize,
    shards: Box<[Shard]>,
    /// The shard that is searched next for places to free.
    hand: AtomicUsize,
    /// Not before this moment (in nanoseconds) is a full table searched again.
    next_search: AtomicU64,
    hasher: RandomState,
    overflow: Option<Box<dyn Overflow>>,
}

#[derive(Default)]
struct Shard {
    /// When each client's bucket is full again, in nanoseconds.
    full: Mutex<HashMap<u128, u64, RandomState>>,
    /// Not before this moment is the shard searched again.
    next_search: AtomicU64,
}

impl Shard {
    fn free_places(&self, now: u64) -> usize {
        let mut full = self.full.lock();
        let before = full.len();
        full.retain(|_, full| *full > now);
        before - full.len()
    }
}

/// Enough that threads rarely meet in one.
const SHARDS: usize = 64;

impl Clients {
    /// Room for `most` clients. Without an `overflow`, whoever finds no place is refused.
    pub fn new(quota: Quota, most: usize, overflow: Option<Box<dyn Overflow>>) -> Self {
        Self {
            quota,
            most,
            held: AtomicUsize::new(0),
            shards: (0..SHARDS).map(|_| Shard::default()).collect(),
            hand: AtomicUsize::new(0),
            next_search: AtomicU64::new(0),
            hasher: RandomState::default(),
            overflow,
        }
    }

    /// How many clients have a bucket.
    pub fn len(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Has nobody a bucket?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes one request from the client's bucket, or tells how long until one more fits.
    pub fn take(&self, client: u128, now: Duration) -> Result<(), Duration> {
        let hash = self.hasher.hash_one(client);
        let Some(shard) = self.shard(usize::try_from(hash >> 32).unwrap_or(0)) else {
            return Ok(());
        };
        let time = nanoseconds(now);
        if let Some(full) = shard.full.lock().get_mut(&client) {
            *full = self.quota.take(*full, time).map_err(Duration::from_nanos)?;
            return Ok(());
        }
        if self.take_place() || (self.free_places(time) && self.take_place()) {
            let mut table = shard.full.lock();
            let before = table.len();
            let full = table.entry(client).or_default();
            let taken = self.quota.take(*full, time).map(|then| *full = then);
            if table.len() == before {
                // Another thread was quicker with the same client.
                self.held.fetch_sub(1, Ordering::Relaxed);
            }
            return taken.map_err(Duration::from_nanos);
        }
        match &self.overflow {
            Some(overflow) => overflow.take(hash, now),
            None => Err(self.quota.refill()),
        }
    }

    /// How long until one more request fits, without taking one; `None`: it does now.
    pub fn wait(&self, client: u128, now: Duration) -> Option<Duration> {
        let hash = self.hasher.hash_one(client);
        let shard = self.shard(usize::try_from(hash >> 32).unwrap_or(0))?;
        let full = shard.full.lock().get(&client).copied();
        match (full, &self.overflow) {
            (Some(full), _) => {
                let taken = self.quota.take(full, nanoseconds(now));
                taken.err().map(Duration::from_nanos)
            }
            (None, Some(overflow)) => overflow.wait(hash, now),
            (None, None) => None,
        }
    }

    /// The number is taken modulo the number of shards, so there always is one.
    fn shard(&self, number: usize) -> Option<&Shard> {
        self.shards.get(number % SHARDS)
    }

    /// Drops full buckets, shard by shard, until there is a place. No shard is searched again
    /// before a good part of it can have become full, so that in a flood of new clients a place
    /// costs a few looks and not a whole shard's.
    fn free_places(&self, now: u64) -> bool {
        if now < self.next_search.load(Ordering::Relaxed) {
            return false;
        }
        let pause = (nanoseconds(self.quota.refill()) / 8).clamp(1_000_000, 1_000_000_000);
        for _ in 0..SHARDS {
            let number = self.hand.fetch_add(1, Ordering::Relaxed);
            let Some(shard) = self.shard(number) else {
                continue;
            };
            if now < shard.next_search.load(Ordering::Relaxed) {
                continue;
            }
            shard
                .next_search
                .store(now.saturating_add(pause), Ordering::Relaxed);
            let freed = shard.free_places(now);
            if freed > 0 {
                self.held.fetch_sub(freed, Ordering::Relaxed);
                return true;
            }
        }
        self.next_search
            .store(now.saturating_add(pause / SHARDS as u64), Ordering::Relaxed);
        false
    }

    fn take_place(&self) -> bool {
        let more = |held| (held < self.most).then_some(held + 1);
        self.held
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn ten_a_second(most: usize) -> Clients {
        Clients::new(Quota::new(10, SECOND, 10), most, None)
    }

    #[test]
    fn a_hundred_thousand_well_behaved_clients_are_never_refused() {
        let clients = ten_a_second(100_000);
        for second in 0..3 {
            for request in 0..10 {
                let now = Duration::from_millis(second * 1_000 + request * 100);
                assert!((0..100_000).all(|client| clients.take(client, now).is_ok()));
            }
        }
    }

    #[test]
    fn five_million_keys_do_not_grow_the_table_past_its_bound() {
        let clients = ten_a_second(100_000);
        for key in 0..5_000_000u64 {
            let _ = clients.take(u128::from(key), Duration::from_micros(key));
            if key % 100_000 == 0 {
                assert!(clients.len() <= 100_000);
            }
        }
        let kept: usize = clients
            .shards
            .iter()
            .map(|shard| shard.full.lock().len())
            .sum();
        assert_eq!(kept, clients.len());
        assert!(kept <= 100_000);
    }

    #[test]
    fn a_flood_neither_lets_everybody_through_nor_locks_anybody_out_after_its_end() {
        let clients = ten_a_second(1_000);
        let passed = (0..10_000)
            .filter(|&client| clients.take(client, SECOND).is_ok())
            .count();
        assert_eq!(passed, 1_000);
        let later = SECOND * 3;
        assert!((50_000..50_500).all(|client| clients.take(client, later).is_ok()));
    }

    #[test]
    fn who_was_there_before_the_flood_keeps_the_own_bucket() {
        let clients = ten_a_second(1_000);
        for _ in 0..10 {
            clients.take(7, SECOND).unwrap();
        }
        for key in 1_000..20_000 {
            let _ = clients.take(key, SECOND);
        }
        assert!(clients.take(7, SECOND).is_err());
        assert!(clients.take(7, SECOND + Duration::from_millis(100)).is_ok());
    }
}
