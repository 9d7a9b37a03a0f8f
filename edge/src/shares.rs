//! What the routes share of the limits: a route that sets a limit of its own has a bucket of its
//! own, all others have the file's.

use std::collections::HashMap;
use std::sync::Arc;

use crate::config::{Config, Route};
use crate::limit::{Bucket, Clients, Limits, Quota};
use crate::sketch::Sketch;
use crate::websocket::{Global, PerClient, Places};

/// Every route's share, in the order of the routes.
pub(crate) struct Shares {
    pub(crate) routes: Vec<Share>,
    made: Made,
}

/// One route's.
#[derive(Clone, Default)]
pub(crate) struct Share {
    pub(crate) limits: Limits,
    /// For its WebSockets.
    pub(crate) places: Places,
    /// What its WebSockets' clients send.
    pub(crate) messages: Option<Arc<Clients>>,
}

/// All buckets and places, each kind on a shelf of its own.
#[derive(Default)]
struct Made {
    per_client: Shelf<Table, Arc<Clients>>,
    per_address: Shelf<Table, Arc<Clients>>,
    global: Shelf<Quota, Arc<Bucket>>,
    messages: Shelf<Table, Arc<Clients>>,
    places_per_client: Shelf<usize, Arc<PerClient>>,
    places_global: Shelf<usize, Arc<Global>>,
}

/// A quota for each of so many clients.
type Table = (Quota, usize);

/// What was made for whom, under which law; nobody is the file.
struct Shelf<L, B>(HashMap<Option<String>, (L, B)>);

impl<L, B> Default for Shelf<L, B> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<L: PartialEq, B: Clone> Shelf<L, B> {
    /// What is there for this owner; else what was there `before` under the same law, with all
    /// that was used of it; else a new one, which is shown what was there under another law.
    fn take(
        &mut self,
        before: Option<&Self>,
        owner: Option<&str>,
        law: L,
        new: impl FnOnce(&L, Option<&B>) -> B,
    ) -> B {
        let owner = owner.map(str::to_owned);
        if let Some((_, made)) = self.0.get(&owner) {
            return made.clone();
        }
        let before = before.and_then(|before| before.0.get(&owner));
        let made = match before {
            Some((own, kept)) if *own == law => kept.clone(),
            other => new(&law, other.map(|(_, other)| other)),
        };
        self.0.insert(owner, (law, made.clone()));
        made
    }
}

impl Shares {
    /// What is limited as `before` goes on with what was used of it.
    pub(crate) fn new(config: &Config, before: Option<&Self>) -> Self {
        let mut made = Made::default();
        let before = before.map(|before| &before.made);
        let share = |route| made.share(before, route, config.clients);
        let routes = config.routes.iter().map(share).collect();
        Self { routes, made }
    }

    /// How many clients have a bucket, in all tables together.
    pub(crate) fn clients(&self) -> usize {
        let Made {
            per_client,
            per_address,
            messages,
            ..
        } = &self.made;
        let tables = per_client.0.values().chain(per_address.0.values());
        let tables = tables.chain(messages.0.values());
        tables.map(|(_, clients)| clients.len()).sum()
    }
}

impl Made {
    fn share(&mut self, before: Option<&Self>, route: &Route, clients: usize) -> Share {
        let owner = |own: bool| own.then_some(route.name.as_str());
        let (limit, settings) = (&route.limit, &route.limit.settings);
        let (own_per_client, own_global) = (owner(limit.own_per_client), owner(limit.own_global));
        let per_client = settings.per_client.map(|quota| {
            let before = before.map(|before| &before.per_client);
            self.per_client
                .take(before, own_per_client, (quota, clients), table)
        });
        let per_address = settings.per_address.map(|quota| {
            let before = before.map(|before| &before.per_address);
            // Routes that say nothing share what they have by their own need, as well.
            let owner = owner(limit.own_per_address);
            self.per_address
                .take(before, owner, (quota, clients), table)
        });
        let global = settings.global.map(|quota| {
            let before = before.map(|before| &before.global);
            let bucket = self
                .global
                .take(before, own_global, quota, |_, _| Arc::default());
            (quota, bucket)
        });
        let limits = Limits {
            by: settings.by.clone(),
            per_address,
            per_client,
            global,
            status: settings.status,
        };
        let Some(websocket) = &route.websocket else {
            return Share {
                limits,
                ..Share::default()
            };
        };
        let settings = &websocket.settings;
        let messages = settings.messages_per_client.map(|quota| {
            let before = before.map(|before| &before.messages);
            let owner = owner(websocket.own_messages);
            self.messages.take(before, owner, (quota, clients), table)
        });
        let per_client = settings.per_client.map(|most| {
            let before = before.map(|before| &before.places_per_client);
            let owner = owner(websocket.own_per_client);
            self.places_per_client
                .take(before, owner, most, |&most, other| {
                    let other = other.map(|other| other.with(most));
                    Arc::new(other.unwrap_or_else(|| PerClient::new(most)))
                })
        });
        let global = settings.global.map(|most| {
            let before = before.map(|before| &before.places_global);
            let owner = owner(websocket.own_global);
            self.places_global
                .take(before, owner, most, |&most, other| {
                    let other = other.map(|other| other.with(most));
                    Arc::new(other.unwrap_or_else(|| Global::new(most)))
                })
        });
        Share {
            limits,
            places: Places { per_client, global },
            messages,
        }
    }
}

fn table((quota, clients): &Table, _: Option<&Arc<Clients>>) -> Arc<Clients> {
    let overflow = Sketch::new(*quota, *clients);
    Arc::new(Clients::new(*quota, *clients, Some(Box::new(overflow))))
}
