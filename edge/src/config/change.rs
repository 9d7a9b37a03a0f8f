//! What one configuration changes of another, and what only a start can change.

use std::collections::HashMap;
use std::net::SocketAddr;

use super::{Config, Log, Route, Server, Tls, Upstream};

/// What a new configuration changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The keys whose new value takes effect at the next start, as `[server] listen`.
    pub at_start: Vec<&'static str>,
    /// The routes, by name.
    pub routes: Counts,
    /// The upstreams, by name.
    pub upstreams: Counts,
}

/// How many are of each kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Only in the new configuration.
    pub added: usize,
    /// Only in the old one.
    pub removed: usize,
    /// In both, but not the same.
    pub changed: usize,
    /// The same in both.
    pub kept: usize,
}

impl Config {
    /// What comes into force when `new` is read while this one is: what can change while edge
    /// runs from there, the rest from here.
    pub fn changed_to(&self, new: Self) -> (Self, Change) {
        // Written out, so that of every new key it is decided whether it belongs here.
        let Self {
            server:
                Server {
                    listen,
                    trust: _,
                    drain: _,
                    drain_delay: _,
                    connections: _,
                    http2: _,
                    streams: _,
                    proxy_protocol: _,
                },
            admin,
            log: Log { level, access: _ },
            request: _,
            limit: _,
            clients: _,
            timeout: _,
            websocket: _,
            cache,
            tls,
            dns: _,
            upstreams: _,
            routes: _,
        } = self;
        let fixed = [
            ("[server] listen", *listen != new.server.listen),
            ("[tls] listen", at(tls.as_ref()) != at(new.tls.as_ref())),
            ("[admin] listen", *admin != new.admin),
            ("[log] level", *level != new.log.level),
            ("[cache] memory", cache.memory != new.cache.memory),
            ("[cache] object", cache.object != new.cache.object),
        ];
        let fixed = fixed.into_iter().filter(|(_, changed)| *changed);
        let change = Change {
            at_start: fixed.map(|(key, _)| key).collect(),
            routes: counts(&self.routes_by_name(), &new.routes_by_name()),
            upstreams: counts(&self.upstreams_by_name(), &new.upstreams_by_name()),
        };
        // Its listener comes and goes at a start; the rest comes with the file that still has it.
        let listening = match (tls.clone(), new.tls) {
            (Some(Tls { listen, .. }), Some(new)) => Some(Tls { listen, ..new }),
            (own, _) => own,
        };
        let in_force = Self {
            server: Server {
                listen: *listen,
                ..new.server
            },
            admin: *admin,
            log: Log {
                level: level.clone(),
                ..new.log
            },
            cache: *cache,
            tls: listening,
            ..new
        };
        (in_force, change)
    }

    /// The place of a route's upstream says nothing in another configuration; its name does.
    fn routes_by_name(&self) -> HashMap<&str, (Route, Option<&str>)> {
        let routes = self.routes.iter().map(|route| {
            let upstream = self.upstreams.get(route.upstream);
            let placeless = Route {
                upstream: 0,
                ..route.clone()
            };
            let upstream = upstream.map(|upstream| upstream.name.as_str());
            (route.name.as_str(), (placeless, upstream))
        });
        routes.collect()
    }

    fn upstreams_by_name(&self) -> HashMap<&str, &Upstream> {
        let upstreams = self.upstreams.iter();
        upstreams
            .map(|upstream| (upstream.name.as_str(), upstream))
            .collect()
    }
}

fn at(tls: Option<&Tls>) -> Option<SocketAddr> {
    tls.map(|tls| tls.listen)
}

fn counts<T: PartialEq>(old: &HashMap<&str, T>, new: &HashMap<&str, T>) -> Counts {
    let mut counts = Counts::default();
    for (name, new) in new {
        match old.get(name) {
            None => counts.added += 1,
            Some(old) if old == new => counts.kept += 1,
            Some(_) => counts.changed += 1,
        }
    }
    counts.removed = old.keys().filter(|name| !new.contains_key(*name)).count();
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Config {
        Config::read("test.toml", text).unwrap_or_else(|faults| panic!("{faults}"))
    }

    const UPSTREAMS: &str = "[upstream.a]\npeers = [\"a:1\"]\n[upstream.b]\npeers = [\"b:1\"]\n";

    fn routes(routes: &[(&str, &str)]) -> String {
        let route = |(path, upstream): &(&str, &str)| {
            format!("[[route]]\npath = \"{path}\"\nupstream = \"{upstream}\"\n")
        };
        UPSTREAMS.to_owned() + &routes.iter().map(route).collect::<String>()
    }

    #[test]
    fn a_file_that_says_the_same_changes_nothing() {
        let text = routes(&[("/a", "a"), ("/b", "b")]);
        let (in_force, change) = read(&text).changed_to(read(&text));
        assert_eq!(in_force, read(&text));
        let kept = Counts {
            kept: 2,
            ..Counts::default()
        };
        assert_eq!(
            (change.at_start, change.routes, change.upstreams),
            (vec![], kept, kept)
        );
    }

    #[test]
    fn routes_are_told_apart_by_name_and_their_upstreams_too() {
        let old = read(&routes(&[("/a", "a"), ("/b", "b"), ("/c", "b")]));
        // A new upstream before the others: every place moves on.
        let new = "[upstream.Z]\npeers = [\"z:1\"]\n".to_owned()
            + &routes(&[("/a", "a"), ("/b", "a"), ("/d", "b"), ("/z", "Z")]);
        let (_, change) = old.changed_to(read(&new));
        let expected = Counts {
            added: 2,
            removed: 1,
            changed: 1,
            kept: 1,
        };
        assert_eq!(change.routes, expected);
        assert_eq!((change.upstreams.added, change.upstreams.kept), (1, 2));
    }

    #[test]
    fn a_route_that_caches_otherwise_has_changed() {
        let with = |cache: &str| {
            read(&format!(
                "{}cache = {cache}\n",
                routes(&[("/a", "a"), ("/b", "b")])
            ))
        };
        let old = with("{ ttl = \"1h\", stale_if_error = \"1h\" }");
        for cache in [
            "\"off\"",
            "\"1h\"",
            "{ ttl = \"1h\", stale_if_error = \"2h\" }",
        ] {
            let (_, change) = old.changed_to(with(cache));
            assert_eq!(
                (change.routes.changed, change.routes.kept),
                (1, 1),
                "{cache}"
            );
        }
    }

    #[test]
    fn what_only_a_start_can_change_is_named_and_kept() {
        let routes = routes(&[("/a", "a"), ("/b", "b")]);
        let fixed = "[server]\nlisten = \"127.0.0.1:1\"\ndrain = \"7s\"\n[admin]\n\
                     listen = \"127.0.0.1:2\"\n[log]\nlevel = \"debug\"\naccess = false\n\
                     [cache]\nmemory = \"1MiB\"\nobject = \"1KiB\"\n";
        let old = read(&routes);
        let (in_force, change) = old.changed_to(read(&(fixed.to_owned() + &routes)));
        assert_eq!(
            change.at_start,
            [
                "[server] listen",
                "[admin] listen",
                "[log] level",
                "[cache] memory",
                "[cache] object",
            ]
        );
        assert_eq!(in_force.server.listen, old.server.listen);
        assert_eq!((in_force.admin, in_force.cache), (old.admin, old.cache));
        assert_eq!(in_force.log.level, old.log.level);
        assert!(!in_force.log.access);
        assert_eq!(in_force.server.drain.as_secs(), 7);
        // As long as the file says so, it is named again.
        let (_, again) = in_force.changed_to(read(&(fixed.to_owned() + &routes)));
        assert_eq!(again.at_start, change.at_start);
    }

    fn tls(port: u16) -> Tls {
        Tls {
            listen: SocketAddr::from(([127, 0, 0, 1], port)),
            certificates: Vec::new(),
            client_ca: None,
            client_required: false,
        }
    }

    #[test]
    fn a_tls_listener_comes_goes_and_moves_at_a_start_only() {
        let with = |tls: Option<Tls>| Config {
            tls,
            ..read(&routes(&[("/a", "a"), ("/b", "b")]))
        };
        for (old, new) in [
            (None, Some(tls(1))),
            (Some(tls(1)), None),
            (Some(tls(1)), Some(tls(2))),
        ] {
            let (in_force, change) = with(old.clone()).changed_to(with(new));
            assert_eq!(change.at_start, ["[tls] listen"]);
            assert_eq!(in_force.tls, old);
        }
    }

    #[test]
    fn what_else_is_new_comes_into_force_at_once() {
        let old = Config {
            tls: Some(tls(1)),
            ..read(&routes(&[("/a", "a"), ("/b", "b")]))
        };
        let asking = Tls {
            client_ca: Some("clients.pem".into()),
            client_required: true,
            ..tls(1)
        };
        let head = "[server]\nhttp2 = true\nstreams = 7\nproxy_protocol = \"10.0.0.0/8\"\n[dns]\nttl_max = \"9s\"\n";
        let new = Config {
            tls: Some(asking),
            ..read(&(head.to_owned() + &routes(&[("/a", "a"), ("/b", "b")])))
        };
        let (in_force, change) = old.changed_to(new.clone());
        assert_eq!(in_force, new);
        assert!(change.at_start.is_empty());
    }

    #[test]
    fn an_upstream_of_which_any_key_is_another_has_changed() {
        let with = |key: &str| {
            read(&format!(
                "[upstream.c]\npeers = [\"c:1\", \"c:2\"]\n{key}\n{}",
                routes(&[("/a", "a"), ("/b", "b"), ("/c", "c")])
            ))
        };
        for key in [
            "balance = \"random_two\"",
            "balance = \"hash\"\nhash = \"client\"",
            "slow_start = \"30s\"",
            "health = \"/health\"",
            "eject = \"off\"",
            "breaker = { max_requests = 5 }",
            "retry = \"off\"",
            "protocol = \"http2\"",
            "tls = true",
        ] {
            let (_, change) = with("").changed_to(with(key));
            let Counts { changed, kept, .. } = change.upstreams;
            assert_eq!((changed, kept), (1, 2), "{key}");
        }
    }
}
