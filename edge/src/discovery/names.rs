//! What the names of an upstream stood for last, and when each is to be looked up again.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::Peers;
use crate::config::{Peer, Resolve};
use crate::resolver::{Found, MOST_ADDRESSES};

/// A look-up that goes on failing is told again after this time.
const TELL_AGAIN: Duration = Duration::from_secs(60);

/// The peers of one upstream: addresses, and names with what they stood for last. A clone is the
/// same list.
#[derive(Clone)]
pub(crate) struct Names(Arc<List>);

struct List {
    upstream: String,
    resolve: Resolve,
    /// Who stands there with an address; always a peer.
    fixed: Peers,
    names: Mutex<Vec<Name>>,
}

#[derive(Clone)]
struct Name {
    name: String,
    weight: u32,
    /// What the last look-up that went well found.
    last: Peers,
    /// How many more addresses it had than are taken.
    left_out: usize,
    next: Next,
    failing: Option<Failing>,
}

/// When a name is looked up next.
#[derive(Clone, Copy)]
enum Next {
    /// It never was.
    Now,
    At(Instant),
    /// That is under way.
    Running,
}

#[derive(Clone)]
struct Failing {
    /// Until the next attempt.
    wait: Duration,
    told: Instant,
}

/// What a look-up meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Noted {
    pub(super) name: String,
    /// Does the name stand for others than before?
    pub(super) changed: bool,
    pub(super) failed: bool,
    /// For the log.
    pub(super) event: Option<Event>,
}

/// What is worth a line in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    /// For this reason.
    Failed(String),
    Recovered,
    /// So many addresses are too many.
    LeftOut(usize),
}

impl Names {
    /// The list of an upstream. A name that was on the list `before` stands for what it stood for
    /// there, until it is looked up again in its turn.
    pub(crate) fn new(
        upstream: &str,
        peers: &[Peer],
        resolve: Resolve,
        before: Option<&Self>,
    ) -> Self {
        let before = before.filter(|before| before.0.resolve == resolve);
        let before = before.map(|before| before.0.names.lock().clone());
        let (mut fixed, mut names) = (Vec::new(), Vec::new());
        for Peer { name, weight } in peers {
            if let Ok(address) = name.parse() {
                fixed.push((address, *weight));
                continue;
            }
            let mut known = before.iter().flatten();
            let known = known.find(|known| known.name == *name);
            names.push(Name::new(name, *weight, known));
        }
        Self(Arc::new(List {
            upstream: upstream.to_owned(),
            resolve,
            fixed,
            names: Mutex::new(names),
        }))
    }

    /// All peers by address, each once and with the larger weight where it came twice: those that
    /// stand there with an address, and those that the names stood for last. No more than
    /// `MOST_ADDRESSES`.
    pub(crate) fn peers(&self) -> Peers {
        let mut weights: BTreeMap<SocketAddr, u32> = BTreeMap::new();
        let mut add = |address: SocketAddr, weight: u32| {
            let room = weights.len() < MOST_ADDRESSES;
            if let Some(known) = weights.get_mut(&address) {
                *known = weight.max(*known);
            } else if room {
                weights.insert(address, weight);
            }
        };
        for (address, weight) in &self.0.fixed {
            add(*address, *weight);
        }
        for name in self.0.names.lock().iter() {
            for (address, weight) in &name.last {
                let weight = match self.0.resolve {
                    Resolve::Dns => name.weight,
                    Resolve::Srv => *weight,
                };
                add(*address, weight);
            }
        }
        weights.into_iter().collect()
    }

    /// The entry of `peers` that stands for this address.
    pub(crate) fn entry(&self, address: SocketAddr) -> String {
        let fixed = self.0.fixed.iter().any(|(fixed, _)| *fixed == address);
        let names = self.0.names.lock();
        let mut names = names.iter().filter(|_| !fixed);
        let named = names.find(|name| name.last.iter().any(|(last, _)| *last == address));
        named.map_or_else(|| address.to_string(), |named| named.name.clone())
    }

    /// Are there names among the entries?
    pub(crate) fn are_any(&self) -> bool {
        !self.0.names.lock().is_empty()
    }

    pub(super) fn upstream(&self) -> &str {
        &self.0.upstream
    }

    /// The places of the names that were never looked up.
    pub(super) fn new_ones(&self) -> Vec<usize> {
        let names = self.0.names.lock();
        let new = names.iter().enumerate();
        new.filter(|(_, name)| matches!(name.next, Next::Now))
            .map(|(place, _)| place)
            .collect()
    }

    /// The place of a name whose time has come, or else when the next one's comes.
    pub(super) fn due(&self, now: Instant) -> Result<usize, Option<Instant>> {
        let mut soonest: Option<Instant> = None;
        for (place, name) in self.0.names.lock().iter().enumerate() {
            match name.next {
                Next::Now => return Ok(place),
                Next::At(moment) if moment <= now => return Ok(place),
                Next::At(moment) => {
                    soonest = Some(soonest.map_or(moment, |soonest| soonest.min(moment)));
                }
                Next::Running => {}
            }
        }
        Err(soonest)
    }

    /// What is to be looked up there; from now on that is under way.
    pub(super) fn begin(&self, place: usize) -> Option<(String, Resolve)> {
        let mut names = self.0.names.lock();
        let name = names.get_mut(place)?;
        name.next = Next::Running;
        Some((name.name.clone(), self.0.resolve))
    }

    /// A look-up that was under way broke off: its time has come again.
    pub(super) fn give_up(&self, place: usize) {
        if let Some(name) = self.0.names.lock().get_mut(place) {
            name.next = Next::Now;
        }
    }

    /// Notes what a look-up found. The next one follows when it no longer holds; after a failure,
    /// which changes nothing else, within the bounds `ttl`, later each time. Each of these times
    /// is multiplied by `stretch`.
    pub(super) fn note(
        &self,
        place: usize,
        found: Result<Found, String>,
        ttl: &RangeInclusive<Duration>,
        stretch: f64,
        now: Instant,
    ) -> Option<Noted> {
        let mut names = self.0.names.lock();
        let name = names.get_mut(place)?;
        let failed = found.is_err();
        let (changed, wait, event) = match found {
            Ok(found) => name.stand_for(found),
            Err(why) => {
                let (wait, event) = name.fail(why, ttl, now);
                (false, wait, event)
            }
        };
        name.next = Next::At(now + wait.mul_f64(stretch));
        Some(Noted {
            name: name.name.clone(),
            changed,
            failed,
            event,
        })
    }
}

impl Name {
    fn new(name: &str, weight: u32, known: Option<&Self>) -> Self {
        let mut own = known.cloned().unwrap_or_else(|| Self {
            name: name.to_owned(),
            weight,
            last: Vec::new(),
            left_out: 0,
            next: Next::Now,
            failing: None,
        });
        own.weight = weight;
        // What is under way there does not come here.
        if matches!(own.next, Next::Running) {
            own.next = Next::Now;
        }
        own
    }

    fn stand_for(&mut self, found: Found) -> (bool, Duration, Option<Event>) {
        let changed = self.last != found.peers;
        self.last = found.peers;
        let recovered = self.failing.take().is_some();
        let too_many = found.left_out > 0 && self.left_out == 0;
        self.left_out = found.left_out;
        let event = if recovered {
            Some(Event::Recovered)
        } else {
            too_many.then_some(Event::LeftOut(found.left_out))
        };
        (changed, found.ttl, event)
    }

    /// How long to wait, and whether to tell.
    fn fail(
        &mut self,
        why: String,
        ttl: &RangeInclusive<Duration>,
        now: Instant,
    ) -> (Duration, Option<Event>) {
        let (wait, told) = match &self.failing {
            None => (*ttl.start(), None),
            Some(failing) => {
                let silent = now.duration_since(failing.told) < TELL_AGAIN;
                let wait = failing.wait.saturating_mul(2).min(*ttl.end());
                (wait, silent.then_some(failing.told))
            }
        };
        self.failing = Some(Failing {
            wait,
            told: told.unwrap_or(now),
        });
        let event = told.is_none().then_some(Event::Failed(why));
        (wait, event)
    }
}
