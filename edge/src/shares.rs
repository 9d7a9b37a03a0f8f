//! What the routes share of the limits: a route that sets a limit of its own has a bucket of its
//! own, all others have the file's.

use std::cell::OnceCell;
use std::sync::Arc;

use crate::config::{Config, Route, WebSocket};
use crate::limit::{Bucket, Clients, Limits, Quota};
use crate::sketch::Sketch;
use crate::websocket::{Global, PerClient, Places};

/// Every route's share, in the order of the routes.
pub(crate) struct Shares {
    pub(crate) routes: Vec<Share>,
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

/// The file's buckets, made when the first route asks for them.
#[derive(Default)]
struct Shared {
    per_client: OnceCell<Arc<Clients>>,
    global: OnceCell<Arc<Bucket>>,
    messages: OnceCell<Arc<Clients>>,
    places_per_client: OnceCell<Arc<PerClient>>,
    places_global: OnceCell<Arc<Global>>,
}

/// A bucket of the route's own, or the file's.
fn share<T: Clone>(own: bool, shared: &OnceCell<T>, new: impl FnOnce() -> T) -> T {
    if own {
        new()
    } else {
        shared.get_or_init(new).clone()
    }
}

impl Shares {
    pub(crate) fn new(config: &Config) -> Self {
        let shared = Shared::default();
        let share = |route: &Route| Share {
            limits: limits(route, &shared, config.clients),
            ..websocket(route.websocket.as_ref(), &shared, config.clients)
        };
        Self {
            routes: config.routes.iter().map(share).collect(),
        }
    }

    /// All tables of clients, each once.
    pub(crate) fn tables(&self) -> Vec<Arc<Clients>> {
        let mut tables: Vec<Arc<Clients>> = Vec::new();
        let all = self.routes.iter().flat_map(|share| {
            let requests = share.limits.per_client.iter();
            requests.chain(&share.messages)
        });
        for table in all {
            if !tables.iter().any(|known| Arc::ptr_eq(known, table)) {
                tables.push(table.clone());
            }
        }
        tables
    }
}

fn limits(route: &Route, shared: &Shared, clients: usize) -> Limits {
    let (limit, settings) = (&route.limit, &route.limit.settings);
    let per_client = |quota| {
        share(limit.own_per_client, &shared.per_client, || {
            table(quota, clients)
        })
    };
    let global = |quota| {
        let bucket = share(limit.own_global, &shared.global, Arc::default);
        (quota, bucket)
    };
    Limits {
        per_client: settings.per_client.map(per_client),
        global: settings.global.map(global),
        status: settings.status,
    }
}

fn websocket(websocket: Option<&WebSocket>, shared: &Shared, clients: usize) -> Share {
    let Some(websocket) = websocket else {
        return Share::default();
    };
    let settings = &websocket.settings;
    let per_client = |most| {
        share(websocket.own_per_client, &shared.places_per_client, || {
            Arc::new(PerClient::new(most))
        })
    };
    let global = |most| {
        share(websocket.own_global, &shared.places_global, || {
            Arc::new(Global::new(most))
        })
    };
    let messages = |quota| {
        share(websocket.own_messages, &shared.messages, || {
            table(quota, clients)
        })
    };
    Share {
        limits: Limits::default(),
        places: Places {
            per_client: settings.per_client.map(per_client),
            global: settings.global.map(global),
        },
        messages: settings.messages_per_client.map(messages),
    }
}

fn table(quota: Quota, clients: usize) -> Arc<Clients> {
    let overflow = Sketch::new(quota, clients);
    Arc::new(Clients::new(quota, clients, Some(Box::new(overflow))))
}
