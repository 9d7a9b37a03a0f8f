//! Puts another configuration in force while edge runs, and touches nothing that is open.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::Mutex;
use tokio::task::spawn_blocking;
use tracing_appender::non_blocking::NonBlocking;

use crate::config::{Change, Config, Unread};
use crate::health::{self, Watches};
use crate::metrics::Metrics;
use crate::plan::{InForce, Plan};

/// What a configuration is put in force with.
pub(crate) struct Reload {
    plan: Arc<InForce>,
    metrics: Arc<Metrics>,
    log: Option<NonBlocking>,
    /// Held from the reading of a configuration to its end: one after the other.
    watches: Mutex<Watches>,
}

impl Reload {
    /// Puts the first one in force. `log` is where the access log's lines go.
    pub(crate) async fn start(
        config: Config,
        metrics: Arc<Metrics>,
        log: Option<NonBlocking>,
    ) -> Self {
        let plan = Plan::new(config, None, &metrics, log.as_ref());
        health::find_peers(&plan.upstreams).await;
        let mut watches = Watches::default();
        watches.follow(&plan.upstreams);
        metrics.in_force(SystemTime::now());
        Self {
            plan: Arc::new(InForce::from_pointee(plan)),
            metrics,
            log,
            watches: Mutex::new(watches),
        }
    }

    /// What is in force.
    pub(crate) fn plan(&self) -> &Arc<InForce> {
        &self.plan
    }

    /// Reads the file and puts it in force; with a fault in it nothing changes.
    pub(crate) async fn read(&self, file: &Path) {
        let mut watches = self.watches.lock().await;
        let path = file.to_owned();
        // Off the workers: whoever is served does not wait for a disk.
        match spawn_blocking(move || Config::load(&path)).await {
            Ok(Ok(config)) => self.apply(config, &mut watches).await,
            Ok(Err(unread)) => self.refuse(&unread),
            Err(_) => self.refuse_panicked(),
        }
    }

    /// Puts this configuration in force.
    pub(crate) async fn put(&self, config: Config) {
        let mut watches = self.watches.lock().await;
        self.apply(config, &mut watches).await;
    }

    /// May be dropped at any await: until the plan is swapped, nothing has changed; and from there
    /// on nothing is waited for.
    async fn apply(&self, config: Config, watches: &mut Watches) {
        let (before, metrics, log) = (
            self.plan.load_full(),
            self.metrics.clone(),
            self.log.clone(),
        );
        // A plan of a thousand routes and large tables takes its time.
        let planned = spawn_blocking(move || {
            let (config, change) = before.config.changed_to(config);
            let plan = Plan::new(config, Some(&before), &metrics, log.as_ref());
            (plan, change)
        });
        let Ok((plan, change)) = planned.await else {
            return self.refuse_panicked();
        };
        health::find_peers(&plan.upstreams).await;
        let plan = Arc::new(plan);
        self.plan.store(plan.clone());
        watches.follow(&plan.upstreams);
        self.metrics.in_force(SystemTime::now());
        self.metrics.reload_applied();
        tell(&change);
    }

    fn refuse(&self, unread: &Unread) {
        self.metrics.reload_refused();
        unread.tell("config_fault", "reload_failed");
    }

    /// A fault of edge's own; the hook has told where.
    fn refuse_panicked(&self) {
        self.metrics.reload_refused();
        tracing::error!("reload_failed");
    }
}

fn tell(change: &Change) {
    if !change.at_start.is_empty() {
        let keys = change.at_start.join(", ");
        tracing::warn!(keys, "restart_required");
    }
    let (routes, upstreams) = (&change.routes, &change.upstreams);
    tracing::info!(
        routes_added = routes.added,
        routes_removed = routes.removed,
        routes_changed = routes.changed,
        routes_kept = routes.kept,
        upstreams_added = upstreams.added,
        upstreams_removed = upstreams.removed,
        upstreams_changed = upstreams.changed,
        upstreams_kept = upstreams.kept,
        "reloaded"
    );
}
