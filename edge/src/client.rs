//! Who asks: the address that counts for limits and for the record.
//!
//! The peer's address, unless the peer is a trusted proxy: then the right-most address in
//! `X-Forwarded-For` that is not itself a trusted proxy. What stands further left is hearsay.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use http::HeaderMap;
use ipnet::IpNet;

/// Whom edge believes about the client, and how finely it tells clients apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trust {
    /// The networks whose `X-Forwarded-*` fields are believed; empty: nobody.
    pub proxies: Vec<IpNet>,
    /// One client is one IPv6 network of so many bits: whoever has an address has all of its /64.
    pub ipv6_prefix: u8,
}

impl Default for Trust {
    fn default() -> Self {
        Self {
            proxies: Vec::new(),
            ipv6_prefix: 64,
        }
    }
}

/// Who asks, for fair shares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Client {
    /// The address, IPv4-mapped IPv6 written as IPv4.
    pub address: IpAddr,
    /// What limits count by: the address, for IPv6 cut to its prefix.
    pub key: u128,
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

/// Which addresses are let in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Addresses {
    /// These alone; empty: all.
    pub allow: Vec<IpNet>,
    /// These never.
    pub deny: Vec<IpNet>,
}

impl Addresses {
    /// Is this one let in?
    pub fn permits(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let within = |networks: &[IpNet]| networks.iter().any(|network| network.contains(&address));
        (self.allow.is_empty() || within(&self.allow)) && !within(&self.deny)
    }
}

/// More addresses than this in `X-Forwarded-For` are not read: no honest chain is so long.
const MOST_HOPS: usize = 32;

impl Trust {
    /// Is this address a proxy whose word is believed?
    pub fn trusts(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.proxies.iter().any(|net| net.contains(&address))
    }

    /// The client behind `peer`, who sent `headers`.
    pub fn identify(&self, peer: IpAddr, headers: &HeaderMap) -> Client {
        let mut address = peer.to_canonical();
        if self.trusts(address) {
            let fields = headers.get_all("x-forwarded-for").iter().rev();
            let hops = fields.flat_map(|field| field.as_bytes().rsplit(|&b| b == b','));
            for hop in hops.take(MOST_HOPS) {
                // What cannot be read was not written by a proxy we trust: the hop to its right
                // is the last one known.
                let Some(hop) = read_hop(hop) else { break };
                address = hop;
                if !self.trusts(hop) {
                    break;
                }
            }
        }
        Client {
            address,
            key: self.key(address),
        }
    }

    /// What counts for the limits of whoever has this address.
    pub fn key(&self, address: IpAddr) -> u128 {
        match address {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
            IpAddr::V6(v6) => {
                let host_bits = 128 - u32::from(self.ipv6_prefix.min(128));
                v6.to_bits().checked_shr(host_bits).unwrap_or(0) << host_bits.min(127)
            }
        }
    }
}

/// One hop as proxies write it: `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]:80`.
fn read_hop(hop: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(hop).ok()?.trim();
    let bare = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'));
    let address = text.parse::<IpAddr>().ok();
    let address = address.or_else(|| text.parse::<SocketAddr>().ok().map(|socket| socket.ip()));
    let address = address.or_else(|| bare?.parse::<Ipv6Addr>().ok().map(IpAddr::V6));
    Some(address?.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trust(proxies: &[&str]) -> Trust {
        Trust {
            proxies: proxies.iter().map(|net| net.parse().unwrap()).collect(),
            ..Trust::default()
        }
    }

    fn forwarded(fields: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for field in fields {
            headers.append("x-forwarded-for", field.parse().unwrap());
        }
        headers
    }

    fn who(trust: &Trust, peer: &str, fields: &[&str]) -> String {
        trust
            .identify(peer.parse().unwrap(), &forwarded(fields))
            .to_string()
    }

    #[test]
    fn a_stranger_cannot_name_another_client() {
        assert_eq!(
            who(&trust(&[]), "203.0.113.9", &["198.51.100.1"]),
            "203.0.113.9"
        );
        assert_eq!(
            who(&trust(&["10.0.0.0/8"]), "203.0.113.9", &["198.51.100.1"]),
            "203.0.113.9"
        );
    }

    #[test]
    fn the_right_most_untrusted_hop_is_the_client() {
        let trust = trust(&["10.0.0.0/8"]);
        assert_eq!(
            who(&trust, "10.0.0.1", &["1.1.1.1, 198.51.100.1, 10.0.0.2"]),
            "198.51.100.1"
        );
        assert_eq!(
            who(&trust, "10.0.0.1", &["1.1.1.1", "198.51.100.1", "10.0.0.2"]),
            "198.51.100.1"
        );
        assert_eq!(who(&trust, "10.0.0.1", &["10.0.0.3, 10.0.0.2"]), "10.0.0.3");
        assert_eq!(who(&trust, "10.0.0.1", &[]), "10.0.0.1");
    }

    #[test]
    fn what_cannot_be_read_ends_the_search() {
        let trust = trust(&["10.0.0.0/8"]);
        assert_eq!(
            who(&trust, "10.0.0.1", &["198.51.100.1, unknown, 10.0.0.2"]),
            "10.0.0.2"
        );
        assert_eq!(who(&trust, "10.0.0.1", &[""]), "10.0.0.1");
        let endless = vec!["10.0.0.2"; 10_000].join(",");
        assert_eq!(who(&trust, "10.0.0.1", &[&endless]), "10.0.0.2");
    }

    #[test]
    fn ports_and_brackets_are_understood() {
        let trust = trust(&["10.0.0.0/8"]);
        assert_eq!(
            who(&trust, "10.0.0.1", &["198.51.100.1:4711"]),
            "198.51.100.1"
        );
        assert_eq!(
            who(&trust, "10.0.0.1", &["[2001:db8::1]:4711"]),
            "2001:db8::1"
        );
        assert_eq!(who(&trust, "10.0.0.1", &["[2001:db8::1]"]), "2001:db8::1");
    }

    #[test]
    fn a_mapped_address_is_the_ipv4_address_it_maps() {
        let trust = trust(&["10.0.0.0/8"]);
        assert_eq!(
            who(&trust, "::ffff:10.0.0.1", &["::ffff:198.51.100.1"]),
            "198.51.100.1"
        );
    }

    #[test]
    fn one_ipv6_network_is_one_client() {
        let trust = trust(&[]);
        let key = |text: &str| trust.identify(text.parse().unwrap(), &HeaderMap::new()).key;
        assert_eq!(key("2001:db8::1"), key("2001:db8::2:3:4:5"));
        assert_ne!(key("2001:db8::1"), key("2001:db8:0:1::1"));
        assert_ne!(key("192.0.2.1"), key("192.0.2.2"));
    }

    #[test]
    fn the_prefix_may_be_anything_from_nothing_to_all() {
        let with = |ipv6_prefix| Trust {
            ipv6_prefix,
            ..Trust::default()
        };
        let key = |trust: &Trust, text: &str| {
            trust.identify(text.parse().unwrap(), &HeaderMap::new()).key
        };
        assert_ne!(
            key(&with(128), "2001:db8::1"),
            key(&with(128), "2001:db8::2")
        );
        assert_eq!(key(&with(0), "2001:db8::1"), key(&with(0), "fe80::2"));
    }
}
