//! Probes, figures and the access log.

use crate::support::{
    Client, Upstream, edge, edge_with_log, figure_becomes, figures, get, nobody, ok, request,
    route_to, upstream_at,
};

#[tokio::test(flavor = "multi_thread")]
async fn the_probes_answer_and_depend_on_no_upstream() {
    let edge = edge(&route_to(nobody().await, "")).await;
    for (path, text) in [
        ("/livez", "alive\n"),
        ("/readyz", "ready\n"),
        ("/startupz", "started\n"),
    ] {
        let answer = get(edge.admin(), path).await;
        assert_eq!((answer.status, answer.text().as_str()), (200, text));
    }
    assert_eq!(get(edge.admin(), "/nowhere").await.status, 404);
    let mut client = Client::connect(edge.admin()).await;
    let head = client.ask("HEAD /livez", &[]).await;
    assert_eq!(head.status, 200);
    let mut client = Client::connect(edge.admin()).await;
    let post = client.ask("POST /livez", &["Content-Length: 0"]).await;
    assert_eq!(
        (post.status, post.header("allow")),
        (405, Some("GET, HEAD"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_probes_are_not_on_the_traffics_side() {
    let upstream = Upstream::mirror().await;
    let edge = edge(&route_to(upstream.address, "")).await;
    assert!(
        get(edge.address(), "/metrics")
            .await
            .text()
            .starts_with("GET /metrics")
    );
    let admin = get(edge.admin(), "/").await;
    assert_eq!(upstream.count(), 1);
    assert!(admin.text().contains("/metrics"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_done_is_counted_under_its_route_method_status_and_reason() {
    let upstream = Upstream::saying(ok("", "hello")).await;
    let tables = upstream_at(&[upstream.address])
        + "[[route]]\nname = \"shop\"\npath = \"/shop/*\"\nmethods = [\"GET\", \"POST\"]\nupstream = \"u\"\n";
    let edge = edge(&tables).await;
    let mut client = Client::connect(edge.address()).await;
    client.get("/shop/secret-7").await;
    client.get("/shop/secret-8").await;
    client.ask("DELETE /shop/secret-9", &[]).await;
    client.get("/nowhere-secret").await;
    client
        .ask(
            "BREW /nowhere-secret",
            &["User-Agent: secret-10", "Host: secret-11"],
        )
        .await;
    for (labels, count) in [
        (
            "method=\"GET\",reason=\"\",route=\"shop\",status=\"200\"",
            2.0,
        ),
        (
            "method=\"DELETE\",reason=\"method_not_allowed\",route=\"none\",status=\"405\"",
            1.0,
        ),
        (
            "method=\"GET\",reason=\"no_route\",route=\"none\",status=\"404\"",
            1.0,
        ),
        (
            "method=\"OTHER\",reason=\"no_route\",route=\"none\",status=\"404\"",
            1.0,
        ),
    ] {
        figure_becomes(&edge, &format!("edge_requests_total{{{labels}}}"), count).await;
    }
    figure_becomes(&edge, "edge_sent_bytes_total{route=\"shop\"}", 10.0).await;
    for name in [
        "edge_request_duration_seconds_count{route=\"shop\"}",
        "edge_upstream_duration_seconds_count{route=\"shop\"}",
        "edge_gateway_overhead_seconds_count{route=\"shop\"}",
    ] {
        figure_becomes(&edge, name, 2.0).await;
    }
    let peer = upstream.address;
    figure_becomes(
        &edge,
        &format!("edge_upstream_up{{peer=\"{peer}\",upstream=\"u\"}}"),
        1.0,
    )
    .await;
    figure_becomes(&edge, "edge_connections", 1.0).await;
    let text = figures(&edge).await;
    assert!(text.contains("edge_build_info{version=\""), "{text}");
    assert!(!text.contains("secret") && !text.contains("BREW"), "{text}");
    for family in [
        "edge_cache_bytes",
        "edge_cache_entries",
        "edge_cache_evictions_total",
        "edge_limit_clients",
        "edge_connections_full_total",
        "edge_accepts_failed_total",
    ] {
        assert!(text.contains(&format!("\n{family} ")), "{family}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_are_counted_both_ways() {
    let edge = edge(&route_to(crate::support::echo_server().await, "")).await;
    let mut client = Client::connect(edge.address()).await;
    client
        .send(request("POST /echo", &["Content-Length: 1000"]))
        .await;
    client.send([b'x'; 1_000]).await;
    assert_eq!(client.answer().await.body.len(), 1_000);
    figure_becomes(&edge, "edge_received_bytes_total{route=\"/*\"}", 1_000.0).await;
    figure_becomes(&edge, "edge_sent_bytes_total{route=\"/*\"}", 1_000.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_request_is_one_line_with_the_reason_of_its_answer() {
    let upstream = Upstream::saying(ok("", "hello")).await;
    let tables = "[limit]\nper_client = \"1/h\"\nburst = 1\n".to_owned()
        + &upstream_at(&[upstream.address])
        + "[[route]]\npath = \"/a\"\nmethods = [\"GET\"]\nupstream = \"u\"\n";
    let (edge, log) = edge_with_log(&tables).await;
    let mut client = Client::connect(edge.address()).await;
    let answers = [
        client
            .ask("GET /a?token=secret", &["User-Agent: \"odd\\"])
            .await,
        client.get("/a").await,
        client.get("/nowhere").await,
        client.ask("PUT /a", &["Content-Length: 0"]).await,
    ];
    let lines = log.lines(4).await;
    assert_eq!(lines.len(), 4);
    for (answer, line) in answers.iter().zip(&lines) {
        assert_eq!(line["event"], "request");
        assert_eq!(line["status"], answer.status);
        assert_eq!(line["id"], answer.header("x-request-id").unwrap());
        assert_eq!(line["client"], "127.0.0.1");
        assert_eq!(line["host"], "edge.test");
        assert_eq!(line["bytes_out"], answer.body.len());
        assert!(line["total_ms"].as_f64() >= line["gateway_ms"].as_f64());
        assert!(
            !line.to_string().contains("secret"),
            "a query may hold secrets: {line}"
        );
        if answer.status == 200 {
            assert!(line.get("reason").is_none(), "{line}");
        } else {
            assert_eq!(line["reason"], answer.refusal().1);
        }
    }
    let first = &lines[0];
    assert_eq!(
        (first["method"].as_str(), first["path"].as_str()),
        (Some("GET"), Some("/a"))
    );
    assert_eq!(
        (first["route"].as_str(), first["upstream"].as_str()),
        (Some("/a"), Some("u"))
    );
    assert_eq!(first["peer"], upstream.address.to_string());
    assert_eq!(first["cache"], "off");
    assert!(first["upstream_ms"].is_number());
    assert!(first["time"].as_str().unwrap().ends_with('Z'));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_makes_long_is_clipped_in_its_line() {
    let upstream = Upstream::saying(ok("", "hello")).await;
    let (edge, log) = edge_with_log(&route_to(upstream.address, "")).await;
    let long = "x".repeat(10_000);
    let (host, agent) = (format!("Host: {long}"), format!("User-Agent: {long}"));
    let mut client = Client::connect(edge.address()).await;
    client.ask(&format!("GET /{long}"), &[&host, &agent]).await;
    let line = &log.lines(1).await[0];
    for name in ["host", "path", "user_agent"] {
        assert_eq!(line[name].as_str().unwrap().len(), 1_024, "{name}");
    }
    let mut client = Client::connect(edge.address()).await;
    let method = "M".repeat(3_000);
    client.send(request(&format!("{method} /"), &[])).await;
    client.answer().await;
    for line in log.read() {
        assert!(line["method"].as_str().unwrap().len() <= 1_024, "{line}");
    }
    assert!(!figures(&edge).await.contains("MMMM"), "nor is it a label");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_says_what_the_cache_did() {
    let upstream = Upstream::saying(ok("", "hello")).await;
    let (edge, log) = edge_with_log(&route_to(upstream.address, "cache = \"1h\"")).await;
    let mut client = Client::connect(edge.address()).await;
    client.get("/").await;
    client.get("/").await;
    client.ask("GET /", &["Cookie: a=b"]).await;
    let lines = log.lines(3).await;
    let cache: Vec<_> = lines
        .iter()
        .map(|line| line["cache"].as_str().unwrap())
        .collect();
    assert_eq!(cache, ["miss", "hit", "miss"]);
    assert_eq!(lines[2]["cache_reason"], "credentials");
    assert!(lines[1].get("upstream_ms").is_none(), "{}", lines[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_without_an_access_log_writes_none() {
    let upstream = Upstream::saying(ok("", "hello")).await;
    let tables = "[log]\naccess = false\n".to_owned() + &route_to(upstream.address, "");
    let (edge, log) = edge_with_log(&tables).await;
    get(edge.address(), "/").await;
    figure_becomes(&edge, "edge_sent_bytes_total{route=\"/*\"}", 5.0).await;
    assert!(log.lines(0).await.is_empty());
}
