//! How many WebSockets may be open: so many for each client, so many for all together.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use foldhash::fast::RandomState;
use parking_lot::Mutex;

use crate::refusal::Refusal;

/// The places of a route, or of all routes that set none of their own.
#[derive(Debug, Clone, Default)]
pub struct Places {
    /// Each client's.
    pub per_client: Option<Arc<PerClient>>,
    /// What all share.
    pub global: Option<Arc<Global>>,
}

/// Each client's places. Only clients with an open WebSocket are remembered, so it holds no more
/// than there are connections.
#[derive(Debug)]
pub struct PerClient {
    most: usize,
    open: Arc<Mutex<HashMap<u128, usize, RandomState>>>,
}

/// What all clients share.
#[derive(Debug)]
pub struct Global {
    most: usize,
    open: Arc<AtomicUsize>,
}

/// A place among the open WebSockets, given back when dropped.
#[derive(Debug, Default)]
pub struct Place {
    per_client: Option<(Arc<PerClient>, u128)>,
    global: Option<Arc<Global>>,
}

impl PerClient {
    /// So many for each.
    pub fn new(most: usize) -> Self {
        Self {
            most,
            open: Arc::default(),
        }
    }

    /// So many from now on; those that are open count in it.
    pub fn with(&self, most: usize) -> Self {
        let open = self.open.clone();
        Self { most, open }
    }
}

impl Global {
    /// So many for all together.
    pub fn new(most: usize) -> Self {
        Self {
            most,
            open: Arc::default(),
        }
    }

    /// So many from now on; those that are open count in it.
    pub fn with(&self, most: usize) -> Self {
        let open = self.open.clone();
        Self { most, open }
    }
}

impl Places {
    /// A place for one more WebSocket of this client. Its own share comes first: who has used it
    /// must not take from the others'.
    pub fn take(&self, client: u128) -> Result<Place, Refusal> {
        let mut place = Place::default();
        if let Some(own) = &self.per_client {
            let mut open = own.open.lock();
            let count = open.get(&client).copied().unwrap_or(0);
            if count >= own.most {
                return Err(Refusal::WebSocketClientLimit);
            }
            open.insert(client, count + 1);
            place.per_client = Some((own.clone(), client));
        }
        if let Some(all) = &self.global {
            let more = |open| (open < all.most).then_some(open + 1);
            all.open
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
                .map_err(|_| Refusal::WebSocketGlobalLimit)?;
            place.global = Some(all.clone());
        }
        Ok(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some((own, client)) = self.per_client.take() {
            let mut open = own.open.lock();
            match open.get_mut(&client) {
                Some(count) if *count > 1 => *count -= 1,
                _ => {
                    open.remove(&client);
                }
            }
        }
        if let Some(all) = self.global.take() {
            all.open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(per_client: usize, global: usize) -> Places {
        Places {
            per_client: Some(Arc::new(PerClient::new(per_client))),
            global: Some(Arc::new(Global::new(global))),
        }
    }

    #[test]
    fn a_greedy_client_leaves_the_others_their_places() {
        let places = places(2, 3);
        let _first = (places.take(1).unwrap(), places.take(1).unwrap());
        assert_eq!(places.take(1).unwrap_err(), Refusal::WebSocketClientLimit);
        let _other = places.take(2).unwrap();
        assert_eq!(places.take(3).unwrap_err(), Refusal::WebSocketGlobalLimit);
    }

    #[test]
    fn a_place_is_given_back_and_nothing_is_remembered() {
        let places = places(2, 3);
        for _ in 0..10 {
            let _open = (places.take(1).unwrap(), places.take(1).unwrap());
        }
        let _all = [1, 2, 3].map(|client| places.take(client).unwrap());
        // Refused by the shared limit: the client's own place comes back.
        assert_eq!(places.take(4).unwrap_err(), Refusal::WebSocketGlobalLimit);
        let held = places.per_client.as_ref().unwrap().open.lock().len();
        assert_eq!(held, 3);
    }

    #[test]
    fn what_is_open_counts_in_another_number_too() {
        let before = places(2, 3);
        let open = [1, 1, 2].map(|client| before.take(client).unwrap());
        let after = Places {
            per_client: before.per_client.as_ref().map(|own| Arc::new(own.with(3))),
            global: before.global.as_ref().map(|all| Arc::new(all.with(4))),
        };
        let _one = after.take(1).unwrap();
        assert_eq!(after.take(1).unwrap_err(), Refusal::WebSocketClientLimit);
        assert_eq!(after.take(3).unwrap_err(), Refusal::WebSocketGlobalLimit);
        drop(open);
        let _more = [1, 1, 3].map(|client| after.take(client).unwrap());
        assert_eq!(after.take(1).unwrap_err(), Refusal::WebSocketClientLimit);
    }

    #[test]
    fn what_is_off_refuses_nobody() {
        let open: Vec<_> = (0..1_000).map(|_| Places::default().take(1)).collect();
        assert!(open.iter().all(Result::is_ok));
    }
}
