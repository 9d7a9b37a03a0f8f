//! One fetch for many: who waits for it, who reads along, and who must not wait at all.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use tokio::sync::Semaphore;
use tokio::time::sleep;

use crate::support::{
    Answer, Client, HIT, Upstream, all_at_once, caching, edge, fields, figure_becomes, get, ms, no,
    ok, request, route_to, soon, until,
};

/// Lets an upstream go on, as often as it is opened.
fn gate() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(0))
}

/// Answers every request with these parts, and waits at the gate before each but the first.
async fn upstream_in_parts(parts: &[&str], gate: &Arc<Semaphore>) -> Upstream {
    let parts: Vec<String> = parts.iter().map(ToString::to_string).collect();
    let gate = gate.clone();
    Upstream::serve(move |mut visit| {
        let (parts, gate) = (parts.clone(), gate.clone());
        async move {
            while visit.head().await.is_some() {
                for (number, part) in parts.iter().enumerate() {
                    if number > 0 {
                        gate.acquire().await.unwrap().forget();
                    }
                    visit.write(part).await;
                }
            }
        }
    })
    .await
}

/// Answers with these fields after this time.
async fn slow_upstream(takes: u64, fields: &'static str) -> Upstream {
    Upstream::serve(move |mut visit| async move {
        while visit.head().await.is_some() {
            sleep(ms(takes)).await;
            visit.write(ok(fields, "hello")).await;
        }
    })
    .await
}

/// Clients that have asked, each on its own connection.
async fn asked(count: usize, to: std::net::SocketAddr) -> Vec<Client> {
    let mut clients = Vec::new();
    for _ in 0..count {
        let mut client = Client::connect(to).await;
        client.send(request("GET /", &[])).await;
        clients.push(client);
    }
    clients
}

/// Who has asked by now has reached the gateway.
async fn a_moment() {
    sleep(ms(200)).await;
}

/// In chunks: of a body whose length is known Pingora sends small parts together.
const FIRST: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n";
const LAST: &str = "5\r\n-last\r\n0\r\n\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_at_once_cost_the_upstream_one_request() {
    let upstream = slow_upstream(300, "").await;
    let edge = caching(&upstream).await;
    let answers = all_at_once(200, edge.address(), "/").await;
    assert!(answers.iter().all(|answer| answer.text() == "hello"));
    let collapsed = answers
        .iter()
        .filter(|answer| answer.cache().contains("collapsed"));
    // Who comes when it has been kept already, meets it there.
    let hits = answers.iter().filter(|answer| answer.cache() == HIT);
    assert_eq!(collapsed.count() + hits.count(), 199);
    assert_eq!(upstream.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_read_the_first_part_before_the_last_is_sent() {
    let gate = gate();
    let upstream = upstream_in_parts(&[FIRST, LAST], &gate).await;
    let edge = caching(&upstream).await;
    let mut clients = asked(20, edge.address()).await;
    for client in &mut clients {
        client.rest_of_head().await;
        assert_eq!(client.take(8).await.unwrap(), b"5\r\nfirst");
    }
    gate.add_permits(1);
    for client in &mut clients {
        assert_eq!(client.take(10).await.unwrap(), b"\r\n5\r\n-last");
    }
    assert_eq!(upstream.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_goes_away_mid_body_takes_nothing_from_the_others() {
    let gate = gate();
    let upstream = upstream_in_parts(&[FIRST, LAST], &gate).await;
    let edge = caching(&upstream).await;
    let mut first = asked(1, edge.address()).await.remove(0);
    first.rest_of_head().await;
    let mut others = asked(5, edge.address()).await;
    for other in &mut others {
        other.rest_of_head().await;
    }
    drop(first);
    a_moment().await;
    gate.add_permits(1);
    for other in &mut others {
        assert_eq!(other.take(18).await.unwrap(), b"5\r\nfirst\r\n5\r\n-last");
    }
    assert_eq!(get(edge.address(), "/").await.cache(), HIT);
    assert_eq!(upstream.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_goes_away_before_the_head_takes_nothing_from_the_others() {
    let gate = gate();
    let upstream = upstream_in_parts(&["", &ok("", "hello")], &gate).await;
    let edge = caching(&upstream).await;
    let first = asked(1, edge.address()).await;
    until(|| async { upstream.count() == 1 }).await;
    let mut other = asked(1, edge.address()).await.remove(0);
    a_moment().await;
    drop(first);
    a_moment().await;
    gate.add_permits(1);
    assert_eq!(other.answer().await.text(), "hello");
    assert_eq!(upstream.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_waits_for_any_more_is_kept_all_the_same() {
    let gate = gate();
    let upstream = upstream_in_parts(&[FIRST, LAST], &gate).await;
    let edge = caching(&upstream).await;
    let mut only = asked(1, edge.address()).await.remove(0);
    only.rest_of_head().await;
    drop(only);
    gate.add_permits(1);
    figure_becomes(&edge, "edge_cache_entries", 1.0).await;
    assert_eq!(get(edge.address(), "/").await.cache(), HIT);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_cut_off_looks_complete_to_nobody() {
    for head in [
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    ] {
        let gate = gate();
        let own = gate.clone();
        let upstream = Upstream::serve(move |mut visit| {
            let gate = own.clone();
            async move {
                visit.head().await;
                visit.write(head).await;
                gate.acquire().await.unwrap().forget();
            }
        })
        .await;
        let edge = caching(&upstream).await;
        let clients = asked(5, edge.address()).await;
        a_moment().await;
        gate.add_permits(100);
        for mut client in clients {
            let answer = client.answer().await;
            assert!(!answer.complete, "{head:?}: {answer:?}");
        }
        assert_ne!(get(edge.address(), "/").await.cache(), HIT);
        figure_becomes(&edge, "edge_cache_entries", 0.0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waited_for_what_is_not_kept_waits_once_more_at_most() {
    let (takes, count) = (400, 30);
    for field in [
        "Cache-Control: no-store\r\n",
        "Set-Cookie: a=b\r\n",
        "Vary: *\r\n",
    ] {
        let upstream = slow_upstream(takes, field).await;
        let edge = caching(&upstream).await;
        let began = Instant::now();
        all_at_once(count, edge.address(), "/").await;
        let took = began.elapsed();
        assert!(
            took < ms(takes * 4),
            "{field}: one after the other: {took:?}"
        );
        assert_eq!(upstream.count(), count, "{field}: each has his own");
        let began = Instant::now();
        all_at_once(count, edge.address(), "/").await;
        let took = began.elapsed();
        assert!(
            took < ms(takes * 2),
            "{field}: they wait for each other: {took:?}"
        );
        assert_eq!(upstream.count(), 2 * count, "{field}");
    }
}

/// What may not be reused without asking is nobody's but his who has asked (RFC 9111 4, 5.2.2.4).
#[tokio::test(flavor = "multi_thread")]
async fn what_must_be_asked_for_each_time_is_not_shared_by_those_who_wait() {
    for fields in [
        "Cache-Control: no-cache\r\nETag: \"a\"\r\n",
        "Cache-Control: max-age=0\r\nETag: \"a\"\r\n",
        "Cache-Control: max-age=60\r\nAge: 70\r\nETag: \"a\"\r\n",
    ] {
        let upstream = slow_upstream(300, fields).await;
        let edge = caching(&upstream).await;
        all_at_once(5, edge.address(), "/").await;
        assert_eq!(upstream.count(), 5, "{fields}");
    }
}

/// Each gets what varies by him: nobody can use what another one has waited for.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_told_apart_from_all_others_does_not_queue_behind_them() {
    let (takes, count) = (300, 20);
    let upstream = slow_upstream(takes, "Vary: X-User\r\n").await;
    let edge = caching(&upstream).await;
    let began = Instant::now();
    let asking: Vec<_> = (0..count)
        .map(|number| {
            let address = edge.address();
            tokio::spawn(async move {
                let user = format!("X-User: {number}");
                Client::connect(address).await.ask("GET /", &[&user]).await
            })
        })
        .collect();
    for asking in asking {
        assert_eq!(asking.await.unwrap().text(), "hello");
    }
    let took = began.elapsed();
    assert_eq!(upstream.count(), count);
    assert!(took < ms(takes * 6), "one after the other: {took:?}");
}

/// The first connection comes to nothing, the others answer.
async fn after_a_false_start(broken: &'static str, gate: &Arc<Semaphore>) -> Upstream {
    let (gate, connections) = (gate.clone(), Arc::new(AtomicUsize::new(0)));
    Upstream::serve(move |mut visit| {
        let first = connections.fetch_add(1, Ordering::SeqCst) == 0;
        let gate = gate.clone();
        async move {
            while visit.head().await.is_some() {
                if first {
                    gate.acquire().await.unwrap().forget();
                    visit.write(broken).await;
                    return;
                }
                visit.write(ok("", "hello")).await;
            }
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waited_for_a_fetch_that_failed_gets_a_second_try() {
    for (broken, reason) in [
        ("", "upstream_closed"),
        ("garbage\r\n\r\n", "upstream_invalid"),
    ] {
        let gate = gate();
        let upstream = after_a_false_start(broken, &gate).await;
        let edge = caching(&upstream).await;
        let mut first = asked(1, edge.address()).await.remove(0);
        until(|| async { upstream.count() == 1 }).await;
        let others = asked(10, edge.address()).await;
        a_moment().await;
        gate.add_permits(1);
        assert_eq!(first.answer().await.refusal(), no(502, reason));
        for mut other in others {
            assert_eq!(other.answer().await.text(), "hello", "{broken:?}");
        }
        assert_eq!(upstream.count(), 2, "{broken:?}");
    }
}

/// A chunked body of so many chunks of 64 KiB.
async fn many_chunks(count: usize, gate: &Arc<Semaphore>) -> (Upstream, Arc<AtomicUsize>) {
    let (gate, written) = (gate.clone(), Arc::new(AtomicUsize::new(0)));
    let own = written.clone();
    let upstream = Upstream::serve(move |mut visit| {
        let (gate, written) = (gate.clone(), own.clone());
        async move {
            let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x1_0000));
            while visit.head().await.is_some() {
                visit
                    .write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                    .await;
                gate.acquire().await.unwrap().forget();
                for _ in 0..count {
                    visit.write(&chunk).await;
                    written.fetch_add(1, Ordering::SeqCst);
                }
                visit.write("0\r\n\r\n").await;
            }
        }
    })
    .await;
    (upstream, written)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_turns_out_too_large_reaches_all_who_wait_whole() {
    let gate = gate();
    let (upstream, _) = many_chunks(40, &gate).await;
    let tables = "[cache]\nobject = \"100KiB\"\n".to_owned();
    let edge = edge(&(tables + &route_to(upstream.address, "cache = \"1h\""))).await;
    let clients = asked(5, edge.address()).await;
    a_moment().await;
    gate.add_permits(1);
    let reading: Vec<_> = clients
        .into_iter()
        .map(|mut client| tokio::spawn(async move { client.answer().await }))
        .collect();
    for reading in reading {
        let answer: Answer = reading.await.unwrap();
        assert_eq!((answer.complete, answer.body.len()), (true, 40 << 16));
    }
    assert_eq!(upstream.count(), 1);
    gate.add_permits(1);
    assert_ne!(get(edge.address(), "/").await.cache(), HIT);
    figure_becomes(&edge, "edge_cache_entries", 0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_kept_comes_no_faster_than_it_is_read() {
    let gate = gate();
    let (upstream, written) = many_chunks(1_024, &gate).await;
    let tables = "[cache]\nobject = \"100KiB\"\n".to_owned();
    let edge = edge(&(tables + &route_to(upstream.address, "cache = \"1h\""))).await;
    let mut client = asked(1, edge.address()).await.remove(0);
    gate.add_permits(1);
    client.rest_of_head().await;
    let mut before = usize::MAX;
    until(|| {
        let now = written.load(Ordering::SeqCst);
        let stands = now == before && now > 0;
        before = now;
        async move {
            sleep(ms(300)).await;
            stands
        }
    })
    .await;
    // What the sockets between them hold is much, but not all.
    assert!(
        before < 512,
        "{before} chunks of 1024 were taken for nobody"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_does_not_slow_what_is_kept() {
    let gate = gate();
    let (upstream, _) = many_chunks(256, &gate).await;
    let tables = "[cache]\nmemory = \"128MiB\"\nobject = \"24MiB\"\n".to_owned();
    let edge = edge(&(tables + &route_to(upstream.address, "cache = \"1h\""))).await;
    let mut slow = asked(1, edge.address()).await.remove(0);
    slow.rest_of_head().await;
    let mut fast = asked(1, edge.address()).await.remove(0);
    fast.rest_of_head().await;
    gate.add_permits(1);
    figure_becomes(&edge, "edge_cache_entries", 1.0).await;
    let hit = get(edge.address(), "/").await;
    assert_eq!((hit.cache().as_str(), hit.body.len()), (HIT, 256 << 16));
    for mut reader in [fast, slow] {
        // 256 chunks and their framing, of whatever sizes.
        let body = soon(reader.take(256 << 16)).await;
        assert!(body.is_some());
    }
}

/// What a fetch confirms is for whoever it was kept for, not for all who wait.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_confirmed_for_one_is_not_handed_to_another() {
    let gate = gate();
    let own = gate.clone();
    let upstream = Upstream::serve(move |mut visit| {
        let gate = own.clone();
        async move {
            while let Some(head) = visit.head().await {
                let user = fields(&head, "x-user").join(",");
                let about = format!(
                    "Vary: X-User\r\nETag: \"{user}\"\r\nCache-Control: max-age=1\r\nAge: 9\r\n"
                );
                if fields(&head, "if-none-match").is_empty() {
                    visit.write(ok(&about, &user)).await;
                } else {
                    gate.acquire().await.unwrap().forget();
                    visit
                        .write(format!("HTTP/1.1 304 Not Modified\r\n{about}\r\n"))
                        .await;
                }
            }
        }
    })
    .await;
    let edge = caching(&upstream).await;
    let mut ann = Client::connect(edge.address()).await;
    assert_eq!(ann.ask("GET /", &["X-User: ann"]).await.text(), "ann");
    ann.send(request("GET /", &["X-User: ann"])).await;
    until(|| async { upstream.count() == 2 }).await;
    let mut bob = Client::connect(edge.address()).await;
    bob.send(request("GET /", &["X-User: bob"])).await;
    a_moment().await;
    gate.add_permits(10);
    assert_eq!(ann.answer().await.text(), "ann");
    assert_eq!(bob.answer().await.text(), "bob");
}

/// Whoever has changed it reads what he has written, whatever is still on its way.
#[tokio::test(flavor = "multi_thread")]
async fn who_has_changed_it_does_not_join_a_fetch_begun_before() {
    let gate = gate();
    let (own, written) = (gate.clone(), Arc::new(AtomicUsize::new(0)));
    let upstream = Upstream::serve(move |mut visit| {
        let (gate, written) = (own.clone(), written.clone());
        async move {
            while let Some(head) = visit.head().await {
                if head.starts_with("POST") {
                    written.fetch_add(1, Ordering::SeqCst);
                    visit.write(ok("", "changed")).await;
                    continue;
                }
                let now = written.load(Ordering::SeqCst).to_string();
                if now == "0" {
                    gate.acquire().await.unwrap().forget();
                }
                visit.write(ok("", &now)).await;
            }
        }
    })
    .await;
    let edge = caching(&upstream).await;
    let mut early = asked(1, edge.address()).await.remove(0);
    until(|| async { upstream.count() == 1 }).await;
    let mut writer = Client::connect(edge.address()).await;
    writer.ask("POST /", &["Content-Length: 0"]).await;
    writer.send(request("GET /", &[])).await;
    a_moment().await;
    gate.add_permits(1);
    assert_eq!(writer.answer().await.text(), "1");
    assert_eq!(early.answer().await.text(), "0");
    assert_eq!(get(edge.address(), "/").await.text(), "1");
}

/// An interim answer is for the one who has asked, above all what it sets.
#[tokio::test(flavor = "multi_thread")]
async fn no_interim_answer_sets_a_cookie_for_another() {
    let gate = gate();
    let early = "HTTP/1.1 103 Early Hints\r\nSet-Cookie: a=b\r\n\r\n";
    let upstream = upstream_in_parts(&[early, &ok("", "hello")], &gate).await;
    let edge = caching(&upstream).await;
    let clients = asked(2, edge.address()).await;
    a_moment().await;
    gate.add_permits(2);
    let mut with = 0;
    for mut client in clients {
        client
            .send(request("GET /end", &["Connection: close"]))
            .await;
        gate.add_permits(1);
        let all = String::from_utf8(client.rest().await).unwrap();
        let first = all.split("hello").next().unwrap();
        with += usize::from(first.to_ascii_lowercase().contains("set-cookie"));
    }
    assert!(with <= 1, "{with} clients were given one's cookie");
}

/// A body that needs no chunks ends with the connection, or says that it was cut off.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_ends_with_the_connection_is_kept_whole() {
    let upstream = Upstream::saying_once("HTTP/1.1 200 OK\r\n\r\nhello").await;
    let edge = caching(&upstream).await;
    for state in [crate::support::MISS, HIT] {
        let answer = get(edge.address(), "/").await;
        assert_eq!(
            (answer.cache().as_str(), answer.text().as_str()),
            (state, "hello")
        );
        figure_becomes(&edge, "edge_cache_entries", 1.0).await;
    }
}

/// Not even by those whose time for an answer is over: their fetch goes on within its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_follower_waits_no_longer_than_its_own_time() {
    let upstream = slow_upstream(20_000, "").await;
    let keys = "cache = \"1h\"\ntimeout = { response = \"600ms\" }";
    let edge = edge(&route_to(upstream.address, keys)).await;
    let began = Instant::now();
    for answer in all_at_once(10, edge.address(), "/").await {
        assert_eq!(answer.refusal(), no(504, "response_timeout"));
    }
    assert!(began.elapsed() < ms(5_000), "{:?}", began.elapsed());
    assert!(upstream.count() <= 3, "{} requests", upstream.count());
}
