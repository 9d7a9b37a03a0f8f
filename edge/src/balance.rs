//! Which peer of an upstream is asked next.

mod belonging;
mod key;
mod turns;

pub use key::key;

use std::cmp::Ordering;
use std::net::SocketAddr;

use http::HeaderName;

use belonging::Belonging;
use turns::Turns;

/// How an upstream's peers share its requests.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Balance {
    /// One after the other, each as often as its weight says, the turns evenly mixed.
    #[default]
    RoundRobin,
    /// The one with the fewest open requests for its weight.
    LeastConnections,
    /// The better of two that are drawn by lot, by the same measure.
    RandomTwo,
    /// The one to which the request belongs, by consistent hashing (rendezvous).
    Hash(HashBy),
}

/// What of a request decides to which peer it belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HashBy {
    /// The client's address, as for limits.
    Client,
    /// A field of the request.
    Header(HeaderName),
    /// A cookie of the request.
    Cookie(String),
}

/// A peer as the choice sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Its open requests.
    pub open: usize,
    /// How much of its weight counts now, in percent: 1 to 100 (slow start).
    pub share: u8,
}

/// So many draws may hit a peer that may not be asked, before those that may are counted.
const DRAWS: usize = 8;

/// Shares an upstream's requests among its peers.
pub struct Balancer {
    balance: Balance,
    weights: Box<[u32]>,
    /// The sum of the weights up to and with each peer's, for drawing lots.
    sums: Box<[u64]>,
    turns: Turns,
    belonging: Belonging,
}

impl Balancer {
    /// A balancer for these peers and their weights; a weight of 0 counts as 1.
    pub fn new(balance: &Balance, peers: &[(SocketAddr, u32)]) -> Self {
        let weights: Box<[u32]> = peers.iter().map(|(_, weight)| (*weight).max(1)).collect();
        let sum = |sum: &mut u64, weight: &u32| {
            *sum += u64::from(*weight);
            Some(*sum)
        };
        Self {
            balance: balance.clone(),
            sums: weights.iter().scan(0, sum).collect(),
            turns: Turns::new(&weights),
            belonging: Belonging::new(peers.iter().map(|(address, _)| *address)),
            weights,
        }
    }

    /// The place of the peer to ask. `None` only where `seen` gives `None` for every peer.
    ///
    /// `seen` gives `None` for a peer that may not be asked now (unwell, tried already, ..). It is
    /// asked several times for one choice, sometimes under a lock: it must be quick and take none
    /// that is held elsewhere while a choice is made. `key` is what the request is hashed by; a
    /// request without one takes its turn.
    pub fn choose(
        &self,
        key: Option<&[u8]>,
        seen: impl Fn(usize) -> Option<Seen>,
    ) -> Option<usize> {
        match (&self.balance, key) {
            (Balance::RoundRobin, _) | (Balance::Hash(_), None) => {
                self.turns.next(&self.weights, seen)
            }
            (Balance::LeastConnections, _) => self.least(seen),
            (Balance::RandomTwo, _) => self.better_of_two(seen),
            (Balance::Hash(_), Some(key)) => self.belonging.find(&self.weights, key, seen),
        }
    }

    /// The peer with the least load; those that are alike take turns.
    fn least(&self, seen: impl Fn(usize) -> Option<Seen>) -> Option<usize> {
        let mut best: Option<(usize, Load)> = None;
        let mut alike = false;
        for (place, weight) in self.weights.iter().enumerate() {
            let Some(one) = seen(place) else { continue };
            let load = Load::new(*weight, one);
            match best.map_or(Ordering::Less, |(_, least)| load.compare(least)) {
                Ordering::Less => (best, alike) = (Some((place, load)), false),
                Ordering::Equal => alike = true,
                Ordering::Greater => {}
            }
        }
        let (place, least) = best?;
        if !alike {
            return Some(place);
        }
        let tied = |place: usize| {
            let (one, weight) = (seen(place)?, self.weights.get(place)?);
            let is_least = Load::new(*weight, one).compare(least) != Ordering::Greater;
            is_least.then_some(one)
        };
        // What is seen may have changed meanwhile.
        self.turns.next(&self.weights, tied).or(Some(place))
    }

    /// The less loaded of two that are drawn by weight; of equals the first, so that idle peers
    /// are chosen by weight.
    fn better_of_two(&self, seen: impl Fn(usize) -> Option<Seen>) -> Option<usize> {
        let (first, load) = self.draw(&seen)?;
        let others = |place| if place == first { None } else { seen(place) };
        match self.draw(others) {
            Some((second, other)) if other.compare(load) == Ordering::Less => Some(second),
            _ => Some(first),
        }
    }

    /// A peer that may be asked, by lot: as likely as its weight and share say.
    fn draw(&self, seen: impl Fn(usize) -> Option<Seen>) -> Option<(usize, Load)> {
        let most = *self.sums.last()?;
        for _ in 0..DRAWS {
            let lot = fastrand::u64(..most);
            let place = self.sums.partition_point(|sum| *sum <= lot);
            if let (Some(one), Some(weight)) = (seen(place), self.weights.get(place))
                && fastrand::u8(..100) < one.share
            {
                return Some((place, Load::new(*weight, one)));
            }
        }
        let loads = || {
            let places = self.weights.iter().enumerate();
            places.filter_map(|(place, weight)| Some((place, Load::new(*weight, seen(place)?))))
        };
        let total: u64 = loads().map(|(_, load)| load.weight).sum();
        let mut lot = fastrand::u64(..total.max(1));
        let mut last = None;
        for (place, load) in loads() {
            if lot < load.weight {
                return Some((place, load));
            }
            lot -= load.weight;
            last = Some((place, load));
        }
        last
    }
}

/// What a peer has to do, and what it is for.
#[derive(Debug, Clone, Copy)]
struct Load {
    open: u64,
    /// Its weight now, in hundredths.
    weight: u64,
}

impl Load {
    fn new(weight: u32, seen: Seen) -> Self {
        Self {
            open: seen.open as u64,
            weight: u64::from(weight) * u64::from(seen.share.clamp(1, 100)),
        }
    }

    /// By open requests for the weight.
    fn compare(self, other: Self) -> Ordering {
        let for_weight = |open: u64, weight: u64| u128::from(open) * u128::from(weight);
        for_weight(self.open, other.weight).cmp(&for_weight(other.open, self.weight))
    }
}

#[cfg(test)]
mod tests;
