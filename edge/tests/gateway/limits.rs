//! Fair shares. The quotas refill once in six seconds, so that a slow machine changes nothing.

use crate::support::{
    Answer, Client, Upstream, edge, figure, figure_becomes, get, no, ok, request, route_to,
    upstream_at,
};

/// A gateway with these tables in front of an upstream that says "a".
async fn limited(tables: &str) -> edge::serve::Edge {
    let upstream = Upstream::saying(ok("", "a")).await;
    edge(&(tables.to_owned() + &route_to(upstream.address, ""))).await
}

const TEN_EACH: &str = "[limit]\nper_client = \"10/m\"\nburst = 10\n";

fn passed(answers: &[Answer]) -> usize {
    answers.iter().filter(|answer| answer.status == 200).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn past_its_share_a_client_is_refused_on_a_connection_that_stays_open() {
    let edge = limited(TEN_EACH).await;
    let mut client = Client::connect(edge.address()).await;
    let mut answers = Vec::new();
    for _ in 0..30 {
        answers.push(client.get("/").await);
    }
    let passed = passed(&answers);
    assert!((10..=13).contains(&passed), "{passed} passed");
    for refused in answers.iter().filter(|answer| answer.status != 200) {
        assert_eq!(refused.refusal(), no(429, "client_limit"));
        let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=6).contains(&wait), "{wait}");
        assert_ne!(refused.header("connection"), Some("close"));
    }
    let refused = "edge_limit_decisions_total{decision=\"client_limit\",route=\"/*\"}";
    #[expect(clippy::cast_precision_loss, reason = "30 requests")]
    figure_becomes(&edge, refused, (30 - passed) as f64).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_post_with_a_small_body_keeps_its_connection() {
    let edge = limited("[limit]\nper_client = \"1/h\"\nburst = 1\n").await;
    let mut client = Client::connect(edge.address()).await;
    assert_eq!(client.get("/").await.status, 200);
    for _ in 0..3 {
        client
            .send(request("POST /", &["Content-Length: 1000"]))
            .await;
        client.send([b'x'; 1_000]).await;
        assert_eq!(client.answer().await.refusal(), no(429, "client_limit"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_greedy_client_leaves_the_others_their_share() {
    let edge = limited(TEN_EACH).await;
    let mut greedy = Client::from("127.0.0.2", edge.address()).await;
    for _ in 0..30 {
        greedy.get("/").await;
    }
    let mut modest = Client::from("127.0.0.3", edge.address()).await;
    for _ in 0..10 {
        assert_eq!(modest.get("/").await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn past_what_all_share_thirty_clients_of_a_trusted_proxy_get_503() {
    let tables = "[server]\ntrusted_proxies = [\"127.0.0.6\"]\n\
                  [limit]\nper_client = \"10/m\"\nglobal = \"100/m\"\n\
                  burst = { per_client = 10, global = 100 }\n";
    let edge = limited(tables).await;
    let mut asking = Vec::new();
    for number in 0..30 {
        let address = edge.address();
        asking.push(tokio::spawn(async move {
            let mut proxy = Client::from("127.0.0.6", address).await;
            let chain = format!("X-Forwarded-For: 6.6.6.6, 10.1.0.{number}, 127.0.0.6");
            let mut answers = Vec::new();
            for _ in 0..10 {
                answers.push(proxy.ask("GET /", &[&chain]).await);
            }
            answers
        }));
    }
    let mut answers = Vec::new();
    for asking in asking {
        answers.extend(asking.await.unwrap());
    }
    let passed = passed(&answers);
    assert!((100..=110).contains(&passed), "{passed} passed");
    for refused in answers.iter().filter(|answer| answer.status != 200) {
        assert_eq!(refused.refusal(), no(503, "global_limit"));
        assert!(refused.header("retry-after").is_some());
    }
    assert_eq!(
        figure(&edge, "edge_limit_clients").await.to_bits(),
        30f64.to_bits()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spoofed_address_from_somebody_untrusted_changes_nothing() {
    let tables = format!("[server]\ntrusted_proxies = [\"127.0.0.6\"]\n{TEN_EACH}");
    let edge = limited(&tables).await;
    let mut client = Client::from("127.0.0.7", edge.address()).await;
    let mut answers = Vec::new();
    for number in 0..30 {
        let spoofed = format!("X-Forwarded-For: 10.2.0.{number}");
        answers.push(client.ask("GET /", &[&spoofed]).await);
    }
    let passed = passed(&answers);
    assert!((10..=13).contains(&passed), "{passed} passed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preflight_for_a_peer_costs_what_a_request_does() {
    let edge = limited("[limit]\nper_client = \"1/h\"\nburst = 1\n").await;
    let mut client = Client::connect(edge.address()).await;
    let preflight = [
        "Origin: http://a.test",
        "Access-Control-Request-Method: PUT",
    ];
    assert_eq!(client.ask("OPTIONS /", &preflight).await.status, 200);
    assert_eq!(client.ask("OPTIONS /", &preflight).await.status, 429);
    assert_eq!(client.get("/").await.status, 429);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_may_be_without_limits_or_have_its_own() {
    let upstream = Upstream::saying(ok("", "a")).await;
    let tables = "[limit]\nper_client = \"1/h\"\nburst = 1\n".to_owned()
        + &upstream_at(&[upstream.address])
        + r#"
        [[route]]
        path = "/free"
        upstream = "u"
        limit = "off"
        [[route]]
        path = "/own"
        upstream = "u"
        limit = { per_client = "3/h", burst = 3, status = { per_client = 420 } }
        [[route]]
        path = "/*"
        upstream = "u"
    "#;
    let edge = edge(&tables).await;
    let mut client = Client::connect(edge.address()).await;
    for _ in 0..20 {
        assert_eq!(client.get("/free").await.status, 200);
    }
    let mut own = Vec::new();
    for _ in 0..5 {
        own.push(client.get("/own").await.status);
    }
    assert_eq!(own, [200, 200, 200, 420, 420]);
    assert_eq!(
        client.get("/a").await.status,
        200,
        "the file's is untouched"
    );
    assert_eq!(client.get("/b").await.status, 429, "and shared");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_limit_meets_a_probe() {
    let edge = limited("[limit]\nper_client = \"1/h\"\nburst = 1\n").await;
    for _ in 0..5 {
        get(edge.address(), "/").await;
        assert_eq!(get(edge.admin(), "/livez").await.status, 200);
    }
}
