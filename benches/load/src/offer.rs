//! What load is offered, for how long, and where.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use http::{HeaderName, HeaderValue, Uri};
use tokio::net::lookup_host;

use crate::schedule::Schedule;
use crate::target::{Target, Way};

/// The most seconds of full load, and of opening before it.
pub const MOST_SECONDS: u64 = 3_600;

/// The most times that are kept: 32 bytes each while the load runs.
const MOST_TIMES: u64 = 5_000_000;

/// How long all sockets are open before the first message, and how long the requests have run then.
pub const SETTLE: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Args, Debug, Clone)]
pub struct Offer {
    /// Requests a second; 0: none.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(0..=20_000))]
    pub rate: u32,
    /// Over how many connections they go at most. Where all are busy a request waits, and its time runs.
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=2_000))]
    pub connections: u32,
    /// WebSockets open at once; 0: none.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(0..=20_000))]
    pub sockets: u32,
    /// How many of them are opened a second.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=2_000))]
    pub upgrades: u32,
    /// Messages a second over all WebSockets; 0: none.
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(0..=50_000))]
    pub messages: u32,
    /// Bytes in a message.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(10..))]
    pub size: u16,
    /// How long all of it lasts together; the WebSockets are opened before.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub seconds: u64,
}

/// Where the load goes.
#[derive(Args, Debug, Clone)]
pub struct Place {
    /// The system: http://, its host and port.
    #[arg(value_name = "URL")]
    url: Uri,
    /// What is requested.
    #[arg(long, value_name = "PATH", default_value = "/health", value_parser = path)]
    pub health: String,
    /// Where WebSockets are opened.
    #[arg(long, value_name = "PATH", default_value = "/ws", value_parser = path)]
    pub ws: String,
    /// What `Host` says, where the system goes by it.
    #[arg(long, value_name = "NAME")]
    host: Option<String>,
    /// A file with a header field a line, as `authorization: Bearer TOKEN`, for each request and upgrade.
    #[arg(long, value_name = "FILE")]
    headers: Option<PathBuf>,
}

/// The ways to both.
#[derive(Debug, Clone)]
pub struct Ways {
    /// To what is requested.
    pub health: Way,
    /// To where WebSockets are opened.
    pub ws: Way,
}

impl Offer {
    /// How long opening the WebSockets takes, in whole seconds, and a moment more.
    pub fn opening(&self) -> Duration {
        if self.sockets == 0 {
            return Duration::ZERO;
        }
        let opened = Schedule::new(self.upgrades)
            .map_or(Duration::ZERO, |each| each.moment(self.sockets.into()));
        Duration::from_secs(opened.as_secs() + u64::from(opened.subsec_nanos() > 0)) + SETTLE
    }

    /// How long all of it takes.
    pub fn total(&self) -> Duration {
        self.opening() + Duration::from_secs(self.seconds)
    }

    /// How many files it holds open at once.
    pub fn files(&self) -> u64 {
        const OTHERS: u64 = 64;
        u64::from(self.connections) + u64::from(self.sockets) + OTHERS
    }

    /// What cannot be had together is told before anything is sent.
    pub fn check(&self) -> Result<(), String> {
        if self.rate == 0 && self.sockets == 0 {
            return Err("neither --rate nor --sockets: there is nothing to do".to_owned());
        }
        if self.total().as_secs() > MOST_SECONDS {
            return Err(format!(
                "all of it takes {} s, at most {MOST_SECONDS}: more --upgrades, or fewer --sockets",
                self.total().as_secs()
            ));
        }
        let times =
            u64::from(self.rate) * self.total().as_secs() + u64::from(self.messages) * self.seconds;
        if times > MOST_TIMES {
            return Err(format!(
                "{times} requests and messages, at most {MOST_TIMES}: fewer --seconds, or lower rates"
            ));
        }
        Ok(())
    }
}

impl Place {
    /// Finds the address once, so that no request waits for a name.
    pub async fn find(&self) -> Result<Ways, String> {
        let url = &self.url;
        if url.scheme_str() != Some("http") {
            return Err(format!(
                "{url}: expected http://, as TLS is not spoken here"
            ));
        }
        if url.path() != "/" || url.query().is_some() {
            return Err(format!(
                "{url}: expected no path; --health and --ws set those"
            ));
        }
        let authority = url
            .authority()
            .ok_or_else(|| format!("{url}: expected a host"))?;
        let host = authority.host().trim_matches(['[', ']']);
        let found = lookup_host((host, authority.port_u16().unwrap_or(80))).await;
        let address = found.map_err(|error| format!("{host}: {error}"))?.next();
        let address = address.ok_or_else(|| format!("{host}: no address"))?;
        let fields = self.headers.as_ref().map_or(Ok(Vec::new()), read)?;
        let authority = self.host.as_deref().unwrap_or(authority.as_str());
        let way = |path: &str| {
            let mut way = Way::from(Target {
                address,
                authority: authority.to_owned(),
                path: path.to_owned(),
            });
            way.fields.clone_from(&fields);
            way
        };
        Ok(Ways {
            health: way(&self.health),
            ws: way(&self.ws),
        })
    }

    /// As it is shown.
    pub fn url(&self) -> String {
        self.url.to_string().trim_end_matches('/').to_owned()
    }
}

fn path(text: &str) -> Result<String, String> {
    let path: http::uri::PathAndQuery = text.parse().map_err(|error| format!("{error}"))?;
    if text.starts_with('/') {
        return Ok(path.as_str().to_owned());
    }
    Err("expected a path, as /health".to_owned())
}

fn read(file: &PathBuf) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
    let text = fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    fields(&text).map_err(|line| format!("{}:{line}: expected `name: value`", file.display()))
}

/// The fields in this text; the number of a line that is none. Its content is not told: it may be a secret.
fn fields(text: &str) -> Result<Vec<(HeaderName, HeaderValue)>, usize> {
    let lines = text.lines().zip(1..);
    let lines = lines.filter(|(line, _)| !line.trim().is_empty() && !line.starts_with('#'));
    let field = |line: &str| {
        let (name, value) = line.split_once(':')?;
        let value: HeaderValue = value.trim().parse().ok()?;
        value.to_str().ok()?;
        Some((name.trim().parse().ok()?, value))
    };
    lines
        .map(|(line, number)| field(line).ok_or(number))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        offer: Offer,
    }

    fn line(words: &str) -> Line {
        let words = format!("load {words}");
        Line::try_parse_from(words.split(' ')).unwrap()
    }

    #[test]
    fn by_default_the_promises_are_offered_together_for_half_a_minute() {
        let offer = line("http://a").offer;
        assert_eq!(
            (offer.rate, offer.sockets, offer.messages),
            (1_000, 1_000, 5_000)
        );
        assert_eq!(offer.opening(), Duration::from_secs(6));
        assert_eq!(offer.total(), Duration::from_secs(36));
        assert_eq!(offer.check(), Ok(()));
    }

    #[test]
    fn without_sockets_nothing_is_opened_first() {
        assert_eq!(line("http://a --sockets 0").offer.opening(), Duration::ZERO);
    }

    #[test]
    fn what_cannot_be_is_refused_before_it_begins() {
        for words in [
            "--rate 0 --sockets 0",
            "--sockets 20000 --upgrades 1",
            "--messages 50000 --seconds 600",
        ] {
            let offer = line(&format!("http://a {words}")).offer;
            assert!(offer.check().is_err(), "{words}");
        }
    }

    #[tokio::test]
    async fn a_place_is_a_host_over_plain_http() {
        for url in ["https://127.0.0.1", "http://127.0.0.1/a", "127.0.0.1:80"] {
            assert!(line(url).place.find().await.is_err(), "{url}");
        }
        let place = line("http://127.0.0.1:30080 --host a.example --ws /ws?a=b").place;
        assert_eq!(place.url(), "http://127.0.0.1:30080");
        let ways = place.find().await.unwrap();
        let target = ways.ws.target;
        assert_eq!(target.address, "127.0.0.1:30080".parse().unwrap());
        assert_eq!(
            (&*target.authority, &*target.path),
            ("a.example", "/ws?a=b")
        );
        assert_eq!(ways.health.target.path, "/health");
    }

    #[test]
    fn a_faulty_field_is_told_by_its_line_and_not_by_its_content() {
        let read = fields("# who asks\n\nx-api-key: a b\n").unwrap();
        assert_eq!(
            read,
            [(
                "x-api-key".parse().unwrap(),
                HeaderValue::from_static("a b")
            )]
        );
        assert_eq!(fields("a: b\nsecret\n"), Err(2));
        assert_eq!(fields("a: ä\n"), Err(1));
    }
}
