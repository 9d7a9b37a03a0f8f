//! The file of API keys, taken over without a restart when it changes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::task::{AbortHandle, spawn_blocking};

use crate::api_key::Keys;
use crate::config::read_keys;

/// How often the file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The keys in force.
pub(crate) struct Keyring {
    keys: Arc<ArcSwap<Keys>>,
    following: AbortHandle,
}

impl Keyring {
    /// Reads the file, and looks at it from now on; must be called within a runtime. The
    /// configuration has been read with it a moment ago; should it be gone since, nobody is let in
    /// until it is back.
    pub(crate) fn new(path: &Path) -> Self {
        let keys = read_keys(path).unwrap_or_else(|unread| {
            unread.tell("keys_fault", "keys_refused");
            Keys::default()
        });
        let keys = Arc::new(ArcSwap::from_pointee(keys));
        let following = tokio::spawn(follow(path.to_owned(), keys.clone()));
        Self {
            keys,
            following: following.abort_handle(),
        }
    }

    pub(crate) fn keys(&self) -> Arc<Keys> {
        self.keys.load_full()
    }
}

impl Drop for Keyring {
    fn drop(&mut self) {
        self.following.abort();
    }
}

/// What the file says counts, not its time: a mounted Secret is swapped by a link.
async fn follow(path: PathBuf, keys: Arc<ArcSwap<Keys>>) {
    let mut well = true;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let path = path.clone();
        // Off the workers: whoever is served does not wait for a disk.
        match spawn_blocking(move || read_keys(&path)).await {
            Ok(Ok(new)) => {
                well = true;
                if new != **keys.load() {
                    tracing::info!(keys = new.len(), "keys_changed");
                    keys.store(Arc::new(new));
                }
            }
            // Once, not every few seconds.
            Ok(Err(unread)) if well => {
                well = false;
                unread.tell("keys_fault", "keys_refused");
            }
            _ => {}
        }
    }
}
