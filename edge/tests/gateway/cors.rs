//! Pages of other sites, the fields that a route changes, and the addresses that it lets in.

use crate::support::{
    Answer, Client, HIT, Upstream, edge, edge_with_log, fields, no, nobody, ok, upstream_at,
};

const APP: &str = "Origin: https://app.example";
const CORS: &str = "cors = { origins = [\"https://app.example\", \"https://*.shop.example\"], methods = [\"GET\", \"PUT\"], headers = [\"Content-Type\", \"X-A\"], expose = [\"X-B\"], credentials = true, max_age = \"5m\" }";

fn route(keys: &str, peer: std::net::SocketAddr) -> String {
    format!(
        "{}[[route]]\npath = \"/*\"\nupstream = \"u\"\n{keys}\n",
        upstream_at(&[peer])
    )
}

async fn ask(to: std::net::SocketAddr, start: &str, fields: &[&str]) -> Answer {
    Client::connect(to).await.ask(start, fields).await
}

fn allowed(answer: &Answer) -> Option<&str> {
    answer.header("access-control-allow-origin")
}

fn vary(answer: &Answer) -> String {
    answer.all("vary").join(", ").to_ascii_lowercase()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preflight_is_answered_at_the_door_and_costs_nothing() {
    let upstream = Upstream::saying(ok("", "a")).await;
    let keys = format!(
        "methods = [\"GET\", \"PUT\"]\n{CORS}\nlimit = {{ per_client = \"1/h\", burst = 1 }}"
    );
    let edge = edge(&route(&keys, upstream.address)).await;
    let asked = [
        APP,
        "Access-Control-Request-Method: PUT",
        "Access-Control-Request-Headers: content-type,x-a",
    ];
    for _ in 0..5 {
        let answer = ask(edge.address(), "OPTIONS /x", &asked).await;
        assert_eq!(
            (answer.status, answer.body.len()),
            (204, 0),
            "{}",
            answer.head
        );
        for (name, value) in [
            ("access-control-allow-origin", "https://app.example"),
            ("access-control-allow-credentials", "true"),
            ("access-control-allow-methods", "GET, PUT"),
            ("access-control-allow-headers", "content-type, x-a"),
            ("access-control-max-age", "300"),
        ] {
            assert_eq!(answer.all(name), [value], "{}", answer.head);
        }
        assert!(
            vary(&answer).contains("access-control-request-method"),
            "{}",
            answer.head
        );
    }
    for bad in [
        ["Origin: https://evil.example", asked[1], asked[2]],
        [APP, "Access-Control-Request-Method: DELETE", asked[2]],
        [APP, asked[1], "Access-Control-Request-Headers: x-c"],
        ["Origin: null", asked[1], asked[2]],
    ] {
        let answer = ask(edge.address(), "OPTIONS /x", &bad).await;
        let refused = answer.refusal();
        assert!(
            refused == no(403, "preflight_refused") || refused == no(405, "method_not_allowed"),
            "{bad:?} {refused:?}"
        );
        assert!(answer.header("access-control-allow-methods").is_none());
    }
    assert_eq!(upstream.count(), 0);
    assert_eq!(
        ask(edge.address(), "GET /x", &[APP]).await.status,
        200,
        "nothing was used"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_says_which_page_may_read_it() {
    let peer = "Access-Control-Allow-Origin: *\r\nAccess-Control-Allow-Methods: DELETE\r\nVary: Accept\r\n";
    let upstream = Upstream::saying(ok(peer, "a")).await;
    let keys = format!("{CORS}\nlimit = {{ per_client = \"1/h\", burst = 1 }}");
    let edge_of = |keys: String, peer| async move { edge(&route(&keys, peer)).await };
    let limited = edge_of(keys, upstream.address).await;
    let broken = edge_of(CORS.to_owned(), nobody().await).await;
    let secret = std::env::temp_dir().join(format!("edge-cors-{}", std::process::id()));
    std::fs::write(&secret, [b'a'; 32]).unwrap();
    let tables = format!(
        "[auth.a]\ntype = \"jwt\"\nsecret = {{ file = {secret:?} }}\n{}",
        route(&format!("{CORS}\nauth = \"a\""), upstream.address)
    );
    let guarded = edge(&tables).await;
    for (to, status) in [
        (limited.address(), 200),
        (limited.address(), 429),
        (broken.address(), 502),
        (guarded.address(), 401),
    ] {
        let answer = ask(to, "GET /", &[APP]).await;
        assert_eq!(answer.status, status);
        assert_eq!(
            answer.all("access-control-allow-origin"),
            ["https://app.example"],
            "{}",
            answer.head
        );
        assert_eq!(answer.header("access-control-expose-headers"), Some("x-b"));
        assert!(
            answer.header("access-control-allow-methods").is_none(),
            "the peer's"
        );
        assert!(vary(&answer).contains("origin"), "{}", answer.head);
    }
    for strange in [&["Origin: https://evil.example"][..], &[], &[APP, APP]] {
        let answer = ask(guarded.address(), "GET /", strange).await;
        assert_eq!(allowed(&answer), None, "{strange:?}");
        assert!(vary(&answer).contains("origin"), "{}", answer.head);
    }
    let _ = std::fs::remove_file(secret);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_answer_names_the_page_that_asks_now() {
    let upstream = Upstream::saying(ok("", "a")).await;
    let edge = edge(&route(&format!("{CORS}\ncache = \"1h\""), upstream.address)).await;
    for (origin, kept) in [
        ("https://app.example", false),
        ("https://a.shop.example", true),
        ("https://app.example", true),
    ] {
        let answer = ask(edge.address(), "GET /", &[&format!("Origin: {origin}")]).await;
        assert_eq!(answer.all("access-control-allow-origin"), [origin]);
        assert_eq!(answer.cache() == HIT, kept, "{}", answer.head);
        assert_eq!(
            vary(&answer).matches("origin").count(),
            1,
            "{}",
            answer.head
        );
    }
    assert_eq!(upstream.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_pages_alike_need_no_vary() {
    let upstream = Upstream::saying(ok("", "a")).await;
    let edge = edge(&route("cors = { origins = \"*\" }", upstream.address)).await;
    let answer = ask(edge.address(), "GET /", &[APP]).await;
    assert_eq!(allowed(&answer), Some("*"));
    assert!(!vary(&answer).contains("origin"), "{}", answer.head);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preflight_without_cors_is_the_peers() {
    let upstream = Upstream::saying(ok("X-Own: 1\r\n", "")).await;
    let edge = edge(&route("", upstream.address)).await;
    let asked = [APP, "Access-Control-Request-Method: PUT"];
    let answer = ask(edge.address(), "OPTIONS /", &asked).await;
    assert_eq!((answer.status, answer.header("x-own")), (200, Some("1")));
}

const HEADERS: &str = "[headers]\nsecurity = true\nresponse = { remove = [\"Server\"], set = { X-Env = \"prod\" } }\n\
    request = { set = { X-From = \"{client} on {route}\" }, remove = [\"X-Debug\"], add = { X-Seen = \"edge\" } }\n";

#[tokio::test(flavor = "multi_thread")]
async fn fields_are_changed_both_ways_and_the_route_has_the_last_word() {
    let upstream = Upstream::mirror().await;
    let own = "name = \"all\"\nheaders = { response = { set = { X-Env = \"test\" }, add = { X-Up = \"{upstream}\" } } }";
    let edge = edge(&format!("{HEADERS}{}", route(own, upstream.address))).await;
    let answer = ask(
        edge.address(),
        "GET /",
        &["X-Debug: 1", "X-Seen: client", "X-From: me"],
    )
    .await;
    let head = answer.text();
    assert_eq!(fields(&head, "x-from"), ["127.0.0.1 on all"], "{head}");
    assert_eq!(fields(&head, "x-seen"), ["client", "edge"], "{head}");
    assert!(fields(&head, "x-debug").is_empty(), "{head}");
    for (name, value) in [
        ("x-env", "test"),
        ("x-up", "u"),
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
        ("referrer-policy", "strict-origin-when-cross-origin"),
    ] {
        assert_eq!(answer.all(name), [value], "{}", answer.head);
    }
    assert!(answer.header("server").is_none());
    assert!(
        answer.header("strict-transport-security").is_none(),
        "not in the clear"
    );
    let upstream = Upstream::saying(ok("X-Frame-Options: SAMEORIGIN\r\nServer: x\r\n", "a")).await;
    let tables = format!(
        "[server]\ntrusted_proxies = [\"127.0.0.1\"]\n{HEADERS}{}",
        route("", upstream.address)
    );
    let behind = edge_of(&tables).await;
    let answer = ask(behind.address(), "GET /", &["X-Forwarded-Proto: https"]).await;
    assert_eq!(
        answer.all("x-frame-options"),
        ["SAMEORIGIN"],
        "the peer knows better"
    );
    assert!(
        answer
            .header("strict-transport-security")
            .unwrap()
            .starts_with("max-age=")
    );
    assert!(answer.header("server").is_none());
}

async fn edge_of(tables: &str) -> edge::serve::Edge {
    edge(tables).await
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_and_kept_answers_are_dressed_too() {
    let upstream = Upstream::saying(ok("", "a")).await;
    let edge = edge(&format!(
        "[headers]\nresponse = {{ set = {{ X-Env = \"prod\" }} }}\n{}",
        route(
            "cache = \"1h\"\nlimit = { per_client = \"2/h\", burst = 2 }",
            upstream.address
        )
    ))
    .await;
    for status in [200, 200, 429] {
        let answer = ask(edge.address(), "GET /", &[]).await;
        assert_eq!(
            (answer.status, answer.header("x-env")),
            (status, Some("prod"))
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_a_proxy_may_say_does_not_pass_for_strangers() {
    let upstream = Upstream::mirror().await;
    let told = [
        "Forwarded: host=evil",
        "X-Original-URL: /admin",
        "X-Real-IP: 1.1.1.1",
        "X-Forwarded-Client-Cert: URI=spiffe://x",
    ];
    let names = [
        "forwarded",
        "x-original-url",
        "x-real-ip",
        "x-forwarded-client-cert",
    ];
    let strict = edge(&route("", upstream.address)).await;
    let head = ask(strict.address(), "GET /", &told).await.text();
    assert!(
        names.iter().all(|name| fields(&head, name).is_empty()),
        "{head}"
    );
    let trusting = format!(
        "[server]\ntrusted_proxies = [\"127.0.0.1\"]\n{}",
        route("", upstream.address)
    );
    let trusting = edge_of(&trusting).await;
    let head = ask(trusting.address(), "GET /", &told).await.text();
    assert!(
        names.iter().all(|name| fields(&head, name).len() == 1),
        "{head}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_addresses_of_a_route_are_let_in() {
    let upstream = Upstream::saying(ok("", "a")).await;
    let tables = format!(
        "[server]\ntrusted_proxies = [\"127.0.0.1\"]\n{}",
        route(
            "allow = [\"10.0.0.0/8\", \"2001:db8::/32\"]\ndeny = [\"10.9.0.0/16\"]",
            upstream.address
        )
    );
    let (edge, log) = edge_with_log(&tables).await;
    for (address, status) in [
        ("10.1.2.3", 200),
        ("::ffff:10.1.2.3", 200),
        ("2001:db8::1", 200),
        ("10.9.2.3", 403),
        ("11.0.0.1", 403),
        ("2001:db9::1", 403),
    ] {
        let answer = ask(
            edge.address(),
            "GET /",
            &[&format!("X-Forwarded-For: {address}")],
        )
        .await;
        assert_eq!(answer.status, status, "{address}");
        if status == 403 {
            assert_eq!(answer.refusal(), no(403, "address_not_allowed"));
        }
    }
    assert_eq!(ask(edge.address(), "GET /", &[]).await.status, 403);
    let lines = log.lines(7).await;
    assert_eq!(
        lines
            .iter()
            .filter(|line| line["reason"] == "address_not_allowed")
            .count(),
        4
    );
}
