//! Asking whether it still holds, both ways; parts of it; and what makes edge forget it
//! (RFC 9111 4.3 and 4.4, RFC 9110 13 and 14).

use crate::support::{
    Client, HIT, Upstream, cached, caching, edge, fields, get, keep, ok, request, route_to,
};

/// Answers with these fields and "hello", or with a 304 and those if it is asked with a condition.
async fn confirming(fields: &'static str, confirmed: &'static str) -> Upstream {
    Upstream::serve(move |mut visit| async move {
        while let Some(head) = visit.head().await {
            if asks_whether(&head) {
                visit
                    .write(format!("HTTP/1.1 304 Not Modified\r\n{confirmed}\r\n"))
                    .await;
            } else {
                visit.write(ok(fields, "hello")).await;
            }
        }
    })
    .await
}

fn asks_whether(head: &str) -> bool {
    ["if-none-match", "if-modified-since"]
        .iter()
        .any(|name| !fields(head, name).is_empty())
}

const OLD: &str = "Cache-Control: max-age=60\r\nAge: 70\r\nETag: \"v1\"\r\n";
const CONFIRMED: &str = "edge; fwd=stale; fwd-status=304; stored";

#[tokio::test(flavor = "multi_thread")]
async fn what_has_grown_old_is_asked_for_again_with_its_tag() {
    let upstream = confirming(
        OLD,
        "ETag: \"v1\"\r\nCache-Control: max-age=60\r\nAge: 0\r\n",
    )
    .await;
    let edge = caching(&upstream).await;
    keep(&edge).await;
    let again = get(edge.address(), "/").await;
    assert_eq!(
        (again.cache().as_str(), again.text().as_str()),
        (CONFIRMED, "hello")
    );
    assert_eq!(fields(&upstream.heads()[1], "if-none-match"), ["\"v1\""]);
    assert_eq!(
        (
            get(edge.address(), "/").await.cache().as_str(),
            upstream.count()
        ),
        (HIT, 2)
    );
}

/// RFC 9111 4.3.4 and 3.2.
#[tokio::test(flavor = "multi_thread")]
async fn a_304_brings_new_fields_and_leaves_the_body_and_what_describes_it() {
    let upstream = confirming(
        "Cache-Control: max-age=60\r\nAge: 70\r\nETag: \"v1\"\r\nX-Kind: a\r\nContent-Type: text/plain\r\nX-Old: 1\r\n",
        "Cache-Control: max-age=90\r\nAge: 0\r\nETag: \"v1\"\r\nX-Kind: b\r\nContent-Type: text/html\r\nX-New: 1\r\nSet-Cookie: a=b\r\n",
    )
    .await;
    let edge = caching(&upstream).await;
    keep(&edge).await;
    keep(&edge).await;
    let hit = get(edge.address(), "/").await;
    assert_eq!((hit.cache().as_str(), hit.text().as_str()), (HIT, "hello"));
    for (name, value) in [
        ("x-kind", Some("b")),
        ("x-new", Some("1")),
        ("x-old", Some("1")),
        ("content-type", Some("text/plain")),
        ("content-length", Some("5")),
        ("cache-control", Some("max-age=90")),
        ("set-cookie", None),
    ] {
        assert_eq!(hit.header(name), value, "{name}");
    }
    assert!((80..=90).contains(&hit.ttl().unwrap()), "{}", hit.head);
}

/// RFC 9111 4.3.4: what a 304 of another tag confirms is not what is kept.
#[tokio::test(flavor = "multi_thread")]
async fn a_304_of_something_else_makes_edge_ask_for_the_whole() {
    let upstream = confirming(OLD, "ETag: \"v2\"\r\n").await;
    let edge = caching(&upstream).await;
    keep(&edge).await;
    let again = get(edge.address(), "/").await;
    assert_eq!((again.status, again.text().as_str()), (200, "hello"));
    assert!(!asks_whether(&upstream.heads()[2]));
}

/// RFC 9111 3 and 3.2: what a 304 forbids to keep is kept no longer.
#[tokio::test(flavor = "multi_thread")]
async fn a_304_that_says_private_ends_what_is_kept() {
    for words in ["private", "no-store"] {
        let told = if words == "private" {
            "ETag: \"v1\"\r\nCache-Control: private\r\n"
        } else {
            "ETag: \"v1\"\r\nCache-Control: no-store\r\n"
        };
        let upstream = confirming(OLD, told).await;
        let edge = caching(&upstream).await;
        keep(&edge).await;
        let last = get(edge.address(), "/").await;
        assert_eq!(last.text(), "hello");
        assert!(
            !last.cache().contains("stored"),
            "{words}: {}",
            last.cache()
        );
        keep(&edge).await;
        assert!(!asks_whether(&upstream.heads()[2]), "{words}: still kept");
    }
}

/// RFC 9111 4.3.3: a full answer takes the place of what was kept.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_answer_takes_the_place_of_the_old_one() {
    let upstream = Upstream::serve(|mut visit| async move {
        while let Some(head) = visit.head().await {
            let (fields, body) = match asks_whether(&head) {
                true => ("Cache-Control: max-age=60\r\nETag: \"v2\"\r\n", "new"),
                false => (OLD, "old"),
            };
            visit.write(ok(fields, body)).await;
        }
    })
    .await;
    let edge = caching(&upstream).await;
    keep(&edge).await;
    let new = get(edge.address(), "/").await;
    assert_eq!(new.cache(), "edge; fwd=stale; fwd-status=200; stored");
    let hit = get(edge.address(), "/").await;
    assert_eq!((hit.cache().as_str(), hit.text().as_str()), (HIT, "new"));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_it_already_is_told_304_from_the_cache() {
    let (edge, upstream) =
        cached(ok("ETag: \"v1\"\r\nContent-Type: text/plain\r\n", "hello")).await;
    let mut client = Client::connect(edge.address()).await;
    client.get("/").await;
    for start in ["GET /", "HEAD /"] {
        let same = client.ask(start, &["If-None-Match: \"v1\""]).await;
        assert_eq!((same.status, same.header("etag")), (304, Some("\"v1\"")));
        assert_eq!(same.header("content-type"), None);
        let other = client.ask(start, &["If-None-Match: \"v0\""]).await;
        assert_eq!(
            (other.status, other.header("content-length")),
            (200, Some("5"))
        );
    }
    assert_eq!(upstream.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_condition_or_a_range_of_the_first_request_leaves_the_whole_to_the_next() {
    let (edge, upstream) = cached(ok("ETag: \"v1\"\r\n", "hello")).await;
    let mut client = Client::connect(edge.address()).await;
    let known = client.ask("GET /a", &["If-None-Match: \"v1\""]).await;
    assert_eq!(known.status, 304);
    let part = client.ask("GET /b", &["Range: bytes=0-1"]).await;
    assert_eq!((part.status, part.text().as_str()), (206, "he"));
    let head = client.ask("HEAD /c", &[]).await;
    assert_eq!(
        (head.status, head.header("content-length")),
        (200, Some("5"))
    );
    for path in ["/a", "/b", "/c"] {
        let hit = client.get(path).await;
        assert_eq!((hit.cache().as_str(), hit.text().as_str()), (HIT, "hello"));
    }
    assert!(upstream.heads().iter().all(|head| !asks_whether(head)));
}

/// RFC 9110 13.1.1: what one client makes edge's peer refuse is no answer for another.
#[tokio::test(flavor = "multi_thread")]
async fn a_condition_that_fails_poisons_nobody() {
    let upstream = Upstream::serve(|mut visit| async move {
        while let Some(head) = visit.head().await {
            let conditions = ["if-match", "if-unmodified-since"];
            let fails = conditions
                .iter()
                .any(|name| !fields(&head, name).is_empty());
            let status = if fails { "412 No" } else { "200 OK" };
            let about = "Cache-Control: max-age=60\r\nContent-Length: 0\r\n";
            visit
                .write(format!("HTTP/1.1 {status}\r\n{about}\r\n"))
                .await;
        }
    })
    .await;
    let edge = caching(&upstream).await;
    for condition in [
        "If-Match: \"x\"",
        "If-Unmodified-Since: Sun, 06 Nov 1994 08:49:37 GMT",
    ] {
        let path = format!("/{}", condition.len());
        let mut client = Client::connect(edge.address()).await;
        let own = client.ask(&format!("GET {path}"), &[condition]).await;
        assert_eq!(own.status, 412, "{condition}");
        assert_eq!(client.get(&path).await.status, 200, "{condition}");
    }
}

/// RFC 9110 14.
#[tokio::test(flavor = "multi_thread")]
async fn a_part_is_cut_from_what_is_kept() {
    let (edge, upstream) = cached(ok("ETag: \"v1\"\r\nAccept-Ranges: bytes\r\n", "hello")).await;
    let mut client = Client::connect(edge.address()).await;
    client.get("/").await;
    for (range, body, place) in [
        ("bytes=1-3", "ell", "bytes 1-3/5"),
        ("bytes=0-0", "h", "bytes 0-0/5"),
        ("bytes=3-", "lo", "bytes 3-4/5"),
        ("bytes=-2", "lo", "bytes 3-4/5"),
        ("bytes=2-99", "llo", "bytes 2-4/5"),
    ] {
        let part = client.ask("GET /", &[&format!("Range: {range}")]).await;
        assert_eq!((part.status, part.text().as_str()), (206, body), "{range}");
        assert_eq!(part.header("content-range"), Some(place));
        assert_eq!(
            part.header("content-length"),
            Some(body.len().to_string().as_str())
        );
        assert_eq!(
            (part.cache().as_str(), part.header("etag")),
            (HIT, Some("\"v1\""))
        );
    }
    let outside = client.ask("GET /", &["Range: bytes=9-"]).await;
    assert_eq!(
        (outside.status, outside.header("content-range")),
        (416, Some("bytes */5"))
    );
    let head = client.ask("HEAD /", &["Range: bytes=1-3"]).await;
    assert_eq!(
        (head.status, head.header("content-length")),
        (200, Some("5")),
        "RFC 9110 14.2"
    );
    assert_eq!(client.get("/").await.text(), "hello");
    assert_eq!(upstream.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn head_is_answered_from_what_get_brought() {
    let (edge, upstream) = cached(ok("", "hello")).await;
    let mut client = Client::connect(edge.address()).await;
    client.get("/a").await;
    let head = client.ask("HEAD /a", &[]).await;
    assert_eq!((head.status, head.cache().as_str()), (200, HIT));
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
    let edge = caching(&upstream).await;
    let mut client = Client::connect(edge.address()).await;
    assert_eq!(client.ask("HEAD /a", &[]).await.status, 200);
    let get = client.get("/a").await;
    assert_eq!((get.text().as_str(), get.complete), ("hello", true));
}

/// RFC 9111 4.4.
#[tokio::test(flavor = "multi_thread")]
async fn what_changes_things_makes_edge_forget_what_it_names() {
    // Method, status, field of the answer; what is forgotten of /a/b, /x and /a/x.
    let none = [false, false, false];
    for (method, status, field, forgotten) in [
        ("POST", "200 OK", "", [true, false, false]),
        ("PUT", "204 No Content", "", [true, false, false]),
        (
            "DELETE",
            "303 See Other",
            "Location: /x\r\n",
            [true, true, false],
        ),
        ("PATCH", "200 OK", "", [true, false, false]),
        (
            "POST",
            "201 Created",
            "Location: x\r\n",
            [true, false, true],
        ),
        (
            "POST",
            "200 OK",
            "Content-Location: /x\r\n",
            [true, true, false],
        ),
        (
            "POST",
            "200 OK",
            "Location: http://edge.test/x\r\n",
            [true, true, false],
        ),
        (
            "POST",
            "200 OK",
            "Location: //EDGE.test:80/x\r\n",
            [true, true, false],
        ),
        (
            "POST",
            "200 OK",
            "Location: http://other.test/x\r\n",
            [true, false, false],
        ),
        (
            "POST",
            "200 OK",
            "Location: https://edge.test/x\r\n",
            [true, false, false],
        ),
        (
            "POST",
            "200 OK",
            "Content-Location: http://edge.test:81/x\r\n",
            [true, false, false],
        ),
        ("POST", "404 Not Found", "Location: /x\r\n", none),
        ("POST", "500 No", "Location: /x\r\n", none),
        ("OPTIONS", "200 OK", "Location: /x\r\n", none),
    ] {
        let upstream = Upstream::serve(move |mut visit| async move {
            while let Some(head) = visit.head().await {
                let reads = head.starts_with("GET");
                let length = if status.starts_with("204") {
                    ""
                } else {
                    "Content-Length: 0\r\n"
                };
                visit
                    .write(match reads {
                        true => ok("", "hello"),
                        false => format!("HTTP/1.1 {status}\r\n{field}{length}\r\n"),
                    })
                    .await;
            }
        })
        .await;
        let edge = caching(&upstream).await;
        let mut client = Client::connect(edge.address()).await;
        let paths = ["/a/b", "/x", "/a/x"];
        for path in paths {
            client.get(path).await;
            assert_eq!(client.get(path).await.cache(), HIT);
        }
        let start = format!("{method} /a/b");
        let done = client.ask(&start, &["Content-Length: 0"]).await;
        assert_eq!(done.status.to_string(), status[..3]);
        assert_eq!(done.cache(), "edge; fwd=method; detail=method");
        for (path, forgotten) in paths.into_iter().zip(forgotten) {
            let missed = client.get(path).await.cache() != HIT;
            assert_eq!(missed, forgotten, "{method} {status} {field}: {path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_route_of_its_own_changes_is_forgotten_too() {
    let upstream = Upstream::saying(ok("", "hello")).await;
    let tables = route_to(upstream.address, "methods = [\"GET\"]\ncache = \"1h\"")
        + "[[route]]\npath = \"/*\"\nmethods = [\"POST\"]\nupstream = \"u\"\n";
    let edge = edge(&tables).await;
    let mut client = Client::connect(edge.address()).await;
    client.get("/").await;
    client.ask("POST /", &["Content-Length: 0"]).await;
    assert_ne!(client.get("/").await.cache(), HIT);
}

/// An answer asked for before a change, and come after it, is not kept.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_on_its_way_when_things_changed_is_not_kept() {
    let gate = std::sync::Arc::new(tokio::sync::Semaphore::new(0));
    let own = gate.clone();
    let upstream = Upstream::serve(move |mut visit| {
        let gate = own.clone();
        async move {
            while let Some(head) = visit.head().await {
                if head.starts_with("GET") {
                    gate.acquire().await.unwrap().forget();
                }
                visit.write(ok("", "hello")).await;
            }
        }
    })
    .await;
    let edge = caching(&upstream).await;
    let mut early = Client::connect(edge.address()).await;
    early.send(request("GET /", &[])).await;
    crate::support::until(|| async { upstream.count() == 1 }).await;
    let mut writer = Client::connect(edge.address()).await;
    writer.ask("POST /", &["Content-Length: 0"]).await;
    gate.add_permits(9);
    early.answer().await;
    assert_ne!(get(edge.address(), "/").await.cache(), HIT);
}
