//! What edge's admin listener tells of the cache, and purges.

use std::time::{Duration, Instant};

use clap::Args;
use serde_json::Value;

use crate::http1::Connection;
use crate::target::{Failure, Target, Way};

/// Where the admin listener is.
#[derive(Args, Debug, Clone)]
pub(crate) struct Admin {
    /// edge's admin listener.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:19101")]
    admin: Target,
}

/// What the cache holds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Stock {
    pub(crate) bytes: f64,
    pub(crate) entries: f64,
    pub(crate) evictions: f64,
}

impl Stock {
    /// The larger of each.
    pub(crate) fn max(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.max(other.bytes),
            entries: self.entries.max(other.entries),
            evictions: self.evictions.max(other.evictions),
        }
    }
}

impl From<Target> for Admin {
    fn from(admin: Target) -> Self {
        Self { admin }
    }
}

impl Admin {
    /// Is edge ready?
    pub(crate) async fn ready(&self) -> Result<(), Failure> {
        self.ask("GET", "/readyz").await.map(|_| ())
    }

    /// What all figures of this name come to.
    pub(crate) async fn sum(&self, name: &str) -> Result<f64, Failure> {
        let text = self.ask("GET", "/metrics").await?;
        Ok(sum(&text, name))
    }

    pub(crate) async fn stock(&self) -> Result<Stock, Failure> {
        let text = self.ask("GET", "/metrics").await?;
        stock(&text).ok_or_else(|| "metrics: nothing of the cache".to_owned())
    }

    /// Purges a tag; how many answers that took out, and how long it took.
    pub(crate) async fn purge(&self, tag: &str) -> Result<(u64, Duration), Failure> {
        let start = Instant::now();
        let text = self.ask("POST", &format!("/cache/purge?tag={tag}")).await?;
        let time = start.elapsed();
        let told: Option<Value> = serde_json::from_str(&text).ok();
        let purged = told.and_then(|told| told.get("purged")?.as_u64());
        purged
            .map(|purged| (purged, time))
            .ok_or_else(|| "purge: no count".to_owned())
    }

    async fn ask(&self, method: &str, path: &str) -> Result<String, Failure> {
        let way = Way::from(self.admin.clone()).to(path);
        let mut connection = Connection::open(&way).await?;
        let answer = connection.ask(method, &way, None).await?;
        if answer.status != 200 {
            return Err(format!("{path}: answered {}", answer.status));
        }
        Ok(String::from_utf8_lossy(connection.body()).into_owned())
    }
}

fn stock(metrics: &str) -> Option<Stock> {
    let value = |name: &str| {
        let mut lines = metrics.lines();
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
    };
    Some(Stock {
        bytes: value("edge_cache_bytes")?,
        entries: value("edge_cache_entries")?,
        evictions: value("edge_cache_evictions_total")?,
    })
}

/// Over all labels; a figure that is not there yet is zero.
fn sum(metrics: &str, name: &str) -> f64 {
    let figures = metrics.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let value = match rest.strip_prefix('{') {
            Some(labels) => labels.rsplit_once("} ")?.1,
            None => rest.strip_prefix(' ')?,
        };
        value.parse::<f64>().ok()
    });
    figures.fold(0.0, |sum, figure| sum + figure)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_summed_over_their_labels() {
        let metrics = "a{x=\"1\"} 2\na{x=\"} 9\"} 3\nab 7\na_b{x=\"1\"} 5\nb 1\n";
        assert_eq!(sum(metrics, "a"), 5.0);
        assert_eq!((sum(metrics, "ab"), sum(metrics, "c")), (7.0, 0.0));
    }

    #[test]
    fn the_stock_is_among_the_metrics() {
        let metrics = "# TYPE edge_cache_bytes gauge\nedge_cache_bytes_more 1\nedge_cache_bytes 7\n\
                       edge_cache_entries 2\nedge_cache_evictions_total 3\n";
        let told = Stock {
            bytes: 7.0,
            entries: 2.0,
            evictions: 3.0,
        };
        assert_eq!(stock(metrics), Some(told));
        assert_eq!(stock("edge_cache_bytes 7\n"), None);
    }
}
