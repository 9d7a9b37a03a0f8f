//! Who may enter: tokens, keys and certificates, and what those behind learn of them.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::{
    Answer, Client, Upstream, edge, edge_with_log, fields, get, ms, no, ok, request, soon, until,
    upstream_at,
};
use crate::tokens::{Issuer, SECRET, at, by_secret, claims, hs256, jwks, rs256, rsa};
use tokio::time::{Instant, sleep};

/// A file of a test's own.
fn file(name: &str, text: impl AsRef<[u8]>) -> PathBuf {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let count = COUNT.fetch_add(1, Ordering::SeqCst);
    let path = std::env::temp_dir().join(format!("edge-{}-{count}-{name}", std::process::id()));
    fs::write(&path, text).unwrap();
    path
}

/// `[auth.a]` with these keys, a route `/*` that asks for it, and a peer.
fn tables(auth: &str, route: &str, peer: SocketAddr) -> String {
    format!(
        "[auth.a]\n{auth}\n{}[[route]]\npath = \"/*\"\nupstream = \"u\"\n{route}\n",
        upstream_at(&[peer])
    )
}

fn by_secret_file() -> String {
    let path = file("secret", SECRET);
    format!("type = \"jwt\"\nsecret = {{ file = {path:?} }}")
}

const ROUTE: &str = "auth = \"a\"";

async fn ask(to: SocketAddr, fields: &[&str]) -> Answer {
    Client::connect(to).await.ask("GET /", fields).await
}

async fn with_token(to: SocketAddr, token: &str) -> Answer {
    ask(to, &[&format!("Authorization: Bearer {token}")]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_bad_token_has_its_status_reason_and_challenge_and_reaches_no_peer() {
    let upstream = Upstream::saying(ok("", "in")).await;
    let auth = by_secret_file()
        + "\nissuer = \"i\"\naudience = \"edge\"\nroles = \"roles\"\nfailures = \"off\"";
    let route = "auth = { by = \"a\", scopes = [\"read\", \"write\"], roles = [\"admin\"] }";
    let (edge, log) = edge_with_log(&tables(&auth, route, upstream.address)).await;
    let good = r#","iss":"i","aud":"edge","scope":"read write","roles":["admin"]"#;
    let with = |from: &str, to: &str| hs256(&claims(&good.replace(from, to)));
    let alg_none = {
        let token = hs256(&claims(good));
        let (message, _) = token.rsplit_once('.').unwrap();
        let payload = message.split_once('.').unwrap().1.to_owned();
        format!("eyJhbGciOiJub25lIn0.{payload}.")
    };
    for (token, status, reason) in [
        (
            hs256(&format!(r#"{{"sub":"a","exp":{}{good}}}"#, at(-60))),
            401,
            "token_expired",
        ),
        (
            with("\"iss\"", &format!("\"nbf\":{},\"iss\"", at(50))),
            401,
            "token_not_yet",
        ),
        (with("\"i\"", "\"j\""), 401, "token_issuer"),
        (with("\"edge\"", "\"other\""), 401, "token_audience"),
        (with("read write", "read"), 403, "scope_missing"),
        (with("[\"admin\"]", "[\"user\"]"), 403, "role_missing"),
        (
            by_secret(r#"{"alg":"HS256"}"#, &claims(good), &[7; 32]),
            401,
            "token_signature",
        ),
        (
            by_secret(r#"{"alg":"RS256"}"#, &claims(good), SECRET),
            401,
            "token_algorithm",
        ),
        (alg_none, 401, "token_algorithm"),
        (
            with("\"iss\"", "\"sub\":\"bob\",\"iss\""),
            401,
            "token_malformed",
        ),
        ("nonsense".to_owned(), 401, "token_malformed"),
        ("a".repeat(16 << 10), 401, "token_malformed"),
    ] {
        let answer = with_token(edge.address(), &token).await;
        assert_eq!(answer.refusal(), no(status, reason));
        let challenge = answer.header("www-authenticate").unwrap();
        let error = if status == 401 {
            "invalid_token"
        } else {
            "insufficient_scope"
        };
        assert!(
            challenge.contains(&format!("error=\"{error}\"")),
            "{challenge}"
        );
        assert!(!answer.head.contains(&token) && !answer.text().contains(&token));
    }
    let answer = ask(edge.address(), &[]).await;
    assert_eq!(answer.refusal(), no(401, "credentials_missing"));
    assert_eq!(
        answer.header("www-authenticate"),
        Some("Bearer realm=\"edge\"")
    );
    let twice = ["Authorization: Bearer a", "Authorization: Bearer b"];
    assert_eq!(
        ask(edge.address(), &twice).await.refusal(),
        no(401, "token_malformed")
    );
    assert_eq!(upstream.count(), 0);
    assert_eq!(
        with_token(edge.address(), &with("x", "x")).await.text(),
        "in"
    );
    let lines = log.lines(15).await;
    let named = lines.iter().find(|line| line["status"] == 200).unwrap();
    assert_eq!(named["identity"], "alice");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_peer_learns_who_asks_from_edge_alone() {
    let upstream = Upstream::mirror().await;
    let auth = by_secret_file()
        + "\nclaims = { sub = \"X-User\", roles = \"X-Roles\" }\nfrom = [\"authorization\", \"cookie:t\"]";
    let open = format!("{ROUTE}\n[[route]]\npath = \"/open\"\nupstream = \"u\"");
    let tables =
        tables(&auth, &open, upstream.address).replacen("path = \"/*\"", "path = \"/in/*\"", 1);
    let edge = edge(&tables).await;
    let token = hs256(&claims(r#","roles":["a","b"]"#));
    let own = ["X-User: mallory", "X-Roles: admin"];
    let bearer = format!("Authorization: Bearer {token}");
    let cookie = format!("Cookie: a=b; t={token}; c=d");
    for proof in [&bearer, &cookie] {
        let mut client = Client::connect(edge.address()).await;
        let head = client
            .ask("GET /in/x", &[proof, own[0], own[1]])
            .await
            .text();
        assert_eq!(fields(&head, "x-user"), ["alice"], "{head}");
        assert_eq!(fields(&head, "x-roles"), ["a,b"], "{head}");
        assert!(
            !head.contains(&token),
            "what proves it does not pass on: {head}"
        );
        if proof == &cookie {
            assert_eq!(fields(&head, "cookie"), ["a=b; c=d"]);
        }
    }
    let mut client = Client::connect(edge.address()).await;
    let head = client.ask("GET /open", &own).await.text();
    assert!(
        fields(&head, "x-user").is_empty() && fields(&head, "x-roles").is_empty(),
        "{head}"
    );
    // What edge says cannot be nominated away.
    for nominated in ["Connection: X-User", "Connection: close, x-user"] {
        let mut client = Client::connect(edge.address()).await;
        let answer = client.ask("GET /in/x", &[&bearer, nominated]).await;
        assert_eq!(answer.refusal(), no(400, "bad_message"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_in_the_query_is_for_websockets_alone_and_goes_no_further() {
    let upstream = Upstream::saying("HTTP/1.1 400 No\r\nContent-Length: 0\r\n\r\n").await;
    let auth = by_secret_file() + "\nfrom = [\"query:token\", \"subprotocol\"]";
    let route = format!("{ROUTE}\nwebsocket = true");
    let edge = edge(&tables(&auth, &route, upstream.address)).await;
    let token = hs256(&claims(""));
    let mut client = Client::connect(edge.address()).await;
    let answer = client.get(&format!("/?token={token}")).await;
    assert_eq!(answer.refusal(), no(401, "credentials_missing"));
    let handshake = |more: &str| {
        let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
        format!(
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n{key}{more}"
        )
    };
    let in_query = format!("GET /ws?a=b&token={token}&c=d");
    let in_protocol = handshake(&format!("\r\nSec-WebSocket-Protocol: chat, bearer.{token}"));
    for (start, fields) in [
        (in_query.as_str(), handshake("")),
        ("GET /ws?a=b&c=d", in_protocol),
    ] {
        let mut client = Client::connect(edge.address()).await;
        client.send(request(start, &[&fields])).await;
        assert_eq!(client.answer().await.status, 400, "the peer's own answer");
    }
    let heads = upstream.heads();
    assert_eq!(heads.len(), 2);
    for head in heads {
        assert!(head.starts_with("GET /ws?a=b&c=d HTTP/1.1\r\n"), "{head}");
        assert!(!head.contains(&token), "{head}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_shows_too_many_bad_tokens_is_not_looked_at() {
    let upstream = Upstream::saying(ok("", "in")).await;
    let auth = by_secret_file() + "\nfailures = \"3/h\"";
    let edge = edge(&tables(&auth, ROUTE, upstream.address)).await;
    let late = hs256(&format!(r#"{{"sub":"a","exp":{}}}"#, at(-60)));
    for _ in 0..5 {
        // None of these is a guess.
        assert_eq!(
            with_token(edge.address(), &late).await.refusal(),
            no(401, "token_expired")
        );
        assert_eq!(
            ask(edge.address(), &[]).await.refusal(),
            no(401, "credentials_missing")
        );
    }
    for _ in 0..3 {
        assert_eq!(
            with_token(edge.address(), "a").await.refusal(),
            no(401, "token_malformed")
        );
    }
    let refused = with_token(edge.address(), &hs256(&claims(""))).await;
    assert_eq!(refused.refusal(), no(429, "auth_failures"));
    assert!(
        refused
            .header("retry-after")
            .unwrap()
            .parse::<u64>()
            .unwrap()
            > 1_000
    );
    let mut other = Client::from("127.0.0.2", edge.address()).await;
    let bearer = format!("Authorization: Bearer {}", hs256(&claims("")));
    assert_eq!(
        other.ask("GET /", &[&bearer]).await.status,
        200,
        "others go on"
    );
    assert_eq!(upstream.count(), 1);
}

/// A server of a key set that can be changed; and how often it was asked.
async fn key_server(first: String) -> (Upstream, Arc<Mutex<String>>) {
    let set = Arc::new(Mutex::new(first));
    let own = set.clone();
    let server = Upstream::serve(move |mut visit| {
        let own = own.clone();
        async move {
            while visit.head().await.is_some() {
                let json = own.lock().unwrap().clone();
                if json.is_empty() {
                    return;
                }
                visit
                    .write(ok("Content-Type: application/json\r\n", &json))
                    .await;
            }
        }
    })
    .await;
    (server, set)
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_fetched_once_and_a_rotation_loses_no_request() {
    let upstream = Upstream::saying(ok("", "in")).await;
    let (old, new) = (Issuer::new("old"), Issuer::new("new"));
    let (server, set) = key_server(jwks(&[&old])).await;
    let auth = format!(
        "type = \"jwt\"\njwks = \"http://{}/jwks.json\"",
        server.address
    );
    let edge = edge(&tables(&auth, ROUTE, upstream.address)).await;
    let token = old.token(&claims(""));
    until(|| async { with_token(edge.address(), &token).await.status == 200 }).await;
    for _ in 0..20 {
        assert_eq!(
            with_token(edge.address(), &old.token(&claims("")))
                .await
                .status,
            200
        );
    }
    assert_eq!(server.count(), 1, "never a fetch for a request");
    *set.lock().unwrap() = jwks(&[&old, &new]);
    let asking: Vec<_> = (0..20)
        .map(|_| {
            let (address, token) = (edge.address(), new.token(&claims("")));
            tokio::spawn(async move { with_token(address, &token).await.status })
        })
        .collect();
    for asking in asking {
        assert_eq!(asking.await.unwrap(), 200, "a new key is got at once");
    }
    assert_eq!(server.count(), 2, "for all who ask together");
    // Nobody makes edge ask as often as he likes.
    let other = Issuer::new("other");
    for _ in 0..4 {
        let answer = with_token(edge.address(), &other.token(&claims(""))).await;
        assert_eq!(answer.refusal(), no(401, "token_key"));
    }
    assert_eq!(server.count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_keys_nobody_is_let_in_and_told_why() {
    let upstream = Upstream::saying(ok("", "in")).await;
    let (server, set) = key_server(String::new()).await;
    let auth = format!("type = \"jwt\"\njwks = \"http://{}/\"", server.address);
    let edge = edge(&tables(&auth, ROUTE, upstream.address)).await;
    let issuer = Issuer::new("k");
    let token = issuer.token(&claims(""));
    let answer = with_token(edge.address(), &token).await;
    assert_eq!(answer.refusal(), no(503, "issuer_unavailable"));
    *set.lock().unwrap() = jwks(&[&issuer]);
    until(|| async { with_token(edge.address(), &token).await.status == 200 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_keys_is_followed_and_a_broken_one_is_not() {
    let upstream = Upstream::saying(ok("", "in")).await;
    let (old, new) = (Issuer::new("a"), Issuer::new("b"));
    let path = file("jwks.json", jwks(&[&old]));
    let auth = format!("type = \"jwt\"\njwks = {path:?}");
    let edge = edge(&tables(&auth, ROUTE, upstream.address)).await;
    assert_eq!(
        with_token(edge.address(), &old.token(&claims("")))
            .await
            .status,
        200
    );
    fs::write(&path, "{").unwrap();
    assert_eq!(
        with_token(edge.address(), &new.token(&claims("")))
            .await
            .refusal(),
        no(401, "token_key")
    );
    assert_eq!(
        with_token(edge.address(), &old.token(&claims("")))
            .await
            .status,
        200
    );
    fs::write(&path, jwks(&[&new])).unwrap();
    sleep(ms(1_100)).await;
    assert_eq!(
        with_token(edge.address(), &new.token(&claims("")))
            .await
            .status,
        200
    );
    assert_eq!(
        with_token(edge.address(), &old.token(&claims("")))
            .await
            .refusal(),
        no(401, "token_key")
    );
    let _ = fs::remove_file(path);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_public_key_is_no_secret() {
    let upstream = Upstream::saying(ok("", "in")).await;
    let (set, key) = rsa();
    let path = file("rsa.json", &set);
    let auth = format!("type = \"jwt\"\njwks = {path:?}\nfailures = \"off\"");
    let edge = edge(&tables(&auth, ROUTE, upstream.address)).await;
    let token = rs256(&key, &claims(""));
    assert_eq!(with_token(edge.address(), &token).await.text(), "in");
    let confused = by_secret(r#"{"alg":"HS256"}"#, &claims(""), set.as_bytes());
    assert_eq!(
        with_token(edge.address(), &confused).await.refusal(),
        no(401, "token_algorithm")
    );
    let _ = fs::remove_file(path);
}

fn key_file() -> PathBuf {
    let hash = |key: &str| {
        let hash = edge::api_key::hash(key.as_bytes());
        hash.iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    };
    let (one, two, three) = (hash("one"), hash("two"), hash("three"));
    file(
        "keys.toml",
        format!(
            "[[key]]\nname = \"shop\"\nsha256 = \"{one}\"\n\
             [[key]]\nname = \"slow\"\nsha256 = \"{two}\"\nlimit = {{ per_client = \"2/h\", burst = 2 }}\n\
             [[key]]\nname = \"elsewhere\"\nsha256 = \"{three}\"\nroutes = [\"other\"]\n"
        ),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_key_opens_what_it_is_for_as_often_as_it_may() {
    let upstream = Upstream::mirror().await;
    let path = key_file();
    let auth = format!(
        "type = \"api_key\"\nkeys = {path:?}\nfrom = [\"header:X-API-Key\", \"query:key\"]\nfield = \"X-Client\"\nfailures = \"2/h\""
    );
    let edge = edge(&tables(&auth, ROUTE, upstream.address)).await;
    let to = edge.address();
    let head = ask(to, &["X-API-Key: one", "X-Client: root"]).await.text();
    assert_eq!(fields(&head, "x-client"), ["shop"], "{head}");
    assert!(fields(&head, "x-api-key").is_empty(), "{head}");
    let head = get(to, "/a?key=one&b=c").await.text();
    assert!(head.starts_with("GET /a?b=c HTTP/1.1"), "{head}");
    for status in [200, 200, 429] {
        assert_eq!(ask(to, &["X-API-Key: two"]).await.status, status);
    }
    assert_eq!(ask(to, &["X-API-Key: one"]).await.status, 200);
    assert_eq!(
        ask(to, &["X-API-Key: three"]).await.refusal(),
        no(403, "key_not_here")
    );
    let missing = ask(to, &[]).await;
    assert_eq!(missing.refusal(), no(401, "credentials_missing"));
    assert_eq!(
        missing.header("www-authenticate"),
        Some("ApiKey realm=\"edge\"")
    );
    for _ in 0..2 {
        assert_eq!(
            ask(to, &["X-API-Key: guess"]).await.refusal(),
            no(401, "key_unknown")
        );
    }
    assert_eq!(
        ask(to, &["X-API-Key: one"]).await.refusal(),
        no(429, "auth_failures")
    );
    let _ = fs::remove_file(path);
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_count_who_was_proven_and_an_address_before_that() {
    let upstream = Upstream::saying(ok("", "in")).await;
    let auth = by_secret_file();
    let limit =
        "limit = { per_client = \"2/h\", burst = 2, by = \"claim:team\", per_address = \"8/h\" }";
    // As many at once as there are in a second: one. A burst of its own it has not.
    let limit = limit.replace("8/h", "8/s");
    let route = format!("{ROUTE}\n{limit}");
    let edge = edge(&tables(&auth, &route, upstream.address)).await;
    let of = |team: &str| hs256(&claims(&format!(r#","team":"{team}""#)));
    for (team, status) in [
        ("a", 200),
        ("a", 200),
        ("a", 429),
        ("b", 200),
        ("b", 200),
        ("b", 429),
    ] {
        assert_eq!(
            with_token(edge.address(), &of(team)).await.status,
            status,
            "{team}"
        );
    }
    let began = Instant::now();
    let mut refused = None;
    while refused.is_none() && began.elapsed() < Duration::from_secs(5) {
        let answer = ask(edge.address(), &[]).await;
        refused = (answer.status == 429).then_some(answer);
    }
    assert_eq!(refused.unwrap().refusal(), no(429, "client_limit"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_for_one_is_not_shown_to_another_who_proves_less() {
    let upstream = Upstream::mirror().await;
    let auth = by_secret_file() + "\nclaims = { sub = \"X-User\" }\nfrom = \"cookie:t\"";
    let route = format!("{ROUTE}\ncache = {{ ttl = \"1h\", private_by = \"identity\" }}");
    let edge = edge(&tables(&auth, &route, upstream.address)).await;
    let of = |name: &str| format!("Cookie: t={}", hs256(&claims("").replace("alice", name)));
    for _ in 0..2 {
        for name in ["alice", "bob"] {
            let head = ask(edge.address(), &[&of(name)]).await.text();
            assert_eq!(fields(&head, "x-user"), [name], "{head}");
        }
    }
    assert_eq!(
        ask(edge.address(), &[]).await.refusal(),
        no(401, "credentials_missing")
    );
    // Without `private_by` nothing of it is kept at all (RFC 9111 3.5).
    let upstream = Upstream::mirror().await;
    let edge = edge_of(&tables(
        &(by_secret_file() + "\nfrom = \"cookie:t\""),
        &format!("{ROUTE}\ncache = \"1h\""),
        upstream.address,
    ))
    .await;
    for _ in 0..2 {
        assert_eq!(ask(edge.address(), &[&of("alice")]).await.status, 200);
    }
    assert_eq!(upstream.count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_peer_is_told_of_somebody_decides_what_is_kept_for_him() {
    let upstream = Upstream::mirror().await;
    let auth = by_secret_file() + "\nclaims = { tenant = \"X-Tenant\" }";
    let route = format!("{ROUTE}\ncache = {{ ttl = \"1h\", private_by = \"identity\" }}");
    let edge = edge(&tables(&auth, &route, upstream.address)).await;
    // The same person for two tenants, and two programs without a name.
    let nameless = |tenant: &str| hs256(&format!(r#"{{"exp":{},"tenant":"{tenant}"}}"#, at(60)));
    let named = |tenant: &str| hs256(&claims(&format!(r#","tenant":"{tenant}""#)));
    for _ in 0..2 {
        for tenant in ["a", "b"] {
            for token in [nameless(tenant), named(tenant)] {
                let head = with_token(edge.address(), &token).await.text();
                assert_eq!(fields(&head, "x-tenant"), [tenant], "{head}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_says_who_he_is_with_an_underscore() {
    let upstream = Upstream::mirror().await;
    let auth = by_secret_file() + "\nclaims = { sub = \"X-User\" }";
    let own = "headers = { request = { set = { X-Env = \"prod\" }, remove = [\"X-Debug\"] } }";
    let tables = tables(&auth, &format!("{ROUTE}\n{own}"), upstream.address);
    let edge = edge(&tables).await;
    let bearer = format!("Authorization: Bearer {}", hs256(&claims("")));
    let head = ask(
        edge.address(),
        &[
            &bearer,
            "X_User: admin",
            "x-USER: admin",
            "X_Forwarded-For: 10.0.0.1",
            "X_Forwarded_Anything: a",
            "X_Forwarded_Client_Cert: URI=a",
            "X_Original_URL: /admin",
            "X_Request_Id: a",
            "X_Env: test",
            "X_Debug: 1",
            "my_own: stays",
        ],
    )
    .await
    .text();
    assert_eq!(fields(&head, "x-user"), ["alice"], "{head}");
    assert_eq!(fields(&head, "x-env"), ["prod"], "{head}");
    assert_eq!(fields(&head, "my_own"), ["stays"], "{head}");
    let names = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    let odd: Vec<_> = names.filter(|(name, _)| name.contains('_')).collect();
    assert_eq!(odd, [("my_own", " stays")], "{head}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_has_looked_at_goes_no_further() {
    let upstream = Upstream::mirror().await;
    let places = "[\"authorization\", \"cookie:s\", \"query:t\", \"header:X-Token\"]";
    for (forward, kept) in [("", false), ("\nforward = true", true)] {
        let auth = format!("{}\nfrom = {places}{forward}", by_secret_file());
        let edge = edge(&tables(&auth, ROUTE, upstream.address)).await;
        let token = hs256(&claims(""));
        let bearer = format!("Authorization: Bearer {token}");
        let mut client = Client::connect(edge.address()).await;
        let forged = ["Cookie: a=b; s=forged", "X-Token: forged"];
        let head = client
            .ask("GET /a?%74=forged&b=c", &[&bearer, forged[0], forged[1]])
            .await
            .text();
        assert!(head.starts_with("GET /a?b=c HTTP/1.1"), "{head}");
        assert_eq!(fields(&head, "cookie"), ["a=b"], "{head}");
        assert!(!head.contains("forged"), "{head}");
        assert_eq!(head.contains(&token), kept, "{head}");
        // Of another scheme it is none of edge's.
        let (basic, cookie) = (
            "Authorization: Basic YTpi",
            format!("Cookie: n=\u{e9}; s={token}"),
        );
        let mut client = Client::connect(edge.address()).await;
        let head = client.ask("GET /", &[basic, &cookie]).await;
        assert_eq!(head.status, 200, "{head:?}");
        assert_eq!(fields(&head.text(), "authorization"), ["Basic YTpi"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_tomorrow_is_no_guess() {
    let upstream = Upstream::saying(ok("", "in")).await;
    let (server, set) = key_server(String::new()).await;
    let (old, new) = (Issuer::new("old"), Issuer::new("new"));
    *set.lock().unwrap() = jwks(&[&old]);
    let auth = format!(
        "type = \"jwt\"\njwks = \"http://{}/\"\nfailures = \"2/h\"",
        server.address
    );
    let edge = edge(&tables(&auth, ROUTE, upstream.address)).await;
    let good = old.token(&claims(""));
    until(|| async { with_token(edge.address(), &good).await.status == 200 }).await;
    for _ in 0..5 {
        let answer = with_token(edge.address(), &new.token(&claims(""))).await;
        assert_eq!(answer.refusal(), no(401, "token_key"));
    }
    assert_eq!(with_token(edge.address(), &good).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_shown_cannot_be_nominated_away() {
    let upstream = Upstream::mirror().await;
    let path = key_file();
    let auth =
        format!("type = \"api_key\"\nkeys = {path:?}\nfrom = \"header:X-API-Key\"\nforward = true");
    let edge = edge(&tables(&auth, ROUTE, upstream.address)).await;
    let head = ask(edge.address(), &["X-API-Key: one"]).await.text();
    assert_eq!(fields(&head, "x-api-key"), ["one"]);
    let answer = ask(edge.address(), &["X-API-Key: one", "Connection: x-api-key"]).await;
    assert_eq!(answer.refusal(), no(400, "bad_message"));
    let _ = fs::remove_file(path);
}

async fn edge_of(tables: &str) -> edge::serve::Edge {
    soon(edge(tables)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trusted_proxy_shows_the_certificate_and_nobody_else() {
    let upstream = Upstream::mirror().await;
    let auth = "type = \"certificate\"\nsubjects = [\"spiffe://c/ns/a/sa/*\"]\nfield = \"X-Who\"";
    let tables = tables(auth, ROUTE, upstream.address);
    let shown = "X-Forwarded-Client-Cert: By=x;URI=spiffe://c/ns/a/sa/web";
    let stranger = edge(&tables).await;
    assert_eq!(
        ask(stranger.address(), &[shown]).await.refusal(),
        no(403, "certificate_not_allowed")
    );
    let trusting = edge(&format!(
        "[server]\ntrusted_proxies = [\"127.0.0.1\"]\n{tables}"
    ))
    .await;
    let head = ask(trusting.address(), &[shown]).await.text();
    assert_eq!(fields(&head, "x-who"), ["spiffe://c/ns/a/sa/web"], "{head}");
    let other = shown.replace("/a/", "/b/");
    assert_eq!(
        ask(trusting.address(), &[&other]).await.refusal(),
        no(403, "certificate_not_allowed")
    );
    assert_eq!(
        ask(trusting.address(), &[]).await.refusal(),
        no(403, "certificate_not_allowed")
    );
}
