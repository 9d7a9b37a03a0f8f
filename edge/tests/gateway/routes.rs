//! Which request goes where, and what the peer sees of its path.

use crate::support::{Client, Upstream, edge, get, no, ok, route_to, upstream_at};

/// Two upstreams that say their names.
async fn first_and_second() -> String {
    let first = Upstream::saying(ok("", "first")).await;
    let second = Upstream::saying(ok("", "second")).await;
    format!(
        "[upstream.first]\npeers = [\"{}\"]\n[upstream.second]\npeers = [\"{}\"]\n",
        first.address, second.address
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_route_that_fits_is_taken() {
    let routes = r#"
        [[route]]
        path = "/users/me"
        upstream = "first"
        [[route]]
        path = "/users/{id}"
        upstream = "second"
    "#;
    let edge = edge(&(first_and_second().await + routes)).await;
    assert_eq!(get(edge.address(), "/users/me").await.text(), "first");
    assert_eq!(get(edge.address(), "/users/7").await.text(), "second");
    assert_eq!(get(edge.address(), "/users/%6De").await.text(), "first");
    let nowhere = get(edge.address(), "/users/7/orders").await;
    assert_eq!(nowhere.refusal(), no(404, "no_route"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_may_have_routes_of_its_own() {
    let routes = r#"
        [[route]]
        path = "/*"
        host = ["a.test"]
        upstream = "first"
        [[route]]
        path = "/*"
        host = ["*.b.test"]
        upstream = "second"
    "#;
    let edge = edge(&(first_and_second().await + routes)).await;
    let mut client = Client::connect(edge.address()).await;
    let a = client.ask("GET /", &["Host: A.test:8080"]).await;
    assert_eq!(a.text(), "first");
    let b = client.ask("GET /", &["Host: x.b.test"]).await;
    assert_eq!(b.text(), "second");
    let c = client.ask("GET /", &["Host: c.test"]).await;
    assert_eq!(c.refusal(), no(404, "no_route"));
}

#[tokio::test(flavor = "multi_thread")]
async fn methods_choose_among_routes_and_a_wrong_one_is_told_what_would_do() {
    let routes = r#"
        [[route]]
        path = "/a"
        methods = ["GET"]
        upstream = "first"
        [[route]]
        path = "/a"
        methods = ["PUT"]
        upstream = "second"
    "#;
    let edge = edge(&(first_and_second().await + routes)).await;
    let mut client = Client::connect(edge.address()).await;
    assert_eq!(client.get("/a").await.text(), "first");
    let put = client.ask("PUT /a", &["Content-Length: 0"]).await;
    assert_eq!(put.text(), "second");
    let delete = client.ask("DELETE /a", &[]).await;
    assert_eq!(delete.refusal(), no(405, "method_not_allowed"));
    assert_eq!(delete.header("allow"), Some("GET, HEAD, PUT"));
    assert_eq!(client.get("/a").await.status, 200, "the connection stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn head_goes_where_get_goes_and_brings_no_body() {
    let upstream = Upstream::saying("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n").await;
    let edge = edge(&route_to(upstream.address, "methods = [\"GET\"]")).await;
    let mut client = Client::connect(edge.address()).await;
    for _ in 0..2 {
        let head = client.ask("HEAD /a", &[]).await;
        assert_eq!(
            (head.status, head.header("content-length")),
            (200, Some("5"))
        );
    }
    assert!(upstream.heads()[0].starts_with("HEAD /a HTTP/1.1\r\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_head_brings_no_body_and_the_connection_stays() {
    let upstream = Upstream::mirror().await;
    let tables = upstream_at(&[upstream.address]) + "[[route]]\npath = \"/a\"\nupstream = \"u\"";
    let edge = edge(&tables).await;
    let mut client = Client::connect(edge.address()).await;
    let head = client.ask("HEAD /nowhere", &[]).await;
    assert_eq!(head.status, 404);
    assert_eq!(client.get("/a").await.status, 200);
}

/// The request line that the peer sees of `GET {path}`.
async fn line_at_the_peer(route: &str, path: &str) -> String {
    let upstream = Upstream::mirror().await;
    let tables = format!(
        "{}[[route]]\nupstream = \"u\"\n{route}",
        upstream_at(&[upstream.address])
    );
    let edge = edge(&tables).await;
    let answer = get(edge.address(), path).await.text();
    answer.lines().next().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stripped_prefix_leaves_query_and_escapes_as_they_are() {
    let route = "path = \"/api/*\"\nstrip_prefix = \"/api\"";
    let line = line_at_the_peer(route, "/api/a%2Fb/c%20%c3%a9?x=%20&y=/api/../z&&").await;
    assert_eq!(line, "GET /a%2Fb/c%20%C3%A9?x=%20&y=/api/../z&& HTTP/1.1");
    assert_eq!(line_at_the_peer(route, "/api").await, "GET / HTTP/1.1");
    assert_eq!(line_at_the_peer(route, "/api?").await, "GET /? HTTP/1.1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rewrite_puts_the_parts_in_their_places() {
    let route = "path = \"/users/{id}/*\"\nrewrite = \"/v1/people/{id}/*\"";
    let line = line_at_the_peer(route, "/users/a%2F7/orders/1?since=2026&x=%2B").await;
    assert_eq!(
        line,
        "GET /v1/people/a%2F7/orders/1?since=2026&x=%2B HTTP/1.1"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_nobody_rewrites_passes_as_it_is_written_in_one_way() {
    let line = line_at_the_peer("path = \"/*\"", "/a//b/%41%2f;p=1,2/~'()?q=%zz&r=[]|").await;
    assert_eq!(line, "GET /a//b/A%2F;p=1,2/~'()?q=%zz&r=[]| HTTP/1.1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_with_scheme_and_host_reaches_the_peer_as_a_path() {
    let upstream = Upstream::mirror().await;
    let edge = edge(&route_to(upstream.address, "host = \"edge.test\"")).await;
    let mut client = Client::connect(edge.address()).await;
    let answer = client.ask("GET http://edge.test/a?b=c", &[]).await.text();
    assert!(answer.starts_with("GET /a?b=c HTTP/1.1\r\n"), "{answer}");
}
