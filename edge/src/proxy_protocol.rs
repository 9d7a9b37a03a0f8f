//! The head that a proxy puts before a connection to say whose it is: the PROXY protocol,
//! versions 1 and 2.
//!
//! Strict, for what stands here decides who the client is: what the specification does not define
//! is invalid, and never taken for the beginning of a request.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The largest head that is read, in bytes: version 1 has at most 107, version 2 is cut off here.
/// Its addresses take 52 at most, the rest are extensions that edge passes over.
pub const MOST: usize = 4 << 10;

/// The longest head of version 1, its line's end included.
const MOST_V1: usize = 107;

const PREFIX_V1: &[u8] = b"PROXY ";

const PREFIX_V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// What the first bytes of a connection are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    /// The beginning of a head. More bytes are needed to tell, at most [`MOST`] in all.
    More,
    /// A whole head.
    Header {
        /// So many bytes; the connection's own begin after them.
        length: usize,
        /// Whose the connection is. `None`: the proxy's own (`LOCAL`), or of a kind that has no
        /// address here (`UNKNOWN`, UDP, a Unix socket): its own address counts.
        source: Option<SocketAddr>,
    },
    /// No head.
    Invalid,
}

/// Reads the head at the beginning of `bytes`, all that has come so far.
pub fn read(bytes: &[u8]) -> Read {
    let begins = |prefix: &[u8]| bytes.iter().zip(prefix).all(|(a, b)| a == b);
    if begins(PREFIX_V1) {
        read_v1(bytes)
    } else if begins(PREFIX_V2) {
        read_v2(bytes)
    } else {
        Read::Invalid
    }
}

/// One line of text.
fn read_v1(bytes: &[u8]) -> Read {
    let line = bytes.get(..MOST_V1).unwrap_or(bytes);
    let Some(end) = line.windows(2).position(|two| two == b"\r\n") else {
        return if bytes.len() < MOST_V1 {
            Read::More
        } else {
            Read::Invalid
        };
    };
    let text = line.get(PREFIX_V1.len()..end);
    match text.and_then(source_v1) {
        Some(source) => Read::Header {
            length: end + 2,
            source,
        },
        None => Read::Invalid,
    }
}

/// What stands between `PROXY ` and the line's end: `TCP4 192.0.2.1 192.0.2.2 4711 80`. The
/// outer `None`: nothing valid.
fn source_v1(text: &[u8]) -> Option<Option<SocketAddr>> {
    // Whatever follows UNKNOWN is to be passed over.
    if text == b"UNKNOWN" || text.starts_with(b"UNKNOWN ") {
        return Some(None);
    }
    let mut words = std::str::from_utf8(text).ok()?.split(' ');
    let mut next = || words.next();
    let (family, source, destination) = (next()?, next()?, next()?);
    let (port, _) = (read_port(next()?)?, read_port(next()?)?);
    if next().is_some() {
        return None;
    }
    let source: IpAddr = match family {
        "TCP4" => {
            destination.parse::<Ipv4Addr>().ok()?;
            source.parse::<Ipv4Addr>().ok()?.into()
        }
        "TCP6" => {
            destination.parse::<Ipv6Addr>().ok()?;
            source.parse::<Ipv6Addr>().ok()?.into()
        }
        _ => return None,
    };
    Some(Some(SocketAddr::new(source, port)))
}

/// A port without leading zeros or a sign.
fn read_port(text: &str) -> Option<u16> {
    let is_plain = text == "0" || text.starts_with(|first| matches!(first, '1'..='9'));
    is_plain.then(|| text.parse().ok())?
}

/// Sixteen bytes, then as many as the last two of them say.
fn read_v2(bytes: &[u8]) -> Read {
    let Some((head, rest)) = bytes.split_first_chunk::<16>() else {
        return prefix_v2(bytes);
    };
    let [.., command, family, high, low] = *head;
    let Some(kind) = Kind::read(command, family) else {
        return Read::Invalid;
    };
    let announced = usize::from(u16::from_be_bytes([high, low]));
    let length = head.len() + announced;
    if length > MOST || announced < kind.addresses() {
        return Read::Invalid;
    }
    match rest.get(..announced) {
        Some(block) => Read::Header {
            length,
            source: kind.source(block),
        },
        None => Read::More,
    }
}

/// Fewer than sixteen bytes: may they still become a head?
fn prefix_v2(bytes: &[u8]) -> Read {
    let is_valid = match bytes.get(PREFIX_V2.len()..) {
        Some([command, family, ..]) => Kind::read(*command, *family).is_some(),
        Some([command]) => matches!(command, 0x20 | 0x21),
        _ => true,
    };
    if is_valid { Read::More } else { Read::Invalid }
}

/// What the block after the first sixteen bytes begins with.
enum Kind {
    /// Two IPv4 addresses, then two ports.
    Tcp4,
    /// Two IPv6 addresses, then two ports.
    Tcp6,
    /// So many bytes that say nothing to edge.
    Other(usize),
}

impl Kind {
    fn read(command: u8, family: u8) -> Option<Self> {
        match (command, family) {
            // LOCAL: the family is to be passed over, whatever it is.
            (0x20, _) => Some(Self::Other(0)),
            (0x21, 0x11) => Some(Self::Tcp4),
            (0x21, 0x21) => Some(Self::Tcp6),
            // UDP, Unix sockets.
            (0x21, 0x12) => Some(Self::Other(12)),
            (0x21, 0x22) => Some(Self::Other(36)),
            (0x21, 0x31 | 0x32) => Some(Self::Other(216)),
            // Without a family or a transport.
            (0x21, 0x00..=0x02 | 0x10 | 0x20 | 0x30) => Some(Self::Other(0)),
            _ => None,
        }
    }

    /// How many bytes its addresses take.
    fn addresses(&self) -> usize {
        match self {
            Self::Tcp4 => 12,
            Self::Tcp6 => 36,
            Self::Other(length) => *length,
        }
    }

    fn source(&self, block: &[u8]) -> Option<SocketAddr> {
        let (ip, ports): (IpAddr, _) = match self {
            Self::Tcp4 => {
                let (source, rest) = block.split_first_chunk::<4>()?;
                ((*source).into(), rest.get(4..)?)
            }
            Self::Tcp6 => {
                let (source, rest) = block.split_first_chunk::<16>()?;
                ((*source).into(), rest.get(16..)?)
            }
            Self::Other(_) => return None,
        };
        let (port, _) = ports.split_first_chunk::<2>()?;
        Some(SocketAddr::new(ip, u16::from_be_bytes(*port)))
    }
}

#[cfg(test)]
mod tests;
