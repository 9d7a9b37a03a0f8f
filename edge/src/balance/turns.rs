//! Whose turn it is: round robin, smooth by weight.

use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::Seen;

/// The turns of an upstream's peers.
pub(super) struct Turns {
    /// All have the same weight.
    even: bool,
    /// The next turn of those with the same weight.
    turn: AtomicUsize,
    /// What each peer with a weight of its own has earned by waiting; all together nothing.
    credit: Mutex<Box<[i64]>>,
}

impl Turns {
    /// The first turn is drawn by lot: many gateways that start together, or take over a new list
    /// of peers together, must not all ask the first one first.
    pub(super) fn new(weights: &[u32]) -> Self {
        Self {
            even: weights.iter().all(|weight| weights.first() == Some(weight)),
            turn: AtomicUsize::new(usize::from(fastrand::u16(..))),
            credit: Mutex::new(vec![0; weights.len()].into()),
        }
    }

    /// The peer whose turn it is among those that may be asked.
    pub(super) fn next(
        &self,
        weights: &[u32],
        seen: impl Fn(usize) -> Option<Seen>,
    ) -> Option<usize> {
        let rotated = || self.rotate(weights.len(), &seen);
        let even = self.even.then(rotated).flatten();
        even.or_else(|| self.weigh(weights, &seen))
    }

    /// Peers of one weight: each turn is one peer's, and one atomic.
    ///
    /// Whoever meets a peer that may not be asked takes the next turn away from the next request,
    /// so the neighbour of a dead peer has no more than the others.
    fn rotate(&self, peers: usize, seen: impl Fn(usize) -> Option<Seen>) -> Option<usize> {
        (0..peers).find_map(|_| {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed);
            let (round, place) = (turn / peers, turn % peers);
            let seen = seen(place)?;
            is_due(round, seen.share).then_some(place)
        })
    }

    /// Smooth weighted round robin: each earns its weight, and the richest pays for all.
    fn weigh(&self, weights: &[u32], seen: impl Fn(usize) -> Option<Seen>) -> Option<usize> {
        let mut credits = self.credit.lock();
        let mut total = 0_i64;
        let mut best: Option<(&mut i64, usize)> = None;
        for (place, (credit, weight)) in credits.iter_mut().zip(weights).enumerate() {
            let Some(seen) = seen(place) else { continue };
            let weight = i64::from(*weight) * i64::from(seen.share.clamp(1, 100));
            total = total.saturating_add(weight);
            *credit = credit.saturating_add(weight);
            if best.as_ref().is_none_or(|(most, _)| *credit > **most) {
                best = Some((credit, place));
            }
        }
        let (credit, place) = best?;
        *credit = credit.saturating_sub(total);
        Some(place)
    }
}

/// Is a peer with this share due in this round? In as many of 100 rounds, evenly spread.
fn is_due(round: usize, share: u8) -> bool {
    let share = usize::from(share.clamp(1, 100));
    let due = |rounds: usize| rounds * share / 100;
    let round = round % 100;
    due(round) != due(round + 1)
}
