//! The keys of those who issue tokens: got in the background, and kept when the issuer is down.
//!
//! No request fetches anything. One whose token names a key that nobody knows asks for the keys to
//! be looked at again, which happens at most once in a while however many ask, and may wait a
//! moment for that: a change of keys loses no request.

mod source;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::task::{AbortHandle, spawn_blocking};
use tokio::time::{Instant, sleep, timeout};

use crate::config::KeySource;
use crate::jwt::Keys;
use crate::metrics::Metrics;
use source::Source;

/// How often a key set at a URL is fetched.
const REFRESH: Duration = Duration::from_secs(300);
/// How often a file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// An unknown key has a URL fetched, or a file looked at, no more often than this.
const COOL_DOWN_URL: Duration = Duration::from_secs(30);
const COOL_DOWN_FILE: Duration = Duration::from_secs(1);
/// Without any keys a URL is tried again after this time, then after twice that, up to the last.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(30);
/// So many requests wait for new keys at once; others are answered at once.
const MOST_WAITING: usize = 1_024;

/// Where one `[auth.NAME]` has its keys from.
pub(crate) struct Issuer {
    shared: Arc<Shared>,
    task: Option<AbortHandle>,
}

struct Shared {
    name: String,
    source: Source,
    metrics: Arc<Metrics>,
    /// With their generation, which tells them from those before.
    keys: ArcSwapOption<(u64, Keys)>,
    /// What was read last, so that the same is not taken for new.
    seen: Mutex<Vec<u8>>,
    wanted: Notify,
    /// When an unknown key was last a reason to look.
    asked: Mutex<Option<Instant>>,
    /// How often was looked, and is it being looked just now?
    looked: watch::Sender<(u64, bool)>,
    waiting: AtomicUsize,
}

impl Issuer {
    /// Reads what lies here; what lies elsewhere is fetched from now on. Must be called within a
    /// runtime.
    pub(crate) fn new(
        name: &str,
        source: &KeySource,
        ca: Option<&Path>,
        metrics: &Arc<Metrics>,
    ) -> Self {
        let shared = Arc::new(Shared {
            name: name.to_owned(),
            source: Source::new(source, ca),
            metrics: metrics.clone(),
            keys: ArcSwapOption::empty(),
            seen: Mutex::default(),
            wanted: Notify::new(),
            asked: Mutex::default(),
            looked: watch::channel((0, false)).0,
            waiting: AtomicUsize::new(0),
        });
        if !shared.source.is_remote() {
            shared.take(shared.source.read(), false);
        }
        let changes = !matches!(source, KeySource::SecretEnv(_));
        let task = changes.then(|| tokio::spawn(shared.clone().follow()).abort_handle());
        Self { shared, task }
    }

    /// The keys, and their generation; `None`: none have been got yet.
    pub(crate) fn keys(&self) -> Option<Arc<(u64, Keys)>> {
        self.shared.keys.load_full()
    }

    /// A token names a key that is not among those of this generation: are there others, within this
    /// time?
    pub(crate) async fn refreshed(&self, before: u64, at_most: Duration) -> bool {
        let shared = &self.shared;
        let mut looked = shared.looked.subscribe();
        let (_, looking) = *looked.borrow_and_update();
        // They may have come since.
        if shared.generation() != before {
            return true;
        }
        if self.task.is_none() || !(shared.ask() || looking) {
            return false;
        }
        let Some(_waiting) = Waiting::enter(&shared.waiting) else {
            return false;
        };
        let ended = async {
            // A look that had begun before may have missed what is new: the next one has not.
            while looked.changed().await.is_ok() {
                let (_, looking) = *looked.borrow_and_update();
                if !looking && shared.generation() != before {
                    return;
                }
            }
        };
        let _ = timeout(at_most, ended).await;
        shared.generation() != before
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl Shared {
    fn generation(&self) -> u64 {
        self.keys.load().as_ref().map_or(0, |keys| keys.0)
    }

    /// Has it looked at, unless that was asked for a moment ago; tells whether.
    fn ask(&self) -> bool {
        let cool_down = match self.source.is_remote() {
            true => COOL_DOWN_URL,
            false => COOL_DOWN_FILE,
        };
        let mut asked = self.asked.lock();
        let now = Instant::now();
        if asked.is_some_and(|asked| now.duration_since(asked) < cool_down) {
            return false;
        }
        *asked = Some(now);
        self.wanted.notify_one();
        true
    }

    /// Looks again and again, and whenever somebody asks.
    async fn follow(self: Arc<Self>) {
        let mut retry = FIRST_RETRY;
        let mut well = true;
        let mut wait = match self.source.is_remote() {
            true => Duration::ZERO,
            false => LOOK_EVERY,
        };
        loop {
            tokio::select! {
                () = sleep(wait) => {}
                () = self.wanted.notified() => {}
            }
            self.looked.send_modify(|(_, looking)| *looking = true);
            let own = self.clone();
            // Off the workers: whoever is served does not wait for a disk or another's server.
            let read = spawn_blocking(move || own.source.read()).await;
            let read = read.unwrap_or_else(|_| Err("a fault of edge's own".to_owned()));
            well = self.take(read, !well);
            self.looked
                .send_modify(|(count, looking)| (*count, *looking) = (*count + 1, false));
            wait = match (self.source.is_remote(), self.keys.load().is_some()) {
                (false, _) => LOOK_EVERY,
                (true, true) => REFRESH,
                (true, false) => {
                    let now = retry;
                    retry = (retry * 2).min(LAST_RETRY);
                    now
                }
            };
        }
    }

    /// Takes over what was read; tells whether it could be used. What cannot be leaves the keys
    /// as they are, and is told once, not each time.
    fn take(&self, read: Result<Vec<u8>, String>, known: bool) -> bool {
        let name = &self.name;
        let made = read.and_then(|bytes| {
            if !bytes.is_empty() && *self.seen.lock() == bytes {
                return Ok(None);
            }
            let (keys, left_out) = self.source.keys(&bytes)?;
            *self.seen.lock() = bytes;
            Ok(Some((keys, left_out)))
        });
        self.metrics.issuer_looked(name, made.is_ok());
        match made {
            Ok(None) => true,
            Ok(Some((keys, left_out))) => {
                let (count, generation) = (keys.len(), self.generation() + 1);
                self.keys.store(Some(Arc::new((generation, keys))));
                self.metrics.issuer_keys(name, count);
                tracing::info!(auth = name, keys = count, "issuer_keys");
                for why in left_out.iter().take(10) {
                    tracing::warn!(auth = name, why, "issuer_key_left_out");
                }
                true
            }
            Err(error) => {
                if !known {
                    let kept = self.keys.load().as_ref().map_or(0, |keys| keys.1.len());
                    tracing::warn!(auth = name, error, keys_kept = kept, "issuer_unreachable");
                }
                false
            }
        }
    }
}

/// One of those who wait.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn enter(count: &'a AtomicUsize) -> Option<Self> {
        let one_more = |count| (count < MOST_WAITING).then_some(count + 1);
        let entered = count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        entered.is_ok().then_some(Self(count))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
