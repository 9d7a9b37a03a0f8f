//! The operator's side of the cache: what is purged is asked for anew, and what is told is so.

use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use edge::serve::Edge;
use serde_json::{Value, json};

use crate::support::{
    Answer, Client, Upstream, edge, figure_becomes, figures, get, nobody, ok, request, route_to,
    soon, until,
};

const HIT: &str = "edge; hit";
const MISS: &str = "edge; fwd=uri-miss";

/// An upstream that gives all its answers the tags `all` and their own path, and an entity tag.
async fn tagging() -> Upstream {
    Upstream::serve(|mut visit| async move {
        while let Some(head) = visit.head().await {
            let path = head.split(' ').nth(1).unwrap_or_default();
            let answer = if head.to_ascii_lowercase().contains("if-none-match: \"v\"") {
                "HTTP/1.1 304 Not Modified\r\nETag: \"v\"\r\n\r\n".to_owned()
            } else {
                ok(
                    &format!("ETag: \"v\"\r\nSurrogate-Key: all {path}\r\n"),
                    path,
                )
            };
            visit.write(answer).await;
        }
    })
    .await
}

async fn cached(upstream: &Upstream) -> Edge {
    edge(&route_to(upstream.address, "cache = \"1h\"")).await
}

async fn purge(edge: &Edge, query: &str) -> Answer {
    let start = format!("POST /cache/purge?{query}");
    let mut admin = Client::connect(edge.admin()).await;
    admin.ask(&start, &["Content-Length: 0"]).await
}

async fn purged(edge: &Edge, query: &str) -> Value {
    let answer = purge(edge, query).await;
    assert_eq!(answer.status, 200, "{query}: {}", answer.text());
    assert_eq!(answer.header("content-type"), Some("application/json"));
    answer.json()
}

/// Asks until it is kept: that is a moment after its first reader has all of it.
async fn keep(edge: &Edge, path: &str) {
    until(|| async { get(edge.address(), path).await.cache().starts_with(HIT) }).await;
}

async fn says(edge: &Edge, path: &str, cache: &str) {
    let answer = get(edge.address(), path).await;
    assert!(
        answer.cache().starts_with(cache),
        "{path}: {}",
        answer.cache()
    );
    assert!(answer.all("surrogate-key").is_empty(), "{}", answer.head);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_purged_by_its_tag_is_fetched_anew_and_nothing_else() {
    let upstream = tagging().await;
    let edge = cached(&upstream).await;
    for path in ["/a", "/b"] {
        says(&edge, path, MISS).await;
        keep(&edge, path).await;
    }
    assert_eq!(
        purged(&edge, "tag=%2Fa").await,
        json!({"purged": 1, "soft": false, "tag": "/a"})
    );
    says(&edge, "/a", MISS).await;
    keep(&edge, "/a").await;
    says(&edge, "/b", HIT).await;
    assert_eq!(purged(&edge, "tag=all").await["purged"], 2);
    assert_eq!(purged(&edge, "tag=all").await["purged"], 0);
    says(&edge, "/b", MISS).await;
    assert_eq!(upstream.count(), 4);
    assert_eq!(purged(&edge, "tag=nobody").await["purged"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn urls_prefixes_and_all_are_purged() {
    let upstream = tagging().await;
    let edge = cached(&upstream).await;
    let paths = ["/api/users?x=1&y=2", "/api/users", "/api/usersx", "/other"];
    for (query, gone) in [
        ("url=/api/users?x=1%26y=2", &paths[..1]),
        ("url=http://Edge.Test/api/users", &paths[1..2]),
        ("url=http://other.test/api/users", &[]),
        ("prefix=/api/users", &paths[..2]),
        ("prefix=http://edge.test/api/", &paths[..3]),
        ("prefix=http://edge.test:81/api", &[]),
        ("prefix=/", &paths[..]),
        ("all", &paths[..]),
    ] {
        for path in paths {
            keep(&edge, path).await;
        }
        let told = purged(&edge, query).await;
        assert_eq!(told["purged"], gone.len(), "{query}");
        for path in paths {
            let cache = if gone.contains(&path) { MISS } else { HIT };
            says(&edge, path, cache).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_purged_softly_is_revalidated() {
    let upstream = tagging().await;
    let edge = cached(&upstream).await;
    keep(&edge, "/a").await;
    assert_eq!(
        purged(&edge, "tag=all&soft").await,
        json!({"purged": 1, "soft": true, "tag": "all"})
    );
    let answer = get(edge.address(), "/a").await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "/a"));
    let told = answer.cache();
    assert!(
        told.starts_with("edge; fwd=stale; fwd-status=304"),
        "{told}"
    );
    assert!(
        upstream.heads()[1]
            .to_ascii_lowercase()
            .contains("if-none-match: \"v\"")
    );
    says(&edge, "/a", HIT).await;
    assert_eq!(upstream.count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_purged_softly_stands_in_for_an_upstream_that_fails() {
    let well = Arc::new(AtomicBool::new(true));
    let own = well.clone();
    let upstream = Upstream::serve(move |mut visit| {
        let well = own.clone();
        async move {
            while visit.head().await.is_some() {
                let fields = "Cache-Control: max-age=3600, stale-if-error=3600\r\nCache-Tag: a\r\n";
                if !well.load(Ordering::SeqCst) {
                    return;
                }
                visit.write(ok(fields, "kept")).await;
            }
        }
    })
    .await;
    let edge = cached(&upstream).await;
    keep(&edge, "/a").await;
    well.store(false, Ordering::SeqCst);
    assert_eq!(purged(&edge, "tag=a&soft").await["purged"], 1);
    let stale = get(edge.address(), "/a").await;
    assert_eq!((stale.status, stale.text().as_str()), (200, "kept"));
    assert!(stale.cache().starts_with("edge; hit"), "{}", stale.cache());
    assert_eq!(purged(&edge, "tag=a").await["purged"], 1);
    assert_eq!(get(edge.address(), "/a").await.status, 502);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_arrives_after_its_purge_is_not_kept() {
    let (asked, mut hears) = tokio::sync::mpsc::channel(9);
    let (go, may) = tokio::sync::watch::channel(false);
    let upstream = Upstream::serve(move |mut visit| {
        let (asked, mut may) = (asked.clone(), may.clone());
        async move {
            while visit.head().await.is_some() {
                asked.send(()).await.unwrap();
                may.wait_for(|go| *go).await.unwrap();
                visit.write(ok("", "old")).await;
            }
        }
    })
    .await;
    let edge = cached(&upstream).await;
    let mut client = Client::connect(edge.address()).await;
    client.send(request("GET /a", &[])).await;
    soon(hears.recv()).await.unwrap();
    assert_eq!(purged(&edge, "url=/a").await["purged"], 0);
    go.send(true).unwrap();
    assert_eq!(client.answer().await.text(), "old");
    client.get("/a").await;
    assert_eq!(upstream.count(), 2);
    says(&edge, "/a", HIT).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_is_counted() {
    let upstream = tagging().await;
    let edge = cached(&upstream).await;
    keep(&edge, "/a").await;
    keep(&edge, "/b").await;
    purged(&edge, "tag=all&soft").await;
    purged(&edge, "prefix=/").await;
    purged(&edge, "all").await;
    purge(&edge, "no").await;
    for (labels, count) in [
        ("kind=\"tag\",mode=\"soft\"", 1.0),
        ("kind=\"prefix\",mode=\"hard\"", 1.0),
        ("kind=\"all\",mode=\"hard\"", 1.0),
    ] {
        figure_becomes(
            &edge,
            &format!("edge_cache_purges_total{{{labels}}}"),
            count,
        )
        .await;
    }
    let text = figures(&edge).await;
    assert!(text.contains("\nedge_cache_purged_total "), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_purge_is_refused_and_changes_nothing() {
    let upstream = tagging().await;
    let edge = cached(&upstream).await;
    keep(&edge, "/a").await;
    for query in [
        "",
        "soft",
        "tag=a&all",
        "url=a",
        "tag=",
        "any=1",
        "prefix=/a?b",
        "all=no",
    ] {
        let answer = purge(&edge, query).await;
        assert_eq!(answer.status, 400, "{query}");
        assert!(answer.text().len() > 20, "{query}: {}", answer.text());
    }
    for method in ["GET", "HEAD", "PUT", "DELETE"] {
        let mut admin = Client::connect(edge.admin()).await;
        let start = format!("{method} /cache/purge?all");
        let answer = admin.ask(&start, &["Content-Length: 0"]).await;
        assert_eq!(
            (answer.status, answer.header("allow")),
            (405, Some("POST")),
            "{method}"
        );
    }
    let mut admin = Client::connect(edge.admin()).await;
    let page = ["Origin: http://evil.test", "Content-Length: 0"];
    let answer = admin.ask("POST /cache/purge?all", &page).await;
    assert_eq!(answer.status, 403, "a page in the operator's browser");
    let mut admin = Client::connect(edge.admin()).await;
    let answer = admin.ask("POST /cache", &["Content-Length: 0"]).await;
    assert_eq!(
        (answer.status, answer.header("allow")),
        (405, Some("GET, HEAD"))
    );
    says(&edge, "/a", HIT).await;
}

/// What comes with a purge is not read, so the connection ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_purges_body_is_ignored() {
    let upstream = tagging().await;
    let edge = cached(&upstream).await;
    keep(&edge, "/a").await;
    let mut admin = Client::connect(edge.admin()).await;
    let head = request("POST /cache/purge?all", &["Content-Length: 4"]);
    admin.send(head + "tag=").await;
    let answer = admin.answer().await;
    assert_eq!(answer.header("connection"), Some("close"));
    assert_eq!(answer.json()["purged"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cache_is_told_of() {
    let upstream = tagging().await;
    let edge = cached(&upstream).await;
    for path in ["/a", "/b", "/b", "/b?c", "/b"] {
        get(edge.address(), path).await;
    }
    figure_becomes(
        &edge,
        "edge_cache_requests_total{route=\"/*\",state=\"hit\"}",
        2.0,
    )
    .await;
    let status = get(edge.admin(), "/cache").await.json();
    assert_eq!(status["entries"], 3);
    assert_eq!(status["memory"], 64 << 20);
    assert!(
        status["bytes"]
            .as_u64()
            .is_some_and(|bytes| (1..20_000).contains(&bytes)),
        "{status}"
    );
    assert_eq!(
        (&status["evictions"], &status["arriving"]),
        (&json!(0), &json!(0))
    );
    assert_eq!(
        (&status["requests"]["hit"], &status["requests"]["miss"]),
        (&json!(2), &json!(3))
    );
    let top = get(edge.admin(), "/cache/top?n=2").await.json();
    assert_eq!(top.as_array().unwrap().len(), 2);
    let first = &top[0];
    for (name, value) in [
        ("route", json!("/*")),
        ("host", json!("edge.test")),
        ("path", json!("/b")),
        ("hits", json!(2)),
        ("status", json!(200)),
    ] {
        assert_eq!(first[name], value, "{first}");
    }
    for query in ["n=0", "n=101", "n=x", "m=1"] {
        let answer = get(edge.admin(), &format!("/cache/top?{query}")).await;
        assert_eq!(answer.status, 400, "{query}");
    }
    for path in ["/", "/nowhere"] {
        assert!(
            get(edge.admin(), path)
                .await
                .text()
                .contains("/cache/purge"),
            "{path}"
        );
    }
}

/// `edge cache` with these arguments.
async fn ask(edge: Option<&Edge>, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_edge"));
    command
        .arg("cache")
        .args(arguments)
        .env("http_proxy", "http://127.0.0.1:1");
    if let Some(edge) = edge {
        command.args(["--admin", &edge.admin().to_string()]);
    }
    let run = tokio::task::spawn_blocking(move || command.output());
    let Output {
        status,
        stdout,
        stderr,
    } = soon(run).await.unwrap().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_asks_and_tells() {
    let upstream = tagging().await;
    let edge = cached(&upstream).await;
    for path in ["/a", "/b?x=1&y=2"] {
        keep(&edge, path).await;
    }
    for (arguments, said) in [
        (
            &["purge", "--tag", "nobody"][..],
            "purged 0 answers with the tag nobody\n",
        ),
        (
            &["purge", "--tag", "all", "--soft"],
            "made stale 2 answers with the tag all\n",
        ),
        (
            &["purge", "--url", "/b?x=1&y=2"],
            "purged 1 answer at /b?x=1&y=2\n",
        ),
        (
            &["purge", "--prefix", "http://edge.test/a", "--json"],
            "{\"purged\":1,\"soft\":false,\"prefix\":\"http://edge.test/a\"}\n",
        ),
    ] {
        let (code, out, err) = ask(Some(&edge), arguments).await;
        assert_eq!(
            (code, out.as_str(), err.as_str()),
            (Some(0), said, ""),
            "{arguments:?}"
        );
    }
    keep(&edge, "/a").await;
    let (code, top, _) = ask(Some(&edge), &["top", "-n", "5"]).await;
    assert_eq!((code, top.lines().count()), (Some(0), 2), "{top}");
    assert!(top.contains("edge.test/a"), "{top}");
    let (code, status, _) = ask(Some(&edge), &["status"]).await;
    assert!(code == Some(0) && status.contains("of 64MiB\n"), "{status}");
    let (_, all, _) = ask(Some(&edge), &["purge", "--all"]).await;
    assert!(
        all.starts_with("purged ") && all.ends_with(" in all\n"),
        "{all}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_says_what_is_wrong_and_where() {
    let upstream = tagging().await;
    let edge = cached(&upstream).await;
    let (code, out, err) = ask(Some(&edge), &["purge", "--url", "a"]).await;
    assert_eq!((code, out.as_str()), (Some(1), ""));
    assert!(
        err.contains("refuses (400)") && err.contains("try /path"),
        "{err}"
    );
    let nobody = nobody().await.to_string();
    let (code, _, err) = ask(None, &["status", "--admin", &nobody]).await;
    assert_eq!(code, Some(1));
    assert!(
        err.contains(&nobody) && err.contains("--admin ADDRESS"),
        "{err}"
    );
    let traffic = edge.address().to_string();
    let (code, _, err) = ask(None, &["status", "--admin", &traffic]).await;
    assert!(
        code == Some(1) && err.contains("no admin listener"),
        "{err}"
    );
    for wrong in [
        &["purge"][..],
        &["purge", "--all", "--tag", "a"],
        &["purge", "--soft"],
        &["top", "-n", "0"],
        &["top", "-n", "101"],
        &["status", "--admin", "9090"],
        &["status", "--admin", &nobody, "-c", "edge.toml"],
        &["status", "-c", "/nowhere/edge.toml"],
        &["forget"],
    ] {
        assert_eq!(ask(None, wrong).await.0, Some(2), "{wrong:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_finds_the_listener_in_the_configuration() {
    let upstream = tagging().await;
    let edge = cached(&upstream).await;
    let text = format!(
        "[admin]\nlisten = \"0.0.0.0:{}\"\n{}",
        edge.admin().port(),
        route_to(upstream.address, "")
    );
    let file = std::env::temp_dir().join(format!("edge-purging-{}.toml", std::process::id()));
    std::fs::write(&file, text).unwrap();
    let (code, out, err) = ask(None, &["status", "-c", file.to_str().unwrap()]).await;
    std::fs::remove_file(&file).unwrap();
    assert_eq!(code, Some(0), "{err}");
    assert!(out.contains("answers      0"), "{out}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_are_not_for_clients_where_the_cache_is_passed_by() {
    let upstream = tagging().await;
    let edge = cached(&upstream).await;
    let mut client = Client::connect(edge.address()).await;
    let answer = client.ask("DELETE /a", &[]).await;
    assert!(answer.all("surrogate-key").is_empty(), "{}", answer.head);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_after_a_purge_does_not_get_what_was_asked_for_before() {
    let (go, may) = tokio::sync::watch::channel(false);
    let upstream = Upstream::serve(move |mut visit| {
        let mut may = may.clone();
        async move {
            while visit.head().await.is_some() {
                may.wait_for(|go| *go).await.unwrap();
                visit.write(ok("", "answer")).await;
            }
        }
    })
    .await;
    let edge = cached(&upstream).await;
    let mut early = Client::connect(edge.address()).await;
    early.send(request("GET /a", &[])).await;
    until(|| async { upstream.count() == 1 }).await;
    purged(&edge, "url=/a").await;
    let mut late = Client::connect(edge.address()).await;
    late.send(request("GET /a", &[])).await;
    until(|| async { upstream.count() == 2 }).await;
    go.send(true).unwrap();
    assert_eq!(late.answer().await.text(), "answer");
}
