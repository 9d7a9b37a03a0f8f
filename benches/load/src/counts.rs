//! How often something happened, by the word for it.

use std::collections::BTreeMap;

/// Counts by word.
pub type Counts = BTreeMap<String, u64>;

/// Adds one to the count of this word.
pub fn count(counts: &mut Counts, word: String) {
    *counts.entry(word).or_default() += 1;
}

/// Adds the one to the other.
pub fn add(to: &mut Counts, from: Counts) {
    for (word, number) in from {
        *to.entry(word).or_default() += number;
    }
}
