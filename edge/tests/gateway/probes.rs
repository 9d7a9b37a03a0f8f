//! Peers that are asked whether they are well.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::{Upstream, edge, figure_becomes, get, ms, ok, until, upstream_at};
use tokio::time::sleep;

fn tables(peers: &[SocketAddr], health: &str) -> String {
    let route = "\n[[route]]\npath = \"/*\"\nupstream = \"u\"\n";
    upstream_at(peers) + "health = " + health + route
}

fn up(peer: &Upstream) -> String {
    format!(
        "edge_upstream_up{{peer=\"{}\",upstream=\"u\"}}",
        peer.address
    )
}

/// A peer whose probes are answered with a status that may change, and everything else well. How
/// many probes had which status is counted: good ones, and others.
struct Probed {
    upstream: Upstream,
    status: Arc<AtomicUsize>,
    asked: Arc<AtomicUsize>,
}

impl Probed {
    async fn start() -> Self {
        let status = Arc::new(AtomicUsize::new(204));
        let asked = Arc::new(AtomicUsize::new(0));
        let own = (status.clone(), asked.clone());
        let upstream = Upstream::serve(move |mut visit| {
            let (status, asked) = own.clone();
            async move {
                while let Some(head) = visit.head().await {
                    if !head.starts_with("GET /ready?deep=1 ") {
                        visit.write(ok("", "well")).await;
                        continue;
                    }
                    asked.fetch_add(1, Ordering::SeqCst);
                    let status = status.load(Ordering::SeqCst);
                    let answer = format!("HTTP/1.1 {status} So\r\nContent-Length: 0\r\n\r\n");
                    visit.write(answer).await;
                }
            }
        })
        .await;
        Self {
            upstream,
            status,
            asked,
        }
    }

    /// From now on it says this; how many probes until its figure is `up`.
    async fn becomes(&self, edge: &edge::serve::Edge, status: usize, is_up: f64) -> usize {
        self.status.store(status, Ordering::SeqCst);
        let before = self.asked.load(Ordering::SeqCst);
        figure_becomes(edge, &up(&self.upstream), is_up).await;
        self.asked.load(Ordering::SeqCst) - before
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_takes_fall_probes_to_leave_a_peer_out_and_rise_to_take_it_back() {
    let (peer, other) = (Probed::start().await, Probed::start().await);
    let health = "{ path = \"/ready?deep=1\", every = \"200ms\", timeout = \"200ms\", \
                  expect = [204, \"300-302\"], rise = 2, fall = 4 }";
    let addresses = [peer.upstream.address, other.upstream.address];
    let edge = edge(&tables(&addresses, health)).await;
    assert!(
        peer.becomes(&edge, 200, 0.0).await >= 4,
        "200 is not expected"
    );
    let before = peer.upstream.count() - peer.asked.load(Ordering::SeqCst);
    for _ in 0..6 {
        assert_eq!(get(edge.address(), "/").await.status, 200);
    }
    let after = peer.upstream.count() - peer.asked.load(Ordering::SeqCst);
    assert_eq!(after, before, "nobody asks it");
    assert!(peer.becomes(&edge, 301, 1.0).await >= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_that_are_not_answered_in_time_are_bad_and_do_not_pile_up() {
    let open = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    let own = (open.clone(), most.clone());
    let hangs = Upstream::serve(move |mut visit| {
        let (open, most) = own.clone();
        async move {
            let now = open.fetch_add(1, Ordering::SeqCst) + 1;
            most.fetch_max(now, Ordering::SeqCst);
            visit.head().await;
            // Until edge gives it up.
            visit.head().await;
            open.fetch_sub(1, Ordering::SeqCst);
        }
    })
    .await;
    let good = Upstream::saying(ok("", "well")).await;
    let health = "{ path = \"/health\", every = \"100ms\", timeout = \"100ms\", fall = 1 }";
    let edge = edge(&tables(&[hangs.address, good.address], health)).await;
    figure_becomes(&edge, &up(&hangs), 0.0).await;
    for _ in 0..6 {
        assert_eq!(get(edge.address(), "/").await.text(), "well");
    }
    until(|| async { hangs.count() >= 6 }).await;
    // One that was given up may still be ending.
    assert!(most.load(Ordering::SeqCst) <= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_probes_call_all_unwell_all_are_asked() {
    let (one, two) = (Probed::start().await, Probed::start().await);
    let health = "{ path = \"/ready?deep=1\", every = \"200ms\", timeout = \"200ms\", fall = 1 }";
    let addresses = [one.upstream.address, two.upstream.address];
    let edge = edge(&tables(&addresses, health)).await;
    one.becomes(&edge, 500, 0.0).await;
    two.becomes(&edge, 500, 0.0).await;
    let others = |probed: &Probed| probed.upstream.count() - probed.asked.load(Ordering::SeqCst);
    let before = (others(&one), others(&two));
    for _ in 0..6 {
        assert_eq!(get(edge.address(), "/").await.status, 200);
    }
    sleep(ms(10)).await;
    assert!(others(&one) > before.0 && others(&two) > before.1);
}
