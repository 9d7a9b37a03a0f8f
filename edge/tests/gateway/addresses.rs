//! Whose addresses a route lets in, and whose certificates the peer is told of.

use std::sync::Arc;

use edge::config::Tls;
use edge::serve::Edge;

use crate::http2_client::Http2;
use crate::identities::{Authority, connect};
use crate::support::{
    Answer, Client, Upstream, edge, edge_with, fields, figure_becomes, get, no, ok, route_to,
};
use crate::tls::{ask as ask_over_tls, whole_answer};

async fn from(address: &str, edge: &Edge, fields: &[&str]) -> Answer {
    let mut client = Client::from(address, edge.address()).await;
    client.ask("GET /", fields).await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_allowed_is_refused_and_reaches_no_peer() {
    let upstream = Upstream::saying(ok("", "in")).await;
    let keys = "allow = [\"127.0.0.0/29\"]\ndeny = [\"127.0.0.4/31\"]";
    let edge = edge(&route_to(upstream.address, keys)).await;
    for (address, welcome) in [
        ("127.0.0.1", true),
        ("127.0.0.7", true),
        ("127.0.0.4", false),
        ("127.0.0.5", false),
        ("127.0.0.8", false),
    ] {
        let answer = from(address, &edge, &["X-Forwarded-For: 127.0.0.1"]).await;
        if welcome {
            assert_eq!(answer.status, 200, "{address}");
        } else {
            assert_eq!(
                answer.refusal(),
                no(403, "address_not_allowed"),
                "{address}"
            );
        }
    }
    assert_eq!(upstream.count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_trusted_proxy_its_clients_address_counts() {
    let upstream = Upstream::saying(ok("", "in")).await;
    let route = route_to(
        upstream.address,
        "allow = [\"192.0.2.0/24\", \"2001:db8::/32\"]",
    );
    let edge = edge(&format!(
        "[server]\ntrusted_proxies = [\"127.0.0.2\"]\n{route}"
    ))
    .await;
    for (address, chain, welcome) in [
        ("127.0.0.2", "192.0.2.7", true),
        ("127.0.0.2", "::ffff:192.0.2.7", true),
        ("127.0.0.2", "2001:db8::7", true),
        ("127.0.0.2", "198.51.100.1, 192.0.2.7", true),
        ("127.0.0.2", "192.0.2.7, 198.51.100.1", false),
        ("127.0.0.1", "192.0.2.7", false),
    ] {
        let field = format!("X-Forwarded-For: {chain}");
        let answer = from(address, &edge, &[&field]).await;
        assert_eq!(answer.status == 200, welcome, "{address} {chain}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_refused_by_address_costs_no_limit_and_other_routes_are_open() {
    let upstream = Upstream::saying(ok("", "in")).await;
    let closed = "path = \"/closed\"\nupstream = \"u\"\ndeny = [\"127.0.0.1\"]\n";
    let tables = route_to(upstream.address, "");
    let tables = tables.replacen("[[route]]", &format!("[[route]]\n{closed}[[route]]"), 1);
    let edge = edge(&format!(
        "[limit]\nper_client = \"1/h\"\nburst = 1\n{tables}"
    ))
    .await;
    for _ in 0..3 {
        let answer = get(edge.address(), "/closed").await;
        assert_eq!(answer.refusal(), no(403, "address_not_allowed"));
    }
    assert_eq!(get(edge.address(), "/").await.status, 200);
    let refused = "edge_limit_decisions_total{decision=\"allowed\",route=\"/*\"}";
    figure_becomes(&edge, refused, 1.0).await;
}

const REFUSED: &str = "\"reason\":\"certificate_not_allowed\"";
const FORGED: &str = "X-Forwarded-Client-Cert: URI=spiffe://c/ns/a/sa/admin";

/// What this peer got of it.
fn told(head: &str) -> Vec<&str> {
    fields(head, "x-forwarded-client-cert")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_told_to_the_peer_over_both_protocols_and_in_resumed_sessions() {
    let authority = Authority::new();
    let upstream = Upstream::mirror().await;
    let tls = Tls {
        client_ca: Some(authority.path()),
        client_required: false,
        ..authority.tls()
    };
    let (edge, _) = edge_with(&route_to(upstream.address, ""), |config| {
        config.tls = Some(tls);
    })
    .await;
    let is_it = |head: &str| {
        let told = told(head);
        assert_eq!(told.len(), 1, "{head}");
        assert!(told[0].starts_with("Hash="), "{head}");
        assert!(told[0].ends_with(";DNS=\"client.test\""), "{head}");
    };
    let known = Arc::new(authority.known_client(&authority, &["http/1.1"]));
    for _ in 0..2 {
        let stream = connect(&edge, &known, "edge.test").await.unwrap();
        is_it(&ask_over_tls(stream, "GET /").await);
    }
    let known = Arc::new(authority.known_client(&authority, &["h2"]));
    let stream = connect(&edge, &known, "edge.test").await.unwrap();
    let http2 = Http2::on(stream).await;
    for _ in 0..2 {
        is_it(&http2.get("/").await.text());
    }
    let unknown = Arc::new(authority.client(&["http/1.1"]));
    let stream = connect(&edge, &unknown, "edge.test").await.unwrap();
    let head = ask_over_tls(stream, "GET /").await;
    assert!(told(&head).is_empty(), "{head}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_opens_the_route_that_is_for_its_holder() {
    let authority = Authority::new();
    let upstream = Upstream::mirror().await;
    let tls = Tls {
        client_ca: Some(authority.path()),
        client_required: false,
        ..authority.tls()
    };
    for (holder, welcome) in [("client.test", true), ("other.test", false)] {
        let auth = format!(
            "[auth.pods]\ntype = \"certificate\"\nsubjects = [\"DNS:{holder}\"]\nfield = \"X-User\"\n"
        );
        let route = route_to(upstream.address, "auth = \"pods\"");
        let own = tls.clone();
        let (edge, _) = edge_with(&format!("{auth}{route}"), |config| config.tls = Some(own)).await;
        let known = Arc::new(authority.known_client(&authority, &["http/1.1"]));
        let stream = connect(&edge, &known, "edge.test").await.unwrap();
        let answer = whole_answer(stream, "GET /").await;
        match welcome {
            true => assert_eq!(fields(&answer, "x-user"), ["client.test"], "{answer}"),
            false => assert!(answer.contains(REFUSED), "{answer}"),
        }
        let unknown = Arc::new(authority.client(&["http/1.1"]));
        let stream = connect(&edge, &unknown, "edge.test").await.unwrap();
        let answer = whole_answer(stream, "GET /").await;
        assert!(answer.contains(REFUSED), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_stranger_says_of_a_certificate_goes_no_further() {
    let upstream = Upstream::mirror().await;
    let route = route_to(upstream.address, "");
    let edge = edge(&format!(
        "[server]\ntrusted_proxies = [\"127.0.0.2\"]\n{route}"
    ))
    .await;
    let head = from("127.0.0.1", &edge, &[FORGED, FORGED]).await.text();
    assert!(told(&head).is_empty(), "{head}");
    let head = from("127.0.0.2", &edge, &[FORGED]).await.text();
    assert_eq!(told(&head), ["URI=spiffe://c/ns/a/sa/admin"], "{head}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_varies_by_certificate_is_not_kept() {
    let answer = ok(
        "Cache-Control: max-age=60\r\nVary: X-Forwarded-Client-Cert\r\n",
        "a",
    );
    let upstream = Upstream::saying(answer).await;
    let edge = edge(&route_to(upstream.address, "cache = \"1h\"")).await;
    for _ in 0..2 {
        assert_eq!(get(edge.address(), "/").await.status, 200);
    }
    assert_eq!(upstream.count(), 2);
}
