//! What is handed out stale: while edge asks again, and when nobody answers (RFC 5861).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::time::sleep;

use crate::support::{
    Client, HIT, Upstream, all_at_once, cached, caching, edge, edge_with_log, get, keep, ms, no,
    ok, route_to, until,
};

/// Answers the first request with these fields and "old", all others so.
async fn then(fields: &'static str, later: impl Into<String>, after: u64) -> Upstream {
    let (later, asked) = (later.into(), Arc::new(AtomicUsize::new(0)));
    Upstream::serve(move |mut visit| {
        let (later, asked) = (later.clone(), asked.clone());
        async move {
            while visit.head().await.is_some() {
                if asked.fetch_add(1, Ordering::SeqCst) == 0 {
                    visit.write(ok(fields, "old")).await;
                } else {
                    sleep(ms(after)).await;
                    visit.write(&later).await;
                }
            }
        }
    })
    .await
}

const IF_ERROR: &str = "Cache-Control: max-age=1, stale-if-error=60\r\nAge: 5\r\n";
const REVALIDATE: &str = "Cache-Control: max-age=1, stale-while-revalidate=60\r\nAge: 5\r\n";
const ON_ERROR: &str = "edge; hit; detail=stale_if_error";
const MEANWHILE: &str = "edge; hit; detail=stale_while_revalidate";

fn failing(status: u16) -> String {
    format!("HTTP/1.1 {status} No\r\nContent-Length: 2\r\n\r\nno")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_upstreams_answers_stand_in_for_it() {
    let upstream = Upstream::saying(ok(IF_ERROR, "old")).await;
    let (edge, log) = edge_with_log(&route_to(upstream.address, "cache = \"1h\"")).await;
    keep(&edge).await;
    upstream.dies().await;
    for _ in 0..2 {
        let answer = get(edge.address(), "/").await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "old"));
        assert_eq!(answer.cache(), ON_ERROR);
        assert!((-30..0).contains(&answer.ttl().unwrap()), "{}", answer.head);
        assert!(answer.header("age").unwrap().parse::<u64>().unwrap() >= 5);
    }
    assert_eq!(get(edge.address(), "/other").await.status, 502);
    let lines = log.lines(4).await;
    let stood_in = |line: &&serde_json::Value| line["cache_reason"] == "stale_if_error";
    assert_eq!(lines.iter().filter(stood_in).count(), 2, "{lines:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_are_served_from_what_a_dead_upstream_left() {
    let upstream = Upstream::saying(ok(IF_ERROR, "old")).await;
    let edge = caching(&upstream).await;
    keep(&edge).await;
    upstream.dies().await;
    for answer in all_at_once(30, edge.address(), "/").await {
        assert_eq!((answer.status, answer.cache().as_str()), (200, ON_ERROR));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_upstreams_answers_stand_in_for_it() {
    for (status, stands_in) in [
        (500, true),
        (502, true),
        (503, true),
        (504, true),
        (501, false),
        (404, false),
    ] {
        let upstream = then(IF_ERROR, failing(status), 0).await;
        let edge = caching(&upstream).await;
        keep(&edge).await;
        let answer = get(edge.address(), "/").await;
        let told = (answer.status, answer.text());
        if stands_in {
            assert_eq!(told, (200, "old".to_owned()), "{status}");
            assert_eq!(answer.cache(), ON_ERROR, "{status}");
        } else {
            assert_eq!(told, (status, "no".to_owned()));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_from_an_upstream_is_a_failure_too() {
    for garbage in [
        "garbage\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
    ] {
        let upstream = then(IF_ERROR, garbage, 0).await;
        let edge = caching(&upstream).await;
        keep(&edge).await;
        assert_eq!(
            get(edge.address(), "/").await.cache(),
            ON_ERROR,
            "{garbage}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_is_too_slow_has_failed() {
    let upstream = then(IF_ERROR, ok("", "late"), 5_000).await;
    let keys = "cache = \"1h\"\ntimeout = { response = \"500ms\" }";
    let edge = edge(&route_to(upstream.address, keys)).await;
    keep(&edge).await;
    let answer = get(edge.address(), "/").await;
    assert_eq!((answer.status, answer.cache().as_str()), (200, ON_ERROR));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_must_be_asked_for_is_refused_when_nobody_answers() {
    for words in [
        "must-revalidate",
        "proxy-revalidate",
        "s-maxage=1",
        "no-cache",
    ] {
        let upstream = Upstream::saying(ok(
            &format!("Cache-Control: max-age=1, stale-if-error=60, stale-while-revalidate=60, {words}\r\nAge: 5\r\nETag: \"a\"\r\n"),
            "old",
        ))
        .await;
        let edge = caching(&upstream).await;
        keep(&edge).await;
        upstream.dies().await;
        let answer = get(edge.address(), "/").await;
        assert_eq!(answer.refusal(), no(502, "connect_refused"), "{words}");
    }
}

/// RFC 9111 4.2.4: edge is disconnected from the upstream.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_word_it_stands_in_for_an_upstream_that_is_gone_and_for_no_other() {
    let fields = "Cache-Control: max-age=1\r\nAge: 5\r\nETag: \"a\"\r\n";
    let upstream = then(fields, failing(503), 0).await;
    let edge = caching(&upstream).await;
    keep(&edge).await;
    assert_eq!(get(edge.address(), "/").await.status, 503);
    let upstream = Upstream::saying(ok(fields, "old")).await;
    let gone = caching(&upstream).await;
    keep(&gone).await;
    upstream.dies().await;
    let answer = get(gone.address(), "/").await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "old"));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_stale_stands_in_where_the_route_says_so() {
    let fields = "Cache-Control: max-age=1\r\nAge: 5\r\nETag: \"a\"\r\n";
    let upstream = Upstream::saying(ok(fields, "old")).await;
    let route = "cache = { ttl = \"off\", stale_if_error = \"off\" }";
    let edge = crate::support::edge(&crate::support::route_to(upstream.address, route)).await;
    keep(&edge).await;
    upstream.dies().await;
    assert_eq!(get(edge.address(), "/").await.status, 502);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_been_stale_for_too_long_stands_in_no_more() {
    let (edge, upstream) = cached(ok(
        "Cache-Control: max-age=1, stale-if-error=3\r\nAge: 5\r\nETag: \"a\"\r\n",
        "old",
    ))
    .await;
    keep(&edge).await;
    upstream.dies().await;
    assert_eq!(get(edge.address(), "/").await.status, 502);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_in_the_window_gets_the_old_and_the_next_one_the_new() {
    let new = ok("Cache-Control: max-age=60\r\n", "new");
    let upstream = then(REVALIDATE, new, 300).await;
    let edge = caching(&upstream).await;
    keep(&edge).await;
    for answer in all_at_once(20, edge.address(), "/").await {
        assert_eq!(
            (answer.cache().as_str(), answer.text().as_str()),
            (MEANWHILE, "old")
        );
        assert!(answer.ttl().unwrap() < 0, "{}", answer.head);
    }
    until(|| async { get(edge.address(), "/").await.text() == "new" }).await;
    assert_eq!(get(edge.address(), "/").await.cache(), HIT);
    assert_eq!(upstream.count(), 2, "one background request");
}

#[tokio::test(flavor = "multi_thread")]
async fn in_the_window_an_answer_does_not_wait_for_the_upstream() {
    let upstream = then(REVALIDATE, ok("", "new"), 3_000).await;
    let edge = caching(&upstream).await;
    keep(&edge).await;
    let began = std::time::Instant::now();
    assert_eq!(get(edge.address(), "/").await.text(), "old");
    assert!(began.elapsed() < ms(2_000), "{:?}", began.elapsed());
}

/// A refresh that fails is no reason to ask once a request.
#[tokio::test(flavor = "multi_thread")]
async fn a_failing_upstream_is_asked_by_one_at_a_time_in_the_window() {
    let upstream = then(REVALIDATE, failing(503), 300).await;
    let edge = caching(&upstream).await;
    keep(&edge).await;
    all_at_once(5, edge.address(), "/").await;
    until(|| async { upstream.count() >= 2 }).await;
    sleep(ms(500)).await;
    all_at_once(20, edge.address(), "/").await;
    sleep(ms(100)).await;
    // So many as fit one after the other, not one for each who asks.
    let count = upstream.count();
    assert!(count <= 8, "{count} requests");
}

#[tokio::test(flavor = "multi_thread")]
async fn those_with_credentials_share_one_refresh_too() {
    let fields = "Cache-Control: public, max-age=1, stale-while-revalidate=60\r\nAge: 5\r\n";
    let upstream = then(fields, ok("", "new"), 500).await;
    let edge = caching(&upstream).await;
    keep(&edge).await;
    let mut client = Client::connect(edge.address()).await;
    for _ in 0..10 {
        let answer = client.ask("GET /", &["Cookie: a=b"]).await;
        assert_eq!(answer.cache(), MEANWHILE);
    }
    sleep(ms(100)).await;
    assert_eq!(upstream.count(), 2);
}
