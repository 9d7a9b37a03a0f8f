//! Which answers are asked for most.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::mark::Standing;
use super::{Entry, Store};

/// A kept answer as an operator sees it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Top {
    pub(crate) route: String,
    pub(crate) host: String,
    pub(crate) path: String,
    /// Answers given from it since it was first kept.
    pub(crate) hits: u64,
    pub(crate) status: u16,
    pub(crate) bytes: usize,
    /// Seconds.
    pub(crate) age: u64,
    /// Seconds; negative: it is stale.
    pub(crate) ttl: i64,
}

impl Store {
    /// The answers with the most hits, at most so many. Looks at every answer.
    pub(crate) fn top(&self, most: usize, now: SystemTime) -> Vec<Top> {
        let mut top: Vec<(u64, Arc<Entry>)> = Vec::new();
        for (_, resource) in self.resources.iter() {
            for entry in resource.0.iter().filter(|entry| self.is_served(entry)) {
                top.push((entry.hits.load(Ordering::Relaxed), entry.clone()));
                // Never more than twice what is asked for, however many there are.
                if top.len() >= most.saturating_mul(2).max(2) {
                    shorten(&mut top, most);
                }
            }
        }
        shorten(&mut top, most);
        let told = top.iter().map(|(hits, entry)| self.told(*hits, entry, now));
        told.collect()
    }

    /// A purge may have taken it out of service, and its memory is not needed yet.
    fn is_served(&self, entry: &Entry) -> bool {
        self.marks.standing(&entry.marks) != Standing::Gone
    }

    fn told(&self, hits: u64, entry: &Entry, now: SystemTime) -> Top {
        let mut lifetime = entry.lifetime.clone();
        if let Standing::Stale(since) = self.marks.standing(&entry.marks) {
            lifetime.expire(since);
        }
        Top {
            route: entry.name.route.clone(),
            host: entry.name.host.clone(),
            path: entry.name.path.clone(),
            hits,
            status: entry.head.status.as_u16(),
            bytes: entry.bytes(),
            age: lifetime.age(now).as_secs(),
            ttl: lifetime.left(now),
        }
    }
}

fn shorten<T>(top: &mut Vec<(u64, T)>, most: usize) {
    top.sort_by_key(|(hits, _)| std::cmp::Reverse(*hits));
    top.truncate(most);
}
