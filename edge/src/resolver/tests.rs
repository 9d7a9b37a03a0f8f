//! The resolver against a server that does as it is told.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hickory_resolver::Hosts;
use hickory_resolver::config::{ResolverConfig, ResolverOpts};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RecordType};

use super::dns::{Dns, Fault};
use super::{Found, MOST_ADDRESSES, Resolver, servers};
use crate::config;
use crate::config::Resolve::{Dns as Host, Srv};

const SERVFAIL: Fault = Fault::Code(ResponseCode::ServFail);

fn settings(servers: &[&Dns]) -> config::Dns {
    config::Dns {
        servers: servers.iter().map(|dns| dns.address()).collect(),
        timeout: Duration::from_secs(20),
        ..config::Dns::default()
    }
}

/// Asks these servers as `[dns] servers` would.
fn resolver(servers: &[&Dns]) -> Resolver {
    Resolver::new(&settings(servers))
}

/// Asks this server as a system would whose files say so.
fn system(dns: &Dns, domains: &[&str], dots: usize, hosts: &str) -> Resolver {
    let domains = domains.iter().map(|name| Name::from_ascii(name).unwrap());
    let list = vec![servers::server(dns.address())];
    let config = ResolverConfig::from_parts(None, domains.collect(), list);
    let mut options = ResolverOpts::default();
    options.ndots = dots;
    let mut known = Hosts::default();
    known.read_hosts_conf(hosts.as_bytes()).unwrap();
    Resolver::with(&settings(&[]), config, options, known)
}

fn addresses(found: &Found) -> Vec<String> {
    let address = |(address, _): &(SocketAddr, u32)| address.to_string();
    found.peers.iter().map(address).collect()
}

fn asked(dns: &Dns, kind: RecordType) -> Vec<String> {
    let asked = dns.asked().into_iter().filter(|asked| asked.kind == kind);
    asked.map(|asked| asked.name).collect()
}

#[tokio::test]
async fn a_name_stands_for_its_addresses_of_both_families() {
    let dns = Dns::start().await;
    dns.set("both.test", 7, &["10.0.0.2", "10.0.0.1", "2001:db8::1"]);
    dns.set("four.test", 7, &["10.0.0.1"]);
    dns.set("six.test", 7, &["2001:db8::1"]);
    let resolver = resolver(&[&dns]);
    let found = resolver.look_up("both.test:80", Host).await.unwrap();
    assert_eq!(
        addresses(&found),
        ["10.0.0.1:80", "10.0.0.2:80", "[2001:db8::1]:80"]
    );
    assert!(found.peers.iter().all(|(_, weight)| *weight == 1));
    assert_eq!(found.ttl, Duration::from_secs(7));
    let found = resolver.look_up("four.test:80", Host).await.unwrap();
    assert_eq!(addresses(&found), ["10.0.0.1:80"]);
    let found = resolver.look_up("six.test:80", Host).await.unwrap();
    assert_eq!(addresses(&found), ["[2001:db8::1]:80"]);
}

#[tokio::test]
async fn what_is_no_name_is_an_error_and_an_address_stands_for_itself() {
    let dns = Dns::start().await;
    let resolver = resolver(&[&dns]);
    let long = format!("{}:80", "a".repeat(64));
    for peer in ["", ":", "a..b:80", "a:70000", "a", ".:80", &long] {
        assert!(resolver.look_up(peer, Host).await.is_err(), "{peer}");
    }
    for peer in ["10.0.0.1:80", "[::1]:80"] {
        let found = resolver.look_up(peer, Host).await.unwrap();
        assert_eq!(addresses(&found), [peer]);
    }
}

#[tokio::test]
async fn the_order_is_always_the_same_and_each_address_comes_once() {
    let dns = Dns::start().await;
    let resolver = resolver(&[&dns]);
    let mut seen = Vec::new();
    for order in [
        ["10.0.0.1", "10.0.0.3", "10.0.0.2", "10.0.0.1"],
        ["10.0.0.3", "10.0.0.2", "10.0.0.1", "10.0.0.3"],
    ] {
        dns.set("a.test", 7, &order);
        seen.push(resolver.look_up("a.test:80", Host).await.unwrap());
    }
    assert_eq!(seen[0], seen[1]);
    assert_eq!(seen[0].peers.len(), 3);
}

#[tokio::test]
async fn the_smallest_time_counts_and_the_bounds_are_exact() {
    let dns = Dns::start().await;
    let resolver = resolver(&[&dns]);
    dns.set("a.test", 9, &["10.0.0.1"]);
    dns.set_alias("b.test", 5, "a.test");
    for (name, ttl, expected) in [
        ("z.test", 0, 1),
        ("o.test", 1, 1),
        ("m.test", 30, 30),
        ("h.test", 3_600, 30),
    ] {
        dns.set(name, ttl, &["10.0.0.1"]);
        let found = resolver.look_up(&format!("{name}:80"), Host).await.unwrap();
        assert_eq!(found.ttl, Duration::from_secs(expected), "{name}");
    }
    let found = resolver.look_up("b.test:80", Host).await.unwrap();
    assert_eq!(found.ttl, Duration::from_secs(5), "the alias's own");
}

#[tokio::test]
async fn nothing_is_remembered_between_two_look_ups() {
    let dns = Dns::start().await;
    let resolver = resolver(&[&dns]);
    dns.set("a.test", 3_600, &["10.0.0.1"]);
    resolver.look_up("a.test:80", Host).await.unwrap();
    dns.set("a.test", 3_600, &["10.0.0.2"]);
    let found = resolver.look_up("a.test:80", Host).await.unwrap();
    assert_eq!(addresses(&found), ["10.0.0.2:80"]);
    dns.remove("a.test");
    assert!(resolver.look_up("a.test:80", Host).await.is_err());
    dns.set("a.test", 3_600, &["10.0.0.3"]);
    assert!(resolver.look_up("a.test:80", Host).await.is_ok());
}

#[tokio::test]
async fn a_name_without_addresses_is_an_error() {
    let dns = Dns::start().await;
    let resolver = resolver(&[&dns]);
    dns.set_service("service.test", 5, &[(0, 0, 80, "a.test")]);
    for peer in ["gone.test:80", "service.test:80"] {
        let why = resolver.look_up(peer, Host).await.unwrap_err();
        assert_eq!(why, "the name has no address", "{peer}");
    }
    dns.set("sinkhole.test", 5, &["0.0.0.0", "::", "224.0.0.1"]);
    assert!(resolver.look_up("sinkhole.test:80", Host).await.is_err());
    dns.fail_host("failing.test", SERVFAIL);
    let why = resolver.look_up("failing.test:80", Host).await;
    assert_ne!(why.unwrap_err(), "the name has no address");
}

#[tokio::test]
async fn aliases_are_followed_and_a_circle_ends() {
    let dns = Dns::start().await;
    let resolver = resolver(&[&dns]);
    dns.set("a.test", 5, &["10.0.0.1"]);
    dns.set_alias("b.test", 5, "a.test");
    dns.set_alias("c.test", 5, "b.test");
    let found = resolver.look_up("c.test:80", Host).await.unwrap();
    assert_eq!(addresses(&found), ["10.0.0.1:80"]);
    dns.set_alias("a.test", 5, "c.test");
    assert!(resolver.look_up("c.test:80", Host).await.is_err());
}

#[tokio::test]
async fn where_one_family_fails_the_other_counts_but_not_for_long() {
    let dns = Dns::start().await;
    let resolver = resolver(&[&dns]);
    dns.set("a.test", 20, &["10.0.0.1", "2001:db8::1"]);
    dns.fail("a.test", RecordType::AAAA, SERVFAIL);
    let found = resolver.look_up("a.test:80", Host).await.unwrap();
    assert_eq!(addresses(&found), ["10.0.0.1:80"]);
    assert_eq!(found.ttl, Duration::from_secs(1));
}

#[tokio::test]
async fn a_truncated_answer_is_asked_for_again_over_tcp() {
    let dns = Dns::start().await;
    let resolver = resolver(&[&dns]);
    let many: Vec<_> = (0..200).map(|n| format!("10.0.1.{n}")).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    dns.set("many.test", 5, &many);
    dns.set("few.test", 5, &["10.0.0.1"]);
    dns.fail("few.test", RecordType::A, Fault::Truncation);
    let found = resolver.look_up("many.test:80", Host).await.unwrap();
    assert_eq!(found.peers.len(), 200);
    assert!(dns.asked().iter().any(|asked| asked.tcp));
    let found = resolver.look_up("few.test:80", Host).await.unwrap();
    assert_eq!(addresses(&found), ["10.0.0.1:80"]);
}

/// A server behind a balancer can go away without a word, and its connection stays.
#[tokio::test]
async fn a_connection_that_died_unseen_is_not_asked_twice() {
    let dns = Dns::start().await;
    dns.set("a.test", 5, &["10.0.0.1"]);
    dns.fail_host("a.test", Fault::Truncation);
    let resolver = Resolver::new(&config::Dns {
        timeout: Duration::from_secs(2),
        ..settings(&[&dns])
    });
    resolver.look_up("a.test:80", Host).await.unwrap();
    dns.forsake();
    assert!(resolver.look_up("a.test:80", Host).await.is_err());
    let found = resolver.look_up("a.test:80", Host).await.unwrap();
    assert_eq!(addresses(&found), ["10.0.0.1:80"]);
}

#[tokio::test]
async fn no_more_than_a_thousand_addresses_are_taken() {
    let dns = Dns::start().await;
    let many: Vec<_> = (0..1_100)
        .map(|n| format!("10.1.{}.{}", n / 200, n % 200))
        .collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    dns.set("many.test", 5, &many);
    let found = resolver(&[&dns]).look_up("many.test:80", Host).await;
    let found = found.unwrap();
    assert_eq!((found.peers.len(), found.left_out), (MOST_ADDRESSES, 100));
}

#[tokio::test]
async fn a_silent_server_costs_no_more_than_the_timeout() {
    let dns = Dns::start().await;
    dns.fail_host("a.test", Fault::Silence);
    dns.fail("s.test", RecordType::SRV, Fault::Silence);
    let resolver = Resolver::new(&config::Dns {
        timeout: Duration::from_millis(200),
        ..settings(&[&dns])
    });
    for (name, resolve) in [("a.test:80", Host), ("s.test", Srv)] {
        let began = Instant::now();
        let why = resolver.look_up(name, resolve).await.unwrap_err();
        assert!(began.elapsed() >= Duration::from_millis(200));
        assert!(began.elapsed() < Duration::from_secs(10));
        assert_eq!(why, "no answer in time");
    }
}

#[tokio::test]
async fn a_question_that_was_lost_is_sent_again() {
    let dns = Dns::start().await;
    dns.set("a.test", 5, &["10.0.0.1"]);
    dns.fail_host("a.test", Fault::Silence);
    let resolver = resolver(&[&dns]);
    let look_up = resolver.look_up("a.test:80", Host);
    let heal = async {
        while dns.questions() < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        dns.heal();
    };
    let (found, ()) = tokio::join!(look_up, heal);
    assert_eq!(addresses(&found.unwrap()), ["10.0.0.1:80"]);
}

#[tokio::test]
async fn a_server_that_fails_is_passed_over_from_then_on() {
    let (bad, good) = (Dns::start().await, Dns::start().await);
    bad.fail_host("a.test", SERVFAIL);
    good.set("a.test", 5, &["10.0.0.1"]);
    let resolver = resolver(&[&bad, &good]);
    resolver.look_up("a.test:80", Host).await.unwrap();
    assert_eq!(bad.questions(), 2);
    resolver.look_up("a.test:80", Host).await.unwrap();
    assert_eq!((bad.questions(), good.questions()), (2, 4));
}

#[tokio::test]
async fn a_dead_server_leaves_time_for_the_next() {
    let (dead, good) = (Dns::start().await, Dns::start().await);
    dead.fail_host("a.test", Fault::Silence);
    good.set("a.test", 5, &["10.0.0.1"]);
    let resolver = Resolver::new(&config::Dns {
        timeout: Duration::from_secs(2),
        ..settings(&[&dead, &good])
    });
    let found = resolver.look_up("a.test:80", Host).await.unwrap();
    assert_eq!(addresses(&found), ["10.0.0.1:80"]);
}

const CLUSTER: [&str; 3] = ["ns.svc.cluster.local", "svc.cluster.local", "cluster.local"];

#[tokio::test]
async fn a_short_name_is_searched_in_the_domains_of_a_cluster() {
    let dns = Dns::start().await;
    dns.set("echo.ns.svc.cluster.local", 5, &["10.0.0.1"]);
    dns.set("echo.far.svc.cluster.local", 5, &["10.0.0.2"]);
    dns.set("echo.example.com", 5, &["10.0.0.3"]);
    let resolver = system(&dns, &CLUSTER, 5, "");
    for (name, address) in [
        ("echo:80", "10.0.0.1:80"),
        ("echo.ns:80", "10.0.0.1:80"),
        ("echo.far:80", "10.0.0.2:80"),
        ("echo.far.svc.cluster.local:80", "10.0.0.2:80"),
        ("echo.example.com:80", "10.0.0.3:80"),
        ("echo.example.com.:80", "10.0.0.3:80"),
    ] {
        let found = resolver.look_up(name, Host).await.unwrap();
        assert_eq!(addresses(&found), [address], "{name}");
    }
}

#[tokio::test]
async fn a_dot_at_the_end_and_enough_dots_within_mean_absolute() {
    let dns = Dns::start().await;
    let resolver = system(&dns, &["one.test", "two.test"], 1, "");
    for (name, expected) in [
        ("a.:80", &["a."][..]),
        ("a:80", &["a.one.test.", "a.two.test.", "a."]),
        ("a.b:80", &["a.b.", "a.b.one.test.", "a.b.two.test."]),
    ] {
        let before = asked(&dns, RecordType::A).len();
        assert!(resolver.look_up(name, Host).await.is_err());
        assert_eq!(asked(&dns, RecordType::A)[before..], *expected, "{name}");
    }
}

#[tokio::test]
async fn a_failure_is_not_taken_for_no_such_name() {
    let dns = Dns::start().await;
    dns.set("a.two.test", 5, &["10.6.6.6"]);
    dns.fail_host("a.one.test", SERVFAIL);
    let resolver = system(&dns, &["one.test", "two.test"], 1, "");
    assert!(resolver.look_up("a:80", Host).await.is_err());
}

#[tokio::test]
async fn named_servers_are_asked_for_absolute_names() {
    let dns = Dns::start().await;
    dns.set("users", 5, &["10.0.0.1"]);
    let found = resolver(&[&dns]).look_up("users:80", Host).await;
    assert_eq!(addresses(&found.unwrap()), ["10.0.0.1:80"]);
    assert_eq!(asked(&dns, RecordType::A), ["users."]);
}

#[tokio::test]
async fn the_hosts_file_is_asked_first() {
    let dns = Dns::start().await;
    dns.set("box.one.test", 5, &["10.6.6.6"]);
    let hosts = "10.0.0.9 Box\n2001:db8::9 box # the same\n127.0.0.1 localhost\n";
    let resolver = system(&dns, &["one.test"], 1, hosts);
    let found = resolver.look_up("box:80", Host).await.unwrap();
    assert_eq!(addresses(&found), ["10.0.0.9:80", "[2001:db8::9]:80"]);
    assert_eq!(found.ttl, Duration::from_secs(30));
    let found = resolver.look_up("localhost:80", Host).await.unwrap();
    assert_eq!(addresses(&found), ["127.0.0.1:80"]);
    assert_eq!(dns.questions(), 0);
}

#[tokio::test]
async fn localhost_is_never_asked_for() {
    let dns = Dns::start().await;
    dns.set("localhost", 5, &["10.6.6.6"]);
    let resolver = resolver(&[&dns]);
    let found = resolver.look_up("localhost:80", Host).await.unwrap();
    assert_eq!(addresses(&found), ["127.0.0.1:80", "[::1]:80"]);
    assert_eq!(dns.questions(), 0);
}

#[tokio::test]
async fn without_a_server_look_ups_fail_and_say_why() {
    let error = std::io::Error::other("no such file");
    let mut hosts = Hosts::default();
    hosts.read_hosts_conf(&b"10.0.0.9 box"[..]).unwrap();
    let resolver = Resolver::without(&settings(&[]), &error, hosts);
    let why = resolver.look_up("a.test:80", Host).await.unwrap_err();
    assert_eq!(why, "no DNS server is known: no such file");
    assert!(resolver.look_up("box:80", Host).await.is_ok());
}

#[tokio::test]
async fn this_system_has_a_localhost() {
    let resolver = Resolver::new(&config::Dns::default());
    let found = resolver.look_up("localhost:80", Host).await.unwrap();
    assert!(found.peers.iter().all(|(peer, _)| peer.ip().is_loopback()));
}

#[tokio::test]
async fn of_a_service_the_lowest_priority_that_has_addresses_counts() {
    let dns = Dns::start().await;
    let resolver = resolver(&[&dns]);
    dns.set("a.test", 20, &["10.0.0.1", "2001:db8::1"]);
    dns.set("b.test", 8, &["10.0.0.2"]);
    let targets = [
        (20, 9, 99, "a.test"),
        (10, 0, 81, "b.test"),
        (10, 5, 80, "a.test"),
        (10, 7, 82, "gone.test"),
        (5, 1, 80, "gone.test"),
    ];
    dns.set_service("_http._tcp.web.test", 20, &targets);
    let found = resolver.look_up("_http._tcp.web.test", Srv).await.unwrap();
    let expected = [
        ("10.0.0.1:80", 5),
        ("10.0.0.2:81", 1),
        ("[2001:db8::1]:80", 5),
    ];
    let expected = expected.map(|(peer, weight)| (peer.parse().unwrap(), weight));
    assert_eq!(found.peers, expected);
    assert_eq!(found.ttl, Duration::from_secs(8));
}

#[tokio::test]
async fn a_target_that_cannot_be_looked_up_is_no_reason_for_the_next_priority() {
    let dns = Dns::start().await;
    let resolver = resolver(&[&dns]);
    dns.set("b.test", 20, &["10.0.0.2"]);
    dns.set("c.test", 20, &["10.0.0.3"]);
    dns.fail_host("a.test", SERVFAIL);
    dns.set_service("s.test", 20, &[(1, 1, 80, "a.test"), (2, 1, 80, "b.test")]);
    assert!(resolver.look_up("s.test", Srv).await.is_err());
    dns.set_service("s.test", 20, &[(1, 1, 80, "a.test"), (1, 1, 80, "c.test")]);
    let found = resolver.look_up("s.test", Srv).await.unwrap();
    assert_eq!(addresses(&found), ["10.0.0.3:80"]);
    assert_eq!(found.ttl, Duration::from_secs(1), "soon asked again");
}

#[tokio::test]
async fn addresses_that_were_sent_along_are_not_asked_for() {
    let dns = Dns::start().await;
    dns.set_service("s.test", 20, &[(1, 3, 80, "a.test"), (1, 2, 81, "a.test")]);
    dns.send_along("a.test", 6, &["10.0.0.1", "10.0.0.2"]);
    let found = resolver(&[&dns]).look_up("s.test", Srv).await.unwrap();
    let expected = ["10.0.0.1:80", "10.0.0.1:81", "10.0.0.2:80", "10.0.0.2:81"];
    assert_eq!(addresses(&found), expected);
    assert_eq!(found.ttl, Duration::from_secs(6));
    assert_eq!(dns.questions(), 1);
}

#[tokio::test]
async fn a_service_may_be_searched_an_alias_and_not_to_be_had() {
    let dns = Dns::start().await;
    let resolver = system(&dns, &["one.test"], 3, "");
    dns.set("a.test", 20, &["10.0.0.1"]);
    dns.set_service("web.one.test", 20, &[(1, 1, 80, "a.test")]);
    dns.set_alias("alias.one.test", 20, "web.one.test");
    dns.set_service("closed.one.test", 20, &[(0, 0, 0, ".")]);
    for name in ["web", "alias"] {
        let found = resolver.look_up(name, Srv).await.unwrap();
        assert_eq!(addresses(&found), ["10.0.0.1:80"], "{name}");
    }
    assert!(resolver.look_up("closed", Srv).await.is_err());
    assert!(resolver.look_up("gone", Srv).await.is_err());
}

#[tokio::test]
async fn many_targets_are_looked_up_a_few_at_once() {
    let dns = Dns::start().await;
    let hosts: Vec<_> = (0..60).map(|n| format!("h{n}.test")).collect();
    for (n, host) in hosts.iter().enumerate() {
        dns.set(host, 5, &[&format!("10.0.0.{n}")]);
    }
    let targets = hosts.iter().map(|host| (1, 1, 80, host.as_str()));
    let targets: Vec<_> = targets.collect();
    dns.set_service("s.test", 5, &targets);
    let found = resolver(&[&dns]).look_up("s.test", Srv).await.unwrap();
    assert_eq!(found.peers.len(), 60);
}
