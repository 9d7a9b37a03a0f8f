//! Where a load goes. Read from a text it is this machine and nowhere else, as storm has it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use http::{HeaderName, HeaderValue, Uri};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

/// How long any one step may take.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// What failed, in the words that the report counts by.
pub type Failure = String;

/// What every load is told.
#[derive(Args, Debug, Clone)]
pub struct Way {
    /// Where to: http:// or ws://, a loopback address.
    #[arg(value_name = "URL")]
    pub target: Target,
    /// The loopback address to come from, such as that of a trusted proxy.
    #[arg(long, value_name = "ADDRESS", value_parser = loopback)]
    from: Option<IpAddr>,
    /// How many bytes the system may hold that have come and are not read.
    #[arg(skip)]
    pub unread: Option<u32>,
    /// What each request carries beside what it must.
    #[arg(skip)]
    pub fields: Vec<(HeaderName, HeaderValue)>,
}

/// An address, and what to ask for there.
#[derive(Debug, Clone)]
pub struct Target {
    /// Where it is.
    pub address: SocketAddr,
    /// What `Host` says.
    pub authority: String,
    /// With the query.
    pub path: String,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let uri: Uri = text.parse().map_err(|error| format!("no URL: {error}"))?;
        if !matches!(uri.scheme_str(), Some("http" | "ws")) {
            return Err("expected http:// or ws://".to_owned());
        }
        let authority = uri.authority().ok_or("expected a host")?;
        let address = loopback(authority.host())?;
        Ok(Self {
            address: (address, authority.port_u16().unwrap_or(80)).into(),
            authority: authority.as_str().to_owned(),
            path: uri
                .path_and_query()
                .map_or("/", |path| path.as_str())
                .to_owned(),
        })
    }
}

/// An address of this machine, by its name.
pub fn loopback(host: &str) -> Result<IpAddr, String> {
    let wrong = || "expected an address of this machine, as 127.0.0.1, [::1] or localhost";
    if host == "localhost" {
        return Ok(Ipv4Addr::LOCALHOST.into());
    }
    let address: IpAddr = host.trim_matches(['[', ']']).parse().map_err(|_| wrong())?;
    address
        .is_loopback()
        .then_some(address)
        .ok_or_else(|| wrong().to_owned())
}

impl From<Target> for Way {
    fn from(target: Target) -> Self {
        Self {
            target,
            from: None,
            unread: None,
            fields: Vec::new(),
        }
    }
}

impl Way {
    /// The same way, to another path.
    pub fn to(&self, path: &str) -> Self {
        let mut way = self.clone();
        path.clone_into(&mut way.target.path);
        way
    }

    /// Opens a connection, and has small writes leave at once.
    pub async fn connect(&self) -> Result<TcpStream, Failure> {
        let failed = |error: std::io::Error| format!("connect: {}", error.kind());
        let target = self.target.address;
        let socket = if target.is_ipv4() {
            TcpSocket::new_v4()
        } else {
            TcpSocket::new_v6()
        };
        let socket = socket.map_err(failed)?;
        if let Some(from) = self.from {
            socket.bind((from, 0).into()).map_err(failed)?;
        }
        if let Some(bytes) = self.unread {
            socket.set_recv_buffer_size(bytes).map_err(failed)?;
        }
        let stream = timeout(PATIENCE, socket.connect(target)).await;
        let stream = stream.map_err(|_| "connect: timeout")?.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        Ok(stream)
    }
}

/// A path below this one that no run before has asked for.
pub fn fresh(path: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |now| now.as_millis());
    format!("{}/{now}", path.trim_end_matches('/'))
}

/// The address that stands for the client of this number: one of 10.0.0.0/8.
pub fn client(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 0, 0, 1).to_bits().wrapping_add(number))
}

/// So many clients have addresses.
pub const MOST_CLIENTS: i64 = (1 << 24) - 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_loaded() {
        for url in [
            "http://127.0.0.1:8080/a?b",
            "ws://localhost:1/ws",
            "http://[::1]:80",
            "ws://127.0.0.6/",
        ] {
            assert!(url.parse::<Target>().is_ok(), "{url}");
        }
        for url in [
            "http://10.0.0.1/",
            "http://example.org/",
            "https://127.0.0.1/",
            "127.0.0.1:80",
            "http://0.0.0.0/",
        ] {
            assert!(url.parse::<Target>().is_err(), "{url}");
        }
        let target: Target = "http://127.0.0.1".parse().unwrap();
        assert_eq!((target.path.as_str(), target.address.port()), ("/", 80));
    }

    #[test]
    fn each_client_has_an_address() {
        assert_eq!(client(0), Ipv4Addr::new(10, 0, 0, 1));
        let last = u32::try_from(MOST_CLIENTS - 1).unwrap();
        assert_eq!(client(last), Ipv4Addr::new(10, 255, 255, 254));
    }
}
