//! Follows the names of an upstream: looks each one up again when its time has come, and tells
//! who the peers are whenever that changes.

mod names;

use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{Id, JoinSet};
use tokio::time::{Instant, sleep_until, timeout};

use crate::config::Resolve;
use crate::resolver::{Found, Resolver};
use names::Event;
pub(crate) use names::Names;

/// So many names of one upstream are looked up at once.
const AT_ONCE: usize = 64;
/// The first look-ups are waited for by so much longer than they may take.
const GRACE: Duration = Duration::from_millis(100);
/// Looking up again comes later by up to this part of the time, so that many of edge's
/// instances do not ask all at once.
const JITTER: f64 = 0.1;

/// Peers with their weights.
pub(crate) type Peers = Vec<(SocketAddr, u32)>;

/// Who looks names up.
pub(crate) trait LookUp: Send + Sync + 'static {
    /// What the name stands for, or why that is not known.
    fn look_up(
        &self,
        name: &str,
        resolve: Resolve,
    ) -> impl Future<Output = Result<Found, String>> + Send;

    /// The shortest and the longest time until a name is looked up again.
    fn ttl(&self) -> RangeInclusive<Duration>;

    /// The longest that a look-up takes.
    fn timeout(&self) -> Duration;
}

impl LookUp for Resolver {
    async fn look_up(&self, name: &str, resolve: Resolve) -> Result<Found, String> {
        Self::look_up(self, name, resolve).await
    }

    fn ttl(&self) -> RangeInclusive<Duration> {
        Self::ttl(self)
    }

    fn timeout(&self) -> Duration {
        Self::timeout(self)
    }
}

/// Looks up, all at once, those of `names` that never were, and returns all peers; that takes no
/// longer than one look-up. `failed` is called with each name for which it fails. What could not
/// be looked up in that time, `follow` looks up as soon as it begins.
pub(crate) async fn first<L: LookUp>(
    resolver: &Arc<L>,
    names: &Names,
    failed: impl Fn(&str) + Send + Sync,
) -> Peers {
    let mut looking = Looking::new(resolver, names);
    let mut left = names.new_ones().into_iter();
    let all = async {
        loop {
            let room = AT_ONCE.saturating_sub(looking.tasks.len());
            left.by_ref()
                .take(room)
                .for_each(|place| looking.start(place));
            if looking.tasks.is_empty() {
                return;
            }
            looking.next(&failed).await;
        }
    };
    // What was too late is not lost.
    let _ = timeout(resolver.timeout() + GRACE, all).await;
    names.peers()
}

/// Looks each of `names` up again after its time to live, for ever: ends when it is dropped.
/// `changed` is called with all peers whenever they are others than `names.peers()` said at the
/// beginning, or than it was called with last. `failed` is called with the name for each look-up
/// that fails; the name's last addresses stay.
pub(crate) async fn follow<L: LookUp>(
    resolver: Arc<L>,
    names: Names,
    failed: impl Fn(&str) + Send + Sync,
    mut changed: impl FnMut(Peers) + Send,
) {
    let mut looking = Looking::new(&resolver, &names);
    let mut told = names.peers();
    loop {
        let now = Instant::now();
        let next = loop {
            if looking.tasks.len() >= AT_ONCE {
                break None;
            }
            match names.due(now) {
                Ok(place) => looking.start(place),
                Err(next) => break next,
            }
        };
        tokio::select! {
            news = looking.next(&failed), if !looking.tasks.is_empty() => {
                if news && let peers = names.peers() && peers != told {
                    told.clone_from(&peers);
                    changed(peers);
                }
            }
            () = until(next) => {}
        }
    }
}

/// `None`: for ever.
async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// The look-ups under way; they end with this.
struct Looking<L> {
    resolver: Arc<L>,
    names: Names,
    tasks: JoinSet<Result<Found, String>>,
    places: HashMap<Id, usize>,
}

impl<L: LookUp> Looking<L> {
    fn new(resolver: &Arc<L>, names: &Names) -> Self {
        Self {
            resolver: resolver.clone(),
            names: names.clone(),
            tasks: JoinSet::new(),
            places: HashMap::new(),
        }
    }

    fn start(&mut self, place: usize) {
        let Some((name, resolve)) = self.names.begin(place) else {
            return;
        };
        let resolver = self.resolver.clone();
        let task = self
            .tasks
            .spawn(async move { resolver.look_up(&name, resolve).await });
        self.places.insert(task.id(), place);
    }

    /// Waits for one of them, notes what it found, and tells whether a name stands for others
    /// now. May be dropped at its await.
    async fn next(&mut self, failed: &impl Fn(&str)) -> bool {
        let Some(ended) = self.tasks.join_next_with_id().await else {
            return false;
        };
        let (id, found) = match ended {
            Ok((id, found)) => (id, found),
            // A fault of edge's own; the hook has told where.
            Err(error) => (error.id(), Err("the look-up broke off".to_owned())),
        };
        let Some(place) = self.places.remove(&id) else {
            return false;
        };
        let ttl = self.resolver.ttl();
        let stretch = 1.0 + fastrand::f64() * JITTER;
        let noted = self.names.note(place, found, &ttl, stretch, Instant::now());
        let Some(noted) = noted else { return false };
        if noted.failed {
            failed(&noted.name);
        }
        if let Some(event) = noted.event {
            log(self.names.upstream(), &noted.name, event);
        }
        noted.changed
    }
}

impl<L> Drop for Looking<L> {
    fn drop(&mut self) {
        for place in self.places.values() {
            self.names.give_up(*place);
        }
    }
}

fn log(upstream: &str, peer: &str, event: Event) {
    match event {
        Event::Failed(why) => tracing::warn!(upstream, peer, why, "lookup_failed"),
        Event::Recovered => tracing::warn!(upstream, peer, "lookup_recovered"),
        Event::LeftOut(count) => tracing::warn!(upstream, peer, count, "addresses_left_out"),
    }
}

#[cfg(test)]
mod tests;
