//! What is kept, for whom, and how it is told.

use edge::config::Config;
use tokio::time::sleep;

use crate::support::{
    Client, HIT, MISS, Upstream, cached, caching, echo_server, edge, fields, figure_becomes, get,
    ms, ok, route_to, soon, upstream_at,
};

#[tokio::test(flavor = "multi_thread")]
async fn the_second_get_is_a_hit_that_the_upstream_never_sees() {
    let (edge, upstream) = cached(ok("X-Kind: a\r\n", "hello")).await;
    let first = get(edge.address(), "/a").await;
    let second = get(edge.address(), "/a").await;
    assert_eq!([first.cache(), second.cache()], [MISS, HIT]);
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
async fn query_host_and_path_tell_answers_apart() {
    let upstream = Upstream::mirror().await;
    let edge = caching(&upstream).await;
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
async fn answers_that_vary_are_told_apart() {
    let upstream = Upstream::serve(|mut visit| async move {
        while let Some(head) = visit.head().await {
            visit
                .write(ok("Vary: Accept-Language, X-Mode\r\n", &head))
                .await;
        }
    })
    .await;
    let edge = caching(&upstream).await;
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
async fn the_scheme_that_a_trusted_proxy_names_is_in_the_key() {
    let upstream = Upstream::mirror().await;
    let tables = "[server]\ntrusted_proxies = [\"127.0.0.6\"]\n".to_owned()
        + &route_to(upstream.address, "cache = \"1h\"");
    let edge = edge(&tables).await;
    let mut proxy = Client::from("127.0.0.6", edge.address()).await;
    let secure = proxy.ask("GET /", &["X-Forwarded-Proto: https"]).await;
    let plain = proxy.ask("GET /", &["X-Forwarded-Proto: http"]).await;
    assert_eq!([secure.cache(), plain.cache()], [MISS, MISS]);
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
            let host = fields(&head, "x-forwarded-host").join(",");
            visit.write(ok("", &host)).await;
        }
    })
    .await;
    let edge = caching(&upstream).await;
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

#[tokio::test(flavor = "multi_thread")]
async fn the_time_left_is_told_and_runs_out() {
    let (edge, upstream) = cached(ok("Cache-Control: max-age=2\r\n", "a")).await;
    let first = get(edge.address(), "/").await;
    assert!((1..=2).contains(&first.ttl().unwrap()), "{}", first.head);
    assert_eq!(get(edge.address(), "/").await.cache(), HIT);
    sleep(ms(2_100)).await;
    let late = get(edge.address(), "/").await;
    assert_eq!(late.cache(), "edge; fwd=stale; fwd-status=200; stored");
    assert_eq!(upstream.count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_upstream_says_of_the_time_goes_before_what_the_route_says() {
    for (field, least, most) in [
        ("", 3_590, 3_600),
        ("Cache-Control: max-age=86400\r\n", 86_390, 86_400),
        ("Cache-Control: max-age=100\r\n", 90, 100),
        ("Cache-Control: max-age=600\r\nAge: 500\r\n", 90, 100),
    ] {
        let (edge, _upstream) = cached(ok(field, "a")).await;
        let (first, second) = (
            get(edge.address(), "/").await,
            get(edge.address(), "/").await,
        );
        for answer in [&first, &second] {
            let ttl = answer.ttl().unwrap();
            assert!((least..=most).contains(&ttl), "{field}: {ttl}");
        }
        assert_eq!(second.cache(), HIT, "{field}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_age_it_came_with_is_told_and_counts() {
    let (edge, _upstream) = cached(ok("Cache-Control: max-age=600\r\nAge: 500\r\n", "a")).await;
    for _ in 0..2 {
        let answer = get(edge.address(), "/").await;
        let age: u64 = answer.header("age").unwrap().parse().unwrap();
        assert!((500..=530).contains(&age), "{age}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_upstream_calls_not_for_all_is_not_kept_and_why_is_told() {
    for (field, why) in [
        ("Set-Cookie: a=b", "set_cookie"),
        ("Cache-Control: private", "cache_control"),
        ("Cache-Control: no-store", "cache_control"),
        ("Cache-Control: no-cache", "no_time"),
        ("Cache-Control: max-age=0", "no_time"),
        ("Cache-Control: public, max-age=60, s-maxage=0", "no_time"),
        ("Vary: *", "vary"),
        ("Expires: 0", "no_time"),
    ] {
        let (edge, upstream) = cached(ok(&format!("{field}\r\n"), "a")).await;
        let mut client = Client::connect(edge.address()).await;
        for count in 1..=3 {
            let answer = client.get("/").await;
            let told = format!("edge; fwd=uri-miss; fwd-status=200; detail={why}");
            assert_eq!(
                (answer.cache(), answer.text().as_str()),
                (told, "a"),
                "{field}"
            );
            assert_eq!(upstream.count(), count, "{field}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_shows_a_credential_is_answered_for_himself_alone() {
    for credential in ["Authorization: Basic YTpi", "Cookie: session=1"] {
        let upstream = Upstream::mirror().await;
        let edge = caching(&upstream).await;
        let mut client = Client::connect(edge.address()).await;
        for _ in 0..2 {
            let own = client.ask("GET /", &[credential]).await;
            assert_eq!(
                own.cache(),
                "edge; fwd=uri-miss; fwd-status=200; detail=credentials"
            );
            assert!(own.text().contains(credential), "{credential}");
        }
        let anybody = client.get("/").await;
        assert!(!anybody.text().contains(credential), "{credential}");
        assert_eq!(
            (
                anybody.cache().as_str(),
                client.get("/").await.cache().as_str()
            ),
            (MISS, HIT)
        );
        // What is kept for anybody is not for who shows a credential, either.
        let own = client.ask("GET /", &[credential]).await;
        assert!(own.text().contains(credential), "{credential}");
        assert_eq!(upstream.count(), 4);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_methods_pass_by_and_other_statuses_are_not_kept_unasked() {
    let edge = edge(&route_to(echo_server().await, "cache = \"1h\"")).await;
    let mut client = Client::connect(edge.address()).await;
    for _ in 0..2 {
        let post = client.ask("POST /echo", &["Content-Length: 0"]).await;
        assert_eq!(
            (post.status, post.cache().as_str()),
            (200, "edge; fwd=method; detail=method")
        );
        let missing = client.get("/status/404").await;
        let told = "edge; fwd=uri-miss; fwd-status=404; detail=no_time";
        assert_eq!((missing.status, missing.cache().as_str()), (404, told));
    }
}

/// What edge itself tells the peer of the client is as good as a field of the client's.
#[tokio::test(flavor = "multi_thread")]
async fn answers_that_vary_by_what_edge_adds_are_told_apart() {
    for name in ["X-Forwarded-For", "X-Request-Id", "Via"] {
        let upstream = Upstream::serve(move |mut visit| async move {
            while let Some(head) = visit.head().await {
                let body = fields(&head, name).join(",");
                visit.write(ok(&format!("Vary: {name}\r\n"), &body)).await;
            }
        })
        .await;
        let edge = caching(&upstream).await;
        let mut bodies = Vec::new();
        for own in ["127.0.0.2", "127.0.0.3"] {
            bodies.push(
                Client::from(own, edge.address())
                    .await
                    .get("/")
                    .await
                    .text(),
            );
        }
        let differs = name != "Via";
        assert_eq!(bodies[0] != bodies[1], differs, "{name}: {bodies:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_policy_of_a_route_finds_nothing_that_was_kept_under_the_old_one() {
    let upstream = Upstream::saying(ok("", "hello")).await;
    let tables = |cache: &str| route_to(upstream.address, &format!("cache = {cache}"));
    let edge = edge(&tables("\"1h\"")).await;
    get(edge.address(), "/").await;
    for (cache, then) in [("\"1h\"", HIT), ("\"2h\"", MISS), ("\"2h\"", HIT)] {
        let text = format!(
            "[server]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n{}",
            tables(cache)
        );
        let config = Config::read("test.toml", &text);
        soon(edge.reload(config.unwrap_or_else(|faults| panic!("{faults}")))).await;
        assert_eq!(get(edge.address(), "/").await.cache(), then, "{cache}");
    }
}
