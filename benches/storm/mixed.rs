//! Good clients among all that is hostile, for long: they notice nothing, and edge is in the end what it was.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use clap::Args;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::child::{Edge, Program, config};
use crate::process::SETTLE;
use crate::report::Report;
use crate::slow::{self, ADMIN, Kind, PREFACE, SERVED, frame, kinds, percentile, serve};
use crate::target::Failure;
use crate::units;

/// The requests with which the gateway's own tests try to hide one in another.
#[expect(
    dead_code,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "it reads files of ours, for tests, which look at more of an entry"
)]
#[path = "../../edge/tests/corpus/read.rs"]
mod corpus;

/// See the module.
#[derive(Args, Debug, Clone)]
pub(crate) struct Mixed {
    #[command(flatten)]
    program: Program,
    /// How long.
    #[arg(long, value_name = "TIME", default_value = "600s", value_parser = units::duration)]
    length: Duration,
    /// How many hostile clients at once.
    #[arg(long, default_value_t = 400, value_parser = clap::value_parser!(u32).range(1..=900))]
    count: u32,
}

/// A hostile client stays no longer, whatever it does.
const STAY: Duration = Duration::from_secs(15);
/// edge's own connections to an upstream are closed after 20 s without a request.
const POOLED: Duration = Duration::from_secs(25);
/// How often memory is looked at.
const GLANCE: Duration = Duration::from_secs(5);
/// In the last third of the time edge may hold so much more than in the first, in KiB.
const MORE: f64 = 16_384.0;
/// The good wait for the machine as well, which hostile clients keep busy.
const TIMES: f64 = 2.0;
const NOISE: f64 = 10.0;
/// Tokens that nobody has signed are tried here.
const TOKENS: &str = "\n[auth.storm]\ntype = \"jwt\"\nsecret = { file = \"secret\" }\nalgorithms = [\"HS256\"]\n\
    [[route]]\npath = \"/token\"\nupstream = \"storm\"\nauth = \"storm\"\n\n";

/// What a hostile client does.
#[derive(Clone)]
enum Deed {
    /// One of the slow kinds.
    Slow(Kind),
    /// What could be read in two ways, in parts.
    Raw(Vec<Vec<u8>>),
    /// Frames of HTTP/2 that are no requests.
    Flood(Vec<u8>),
    /// Goes in the middle of an answer.
    Leave,
    /// Shows a token that nobody has signed.
    Forge,
}

impl Deed {
    fn name(&self) -> &'static str {
        match self {
            Self::Slow(_) => "slow",
            Self::Raw(_) => "raw",
            Self::Flood(_) => "flood",
            Self::Leave => "leave",
            Self::Forge => "forge",
        }
    }

    async fn run(self) -> std::io::Result<()> {
        let (parts, most) = match self {
            Self::Slow(kind) => {
                if let Ok(stream) = kind.connect().await {
                    kind.drip(stream).await;
                }
                return Ok(());
            }
            Self::Raw(parts) => (parts, 64 << 10),
            Self::Flood(frames) => (vec![frames], 64 << 10),
            Self::Leave => (
                vec![b"GET /large HTTP/1.1\r\nhost: a\r\n\r\n".to_vec()],
                20_000,
            ),
            Self::Forge => {
                let head = "GET /token HTTP/1.1\r\nhost: a\r\nauthorization: Bearer";
                let token = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.AAAA";
                (vec![format!("{head} {token}\r\n\r\n").into_bytes()], 200)
            }
        };
        let mut stream = TcpStream::connect(("127.0.0.1", slow::CLEAR)).await?;
        for part in parts {
            stream.write_all(&part).await?;
        }
        let mut read = 0;
        let mut answer = vec![0; 8 << 10];
        while read < most {
            match timeout(SETTLE, stream.read(&mut answer)).await {
                Ok(Ok(more)) if more > 0 => read += more,
                _ => break,
            }
        }
        Ok(())
    }
}

/// Each of the slow kinds, each entry of the corpus, and the rest as often as all the slow ones.
fn deeds() -> Vec<Deed> {
    let ping = frame(6, 0, 0, &[0; 8]);
    let settings = frame(4, 0, 0, &[]);
    let flood = |frame: &[u8]| Deed::Flood([PREFACE, &settings, &frame.repeat(2_000)].concat());
    let slow: Vec<_> = kinds().into_iter().map(Deed::Slow).collect();
    let raw = corpus::corpus()
        .into_iter()
        .map(|entry| Deed::Raw(entry.parts));
    let others = [flood(&ping), flood(&settings), Deed::Leave, Deed::Forge];
    let times = |deeds: &[Deed], count| deeds.iter().cycle().take(count).cloned().collect();
    let all: [Vec<_>; 3] = [
        times(&slow, 6 * slow.len()),
        raw.collect(),
        times(&others, 2 * slow.len()),
    ];
    all.concat()
}

impl Mixed {
    pub(crate) async fn run(self) -> Report {
        let mut report = Report::default();
        let loaded = self.load(&mut report).await;
        report.done(loaded);
        report
    }

    async fn load(&self, report: &mut Report) -> Result<(), Failure> {
        let text = slow::read(&config("slow.toml"))?;
        let routes = text.find("[[route]]").ok_or("config: no route")?;
        let (settings, routes) = text.split_at(routes);
        let (authority, file) = slow::place_of(&[settings, TOKENS, routes].concat())?;
        let secret = fs::write(authority.folder.join("secret"), [b'.'; 32]);
        secret.map_err(|error| format!("secret: {}", error.kind()))?;
        let upstream = slow::upstream()?;
        let edge = Edge::start(&self.program, &file, ADMIN).await?;
        serve(SERVED).await?;
        sleep(SETTLE).await;
        let before = edge.process().files();
        report.memory(edge.process(), "before");
        let alone = serve(Duration::from_secs(5)).await?;
        let usual = percentile(alone.clone());
        report.times("good alone", alone);

        let good = tokio::spawn(serve(self.length));
        let (done, memory) = self.harass(&edge).await;
        let good = good.await.map_err(|_| "broken off")??;
        for (name, count) in done {
            report.row(&format!("hostile: {name}"), count);
        }
        let tail = percentile(good.clone());
        report.times("good", good);
        let most = (TIMES * usual).max(NOISE);
        report.at_most("good p99 ms", Some(tail), most.round());

        let third = (memory.len() / 3).max(1);
        let most = |some: &[u64]| some.iter().max().copied().unwrap_or(0);
        let first = most(memory.get(..third).unwrap_or_default());
        let last = most(memory.get(memory.len() - third..).unwrap_or_default());
        report.row("memory KiB at most, first third", first);
        report.row("memory KiB at most, last third", last);
        let grown = last as f64 - first as f64;
        report.at_most("memory KiB grown", Some(grown), MORE);

        serve(SERVED).await?;
        sleep(POOLED).await;
        report.memory(edge.process(), "after");
        let after = edge.process().files();
        let left = before
            .zip(after)
            .map(|(before, after)| after as f64 - before as f64);
        report.at_most("files more after", left, 0.0);
        drop(authority);
        upstream.abort();
        Ok(())
    }

    /// Until the time is over; what was done how often, and edge's memory meanwhile.
    async fn harass(&self, edge: &Edge) -> (BTreeMap<&'static str, u64>, Vec<u64>) {
        let deeds = deeds();
        let until = Instant::now() + self.length;
        let mut done = BTreeMap::new();
        let mut memory = Vec::new();
        let mut hostile = JoinSet::new();
        let mut look = Instant::now();
        let mut chance = fastrand::Rng::with_seed(6);
        while Instant::now() < until {
            while hostile.len() < usize::try_from(self.count).unwrap_or(1) {
                let Some(deed) = chance.choice(&deeds).cloned() else {
                    break;
                };
                *done.entry(deed.name()).or_default() += 1;
                // What becomes of it is edge's log's matter.
                hostile.spawn(async { drop(timeout(STAY, deed.run()).await) });
            }
            let _ = timeout(GLANCE, hostile.join_next()).await;
            if look.elapsed() >= GLANCE {
                look = Instant::now();
                memory.extend(edge.process().resident());
            }
        }
        hostile.abort_all();
        (done, memory)
    }
}
