//! A small DNS server that does as it is told: over UDP and TCP, with records that change while
//! it runs, and with faults. For edge's own tests (`src/resolver/tests.rs`) and those from outside.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::rdata::{CNAME, SRV};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;

/// An answer over UDP that is longer is truncated (RFC 1035 4.2.1).
const LONGEST: usize = 512;

/// A server; it ends when it is dropped.
pub(crate) struct Dns {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    _serving: JoinSet<()>,
}

/// What goes wrong with a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// This code and no records.
    Code(ResponseCode),
    /// No answer at all.
    Silence,
    /// An answer over UDP is always truncated.
    Truncation,
}

/// A question that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asked {
    /// Absolute, with its dot at the end.
    pub(crate) name: String,
    pub(crate) kind: RecordType,
    pub(crate) tcp: bool,
}

#[derive(Default)]
struct State {
    records: BTreeMap<Name, Vec<Record>>,
    faults: HashMap<(Name, RecordType), Fault>,
    /// What is sent with each answer, unasked.
    additional: Vec<Record>,
    asked: Vec<Asked>,
    /// Connections with a smaller number get no answers.
    answered: usize,
    connections: usize,
}

impl Dns {
    /// A server that knows no name.
    pub(crate) async fn start() -> Self {
        let (tcp, udp) = loop {
            let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
            // The same port may be taken for UDP: then another.
            if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()).await {
                break (tcp, udp);
            }
        };
        let address = tcp.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        let mut serving = JoinSet::new();
        serving.spawn(serve_udp(udp, state.clone()));
        serving.spawn(serve_tcp(tcp, state.clone()));
        Self {
            address,
            state,
            _serving: serving,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on the name has these addresses, `A` and `AAAA`, and nothing else.
    pub(crate) fn set(&self, name: &str, ttl: u32, addresses: &[&str]) {
        let data = addresses.iter().map(|address| address_of(address));
        self.put(name, ttl, data.collect());
    }

    /// From now on the service has these targets: priority, weight, port, host.
    pub(crate) fn set_service(&self, name: &str, ttl: u32, targets: &[(u16, u16, u16, &str)]) {
        let srv = |(priority, weight, port, host): &(u16, u16, u16, &str)| {
            RData::SRV(SRV::new(*priority, *weight, *port, absolute(host)))
        };
        self.put(name, ttl, targets.iter().map(srv).collect());
    }

    /// From now on the name is an alias of another.
    pub(crate) fn set_alias(&self, name: &str, ttl: u32, target: &str) {
        self.put(name, ttl, vec![RData::CNAME(CNAME(absolute(target)))]);
    }

    /// From now on the name does not exist.
    pub(crate) fn remove(&self, name: &str) {
        self.state.lock().unwrap().records.remove(&absolute(name));
    }

    /// Sends these addresses of a host with each answer, unasked.
    pub(crate) fn send_along(&self, host: &str, ttl: u32, addresses: &[&str]) {
        let record = |address: &&str| Record::from_rdata(absolute(host), ttl, address_of(address));
        let records = addresses.iter().map(record);
        self.state.lock().unwrap().additional.extend(records);
    }

    /// From now on this goes wrong with questions for records of this kind.
    pub(crate) fn fail(&self, name: &str, kind: RecordType, fault: Fault) {
        let faults = &mut self.state.lock().unwrap().faults;
        faults.insert((absolute(name), kind), fault);
    }

    /// From now on this goes wrong with questions for the name's addresses.
    pub(crate) fn fail_host(&self, name: &str, fault: Fault) {
        self.fail(name, RecordType::A, fault);
        self.fail(name, RecordType::AAAA, fault);
    }

    /// Whoever is connected now gets no more answers over TCP; whoever connects anew does.
    pub(crate) fn forsake(&self) {
        let mut state = self.state.lock().unwrap();
        state.answered = state.connections;
    }

    /// Nothing goes wrong any more.
    pub(crate) fn heal(&self) {
        self.state.lock().unwrap().faults.clear();
    }

    /// The questions that came, in their order.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.state.lock().unwrap().asked.clone()
    }

    /// How many questions came.
    pub(crate) fn questions(&self) -> usize {
        self.state.lock().unwrap().asked.len()
    }

    fn put(&self, name: &str, ttl: u32, data: Vec<RData>) {
        let name = absolute(name);
        let record = |data| Record::from_rdata(name.clone(), ttl, data);
        let records = data.into_iter().map(record).collect();
        self.state.lock().unwrap().records.insert(name, records);
    }
}

impl State {
    /// The answer; `None` where there is none.
    fn answer(&mut self, question: &[u8], tcp: bool) -> Option<Vec<u8>> {
        let question = Message::from_vec(question).ok()?;
        let query = question.queries.first()?.clone();
        let (mut name, kind) = (query.name().clone(), query.query_type());
        self.asked.push(Asked {
            name: name.to_string(),
            kind,
            tcp,
        });
        let fault = self.faults.get(&(name.clone(), kind)).copied();
        let mut answer = Message::response(question.id, question.op_code);
        answer.metadata.authoritative = true;
        answer.metadata.recursion_desired = question.recursion_desired;
        answer.add_query(query);
        match fault {
            Some(Fault::Silence) => return None,
            Some(Fault::Code(code)) => answer.metadata.response_code = code,
            Some(Fault::Truncation) | None => {
                while let Some(records) = self.records.get(&name) {
                    let fits = |record: &&Record| {
                        [kind, RecordType::CNAME].contains(&record.record_type())
                    };
                    answer.add_answers(records.iter().filter(fits).cloned());
                    let Some(target) = records.iter().find_map(alias) else {
                        break;
                    };
                    // A circle is told as far as it goes.
                    if answer.answers.len() > 20 {
                        break;
                    }
                    name = target;
                }
                if !self.records.contains_key(&name) && answer.answers.is_empty() {
                    answer.metadata.response_code = ResponseCode::NXDomain;
                }
                answer.add_additionals(self.additional.iter().cloned());
            }
        }
        let bytes = answer.to_vec().unwrap();
        if !tcp && (fault == Some(Fault::Truncation) || bytes.len() > LONGEST) {
            return Some(answer.truncate().to_vec().unwrap());
        }
        Some(bytes)
    }
}

async fn serve_udp(socket: UdpSocket, state: Arc<Mutex<State>>) {
    let mut question = vec![0; 4_096];
    while let Ok((length, from)) = socket.recv_from(&mut question).await {
        let answer = state.lock().unwrap().answer(&question[..length], false);
        if let Some(answer) = answer {
            let _ = socket.send_to(&answer, from).await;
        }
    }
}

async fn serve_tcp(listener: TcpListener, state: Arc<Mutex<State>>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(serve_connection(stream, state.clone()));
    }
}

/// Each message after its length (RFC 1035 4.2.2).
async fn serve_connection(mut stream: TcpStream, state: Arc<Mutex<State>>) {
    let number = {
        let mut state = state.lock().unwrap();
        state.connections += 1;
        state.connections - 1
    };
    while let Ok(length) = stream.read_u16().await {
        let mut question = vec![0; length.into()];
        if stream.read_exact(&mut question).await.is_err() {
            return;
        }
        let answer = {
            let mut state = state.lock().unwrap();
            let answer = state.answer(&question, true);
            answer.filter(|_| number >= state.answered)
        };
        let Some(answer) = answer else { continue };
        let mut message = u16::try_from(answer.len()).unwrap().to_be_bytes().to_vec();
        message.extend(answer);
        if stream.write_all(&message).await.is_err() {
            return;
        }
    }
}

fn alias(record: &Record) -> Option<Name> {
    match &record.data {
        RData::CNAME(target) => Some(target.0.clone()),
        _ => None,
    }
}

fn address_of(address: &str) -> RData {
    RData::from(address.parse::<IpAddr>().unwrap())
}

fn absolute(name: &str) -> Name {
    let mut name = Name::from_ascii(name).unwrap();
    name.set_fqdn(true);
    name
}

/// Does the server as it is told? And nothing here is without use, wherever it is included.
#[tokio::test]
async fn the_server_does_as_it_is_told() {
    let dns = Dns::start().await;
    let asking = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    asking.connect(dns.address()).await.unwrap();
    let ask = async |name: &str, kind| {
        let mut question = Message::query();
        question.add_query(hickory_resolver::proto::op::Query::query(
            absolute(name),
            kind,
        ));
        asking.send(&question.to_vec().unwrap()).await.unwrap();
        let mut answer = vec![0; 4_096];
        let length = asking.recv(&mut answer).await.unwrap();
        Message::from_vec(&answer[..length]).unwrap()
    };

    dns.set("a.test", 5, &["10.0.0.1", "10.0.0.2", "::2"]);
    dns.set_alias("b.test", 5, "a.test");
    dns.set_service("c.test", 5, &[(1, 2, 3, "a.test")]);
    dns.send_along("a.test", 5, &["10.0.0.1"]);
    assert_eq!(ask("a.test", RecordType::A).await.answers.len(), 2);
    assert_eq!(ask("b.test", RecordType::AAAA).await.answers.len(), 2);
    let service = ask("c.test", RecordType::SRV).await;
    assert_eq!((service.answers.len(), service.additionals.len()), (1, 1));

    dns.fail("a.test", RecordType::A, Fault::Truncation);
    assert!(ask("a.test", RecordType::A).await.truncation);
    dns.fail_host("a.test", Fault::Code(ResponseCode::ServFail));
    let failed = ask("a.test", RecordType::A).await.response_code;
    assert_eq!(failed, ResponseCode::ServFail);
    dns.fail_host("a.test", Fault::Silence);
    dns.heal();
    dns.forsake();
    dns.remove("a.test");
    let gone = ask("a.test", RecordType::A).await.response_code;
    assert_eq!(gone, ResponseCode::NXDomain);

    assert_eq!(dns.questions(), 6);
    let first = dns.asked().swap_remove(0);
    let expected = Asked {
        name: "a.test.".to_owned(),
        kind: RecordType::A,
        tcp: false,
    };
    assert_eq!(first, expected);
}
