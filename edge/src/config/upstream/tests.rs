use super::super::{Config, Faults};
use super::*;
use crate::breaker::Trip;
use crate::retry::On;

/// Behind these keys of the only upstream, and before that, other tables.
fn source(head: &str, keys: &str) -> String {
    format!("{head}\n[[route]]\npath = \"/*\"\nupstream = \"a\"\n[upstream.a]\n{keys}\n")
}

fn read(head: &str, keys: &str) -> Config {
    Config::read("", &source(head, keys)).unwrap_or_else(|faults| panic!("{faults}"))
}

fn upstream(keys: &str) -> Upstream {
    let keys = format!("peers = [\"a:1\"]\n{keys}");
    read("", &keys).upstreams.remove(0)
}

/// The one fault lies where `§` stands, and says this.
fn one_fault(marked: &str, said: &str) {
    let at = marked
        .find('§')
        .unwrap_or_else(|| panic!("no § in {marked}"));
    let line = marked[..at].matches('\n').count() + 1;
    let start = marked[..at].rfind('\n').map_or(0, |at| at + 1);
    let column = marked[start..at].chars().count() + 1;
    let Err(Faults { list, .. }) = Config::read("", &marked.replace('§', "")) else {
        panic!("read without fault: {marked}");
    };
    let [fault] = list.as_slice() else {
        panic!("{marked}\n{list:#?}");
    };
    assert_eq!(
        (fault.line, fault.column),
        (line, column),
        "{marked}\n{fault:#?}"
    );
    let told = format!("{} ({})", fault.message, fault.help);
    assert!(told.contains(said), "{told}\ndoes not say {said}");
    assert!(
        !fault.help.is_empty() || fault.message.starts_with("expected"),
        "{told}"
    );
}

#[test]
fn an_upstream_of_peers_alone_has_every_default() {
    assert_eq!(upstream(""), Upstream::of("a", &["a:1"]));
    let said = upstream(
        "resolve = \"dns\"\nbalance = \"round_robin\"\nslow_start = \"off\"\nhealth = \"off\"\n\
         eject = { failures = 5, time = \"10s\", time_max = \"5m\", share = \"50%\" }\n\
         breaker = { errors = \"off\" }\nprotocol = \"http1\"\ntls = false\n\
         retry = { attempts = 3, budget = \"20%\", body = \"64KiB\", on = [\"connect\", \"closed\", \"timeout\"] }",
    );
    assert_eq!(said, Upstream::of("a", &["a:1"]));
    assert_eq!(upstream("eject = {}\nretry = {}\nbreaker = {}"), said);
    let off = upstream("eject = \"off\"\nretry = \"off\"");
    assert_eq!((off.eject, off.retry), (None, None));
}

#[test]
fn each_key_of_an_upstream_is_read() {
    let own = upstream(
        "balance = \"hash\"\nhash = \"header:X-User\"\nprotocol = \"http2\"\n\
         health = { path = \"/h\", every = \"500ms\", expect = [200, \"400-404\"], rise = 2, fall = 3 }\n\
         eject = { failures = 1, time_max = \"5s\", share = \"100%\" }\n\
         breaker = { max_connections = 10, max_pending = 0, max_requests = 20, errors = \"9%\", open = \"1s\" }\n\
         retry = { attempts = 2, budget = \"5%\", body = \"1KiB\", on = [\"closed\", \"503\", 599] }\n\
         tls = { name = \"b.example\", verify = false }",
    );
    let user = HeaderName::from_static("x-user");
    assert_eq!(own.balance, Balance::Hash(HashBy::Header(user)));
    let expected = Probe {
        path: "/h".to_owned(),
        every: Duration::from_millis(500),
        timeout: Duration::from_millis(500),
        expect: vec![200..=200, 400..=404],
        rise: 2,
        fall: 3,
    };
    assert_eq!(own.health, Some(expected));
    let expected = Eject {
        failures: 1,
        time: 5 * SECOND,
        time_max: 5 * SECOND,
        share: 100,
    };
    assert_eq!(own.eject, Some(expected));
    let expected = breaker::Settings {
        max_connections: Some(10),
        max_pending: 0,
        max_requests: Some(20),
        trip: Some(Trip {
            errors: 9,
            requests: 20,
            window: 10 * SECOND,
            open: SECOND,
        }),
    };
    assert_eq!(own.breaker, expected);
    let expected = retry::Settings {
        attempts: 2,
        budget: 5,
        body: 1 << 10,
        on: On {
            connect: false,
            closed: true,
            timeout: false,
            statuses: vec![503, 599],
        },
    };
    assert_eq!(own.retry, Some(expected));
    let expected = UpstreamTls {
        name: Some("b.example".to_owned()),
        verify: false,
        ..UpstreamTls::default()
    };
    assert_eq!((own.protocol, own.tls), (Protocol::Http2, Some(expected)));
}

#[test]
fn tls_verifies_unless_it_is_told_not_to() {
    for tls in ["true", "{}", "{ verify = true }"] {
        let own = upstream(&format!("protocol = \"auto\"\ntls = {tls}"));
        assert!(own.tls.is_some_and(|tls| tls.verify), "{tls}");
    }
}

#[test]
fn peers_have_weights_and_services_have_none() {
    let own = read(
        "",
        "peers = [\"a:1\", { address = \"[::1]:2\", weight = 3 }]",
    );
    let peers: Vec<_> = own.upstreams[0]
        .peers
        .iter()
        .map(|peer| (peer.name.as_str(), peer.weight))
        .collect();
    assert_eq!(peers, [("a:1", 1), ("[::1]:2", 3)]);
    let own = read("", "resolve = \"srv\"\npeers = \"_http._tcp.users.\"");
    assert_eq!(own.upstreams[0].resolve, Resolve::Srv);
}

#[test]
fn what_is_wrong_with_an_upstream_is_told_with_its_place() {
    for (keys, said) in [
        ("balance = §\"hash\"", "set `hash`, as `hash = \"client\"`"),
        ("hash = §\"client\"", "set `balance = \"hash\"`"),
        (
            "balance = \"random_two\"\nhash = §\"client\"",
            "set `balance = \"hash\"`",
        ),
        ("balance = §\"round_robbin\"", "did you mean `round_robin`?"),
        (
            "balance = §\"xyz\"\nhash = \"client\"",
            "expected one of \"round_robin\"",
        ),
        ("balance = \"hash\"\nhash = §\"user\"", "\"header:X-User\""),
        (
            "balance = \"hash\"\nhash = §\"cookie:\"",
            "\"cookie:session\"",
        ),
        (
            "balance = \"hash\"\nhash = §\"header:a b\"",
            "\"header:X-User\"",
        ),
        (
            "balance = \"hash\"\nhash = \"client\"\nslow_start = §\"9s\"",
            "leave `slow_start` out",
        ),
        ("slow_start = §\"1ms\"", "expected \"1s\" to \"1h\""),
        ("resolve = §\"svr\"", "did you mean `srv`?"),
        ("health = §\"health\"", "expected a path"),
        ("health = §{ every = \"5s\" }", "missing key `path`"),
        (
            "health = { path = \"/\", every = §\"1ms\" }",
            "expected \"100ms\" to \"1h\"",
        ),
        (
            "health = { path = \"/\", timeout = §\"6s\" }",
            "at most `every`, which is \"5s\"",
        ),
        ("health = { path = \"/\", rise = §0 }", "expected 1 to 100"),
        (
            "health = { path = \"/\", fall = §101 }",
            "expected 1 to 100",
        ),
        (
            "health = { path = \"/\", expect = §[] }",
            "expected 1 to 16",
        ),
        (
            "health = { path = \"/\", expect = §\"299-200\" }",
            "as 200 or \"200-299\"",
        ),
        (
            "health = { path = \"/\", expect = §100 }",
            "from 200 to 599",
        ),
        (
            "health = { path = \"/\", expect = [\"200-299\", §204] }",
            "stands here twice",
        ),
        ("eject = §true", "expected a table"),
        ("eject = { failures = §0 }", "expected 1 to 1000"),
        (
            "eject = { time = §\"6m\" }",
            "`time` is longer than `time_max`",
        ),
        (
            "eject = { time = §\"9s\", time_max = \"5s\" }",
            "expected at most \"5s\"",
        ),
        (
            "eject = { time_max = §\"2d\" }",
            "expected \"100ms\" to \"1d\"",
        ),
        ("eject = { share = §\"0%\" }", "from 1 to 100"),
        ("breaker = §\"off\"", "expected a table"),
        ("breaker = { max_pending = §5 }", "set `max_connections`"),
        (
            "breaker = { max_connections = §0 }",
            "expected 1 to 1000000",
        ),
        (
            "breaker = { max_connections = 9, max_requests = §8 }",
            "at least `max_connections`",
        ),
        ("breaker = { requests = §9 }", "the circuit never opens"),
        (
            "breaker = { errors = \"off\", window = §\"9s\" }",
            "the circuit never opens",
        ),
        ("breaker = { open = §\"9s\" }", "the circuit never opens"),
        ("breaker = { errors = §\"50\" }", "a percentage"),
        (
            "breaker = { errors = \"5%\", requests = §0 }",
            "expected 1 to 1000000",
        ),
        (
            "breaker = { errors = \"5%\", window = §\"2h\" }",
            "expected \"1s\" to \"1h\"",
        ),
        (
            "retry = { attempts = §1 }",
            "`retry = \"off\"` sends each request once",
        ),
        ("retry = { attempts = §11 }", "expected 2 to 10"),
        ("retry = { budget = §\"101%\" }", "from 1 to 100"),
        ("retry = { body = §\"1GiB\" }", "expected at most \"16MiB\""),
        (
            "retry = { body = §\"1KiB\", on = \"connect\" }",
            "leave `body` out",
        ),
        ("retry = { on = §[] }", "expected 1 to"),
        (
            "retry = { on = [\"connect\", §\"connect\"] }",
            "stands here twice",
        ),
        ("retry = { on = §\"404\" }", "or a status as \"503\""),
        ("retry = { on = §true }", "expected a text"),
        ("protocol = §\"http3\"", "did you mean"),
        ("protocol = §\"auto\"", "only with TLS a peer can choose"),
        (
            "protocol = §\"auto\"\ntls = false",
            "only with TLS a peer can choose",
        ),
        ("tls = §\"yes\"", "expected true or false"),
        ("tls = { name = §\"a b\" }", "as \"users.internal\""),
        (
            "tls = { ca = §\"none.pem\" }",
            "cannot be read: no such file",
        ),
        ("tls = { ca = §\"/\" }", "cannot be read: it is no file"),
        (
            "tls = { ca = §\"Cargo.toml\" }",
            "expected certificates of authorities in PEM",
        ),
    ] {
        one_fault(&source("", &format!("peers = [\"a:1\"]\n{keys}")), said);
    }
}

#[test]
fn what_is_wrong_with_peers_is_told_with_its_place() {
    for (keys, said) in [
        ("peers = §[]", "expected 1 to 1000"),
        ("peers = [\"a:1\", §\"a:1\"]", "stands here twice"),
        (
            "peers = [\"a:1\", { address = §\"a:1\" }]",
            "stands here twice",
        ),
        ("peers = [§\"a\"]", "expected a host with a port"),
        ("peers = [§\"::1:80\"]", "expected a host with a port"),
        ("peers = [§\"a..b:80\"]", "expected a host with a port"),
        ("peers = [§5]", "expected a text"),
        ("peers = [§{ weight = 3 }]", "missing key `address`"),
        (
            "peers = [{ address = \"a:1\", weight = §0 }]",
            "expected 1 to 1000",
        ),
        (
            "peers = [{ address = \"a:1\", weight = §1001 }]",
            "expected 1 to 1000",
        ),
        ("peers = [{ §adress = \"a:1\" }]", "did you mean `address`?"),
        ("resolve = \"srv\"\npeers = [§\"a:1\"]", "without a port"),
        (
            "resolve = \"srv\"\npeers = [§\"10.0.0.1\"]",
            "without a port",
        ),
        (
            "resolve = \"srv\"\npeers = [{ address = \"_a._tcp.b\", weight = §3 }]",
            "the records of a service say the weights",
        ),
        (
            "§resolv = \"srv\"\npeers = [\"_a._tcp.b\"]",
            "did you mean `resolve`?",
        ),
    ] {
        one_fault(&source("", keys), said);
    }
}

#[test]
fn what_is_wrong_with_the_other_tables_is_told_with_its_place() {
    const NAME: &str = "peers = [\"a:1\"]";
    for (head, said) in [
        (
            "[server]\nhttp2 = false\nstreams = §9",
            "only HTTP/2 has streams",
        ),
        ("[server]\nstreams = §0", "expected 1 to 10000"),
        ("[server]\nproxy_protocol = §\"lb\"", "expected a network"),
        ("[dns]\nservers = [§\"10.0.0.1\"]", "an address with a port"),
        (
            "[dns]\nservers = [\"10.0.0.1:53\", §\"10.0.0.1:53\"]",
            "stands here twice",
        ),
        (
            "[dns]\nttl_min = §\"31s\"",
            "`ttl_min` is longer than `ttl_max`",
        ),
        ("[dns]\ntimeout = §\"2m\"", "expected \"10ms\" to \"1m\""),
        (
            "[timeout]\ntry = §\"31s\"",
            "one try longer than the whole answer",
        ),
        (
            "[timeout]\ntry = \"1s\"\nconnect = §\"2s\"",
            "expected at most `try`",
        ),
        (
            "[timeout]\ntry = §\"3s\"\nresponse = \"2s\"",
            "expected at most `response`",
        ),
    ] {
        one_fault(&source(head, NAME), said);
    }
    let addresses = "peers = [\"10.0.0.1:1\"]";
    one_fault(
        &source("§[dns]\ntimeout = \"1s\"", addresses),
        "leave `[dns]` out",
    );
    let tried = "timeout = { try = §\"9s\", response = \"8s\" }";
    let route = source("", NAME).replace("upstream = \"a\"", &format!("upstream = \"a\"\n{tried}"));
    one_fault(&route, "one try longer than the whole answer");
}

#[test]
fn a_short_deadline_of_one_route_is_no_fault_of_the_files_try() {
    let with = source("[timeout]\ntry = \"2s\"", "peers = [\"a:1\"]")
        .replace("upstream = \"a\"", "upstream = \"a\"\ntimeout = \"1s\"");
    let config = Config::read("", &with).unwrap_or_else(|faults| panic!("{faults}"));
    assert_eq!(config.routes[0].timeout.attempt, Some(2 * SECOND));
}

#[test]
fn what_is_told_of_an_upstream_says_how_it_is_asked() {
    let told = read(
        "",
        "peers = [\"a:1\", { address = \"b:1\", weight = 3 }]\nbalance = \"hash\"\nhash = \"cookie:id\"\n\
         protocol = \"http2\"\ntls = { verify = false }\nbreaker = { errors = \"50%\" }\nretry = \"off\"",
    )
    .to_string();
    for line in [
        "looks names up at the system's servers, again after 1s to 30s, timeout 2s",
        "  peers      a:1 b:1 (weight 3), names by dns",
        "  protocol   http2, tls, NOT VERIFIED",
        "  balance    hash by cookie:id, slow_start off",
        "  health     off",
        "  eject      failures 5, time 10s, time_max 5m, share 50%",
        "  breaker    max_connections off, max_requests off, errors 50% of at least 20 requests in 10s, open 5s",
        "  retry      off",
    ] {
        assert!(told.lines().any(|own| own == line), "{told}\nhas no {line}");
    }
}
