//! The listener with TLS, the look-up of names, and upstreams, in words.

use std::fmt;
use std::net::SocketAddr;

use super::{time, words};
use crate::balance::{Balance, HashBy};
use crate::breaker::{self, Trip};
use crate::config::{Dns, Peer, Protocol, Resolve, Tls, Upstream, UpstreamTls};
use crate::retry::{self, On};
use crate::standing::{Eject, Probe};

impl Tls {
    pub(super) fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            listen,
            certificates,
            client_ca,
            client_required,
        } = self;
        let files = certificates.iter().map(|own| own.cert.display());
        let asked = match (client_ca, client_required) {
            (None, _) => "no certificates of clients".to_owned(),
            (Some(ca), true) => format!("clients must have a certificate of {}", ca.display()),
            (Some(ca), false) => format!("clients may have a certificate of {}", ca.display()),
        };
        let files = words(files);
        writeln!(f, "listens with TLS on {listen}: {files}, {asked}")
    }
}

impl Dns {
    pub(super) fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            servers,
            ttl_min,
            ttl_max,
            timeout,
        } = self;
        let servers = if servers.is_empty() {
            "the system's servers".to_owned()
        } else {
            words(servers)
        };
        let (least, most) = (time(Some(*ttl_min)), time(Some(*ttl_max)));
        let timeout = time(Some(*timeout));
        writeln!(
            f,
            "looks names up at {servers}, again after {least} to {most}, timeout {timeout}"
        )
    }
}

impl Upstream {
    /// Is no peer a name?
    pub(super) fn is_addresses(&self) -> bool {
        let address = |peer: &Peer| peer.name.parse::<SocketAddr>().is_ok();
        self.peers.iter().all(address)
    }

    pub(super) fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Written out, so that no key of it stays untold.
        let Self {
            name,
            peers,
            resolve,
            balance,
            slow_start,
            health,
            eject,
            breaker,
            retry,
            protocol,
            tls,
        } = self;
        writeln!(f, "upstream {name}")?;
        let peers = words(peers.iter().map(|Peer { name, weight }| match weight {
            1 => name.clone(),
            weight => format!("{name} (weight {weight})"),
        }));
        let found = match resolve {
            Resolve::Dns if self.is_addresses() => "",
            Resolve::Dns => ", names by dns",
            Resolve::Srv => ", names by srv",
        };
        writeln!(f, "  peers      {peers}{found}")?;
        let spoken = match protocol {
            Protocol::Http1 => "http1",
            Protocol::Http2 => "http2",
            Protocol::Auto => "auto",
        };
        writeln!(f, "  protocol   {spoken}, {}", encrypted(tls.as_ref()))?;
        let (balance, slow_start) = (balanced(balance), time(*slow_start));
        writeln!(f, "  balance    {balance}, slow_start {slow_start}")?;
        writeln!(f, "  health     {}", probed(health.as_ref()))?;
        writeln!(f, "  eject      {}", ejected(eject.as_ref()))?;
        writeln!(f, "  breaker    {}", broken(breaker))?;
        writeln!(f, "  retry      {}", repeated(retry.as_ref()))
    }
}

fn encrypted(tls: Option<&UpstreamTls>) -> String {
    let Some(UpstreamTls {
        name,
        ca,
        identity,
        verify,
    }) = tls
    else {
        return "in the clear".to_owned();
    };
    let mut told = "tls".to_owned();
    if let Some(name) = name {
        told += &format!(", name {name}");
    }
    if let Some(ca) = ca {
        told += &format!(", ca {}", ca.display());
    }
    if let Some((cert, _)) = identity {
        told += &format!(", cert {}", cert.display());
    }
    if !verify {
        told += ", NOT VERIFIED";
    }
    told
}

fn balanced(balance: &Balance) -> String {
    match balance {
        Balance::RoundRobin => "round_robin".to_owned(),
        Balance::LeastConnections => "least_connections".to_owned(),
        Balance::RandomTwo => "random_two".to_owned(),
        Balance::Hash(HashBy::Client) => "hash by client".to_owned(),
        Balance::Hash(HashBy::Header(name)) => format!("hash by header:{name}"),
        Balance::Hash(HashBy::Cookie(name)) => format!("hash by cookie:{name}"),
    }
}

fn probed(health: Option<&Probe>) -> String {
    let Some(Probe {
        path,
        every,
        timeout,
        expect,
        rise,
        fall,
    }) = health
    else {
        return "off".to_owned();
    };
    let expect = words(
        expect
            .iter()
            .map(|range| match (range.start(), range.end()) {
                (first, last) if first == last => first.to_string(),
                (first, last) => format!("{first}-{last}"),
            }),
    );
    let (every, timeout) = (time(Some(*every)), time(Some(*timeout)));
    format!("{path} every {every}, timeout {timeout}, expect {expect}, rise {rise}, fall {fall}")
}

fn ejected(eject: Option<&Eject>) -> String {
    let Some(Eject {
        failures,
        time: first,
        time_max,
        share,
    }) = eject
    else {
        return "off".to_owned();
    };
    let (first, most) = (time(Some(*first)), time(Some(*time_max)));
    format!("failures {failures}, time {first}, time_max {most}, share {share}%")
}

fn broken(breaker: &breaker::Settings) -> String {
    let breaker::Settings {
        max_connections,
        max_pending,
        max_requests,
        trip,
    } = breaker;
    let most = |bound: &Option<usize>| bound.map_or("off".to_owned(), |most| most.to_string());
    let (connections, requests) = (most(max_connections), most(max_requests));
    let pending = match max_connections {
        Some(_) => format!(", max_pending {max_pending}"),
        None => String::new(),
    };
    let trip = trip.as_ref().map_or(
        "off".to_owned(),
        |Trip {
             errors,
             requests,
             window,
             open,
         }| {
            let (window, open) = (time(Some(*window)), time(Some(*open)));
            format!("{errors}% of at least {requests} requests in {window}, open {open}")
        },
    );
    format!("max_connections {connections}{pending}, max_requests {requests}, errors {trip}")
}

fn repeated(retry: Option<&retry::Settings>) -> String {
    let Some(retry::Settings {
        attempts,
        budget,
        body,
        on:
            On {
                connect,
                closed,
                timeout,
                statuses,
            },
    }) = retry
    else {
        return "off".to_owned();
    };
    let named = [
        (*connect, "connect"),
        (*closed, "closed"),
        (*timeout, "timeout"),
    ];
    let named = named.iter().filter(|(on, _)| *on);
    let named = named.map(|(_, word)| (*word).to_owned());
    let on = words(named.chain(statuses.iter().map(ToString::to_string)));
    format!("attempts {attempts}, budget {budget}%, body {body} B, on {on}")
}
