//! Looks up what the name of a peer stands for: the addresses of a host (RFC 1035, RFC 3596) or
//! the targets of a service (RFC 2782).

mod servers;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::Hosts;
use hickory_resolver::config::{ResolverConfig, ResolverOpts};
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use hickory_resolver::system_conf::read_system_conf;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::config::{Dns, Resolve};
use servers::{Answer, No, Servers};

/// No name stands for more addresses than this; what is past it is left out.
pub(crate) const MOST_ADDRESSES: usize = 1_000;
/// A name is searched in no more domains than this.
const MOST_DOMAINS: usize = 32;
/// So many targets of a service are looked up at once.
const AT_ONCE: usize = 16;

/// Looks names up, and remembers nothing: whoever asks keeps what was found for as long as it
/// holds. A clone is the same resolver.
#[derive(Clone)]
pub(crate) struct Resolver(Arc<Settings>);

struct Settings {
    servers: Servers,
    /// Where names are searched that are not absolute.
    domains: Vec<Name>,
    /// A name with so many dots is first taken as absolute.
    dots: usize,
    hosts: Hosts,
    ttl: RangeInclusive<Duration>,
    timeout: Duration,
}

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    /// Addresses with their weights, by address, each once. At least one.
    pub(crate) peers: Vec<(SocketAddr, u32)>,
    /// How long it holds: the least of the records' times, within the bounds of `[dns]`.
    pub(crate) ttl: Duration,
    /// How many addresses were past `MOST_ADDRESSES`.
    pub(crate) left_out: usize,
}

/// The addresses of a host, or of all targets.
struct Addresses<T> {
    list: Vec<T>,
    /// In seconds.
    ttl: u32,
    /// `false`: some question found no answer.
    whole: bool,
}

impl Resolver {
    /// Asks the servers of `[dns]`, for whom every name is absolute. Where that names none, asks
    /// the system's as the system would: `/etc/hosts` first, then the search list of
    /// `/etc/resolv.conf`. Both files are read here and not again.
    pub(crate) fn new(dns: &Dns) -> Self {
        if !dns.servers.is_empty() {
            let list = dns.servers.iter().copied().map(servers::server).collect();
            let config = ResolverConfig::from_parts(None, Vec::new(), list);
            return Self::with(dns, config, ResolverOpts::default(), Hosts::default());
        }
        let hosts = Hosts::from_system().unwrap_or_default();
        match read_system_conf() {
            Ok((config, options)) => Self::with(dns, config, options, hosts),
            Err(error) => Self::without(dns, &error, hosts),
        }
    }

    fn with(dns: &Dns, config: ResolverConfig, options: ResolverOpts, hosts: Hosts) -> Self {
        let mut domains = config.search;
        if domains.is_empty() {
            domains.extend(config.domain);
        }
        domains.truncate(MOST_DOMAINS);
        Self(Arc::new(Settings {
            dots: options.ndots,
            servers: Servers::new(config.name_servers, options, dns.timeout),
            domains,
            hosts,
            ttl: dns.ttl_min..=dns.ttl_max,
            timeout: dns.timeout,
        }))
    }

    /// A system that says of no server; what `/etc/hosts` knows is found all the same.
    fn without(dns: &Dns, error: &dyn std::error::Error, hosts: Hosts) -> Self {
        let why = format!("no DNS server is known: {error}");
        tracing::warn!(why, "dns_unavailable");
        Self(Arc::new(Settings {
            dots: 1,
            servers: Servers::none(why),
            domains: Vec::new(),
            hosts,
            ttl: dns.ttl_min..=dns.ttl_max,
            timeout: dns.timeout,
        }))
    }

    /// The bounds of `[dns]` for how long an answer holds.
    pub(crate) fn ttl(&self) -> RangeInclusive<Duration> {
        self.0.ttl.clone()
    }

    /// The longest that one look-up takes.
    pub(crate) fn timeout(&self) -> Duration {
        self.0.timeout
    }

    /// What `name` stands for: `host:port`, or with `Resolve::Srv` a service. A name without
    /// addresses is an error; the error says why, for the log.
    pub(crate) async fn look_up(&self, name: &str, resolve: Resolve) -> Result<Found, String> {
        let until = Instant::now() + self.0.timeout;
        let found = match resolve {
            Resolve::Dns => self.host(name, until).await,
            Resolve::Srv => self.service(name, until).await,
        };
        match found {
            Ok(peers) if !peers.list.is_empty() => Ok(self.found(peers)),
            Ok(_) | Err(No::Nothing) => Err("the name has no address".to_owned()),
            Err(No::Failed(why)) => Err(why),
        }
    }

    /// In order, each address once; where it came twice, with the larger weight.
    fn found(&self, peers: Addresses<(SocketAddr, u32)>) -> Found {
        let mut weights = BTreeMap::new();
        for (address, weight) in peers.list {
            let known = weights.entry(address).or_insert(weight);
            *known = weight.max(*known);
        }
        let (least, most) = (*self.0.ttl.start(), *self.0.ttl.end());
        // What is known in part is soon asked again.
        let ttl = if peers.whole { peers.ttl } else { 0 };
        Found {
            left_out: weights.len().saturating_sub(MOST_ADDRESSES),
            peers: weights.into_iter().take(MOST_ADDRESSES).collect(),
            ttl: Duration::from_secs(ttl.into()).max(least).min(most),
        }
    }

    async fn host(&self, peer: &str, until: Instant) -> Result<Addresses<(SocketAddr, u32)>, No> {
        let Some((host, port)) = split(peer) else {
            return Err(No::Failed("expected a host with a port".to_owned()));
        };
        if let Ok(address) = host.parse() {
            return Ok(Addresses {
                list: vec![(SocketAddr::new(address, port), 1)],
                ttl: u32::MAX,
                whole: true,
            });
        }
        for name in self.candidates(host)? {
            match self.addresses(&name, until).await {
                Err(No::Nothing) => {}
                found => return found.map(|found| found.at(port, 1)),
            }
        }
        Err(No::Nothing)
    }

    /// The absolute names that this one may mean, the likeliest first, as resolv.conf(5) has it.
    /// Whoever walks them goes on only where a name surely has no records: after a failure the
    /// next one could be another host.
    fn candidates(&self, text: &str) -> Result<Vec<Name>, No> {
        let name = Name::from_str_relaxed(text)
            .map_err(|error| No::Failed(format!("`{text}` is no name: {error}")))?;
        let mut absolute = name.clone();
        absolute.set_fqdn(true);
        let known = |kind| {
            let query = Query::query(absolute.clone(), kind);
            self.0.hosts.lookup_static_host(&query).is_some()
        };
        let is_known = known(RecordType::A) || known(RecordType::AAAA);
        if name.is_fqdn() || name.is_localhost() || is_known {
            return Ok(vec![absolute]);
        }
        let inside = |domain| name.clone().append_domain(domain).ok();
        let mut names: Vec<Name> = self.0.domains.iter().filter_map(inside).collect();
        let dots = text.bytes().filter(|byte| *byte == b'.').count();
        let place = if dots < self.0.dots { names.len() } else { 0 };
        names.insert(place, absolute);
        Ok(names)
    }

    /// The addresses of an absolute name, of both families.
    async fn addresses(&self, name: &Name, until: Instant) -> Result<Addresses<IpAddr>, No> {
        if let Some(found) = self.known(name) {
            return Ok(found);
        }
        let servers = &self.0.servers;
        let answers = tokio::join!(
            servers.ask(name, RecordType::A, until),
            servers.ask(name, RecordType::AAAA, until)
        );
        match answers {
            (Ok(four), Ok(six)) => Ok(Addresses {
                list: ips(four.records.iter().chain(&six.records)),
                ttl: four.ttl.min(six.ttl),
                whole: true,
            }),
            (Ok(one), Err(no)) | (Err(no), Ok(one)) => Ok(Addresses {
                list: ips(&one.records),
                ttl: one.ttl,
                whole: no == No::Nothing,
            }),
            (Err(No::Nothing), Err(no)) | (Err(no), Err(_)) => Err(no),
        }
    }

    /// What is known without a server: `/etc/hosts`, and this machine itself (RFC 6761 6.3).
    fn known(&self, name: &Name) -> Option<Addresses<IpAddr>> {
        let mut list = Vec::new();
        for kind in [RecordType::A, RecordType::AAAA] {
            let query = Query::query(name.clone(), kind);
            let known = self.0.hosts.lookup_static_host(&query);
            list.extend(known.iter().flat_map(|known| ips(known.answers())));
        }
        if list.is_empty() && name.is_localhost() {
            list = vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        }
        let found = Addresses {
            list,
            ttl: u32::MAX,
            whole: true,
        };
        (!found.list.is_empty()).then_some(found)
    }

    async fn service(
        &self,
        name: &str,
        until: Instant,
    ) -> Result<Addresses<(SocketAddr, u32)>, No> {
        for name in self.candidates(name)? {
            match self.0.servers.ask(&name, RecordType::SRV, until).await {
                Err(No::Nothing) => {}
                Err(failed) => return Err(failed),
                Ok(answer) => return self.targets(answer, until).await,
            }
        }
        Err(No::Nothing)
    }

    /// The targets of the lowest priority that has an address.
    async fn targets(
        &self,
        answer: Answer,
        until: Instant,
    ) -> Result<Addresses<(SocketAddr, u32)>, No> {
        let sent = sent_along(&answer.additional);
        let mut targets: Vec<_> = answer.records.iter().filter_map(Target::of).collect();
        targets.sort();
        for equals in targets.chunk_by(|one, other| one.priority == other.priority) {
            let hosts = equals
                .iter()
                .take(MOST_ADDRESSES)
                .map(|target| &target.host);
            let hosts = self.hosts(hosts.collect(), &sent, until).await;
            let mut all = Addresses {
                list: Vec::new(),
                ttl: answer.ttl,
                whole: true,
            };
            let mut failed = None;
            for target in equals {
                match hosts.get(&target.host) {
                    Some(Ok(found)) => all.add(found, target),
                    Some(Err(No::Failed(why))) => failed = Some(why),
                    Some(Err(No::Nothing)) | None => {}
                }
            }
            all.whole &= failed.is_none();
            match failed {
                _ if !all.list.is_empty() => return Ok(all),
                // Nobody knows that these are not there: no reason to turn to the next.
                Some(why) => return Err(No::Failed(why.clone())),
                None => {}
            }
        }
        Err(No::Nothing)
    }

    /// The addresses of each host: those that were sent along, or else looked up.
    async fn hosts(
        &self,
        hosts: BTreeSet<&Name>,
        sent: &HashMap<&Name, Addresses<IpAddr>>,
        until: Instant,
    ) -> HashMap<Name, Result<Addresses<IpAddr>, No>> {
        let mut found = HashMap::new();
        let mut looking = JoinSet::new();
        for host in hosts {
            if let Some(Addresses { list, ttl, whole }) = sent.get(host) {
                let (list, ttl, whole) = (list.clone(), *ttl, *whole);
                found.insert(host.clone(), Ok(Addresses { list, ttl, whole }));
                continue;
            }
            if looking.len() >= AT_ONCE {
                found.extend(looking.join_next().await.and_then(Result::ok));
            }
            let (resolver, host) = (self.clone(), host.clone());
            looking.spawn(async move {
                let addresses = resolver.addresses(&host, until).await;
                (host, addresses)
            });
        }
        while let Some(looked_up) = looking.join_next().await {
            found.extend(looked_up.ok());
        }
        found
    }
}

impl Addresses<IpAddr> {
    fn at(self, port: u16, weight: u32) -> Addresses<(SocketAddr, u32)> {
        let peer = |address| (SocketAddr::new(address, port), weight);
        Addresses {
            list: self.list.into_iter().map(peer).collect(),
            ttl: self.ttl,
            whole: self.whole,
        }
    }
}

impl Addresses<(SocketAddr, u32)> {
    fn add(&mut self, found: &Addresses<IpAddr>, target: &Target) {
        let peer = |ip: &IpAddr| (SocketAddr::new(*ip, target.port), target.weight);
        self.list.extend(found.list.iter().map(peer));
        self.ttl = self.ttl.min(found.ttl);
        self.whole &= found.whole;
    }
}

/// One target of a service; the lowest priority sorts first.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Target {
    priority: u16,
    host: Name,
    port: u16,
    weight: u32,
}

impl Target {
    /// `None` for a target `.`, by which a service says that it is not to be had (RFC 2782).
    fn of(record: &Record) -> Option<Self> {
        let RData::SRV(srv) = &record.data else {
            return None;
        };
        (!srv.target.is_root() && srv.port > 0).then(|| Self {
            priority: srv.priority,
            host: srv.target.clone(),
            port: srv.port,
            weight: u32::from(srv.weight).max(1),
        })
    }
}

fn sent_along(records: &[Record]) -> HashMap<&Name, Addresses<IpAddr>> {
    let mut sent: HashMap<&Name, Addresses<IpAddr>> = HashMap::new();
    for record in records {
        let Some(address) = ip(record) else { continue };
        let known = sent.entry(&record.name).or_insert(Addresses {
            list: Vec::new(),
            ttl: record.ttl,
            whole: true,
        });
        known.list.push(address);
        known.ttl = known.ttl.min(record.ttl);
    }
    sent
}

fn ips<'a>(records: impl IntoIterator<Item = &'a Record>) -> Vec<IpAddr> {
    records.into_iter().filter_map(ip).collect()
}

/// `None` for what is no address of a peer: a sinkhole's 0.0.0.0 would lead back to this machine.
fn ip(record: &Record) -> Option<IpAddr> {
    let address = record.data.ip_addr()?;
    let one = !address.is_unspecified() && !address.is_multicast();
    (one && address != IpAddr::V4(Ipv4Addr::BROADCAST)).then_some(address)
}

/// Host and port of a peer.
fn split(peer: &str) -> Option<(&str, u16)> {
    let (host, port) = peer.rsplit_once(':')?;
    let host = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    Some((host, port.parse().ok()?))
}

#[cfg(test)]
#[path = "../tests/gateway/dns.rs"]
mod dns;
#[cfg(test)]
mod tests;
