//! How many requests an upstream has at once, and how many wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::breaker::Settings;
use crate::refusal::Refusal;

/// The places of one upstream.
pub(super) struct Places {
    connections: Option<Arc<Semaphore>>,
    max_pending: usize,
    max_requests: usize,
    pending: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
}

/// One of them, until it is dropped.
pub(crate) struct Place {
    _connection: Option<OwnedSemaphorePermit>,
    _request: Option<Counted>,
}

/// Counted for as long as it is held.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn below(most: usize, count: &Arc<AtomicUsize>) -> Option<Self> {
        let one_more = |count| (count < most).then_some(count + 1);
        count
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more)
            .ok()?;
        Some(Self(count.clone()))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Places {
    /// `streams` requests share a connection.
    pub(super) fn new(settings: &Settings, streams: usize) -> Self {
        let connections = settings.max_connections.map(|most| {
            let most = most.saturating_mul(streams).min(Semaphore::MAX_PERMITS);
            Arc::new(Semaphore::new(most))
        });
        Self {
            connections,
            max_pending: settings.max_pending,
            max_requests: settings.max_requests.unwrap_or(usize::MAX),
            pending: Arc::default(),
            requests: Arc::default(),
        }
    }

    /// Takes a place, or waits for one; as long as the caller likes to wait.
    pub(super) async fn take(&self) -> Result<Place, Refusal> {
        // Where nothing is bounded, nothing is counted.
        let request = match self.max_requests {
            usize::MAX => None,
            most => Some(Counted::below(most, &self.requests).ok_or(Refusal::UpstreamBusy)?),
        };
        let connection = match &self.connections {
            None => None,
            Some(connections) => Some(self.connection(connections).await?),
        };
        Ok(Place {
            _connection: connection,
            _request: request,
        })
    }

    /// How many wait for a place.
    pub(super) fn pending(&self) -> usize {
        self.pending.load(Ordering::Relaxed)
    }

    async fn connection(
        &self,
        connections: &Arc<Semaphore>,
    ) -> Result<OwnedSemaphorePermit, Refusal> {
        if let Ok(permit) = connections.clone().try_acquire_owned() {
            return Ok(permit);
        }
        let _waiting =
            Counted::below(self.max_pending, &self.pending).ok_or(Refusal::UpstreamBusy)?;
        let permit = connections.clone().acquire_owned().await;
        // Nobody closes it.
        permit.map_err(|_| Refusal::Internal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(connections: usize, pending: usize, requests: usize) -> Places {
        let settings = Settings {
            max_connections: Some(connections),
            max_pending: pending,
            max_requests: Some(requests),
            trip: None,
        };
        Places::new(&settings, 1)
    }

    async fn busy(places: &Places) -> bool {
        matches!(places.take().await, Err(Refusal::UpstreamBusy))
    }

    #[tokio::test]
    async fn who_finds_no_place_waits_for_one_and_no_more_than_may() {
        let places = places(1, 1, 9);
        let first = places.take().await.unwrap();
        let mut second = Box::pin(places.take());
        assert!(futures_util::poll!(&mut second).is_pending());
        assert!(busy(&places).await);
        drop(first);
        let second = second.await.unwrap();
        let third = Box::pin(places.take());
        drop(third);
        drop(second);
        assert!(places.take().await.is_ok());
    }

    #[tokio::test]
    async fn who_gives_up_waiting_leaves_no_trace() {
        let places = places(1, 1, 9);
        let first = places.take().await.unwrap();
        for _ in 0..5 {
            let mut waiting = Box::pin(places.take());
            assert!(futures_util::poll!(&mut waiting).is_pending());
        }
        drop(first);
        assert!(places.take().await.is_ok());
    }

    #[tokio::test]
    async fn those_that_wait_count_as_requests() {
        let places = places(1, 9, 2);
        let first = places.take().await.unwrap();
        let mut second = Box::pin(places.take());
        assert!(futures_util::poll!(&mut second).is_pending());
        assert!(busy(&places).await);
        drop(first);
        assert!(second.await.is_ok());
    }
}
