//! What is kept, for whom, and how it is told.

use std::time::{Duration, Instant};

use crate::support::{
    Client, Upstream, echo_server, edge, fields, figure_becomes, get, ok, request, route_to,
    upstream_at,
};
use edge::serve::Edge;
use tokio::time::sleep;

/// A gateway that caches for an hour in front of an upstream that says this.
async fn cached(answer: impl Into<Vec<u8>>) -> (Edge, Upstream) {
    let upstream = Upstream::saying(answer).await;
    let edge = edge(&route_to(upstream.address, "cache = \"1h\"")).await;
    (edge, upstream)
}

const HIT: &str = "edge; hit";
const MISS: &str = "edge; fwd=uri-miss; stored";

#[tokio::test(flavor = "multi_thread")]
async fn the_second_get_is_a_hit_that_the_upstream_never_sees() {
    let (edge, upstream) = cached(ok("X-Kind: a\r\n", "hello")).await;
    let first = get(edge.address(), "/a").await;
    let second = get(edge.address(), "/a").await;
    assert_eq!((first.cache(), second.cache()), (MISS, HIT));
    assert_eq!(upstream.count(), 1);
    assert_eq!((second.text().as_str(), second.complete), ("hello", true));
    assert_eq!(second.header("x-kind"), Some("a"));
    let age: u64 = second.header("age").unwrap().parse().unwrap();
    assert!(age <= 30, "{age}");
    assert_ne!(first.header("x-request-id"), second.header("x-request-id"));
    figure_becomes(
        &edge,
        "edge_cache_requests_total{route=\"/*\",state=\"hit\"}",
        1.0,
    )
    .await;
    figure_becomes(
        &edge,
        "edge_cache_requests_total{route=\"/*\",state=\"miss\"}",
        1.0,
    )
    .await;
    figure_becomes(&edge, "edge_cache_entries", 1.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_time_left_is_told_and_a_shorter_max_age_wins() {
    let (edge, upstream) = cached(ok("Cache-Control: max-age=2\r\n", "a")).await;
    let first = get(edge.address(), "/").await;
    assert_eq!(
        first.header("cache-status"),
        Some("edge; fwd=uri-miss; stored; ttl=2")
    );
    let second = get(edge.address(), "/").await;
    assert_eq!(second.cache(), HIT);
    sleep(Duration::from_millis(2_500)).await;
    let third = get(edge.address(), "/").await;
    assert_eq!(third.cache(), "edge; fwd=stale; stored");
    assert_eq!(upstream.count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_longer_max_age_does_not_outlive_the_routes_time() {
    let (edge, _upstream) = cached(ok("Cache-Control: max-age=86400\r\n", "a")).await;
    let first = get(edge.address(), "/").await;
    let status = first.header("cache-status").unwrap();
    let ttl: u64 = status.rsplit('=').next().unwrap().parse().unwrap();
    assert!((3_590..=3_600).contains(&ttl), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_age_it_came_with_counts() {
    let (edge, _upstream) = cached(ok("Cache-Control: max-age=600\r\nAge: 500\r\n", "a")).await;
    get(edge.address(), "/").await;
    let second = get(edge.address(), "/").await;
    let age: u64 = second.header("age").unwrap().parse().unwrap();
    assert_eq!(second.cache(), HIT);
    assert!((500..=530).contains(&age), "{age}");
}

#[tokio::test(flavor = "multi_thread")]
async fn head_is_answered_from_what_get_brought() {
    let (edge, upstream) = cached(ok("", "hello")).await;
    let mut client = Client::connect(edge.address()).await;
    client.get("/a").await;
    let head = client.ask("HEAD /a", &[]).await;
    assert_eq!((head.status, head.cache()), (200, HIT));
    assert_eq!(head.header("content-length"), Some("5"));
    assert_eq!(client.get("/a").await.text(), "hello");
    assert_eq!(upstream.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_head_brought_never_answers_a_get_without_its_body() {
    let upstream = Upstream::serve(|mut visit| async move {
        while let Some(head) = visit.head().await {
            let body = if head.starts_with("HEAD") {
                ""
            } else {
                "hello"
            };
            let head = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
            visit.write(format!("{head}{body}")).await;
        }
    })
    .await;
    let edge = edge(&route_to(upstream.address, "cache = \"1h\"")).await;
    let mut client = Client::connect(edge.address()).await;
    assert_eq!(client.ask("HEAD /a", &[]).await.status, 200);
    let get = client.get("/a").await;
    assert_eq!((get.text().as_str(), get.complete), ("hello", true));
}

#[tokio::test(flavor = "multi_thread")]
async fn query_host_and_path_tell_answers_apart() {
    let upstream = Upstream::mirror().await;
    let edge = edge(&route_to(upstream.address, "cache = \"1h\"")).await;
    let mut client = Client::connect(edge.address()).await;
    let asked = [
        ("GET /a", "Host: a.test"),
        ("GET /a?", "Host: a.test"),
        ("GET /a?x=1", "Host: a.test"),
        ("GET /a?x=2", "Host: a.test"),
        ("GET /a", "Host: b.test"),
        ("GET /a", "Host: a.test:81"),
        ("GET /A", "Host: a.test"),
        ("GET /a/", "Host: a.test"),
    ];
    for (number, (start, host)) in asked.into_iter().enumerate() {
        let answer = client.ask(start, &[host]).await;
        assert!(
            answer.text().starts_with(&format!("{start} HTTP/1.1")),
            "{start} {host}"
        );
        assert_eq!(answer.cache(), MISS, "{start} {host}");
        assert_eq!(upstream.count(), number + 1);
    }
    for (start, host) in asked {
        let answer = client.ask(start, &[host]).await;
        assert_eq!(answer.cache(), HIT, "{start} {host}");
        assert!(
            answer.text().contains(&format!("{host}\r\n")),
            "{start} {host}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_upstream_calls_not_for_all_is_never_shared() {
    for field in [
        "Set-Cookie: a=b",
        "Cache-Control: private",
        "Cache-Control: no-store",
        "Cache-Control: no-cache",
        "Cache-Control: max-age=0",
        "Cache-Control: public, max-age=60, s-maxage=0",
        "Vary: *",
        "Expires: 0",
    ] {
        let (edge, upstream) = cached(ok(&format!("{field}\r\n"), "a")).await;
        let mut client = Client::connect(edge.address()).await;
        // Once it is known not to be kept, nobody looks for it.
        for state in ["uri-miss", "bypass", "bypass"] {
            let answer = client.get("/").await;
            assert_eq!(answer.cache(), format!("edge; fwd={state}"), "{field}");
            assert_eq!(answer.text(), "a");
        }
        assert_eq!(upstream.count(), 3, "{field}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_shows_a_credential_passes_by_the_cache_both_ways() {
    for credential in ["Authorization: Basic YTpi", "Cookie: session=1"] {
        let upstream = Upstream::mirror().await;
        let edge = edge(&route_to(upstream.address, "cache = \"1h\"")).await;
        let mut client = Client::connect(edge.address()).await;
        let own = client.ask("GET /", &[credential]).await;
        assert_eq!(own.cache(), "edge; fwd=bypass");
        let anybody = client.get("/").await;
        assert!(!anybody.text().contains(credential), "{credential}");
        assert_eq!(anybody.cache(), MISS);
        let own = client.ask("GET /", &[credential]).await;
        assert!(own.text().contains(credential), "{credential}");
        assert_eq!(upstream.count(), 3);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_methods_and_other_statuses_are_not_kept() {
    let edge = edge(&route_to(echo_server().await, "cache = \"1h\"")).await;
    let mut client = Client::connect(edge.address()).await;
    for missed in ["edge; fwd=uri-miss", "edge; fwd=bypass"] {
        let post = client.ask("POST /echo", &["Content-Length: 0"]).await;
        assert_eq!((post.status, post.cache()), (200, "edge; fwd=bypass"));
        let missing = client.get("/status/404").await;
        assert_eq!((missing.status, missing.cache()), (404, missed));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_vary_are_told_apart() {
    let upstream = Upstream::serve(|mut visit| async move {
        while let Some(head) = visit.head().await {
            visit
                .write(ok("Vary: Accept-Language, X-Mode\r\n", &head))
                .await;
        }
    })
    .await;
    let edge = edge(&route_to(upstream.address, "cache = \"1h\"")).await;
    let mut client = Client::connect(edge.address()).await;
    let asked = [
        &["Accept-Language: de"][..],
        &["Accept-Language: fr"],
        &["Accept-Language: fr", "X-Mode: 1"],
        &["X-Mode: 1"],
        &[],
    ];
    for fields in asked {
        let answer = client.ask("GET /", fields).await;
        for field in ["Accept-Language: de", "Accept-Language: fr", "X-Mode: 1"] {
            let seen = answer
                .text()
                .to_ascii_lowercase()
                .contains(&field.to_ascii_lowercase());
            assert_eq!(seen, fields.contains(&field), "{fields:?} {field}");
        }
    }
    assert_eq!(upstream.count(), 5);
    for fields in asked {
        assert_eq!(client.ask("GET /", fields).await.cache(), HIT, "{fields:?}");
    }
    assert_eq!(upstream.count(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_waiters_are_served_by_one_fetch() {
    let upstream = Upstream::serve(|mut visit| async move {
        while visit.head().await.is_some() {
            sleep(Duration::from_millis(300)).await;
            visit.write(ok("", "hello")).await;
        }
    })
    .await;
    let edge = edge(&route_to(upstream.address, "cache = \"1h\"")).await;
    let asking: Vec<_> = (0..20)
        .map(|_| {
            let address = edge.address();
            tokio::spawn(async move { get(address, "/").await })
        })
        .collect();
    for asking in asking {
        assert_eq!(asking.await.unwrap().text(), "hello");
    }
    assert_eq!(upstream.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_was_cut_off_is_not_kept() {
    for cut in [
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    ] {
        let upstream = Upstream::saying_once(cut).await;
        let edge = edge(&route_to(upstream.address, "cache = \"1h\"")).await;
        for asked in 1..=2 {
            let answer = get(edge.address(), "/").await;
            assert!(!answer.complete, "{cut:?}: {answer:?}");
            assert_ne!(answer.cache(), HIT);
            assert_eq!(upstream.count(), asked, "{cut:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_passes_whole_and_uncached() {
    let body = "x".repeat(50_000);
    let chunks = format!(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
        body.len(),
        body.len()
    );
    for answer in [ok("", &body.repeat(2)), chunks] {
        let upstream = Upstream::saying(answer).await;
        let tables = "[cache]\nobject = \"4KiB\"\n".to_owned()
            + &route_to(upstream.address, "cache = \"1h\"");
        let edge = edge(&tables).await;
        for asked in 1..=3 {
            let answer = get(edge.address(), "/").await;
            assert_eq!((answer.status, answer.complete), (200, true));
            assert_eq!(answer.body.len(), 100_000);
            assert_ne!(answer.cache(), HIT);
            assert_eq!(upstream.count(), asked);
        }
        figure_becomes(&edge, "edge_cache_entries", 0.0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_it_already_is_told_304_from_the_cache() {
    let (edge, upstream) = cached(ok("ETag: \"v1\"\r\n", "hello")).await;
    let mut client = Client::connect(edge.address()).await;
    client.get("/").await;
    let same = client.ask("GET /", &["If-None-Match: \"v1\""]).await;
    assert_eq!((same.status, same.header("etag")), (304, Some("\"v1\"")));
    let other = client.ask("GET /", &["If-None-Match: \"v0\""]).await;
    assert_eq!((other.status, other.text().as_str()), (200, "hello"));
    assert_eq!(upstream.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_condition_on_the_first_request_leaves_the_whole_answer_to_the_next() {
    let upstream = Upstream::serve(|mut visit| async move {
        while let Some(head) = visit.head().await {
            if head.to_ascii_lowercase().contains("if-none-match") {
                visit.write("HTTP/1.1 304 Not Modified\r\nETag: \"v1\"\r\n\r\n").await;
            } else if head.to_ascii_lowercase().contains("range:") {
                visit
                    .write("HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-1/5\r\nContent-Length: 2\r\n\r\nhe")
                    .await;
            } else {
                visit.write(ok("ETag: \"v1\"\r\n", "hello")).await;
            }
        }
    })
    .await;
    let edge = edge(&route_to(upstream.address, "cache = \"1h\"")).await;
    let mut client = Client::connect(edge.address()).await;
    let known = client.ask("GET /a", &["If-None-Match: \"v1\""]).await;
    assert_eq!(known.status, 304);
    assert_eq!(client.get("/a").await.text(), "hello");
    let part = client.ask("GET /b", &["Range: bytes=0-1"]).await;
    assert_eq!((part.status, part.text().as_str()), (206, "he"));
    assert_eq!(client.get("/b").await.text(), "hello");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_is_cut_from_what_is_kept() {
    let (edge, upstream) = cached(ok("ETag: \"v1\"\r\nAccept-Ranges: bytes\r\n", "hello")).await;
    let mut client = Client::connect(edge.address()).await;
    client.get("/").await;
    let part = client.ask("GET /", &["Range: bytes=1-3"]).await;
    assert_eq!((part.status, part.text().as_str()), (206, "ell"));
    assert_eq!(part.header("content-range"), Some("bytes 1-3/5"));
    let outside = client.ask("GET /", &["Range: bytes=9-"]).await;
    assert_eq!(outside.status, 416);
    assert_eq!(upstream.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_grown_old_is_asked_for_again_with_its_tag() {
    let upstream = Upstream::serve(|mut visit| async move {
        while let Some(head) = visit.head().await {
            let age = "Cache-Control: max-age=1\r\nETag: \"v1\"\r\n";
            if head.to_ascii_lowercase().contains("if-none-match: \"v1\"") {
                let same = format!("HTTP/1.1 304 Not Modified\r\n{age}\r\n");
                visit.write(same).await;
            } else {
                visit.write(ok(age, "hello")).await;
            }
        }
    })
    .await;
    let edge = edge(&route_to(upstream.address, "cache = \"1h\"")).await;
    get(edge.address(), "/").await;
    sleep(Duration::from_millis(1_500)).await;
    let again = get(edge.address(), "/").await;
    assert_eq!(again.cache(), "edge; fwd=stale; fwd-status=304; stored");
    assert_eq!(again.text(), "hello");
    let hit = get(edge.address(), "/").await;
    assert_eq!((hit.cache(), upstream.count()), (HIT, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_scheme_that_a_trusted_proxy_names_is_in_the_key() {
    let upstream = Upstream::mirror().await;
    let tables = "[server]\ntrusted_proxies = [\"127.0.0.6\"]\n".to_owned()
        + &route_to(upstream.address, "cache = \"1h\"");
    let edge = edge(&tables).await;
    let mut proxy = Client::from("127.0.0.6", edge.address()).await;
    let secure = proxy.ask("GET /", &["X-Forwarded-Proto: https"]).await;
    let plain = proxy.ask("GET /", &["X-Forwarded-Proto: http"]).await;
    assert_eq!((secure.cache(), plain.cache()), (MISS, MISS));
    let mut anybody = Client::connect(edge.address()).await;
    let spoofed = anybody.ask("GET /", &["X-Forwarded-Proto: https"]).await;
    assert_eq!(spoofed.cache(), HIT);
    assert!(
        spoofed
            .text()
            .to_ascii_lowercase()
            .contains("x-forwarded-proto: http\r\n")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_field_that_the_peer_could_mirror_poisons_nobody() {
    // What edge forwards of a client's own words must be in the key, or not be believed.
    let upstream = Upstream::serve(|mut visit| async move {
        while let Some(head) = visit.head().await {
            let host = crate::support::fields(&head, "x-forwarded-host").join(",");
            visit.write(ok("", &host)).await;
        }
    })
    .await;
    let edge = edge(&route_to(upstream.address, "cache = \"1h\"")).await;
    let mut client = Client::connect(edge.address()).await;
    client.ask("GET /", &["X-Forwarded-Host: evil.test"]).await;
    assert_eq!(client.get("/").await.text(), "edge.test");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_without_a_cache_says_nothing_of_one() {
    let upstream = Upstream::saying(ok("", "a")).await;
    let tables = upstream_at(&[upstream.address])
        + "[[route]]\npath = \"/a\"\nupstream = \"u\"\ncache = \"off\"\n\
           [[route]]\npath = \"/*\"\nupstream = \"u\"\n";
    let edge = edge(&tables).await;
    for path in ["/a", "/a", "/b", "/b"] {
        assert_eq!(get(edge.address(), path).await.header("cache-status"), None);
    }
    assert_eq!(upstream.count(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiter_whose_fetcher_goes_away_is_served_all_the_same() {
    let upstream = Upstream::serve(|mut visit| async move {
        while visit.head().await.is_some() {
            sleep(Duration::from_millis(400)).await;
            visit.write(ok("", "hello")).await;
        }
    })
    .await;
    let edge = edge(&route_to(upstream.address, "cache = \"1h\"")).await;
    let mut fetcher = Client::connect(edge.address()).await;
    fetcher.send(request("GET /", &[])).await;
    sleep(Duration::from_millis(100)).await;
    let address = edge.address();
    let waiter = tokio::spawn(async move { get(address, "/").await });
    sleep(Duration::from_millis(100)).await;
    drop(fetcher);
    assert_eq!(waiter.await.unwrap().text(), "hello");
}

/// Three who ask at the same time for what cannot be kept and takes this long: what each is told
/// of the cache, and how long all of them took.
async fn three_at_once_for_what_is_not_kept(takes: Duration) -> (Vec<String>, Duration) {
    let upstream = Upstream::serve(move |mut visit| async move {
        while visit.head().await.is_some() {
            sleep(takes).await;
            visit
                .write(ok("Cache-Control: no-store\r\n", "hello"))
                .await;
        }
    })
    .await;
    let edge = edge(&route_to(upstream.address, "cache = \"1h\"")).await;
    get(edge.address(), "/").await;
    let began = Instant::now();
    let asking: Vec<_> = (0..3)
        .map(|_| {
            let address = edge.address();
            tokio::spawn(async move { get(address, "/").await })
        })
        .collect();
    let mut told = Vec::new();
    for asking in asking {
        let answer = asking.await.unwrap();
        assert_eq!(answer.text(), "hello");
        told.push(answer.cache().to_owned());
    }
    let took = began.elapsed();
    assert_eq!(upstream.count(), 4);
    (told, took)
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_queues_for_what_could_not_be_kept_before() {
    let takes = Duration::from_secs(1);
    let (_, took) = three_at_once_for_what_is_not_kept(takes).await;
    assert!(took < takes * 2, "one after the other: {took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_could_not_be_kept_before_passes_by_the_cache() {
    let (told, _) = three_at_once_for_what_is_not_kept(Duration::from_millis(100)).await;
    assert_eq!(told, ["edge; fwd=bypass"; 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_host_that_a_trusted_proxy_names_is_in_the_key() {
    let upstream = Upstream::mirror().await;
    let tables = "[server]\ntrusted_proxies = [\"127.0.0.6\"]\n".to_owned()
        + &route_to(upstream.address, "cache = \"1h\"");
    let edge = edge(&tables).await;
    let mut proxy = Client::from("127.0.0.6", edge.address()).await;
    for cache in [MISS, HIT] {
        for host in ["a.test", "b.test"] {
            let field = format!("X-Forwarded-Host: {host}");
            let answer = proxy.ask("GET /", &[&field]).await;
            assert_eq!(answer.cache(), cache, "{host}");
            let heard = answer.text();
            assert_eq!(fields(&heard, "x-forwarded-host"), [host]);
        }
    }
    let mut anybody = Client::connect(edge.address()).await;
    let spoofed = anybody.ask("GET /", &["X-Forwarded-Host: a.test"]).await;
    let heard = spoofed.text();
    assert_eq!(fields(&heard, "x-forwarded-host"), ["edge.test"]);
}
