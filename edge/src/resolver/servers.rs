//! Asks the DNS servers one question, one server after the other.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::xfer::{DnsHandle, FirstAnswer};
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::{DnsRequestOptions, DnsResponse, Query, ResponseCode};
use hickory_resolver::proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_resolver::{NameServerPool, PoolContext, TlsConfig};
use parking_lot::Mutex;
use tokio::time::{Instant, timeout_at};

/// A chain of more aliases than this is not followed.
const MOST_ALIASES: usize = 8;
/// Servers past these are not asked.
const MOST_SERVERS: usize = 16;

type Pool = NameServerPool<TokioRuntimeProvider>;

/// The servers in the order in which they are asked. There is no cache in between.
pub(super) struct Servers {
    servers: Vec<Server>,
    /// The one that answered last: it is asked first.
    first: AtomicUsize,
    options: DnsRequestOptions,
    /// Why there is no server, if there is none.
    none: String,
}

/// One server, with the connections to it.
struct Server {
    config: NameServerConfig,
    options: ResolverOpts,
    connections: Mutex<Pool>,
}

/// The records that were asked for.
pub(super) struct Answer {
    /// All of the kind asked for, of the name or of that for which it is an alias.
    pub(super) records: Vec<Record>,
    /// What the server sent along unasked.
    pub(super) additional: Vec<Record>,
    /// The smallest time to live on the way there, in seconds.
    pub(super) ttl: u32,
}

/// Why there are no records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum No {
    /// The name does not exist, or has no such records (RFC 2308).
    Nothing,
    /// Nobody could say.
    Failed(String),
}

impl Servers {
    /// Asks these; `timeout` is the longest that one of them is waited for.
    pub(super) fn new(
        servers: Vec<NameServerConfig>,
        mut options: ResolverOpts,
        timeout: Duration,
    ) -> Self {
        // Longer than ever needed: `send` is the one that counts the time.
        options.timeout = timeout.saturating_add(timeout);
        let mut request = DnsRequestOptions::default();
        request.use_edns = options.edns0;
        request.edns_payload_len = options.edns_payload_len;
        let server = |config| Server::new(config, options.clone());
        let servers = servers.into_iter().take(MOST_SERVERS).map(server);
        match servers.collect() {
            Ok(servers) => Self {
                servers,
                first: AtomicUsize::new(0),
                options: request,
                none: "no DNS server is named".to_owned(),
            },
            Err(error) => Self::none(error.to_string()),
        }
    }

    /// Nobody to ask: every question fails for this reason.
    pub(super) fn none(why: String) -> Self {
        Self {
            servers: Vec::new(),
            first: AtomicUsize::new(0),
            options: DnsRequestOptions::default(),
            none: why,
        }
    }

    /// The records of this kind that the name has, aliases followed (RFC 1034 3.6.2).
    pub(super) async fn ask(
        &self,
        name: &Name,
        kind: RecordType,
        until: Instant,
    ) -> Result<Answer, No> {
        let (mut name, mut ttl) = (name.clone(), u32::MAX);
        let mut aliases = 0;
        loop {
            let query = Query::query(name.clone(), kind);
            let response = self.send(query, until).await?;
            let exists = response.response_code != ResponseCode::NXDomain;
            let message = response.into_message();
            let before = aliases;
            while let Some((target, holds)) = alias(&message.answers, &name) {
                aliases += 1;
                if aliases > MOST_ALIASES {
                    return Err(No::Failed(format!("more than {MOST_ALIASES} aliases")));
                }
                ttl = ttl.min(holds);
                name = target;
            }
            let of_name = |record: &Record| {
                record.name == name
                    && record.record_type() == kind
                    && record.dns_class == DNSClass::IN
            };
            let records: Vec<_> = message.answers.into_iter().filter(of_name).collect();
            if let Some(least) = records.iter().map(|record| record.ttl).min() {
                return Ok(Answer {
                    records,
                    additional: message.additionals,
                    ttl: ttl.min(least),
                });
            }
            if aliases == before || !exists {
                return Err(No::Nothing);
            }
        }
    }

    /// Sends the question to one server after the other, until one can say. What is left of the
    /// time is divided among those that are left, so that a dead one does not use up all of it.
    async fn send(&self, query: Query, until: Instant) -> Result<DnsResponse, No> {
        let (count, first) = (self.servers.len(), self.first.load(Ordering::Relaxed));
        let mut why = self.none.clone();
        for turn in 0..count {
            let place = (first + turn) % count;
            let Some(server) = self.servers.get(place) else {
                continue;
            };
            let now = Instant::now();
            let left = u32::try_from(count - turn).unwrap_or(u32::MAX);
            let slice = until.saturating_duration_since(now) / left;
            let connections = server.connections.lock().clone();
            let asking = connections.lookup(query.clone(), self.options);
            let answer = match timeout_at(now + slice, asking.first_answer()).await {
                Ok(Ok(response)) => Ok(response),
                Ok(Err(error)) if is_nothing(&error) => Err(No::Nothing),
                Ok(Err(error)) => {
                    why = error.to_string();
                    continue;
                }
                Err(_) => {
                    server.connect_anew();
                    "no answer in time".clone_into(&mut why);
                    continue;
                }
            };
            self.first.store(place, Ordering::Relaxed);
            return answer;
        }
        Err(No::Failed(why))
    }
}

impl Server {
    fn new(config: NameServerConfig, options: ResolverOpts) -> Result<Self, NetError> {
        Ok(Self {
            connections: Mutex::new(pool(config.clone(), options.clone())?),
            config,
            options,
        })
    }

    /// A server behind a balancer can go away without a word, and then a connection over TCP only
    /// looks alive: after a silence it is not used again.
    fn connect_anew(&self) {
        if let Ok(pool) = pool(self.config.clone(), self.options.clone()) {
            *self.connections.lock() = pool;
        }
    }
}

fn pool(config: NameServerConfig, options: ResolverOpts) -> Result<Pool, NetError> {
    let context = Arc::new(PoolContext::new(options, TlsConfig::new()?));
    let provider = TokioRuntimeProvider::default();
    Ok(NameServerPool::from_config([config], context, provider))
}

/// A server by its address, asked over UDP and, where that is too small, over TCP.
pub(super) fn server(address: SocketAddr) -> NameServerConfig {
    let (mut udp, mut tcp) = (ConnectionConfig::udp(), ConnectionConfig::tcp());
    (udp.port, tcp.port) = (address.port(), address.port());
    NameServerConfig::new(address.ip(), true, vec![udp, tcp])
}

/// For what the name is an alias, and for how long, in seconds.
fn alias(answers: &[Record], name: &Name) -> Option<(Name, u32)> {
    answers.iter().find_map(|record| match &record.data {
        RData::CNAME(target) if record.name == *name => Some((target.0.clone(), record.ttl)),
        _ => None,
    })
}

fn is_nothing(error: &NetError) -> bool {
    let NetError::Dns(DnsError::NoRecordsFound(no)) = error else {
        return false;
    };
    matches!(
        no.response_code,
        ResponseCode::NXDomain | ResponseCode::NoError
    )
}
