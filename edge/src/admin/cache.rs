//! The cache as its operator sees it: what it holds, what is asked for most, and purges.

use std::collections::BTreeMap;
use std::time::SystemTime;

use http::{Response, StatusCode};
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};

use super::order::{Named, Order};
use super::{json, line};
use crate::metrics::Metrics;
use crate::store::{Purge, Store};

/// What a purge came to.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Purged {
    /// So many answers.
    pub(crate) purged: u64,
    pub(crate) soft: bool,
    #[serde(flatten)]
    pub(crate) named: Named,
}

/// How the cache stands.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Status {
    /// Held, with overhead, and how many that may be.
    pub(crate) bytes: u64,
    pub(crate) memory: u64,
    /// Held of answers that have not arrived completely.
    pub(crate) arriving: u64,
    /// Answers; the variants of one URL count as one.
    pub(crate) entries: u64,
    /// Those that made room for others since the start.
    pub(crate) evictions: u64,
    /// Requests since the start, by what the cache did.
    pub(crate) requests: BTreeMap<String, u64>,
}

/// The answers told by `/cache/top`: as a rule, and at most.
const TOP: usize = 20;
const MOST_TOP: usize = 100;

pub(super) fn status(store: &Store, metrics: &Metrics) -> Response<Vec<u8>> {
    json(&Status {
        bytes: store.bytes(),
        memory: store.memory(),
        arriving: store.arriving(),
        entries: store.entries() as u64,
        evictions: store.evictions(),
        requests: metrics.cache_requests(),
    })
}

/// The answers asked for most. Every answer is looked at, on a thread where nobody waits.
pub(super) async fn top(store: &'static Store, query: &str) -> Response<Vec<u8>> {
    let Some(most) = number(query) else {
        let right = format!("try /cache/top?n={TOP}, from 1 to {MOST_TOP}");
        return line(StatusCode::BAD_REQUEST, &right);
    };
    let looking = tokio::task::spawn_blocking(move || store.top(most, SystemTime::now()));
    match looking.await {
        Ok(top) => json(&top),
        Err(_) => line(StatusCode::INTERNAL_SERVER_ERROR, "edge is ending"),
    }
}

fn number(query: &str) -> Option<usize> {
    if query.is_empty() {
        return Some(TOP);
    }
    let number = percent_decode_str(query.strip_prefix("n=")?);
    let number = number.decode_utf8().ok()?.parse().ok()?;
    (1..=MOST_TOP).contains(&number).then_some(number)
}

pub(super) fn purge(store: &Store, metrics: &Metrics, query: &str) -> Response<Vec<u8>> {
    let (order, target) = match Order::read(query) {
        Ok(order) => order,
        Err(fault) => return line(StatusCode::BAD_REQUEST, &fault.to_string()),
    };
    let purged = store.purge(&target, order.purge, SystemTime::now());
    let Order { named, purge } = order;
    let (kind, soft) = (named.as_str(), purge == Purge::Soft);
    metrics.purged(kind, soft, purged);
    tracing::info!(kind, target = named.value(), soft, purged, "cache_purged");
    json(&Purged {
        purged,
        soft,
        named,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_are_told_as_are_asked_for() {
        for (query, most) in [
            ("", Some(20)),
            ("n=1", Some(1)),
            ("n=100", Some(100)),
            ("n=0", None),
            ("n=101", None),
            ("n=", None),
            ("n=x", None),
            ("most=3", None),
        ] {
            assert_eq!(number(query), most, "{query}");
        }
    }

    #[test]
    fn a_purge_is_told_under_the_name_of_its_target() {
        let told = |named, soft| {
            let purged = Purged {
                purged: 12,
                soft,
                named,
            };
            let text = serde_json::to_string(&purged).unwrap();
            assert_eq!(serde_json::from_str::<Purged>(&text).unwrap(), purged);
            text
        };
        assert_eq!(
            told(Named::Tag("users".to_owned()), false),
            r#"{"purged":12,"soft":false,"tag":"users"}"#
        );
        assert_eq!(
            told(Named::All(true), true),
            r#"{"purged":12,"soft":true,"all":true}"#
        );
    }
}
