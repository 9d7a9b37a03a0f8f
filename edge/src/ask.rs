//! `edge cache`: asks an edge that runs, on its admin listener.

mod tell;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use http::uri::Authority;
use serde::de::DeserializeOwned;

use crate::admin::{Named, Order};
use crate::config::{self, Config, Unread};
use crate::store::Purge;

/// What is asked of the cache, and where.
#[derive(Debug, Args)]
pub struct Cache {
    #[command(subcommand)]
    question: Question,
    /// The admin listener of the edge that is asked [default: 127.0.0.1:9090]
    #[arg(long, global = true, value_name = "ADDRESS", value_parser = address)]
    admin: Option<Authority>,
    /// The configuration whose `[admin] listen` is asked.
    #[arg(
        short,
        long,
        global = true,
        value_name = "FILE",
        conflicts_with = "admin"
    )]
    config: Option<PathBuf>,
    /// Print the answer as it came, in JSON.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Question {
    /// Take answers out of service.
    Purge(Purged),
    /// Tell which answers are asked for most.
    Top {
        /// How many.
        #[arg(short, value_name = "NUMBER", default_value_t = 20,
            value_parser = clap::value_parser!(u8).range(1..=100))]
        n: u8,
    },
    /// Tell how full the cache is, and what it did.
    Status,
}

#[derive(Debug, Args)]
struct Purged {
    #[command(flatten)]
    what: What,
    /// Only make them stale: each is revalidated when it is next asked for.
    #[arg(long)]
    soft: bool,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct What {
    /// All answers to which the upstream gave this tag.
    #[arg(long)]
    tag: Option<String>,
    /// The answers at this URL: `/path?query` on every host, or `http://host/path?query`.
    #[arg(long)]
    url: Option<String>,
    /// All answers at this path and below: `/path` on every host, or `http://host/path`.
    #[arg(long)]
    prefix: Option<String>,
    /// Everything.
    #[arg(long)]
    all: bool,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Failure {
    /// The configuration that names the listener cannot be read.
    Config(Unread),
    /// The listener cannot be reached, or breaks off.
    Unreachable(Authority, ureq::Error),
    /// It refuses, with this status and text.
    Refused(Authority, u16, String),
    /// It answers what this edge does not understand.
    Strange(Authority, serde_json::Error),
}

/// Nothing that is asked takes longer.
const PATIENCE: Duration = Duration::from_secs(10);

impl Cache {
    /// Asks; what it is told, for people or as JSON, ends with a line's end.
    pub fn ask(&self) -> Result<String, Failure> {
        let admin = self.listener()?;
        match &self.question {
            Question::Purge(purged) => {
                let path = format!("/cache/purge?{}", purged.order().to_query());
                self.told(&admin, &path, true, tell::purged)
            }
            Question::Top { n } => self.told(
                &admin,
                &format!("/cache/top?n={n}"),
                false,
                |top: Vec<_>| tell::top(&top),
            ),
            Question::Status => self.told(&admin, "/cache", false, |status| tell::status(&status)),
        }
    }

    fn listener(&self) -> Result<Authority, Failure> {
        if let Some(admin) = &self.admin {
            return Ok(admin.clone());
        }
        let address = match &self.config {
            Some(file) => reachable(Config::load(file).map_err(Failure::Config)?.admin),
            None => config::ADMIN,
        };
        #[expect(clippy::expect_used, reason = "an address and a port are an authority")]
        let admin = address.to_string().parse().expect("an authority");
        Ok(admin)
    }

    fn told<T: DeserializeOwned>(
        &self,
        admin: &Authority,
        path: &str,
        changes: bool,
        tell: impl FnOnce(T) -> String,
    ) -> Result<String, Failure> {
        let text = fetch(admin, path, changes)?;
        let told = serde_json::from_str(&text);
        let told = told.map_err(|error| Failure::Strange(admin.clone(), error))?;
        if self.json {
            Ok(text + "\n")
        } else {
            Ok(tell(told))
        }
    }
}

impl Purged {
    fn order(&self) -> Order {
        let What {
            tag, url, prefix, ..
        } = &self.what;
        let tag = tag.clone().map(Named::Tag);
        let url = url.clone().map(Named::Url);
        let prefix = prefix.clone().map(Named::Prefix);
        let named = tag.or(url).or(prefix).unwrap_or(Named::All(true));
        let purge = if self.soft { Purge::Soft } else { Purge::Hard };
        Order { named, purge }
    }
}

/// `host:port`.
fn address(text: &str) -> Result<Authority, String> {
    let address: Option<Authority> = text.parse().ok();
    let address = address.filter(|address| address.port_u16().is_some() && !text.contains('@'));
    address.ok_or_else(|| "try host:port, as in 127.0.0.1:9090".to_owned())
}

/// Where a listener on every address of this machine is reached from here.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

fn fetch(admin: &Authority, path: &str, changes: bool) -> Result<String, Failure> {
    let agent = ureq::Agent::config_builder()
        .timeout_global(Some(PATIENCE))
        .http_status_as_error(false)
        .max_redirects(0)
        // The listener is on this machine or beside it.
        .proxy(None)
        .build()
        .new_agent();
    let url = format!("http://{admin}{path}");
    let answer = if changes {
        agent.post(&url).send_empty()
    } else {
        agent.get(&url).call()
    };
    let unreachable = |error| Failure::Unreachable(admin.clone(), error);
    let mut answer = answer.map_err(unreachable)?;
    let text = answer.body_mut().read_to_string().map_err(unreachable)?;
    if answer.status() == 200 {
        return Ok(text);
    }
    let status = answer.status().as_u16();
    Err(Failure::Refused(admin.clone(), status, tell::plain(&text)))
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(unread) => unread.fmt(f),
            Self::Unreachable(admin, error) => write!(
                f,
                "no answer from the admin listener at {admin}: {error}; \
                 --admin ADDRESS or -c FILE say where it is"
            ),
            Self::Refused(admin, status, text) => {
                write!(
                    f,
                    "the admin listener at {admin} refuses ({status}): {text}"
                )
            }
            Self::Strange(admin, error) => write!(
                f,
                "what answers at {admin} is no admin listener of this version: {error}"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_on_every_address_is_asked_on_this_machine() {
        for (listen, asked) in [
            ("0.0.0.0:9090", "127.0.0.1:9090"),
            ("[::]:9090", "[::1]:9090"),
            ("10.0.0.7:9091", "10.0.0.7:9091"),
        ] {
            assert_eq!(reachable(listen.parse().unwrap()).to_string(), asked);
        }
    }

    #[test]
    fn an_address_has_a_host_and_a_port() {
        assert!(address("edge.internal:9090").is_ok() && address("[::1]:1").is_ok());
        for text in ["", "9090", "edge", "http://edge:9090", "a@edge:1", ":x"] {
            assert!(address(text).is_err(), "{text}");
        }
    }
}
