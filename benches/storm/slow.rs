//! Clients that are slow on purpose, of each kind many at once: each is cut within its clock, the others
//! notice nothing, and what they held comes back.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};

use crate::certificates::Authority;
use crate::child::{Edge, Program, config};
use crate::http1::Connection;
use crate::origin::{listen, place};
use crate::process::SETTLE;
use crate::report::{Counts, Report, add, count};
use crate::target::{Failure, PATIENCE, Target, Way};

/// See the module.
#[derive(Args, Debug, Clone)]
pub(crate) struct Slow {
    #[command(flatten)]
    program: Program,
    /// edge's configuration; it is copied.
    #[arg(long, value_name = "FILE", default_value_os_t = config("slow.toml"))]
    config: PathBuf,
    /// How many of each kind.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=900))]
    count: u32,
    /// How often: what a peak leaves behind must not grow with each.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=20))]
    rounds: u32,
    /// Only the kinds whose names hold this.
    #[arg(long, value_name = "WORD", default_value = "")]
    only: String,
}

const EDGE: &str = "http://127.0.0.1:19140/";
pub(crate) const ADMIN: &str = "http://127.0.0.1:19141";
const UPSTREAM: &str = "127.0.0.1:19142";
const HERE: [u8; 4] = [127, 0, 0, 1];
pub(crate) const CLEAR: u16 = 19_140;
const SECURE: u16 = 19_143;

/// Clients that are served meanwhile, one request after the other, each so long after the last.
const GOOD: u32 = 4;
const BREATH: Duration = Duration::from_millis(5);
/// How often the open connections are counted, and a dripping client sends more.
const GLANCE: Duration = Duration::from_millis(100);
const DRIP: Duration = Duration::from_millis(500);
/// So much later than its clock a client may be cut: the machine may be busy.
const LATE: f64 = 1_500.0;
/// The good are served for so long before it is looked at what is left behind.
pub(crate) const SERVED: Duration = Duration::from_secs(3);
/// Below this a tail is the machine's, not edge's.
const NOISE: f64 = 10.0;
/// What edge may hold more at the end, in KiB: the allocator keeps some.
const MORE: f64 = 16_384.0;

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What a client does with what it is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reads {
    All,
    AByte,
    Nothing,
}

/// A kind of slow client.
#[derive(Debug, Clone)]
pub(crate) struct Kind {
    name: &'static str,
    from: [u8; 4],
    port: u16,
    first: Vec<u8>,
    more: Vec<u8>,
    reads: Reads,
    /// The clocks that end it, one after the other, in seconds, as `slow.toml` has them.
    clock: u64,
}

/// A frame of HTTP/2 (RFC 9113 4.1).
pub(crate) fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap_or(u8::MAX);
    let head = [0, 0, length, kind, flags, 0, 0, 0, stream];
    [&head[..], payload].concat()
}

/// The beginning of HTTP/2 with these settings, and a request on the first stream.
fn http2(settings: &[u8], method: u8, flags: u8, path: &[u8]) -> Vec<u8> {
    let length = u8::try_from(path.len()).unwrap_or(0);
    let fields = [&[method, 0x86, 0x41, 1, b'a', 0x44, length], path].concat();
    [
        PREFACE,
        &frame(4, 0, 0, settings),
        &frame(1, flags, 1, &fields),
    ]
    .concat()
}

/// Each from an address of its own: of one there may be a thousand connections.
pub(crate) fn kinds() -> Vec<Kind> {
    let mut kinds = all_kinds();
    for (kind, last) in kinds.iter_mut().zip(20..) {
        if kind.from == HERE {
            kind.from = [127, 0, 0, last];
        }
    }
    kinds
}

fn all_kinds() -> Vec<Kind> {
    let text = |head: &str| format!("{head}host: storm\r\n\r\n").into_bytes();
    let kind = |name, first: Vec<u8>, more: &[u8], reads, clock| Kind {
        name,
        from: HERE,
        port: CLEAR,
        first,
        more: more.to_vec(),
        reads,
        clock,
    };
    let large = || text("GET /large HTTP/1.1\r\n");
    let post = "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n";
    let websocket = "GET /ws HTTP/1.1\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
        sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let no_window = [0, 4, 0, 0, 0, 0];
    let head = b"GET / HTTP/1.1\r\nhost: a\r\n".to_vec();
    vec![
        kind("silent", Vec::new(), b"", Reads::All, 5),
        kind("head", head, b"x: y\r\n", Reads::All, 5),
        Kind {
            from: [127, 0, 0, 9],
            ..kind(
                "PROXY header",
                b"PROXY TCP4 1".to_vec(),
                b"2",
                Reads::All,
                5,
            )
        },
        Kind {
            port: SECURE,
            ..kind(
                "TLS",
                vec![22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3],
                &[0],
                Reads::All,
                5,
            )
        },
        kind("HTTP/2 preface", b"PRI * HT".to_vec(), b"", Reads::All, 5),
        kind("keep-alive", text("GET / HTTP/1.1\r\n"), b"", Reads::All, 5),
        // By its rate, which is stricter here than its time.
        kind("chunks", text(post), b"1\r\nx\r\n", Reads::All, 6),
        // After the stream the connection: keep-alive, and a farewell.
        kind(
            "HTTP/2 body",
            http2(&[], 0x83, 4, b"/"),
            &frame(0, 0, 1, b"x"),
            Reads::All,
            6 + 6,
        ),
        kind("never reads", large(), b"", Reads::Nothing, 5),
        kind("reads a byte", large(), b"", Reads::AByte, 5),
        kind(
            "HTTP/2 no window",
            http2(&no_window, 0x82, 5, b"/large"),
            b"",
            Reads::All,
            5 + 6,
        ),
        kind(
            "HTTP/2 byte window",
            http2(&no_window, 0x82, 5, b"/large"),
            &frame(8, 0, 1, &[0, 0, 0, 1]),
            Reads::All,
            5 + 6,
        ),
        // Ping, pong, and the farewells of both sides.
        kind("WebSocket", text(websocket), b"", Reads::Nothing, 3 + 2 + 6),
    ]
}

impl Slow {
    pub(crate) async fn run(self) -> Report {
        let mut report = Report::default();
        let loaded = self.load(&mut report).await;
        report.done(loaded);
        report
    }

    async fn load(&self, report: &mut Report) -> Result<(), Failure> {
        let text = read(&self.config)?;
        let (authority, file) = place_of(&text)?;
        let upstream = upstream()?;
        let edge = Edge::start(&self.program, &file, ADMIN).await?;
        let kinds: Vec<_> = kinds()
            .into_iter()
            .filter(|kind| kind.name.contains(&self.only))
            .collect();
        // What is held once is held from here on.
        serve(Duration::from_secs(1)).await?;
        sleep(SETTLE).await;
        let before = (edge.process().resident(), edge.process().files());
        let good = serve(Duration::from_secs(5)).await?;
        let usual = percentile(good.clone());
        report.times("good alone", good);
        for round in 1..=self.rounds {
            for kind in &kinds {
                self.one(&edge, std::slice::from_ref(kind), usual, report)
                    .await?;
            }
            if kinds.len() > 1 {
                self.one(&edge, &kinds, usual, report).await?;
            }
            // An allocator gives back while it is asked, not on its own.
            serve(SERVED).await?;
            sleep(SETTLE).await;
            report.memory(edge.process(), &format!("after round {round}"));
        }
        // The idle ones of the good and of the upstream go, too.
        sleep(Duration::from_secs(7)).await;
        let after = (edge.process().resident(), edge.process().files());
        report.row("memory KiB before", before.0);
        let more = before.0.zip(after.0);
        let more = more.map(|(before, after)| after as f64 - before as f64);
        report.at_most("memory KiB more after", more, MORE);
        report.row("files before", before.1);
        report.row("files after", after.1);
        upstream.abort();
        drop(authority);
        Ok(())
    }

    /// These kinds at once, and the good beside them.
    async fn one(
        &self,
        edge: &Edge,
        kinds: &[Kind],
        usual: f64,
        report: &mut Report,
    ) -> Result<(), Failure> {
        let name = match kinds {
            [kind] => kind.name,
            _ => "all at once",
        };
        let clock = kinds.iter().map(|kind| kind.clock).max().unwrap_or(0);
        let good = tokio::spawn(serve(Duration::from_secs(clock)));
        sleep(GLANCE).await;
        let began = Instant::now();
        let mut held = JoinSet::new();
        let mut failures = Counts::new();
        for number in 0..self.count * u32::try_from(kinds.len()).unwrap_or(1) {
            let Some(kind) = kinds.get(number as usize % kinds.len()) else {
                continue;
            };
            match kind.connect().await {
                Ok(stream) => drop(held.spawn(kind.clone().drip(stream))),
                Err(failure) => count(&mut failures, failure),
            }
        }
        let connected = began.elapsed();
        // The good are a few; the others are cut when no more than those are open.
        let latest = Duration::from_secs(clock + 30);
        let mut cut = None;
        let mut most = 0.0_f64;
        while began.elapsed() < latest {
            let open = edge.admin().sum("edge_connections").await?;
            most = most.max(open);
            if open <= f64::from(GOOD) && most > f64::from(GOOD) {
                cut = Some(began.elapsed());
                break;
            }
            sleep(GLANCE).await;
        }
        held.abort_all();
        let good = good.await.map_err(|_| "broken off")??;
        report.row(&format!("{name}: open at most"), most);
        let cut = cut.map(|cut| cut.as_secs_f64() * 1e3);
        let bound = clock as f64 * 1e3 + connected.as_secs_f64() * 1e3 + LATE;
        report.at_most(&format!("{name}: all cut after ms"), cut, bound.round());
        let bound = (2.0 * usual).max(NOISE);
        let tail = percentile(good);
        report.at_most(&format!("{name}: good p99 ms"), Some(tail), bound.round());
        let mut all = Counts::new();
        add(&mut all, failures);
        report.failures(&format!("{name}: not connected"), &all);
        Ok(())
    }
}

impl Kind {
    pub(crate) async fn connect(&self) -> Result<TcpStream, Failure> {
        let failed = |error: std::io::Error| format!("connect: {}", error.kind());
        let socket = TcpSocket::new_v4().map_err(failed)?;
        socket
            .bind((IpAddr::from(self.from), 0).into())
            .map_err(failed)?;
        if self.reads != Reads::All {
            socket.set_recv_buffer_size(4_096).map_err(failed)?;
        }
        let to = SocketAddr::from(([127, 0, 0, 1], self.port));
        let stream = timeout(PATIENCE, socket.connect(to)).await;
        stream.map_err(|_| "connect: timeout")?.map_err(failed)
    }

    /// Does what its kind does until it is cut, and stays where it cannot know.
    pub(crate) async fn drip(self, mut stream: TcpStream) {
        if stream.write_all(&self.first).await.is_err() {
            return;
        }
        let (mut from, mut to) = stream.split();
        let reading = async {
            let mut all = vec![0; 16 << 10];
            match self.reads {
                Reads::All => while from.read(&mut all).await.is_ok_and(|read| read > 0) {},
                Reads::AByte => {
                    while from.read_u8().await.is_ok() {
                        sleep(DRIP).await;
                    }
                }
                Reads::Nothing => std::future::pending().await,
            }
        };
        let dripping = async {
            while !self.more.is_empty() && to.write_all(&self.more).await.is_ok() {
                sleep(DRIP).await;
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = reading => {}
            () = dripping => {}
        }
    }
}

/// A configuration's text.
pub(crate) fn read(config: &Path) -> Result<String, Failure> {
    fs::read_to_string(config).map_err(|error| format!("config: {}", error.kind()))
}

/// A folder with this configuration and what it names; it goes with the authority.
pub(crate) fn place_of(text: &str) -> Result<(Authority, PathBuf), Failure> {
    let authority = Authority::new()?;
    authority.replace(&Default::default())?;
    let file = authority.folder.join("edge.toml");
    fs::write(&file, text).map_err(|error| format!("config: {}", error.kind()))?;
    Ok((authority, file))
}

/// The upstream of `slow.toml`.
pub(crate) fn upstream() -> Result<JoinHandle<()>, Failure> {
    let listener = listen(place(UPSTREAM)?);
    let listener = listener.map_err(|error| format!("upstream: {}", error.kind()))?;
    Ok(tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream));
        }
    }))
}

/// The good: what each of their answers took.
pub(crate) async fn serve(length: Duration) -> Result<Vec<Duration>, Failure> {
    let until = Instant::now() + length;
    let mut serving: JoinSet<_> = (0..GOOD).map(|_| ask(until)).collect();
    let mut all = Vec::new();
    while let Some(times) = serving.join_next().await {
        all.extend(times.map_err(|_| "broken off")??);
    }
    Ok(all)
}

async fn ask(until: Instant) -> Result<Vec<Duration>, Failure> {
    let way = Way::from(EDGE.parse::<Target>()?);
    let mut connection = Connection::open(&way).await?;
    let mut times = Vec::new();
    while Instant::now() < until {
        let began = Instant::now();
        let answer = connection.get(&way, None).await?;
        times.push(began.elapsed());
        if answer.status != 200 {
            return Err(format!("good: {}", answer.status));
        }
        sleep(BREATH).await;
    }
    Ok(times)
}

/// In milliseconds, what 99 of 100 do not exceed.
pub(crate) fn percentile(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    let rank = (times.len() * 99).div_ceil(100).max(1);
    times
        .get(rank - 1)
        .map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
}

/// An upstream that has much to say, and hears each request to its end before it says it.
async fn answer(stream: TcpStream) -> Option<()> {
    let mut stream = BufReader::new(stream);
    while let Some(head) = hear(&mut stream).await {
        let part = vec![b'.'; 64 << 10];
        if head.starts_with("GET /large") {
            let answer = "HTTP/1.1 200 OK\r\ncontent-length: 67108864\r\n\r\n";
            stream.write_all(answer.as_bytes()).await.ok()?;
            for _ in 0..1_024 {
                stream.write_all(&part).await.ok()?;
            }
        } else if head.starts_with("GET /ws") {
            let answer = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n\
                upgrade: websocket\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
            stream.write_all(answer.as_bytes()).await.ok()?;
            let message = [&[0x82, 126, 0x75, 0x30][..], part.get(..30_000)?].concat();
            loop {
                stream.write_all(&message).await.ok()?;
            }
        } else {
            // In one piece: a second one would wait until the first is acknowledged.
            let answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
            let answer = match head.starts_with("HEAD ") {
                true => answer.trim_end_matches("ok"),
                false => answer,
            };
            stream.write_all(answer.as_bytes()).await.ok()?;
        }
        stream.flush().await.ok()?;
    }
    Some(())
}

/// A request's head, once its body has been read.
async fn hear(stream: &mut BufReader<TcpStream>) -> Option<String> {
    let mut head = String::new();
    loop {
        let line = line(stream).await?;
        if line.is_empty() {
            break;
        }
        head = head + &line + "\n";
    }
    let field = |name: &str| {
        let named = |line: &&str| line.to_ascii_lowercase().starts_with(name);
        Some(head.lines().find(named)?.split_once(':')?.1.trim())
    };
    if let Some(length) = field("content-length:") {
        skip(stream, length.parse().ok()?).await?;
    } else if field("transfer-encoding:").is_some() {
        loop {
            let length = u64::from_str_radix(&line(stream).await?, 16).ok()?;
            if length == 0 {
                while !line(stream).await?.is_empty() {}
                break;
            }
            skip(stream, length + 2).await?;
        }
    }
    Some(head)
}

async fn line(stream: &mut BufReader<TcpStream>) -> Option<String> {
    const LONGEST: u64 = 64 << 10;
    let mut line = Vec::new();
    stream
        .take(LONGEST)
        .read_until(b'\n', &mut line)
        .await
        .ok()?;
    let line = line.strip_suffix(b"\r\n")?;
    Some(String::from_utf8_lossy(line).into_owned())
}

async fn skip(stream: &mut BufReader<TcpStream>, length: u64) -> Option<()> {
    let read = tokio::io::copy(&mut stream.take(length), &mut tokio::io::sink()).await;
    (read.ok()? == length).then_some(())
}
