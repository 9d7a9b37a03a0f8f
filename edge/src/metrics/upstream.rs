//! The figures of upstreams and their peers.

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use super::{Maker, Result};
use crate::refusal::Refusal;

/// What every upstream has figures of.
#[derive(Debug, Clone)]
pub(super) struct Families {
    up: IntGaugeVec,
    open: IntGaugeVec,
    ejections: IntCounterVec,
    failures: IntCounterVec,
    retries: IntCounterVec,
    retries_denied: IntCounterVec,
    lookups_failed: IntCounterVec,
    peers: IntGaugeVec,
    pending: IntGaugeVec,
    circuit: IntGaugeVec,
}

/// The figures of one upstream.
#[derive(Debug, Clone)]
pub struct PerUpstream {
    name: String,
    families: Families,
    retries_denied: IntCounter,
    lookups_failed: IntCounter,
    peers: IntGauge,
    pending: IntGauge,
    circuit: IntGauge,
}

impl Families {
    pub(super) fn new(make: &Maker<'_>) -> Result<Self> {
        let peer = &["upstream", "peer"];
        Ok(Self {
            up: make.gauges(
                "edge_upstream_up",
                "Is the peer asked? 1, or 0 while it is not well or ejected",
                peer,
            )?,
            open: make.gauges(
                "edge_upstream_open",
                "Requests and WebSockets that the peer has now",
                peer,
            )?,
            ejections: make.counters(
                "edge_upstream_ejections_total",
                "How often the peer was left out for what its answers said",
                peer,
            )?,
            failures: make.counters(
                "edge_upstream_failures_total",
                "Tries that failed, by reason",
                &["upstream", "reason"],
            )?,
            retries: make.counters(
                "edge_upstream_retries_total",
                "Requests sent to another peer, by what had failed",
                &["upstream", "after"],
            )?,
            retries_denied: make.counters(
                "edge_upstream_retries_denied_total",
                "Requests not sent to another peer for want of budget",
                &["upstream"],
            )?,
            lookups_failed: make.counters(
                "edge_upstream_lookups_failed_total",
                "Look-ups of peers' names that failed",
                &["upstream"],
            )?,
            peers: make.gauges("edge_upstream_peers", "Peers now", &["upstream"])?,
            pending: make.gauges(
                "edge_upstream_pending",
                "Requests that wait for a place now",
                &["upstream"],
            )?,
            circuit: make.gauges(
                "edge_upstream_circuit",
                "The circuit: 0 closed, 1 half-open, 2 open",
                &["upstream"],
            )?,
        })
    }

    pub(super) fn of(&self, name: &str) -> PerUpstream {
        PerUpstream {
            name: name.to_owned(),
            retries_denied: self.retries_denied.with_label_values(&[name]),
            lookups_failed: self.lookups_failed.with_label_values(&[name]),
            peers: self.peers.with_label_values(&[name]),
            pending: self.pending.with_label_values(&[name]),
            circuit: self.circuit.with_label_values(&[name]),
            families: self.clone(),
        }
    }

    /// A try at a peer failed.
    pub(super) fn failed(&self, upstream: &str, refusal: &Refusal) {
        let labels = [upstream, refusal.reason()];
        self.failures.with_label_values(&labels).inc();
    }
}

impl PerUpstream {
    /// Is the peer asked?
    pub fn up(&self, peer: &str, up: bool) {
        let labels = [self.name.as_str(), peer];
        self.families
            .up
            .with_label_values(&labels)
            .set(i64::from(up));
    }

    /// The peer was left out for what its answers said.
    pub fn ejected(&self, peer: &str) {
        let labels = [self.name.as_str(), peer];
        self.families.ejections.with_label_values(&labels).inc();
    }

    /// What the peer has now.
    pub fn open(&self, peer: &str, open: usize) {
        let labels = [self.name.as_str(), peer];
        let open = i64::try_from(open).unwrap_or(i64::MAX);
        self.families.open.with_label_values(&labels).set(open);
    }

    /// The peer has gone, and with it what was told of it.
    pub fn gone(&self, peer: &str) {
        let labels = [self.name.as_str(), peer];
        // It may never have been told.
        let _ = self.families.up.remove_label_values(&labels);
        let _ = self.families.open.remove_label_values(&labels);
        let _ = self.families.ejections.remove_label_values(&labels);
    }

    /// The upstream has gone, and with it what was told of it whether or not anything happened.
    pub fn left(&self) {
        let Families {
            retries_denied,
            lookups_failed,
            peers,
            pending,
            circuit,
            ..
        } = &self.families;
        let labels = [self.name.as_str()];
        for counters in [retries_denied, lookups_failed] {
            let _ = counters.remove_label_values(&labels);
        }
        for gauges in [peers, pending, circuit] {
            let _ = gauges.remove_label_values(&labels);
        }
    }

    /// A request is sent to another peer after this.
    pub fn retried(&self, after: &str) {
        let labels = [self.name.as_str(), after];
        self.families.retries.with_label_values(&labels).inc();
    }

    /// It is not, for want of budget.
    pub fn retry_denied(&self) {
        self.retries_denied.inc();
    }

    /// A name could not be looked up.
    pub fn lookup_failed(&self) {
        self.lookups_failed.inc();
    }

    /// How many peers there are.
    pub fn peers(&self, count: usize) {
        self.peers.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// How many requests wait for a place, and how the circuit stands.
    pub fn state(&self, pending: usize, circuit: i64) {
        self.pending.set(i64::try_from(pending).unwrap_or(i64::MAX));
        self.circuit.set(circuit);
    }
}
