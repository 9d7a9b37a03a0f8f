//! Large bodies on their way through edge: they pass, and edge does not hold them.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{interval, sleep, timeout};

use crate::child::{Edge, Program, config};
use crate::origin::{listen, place};
use crate::process::{Process, SETTLE};
use crate::report::Report;
use crate::target::{Failure, Target, Way};

/// See the module.
#[derive(Args, Debug, Clone)]
pub(crate) struct Bodies {
    #[command(flatten)]
    program: Program,
    /// edge's configuration.
    #[arg(long, value_name = "FILE", default_value_os_t = config("streams.toml"))]
    config: PathBuf,
    /// MiB of a body.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4_096))]
    size: u32,
    /// How many clients at once, half of them sending and half of them reading.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(2..=100))]
    clients: u32,
}

#[derive(Debug, Clone, Copy)]
enum Direction {
    Up,
    Down,
}

pub(crate) const EDGE: &str = "http://127.0.0.1:19120/";
pub(crate) const ADMIN: &str = "http://127.0.0.1:19121";
pub(crate) const UPSTREAM: &str = "127.0.0.1:19122";

const MIB: u64 = 1 << 20;
/// One transfer may cost edge so many KiB.
const MOST: f64 = 2_048.0;
/// How often memory is read.
const GLANCE: Duration = Duration::from_millis(10);
/// How long all transfers together may take.
const LONGEST: Duration = Duration::from_secs(240);

impl Bodies {
    pub(crate) async fn run(self) -> Report {
        let mut report = Report::default();
        let loaded = self.load(&mut report).await;
        report.done(loaded);
        report
    }

    async fn load(&self, report: &mut Report) -> Result<(), Failure> {
        let listener = listen(place(UPSTREAM)?);
        let listener = listener.map_err(|error| format!("upstream: {}", error.kind()))?;
        let upstream = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream));
            }
        });
        let edge = Edge::start(&self.program, &self.config, ADMIN).await?;
        let size = u64::from(self.size) * MIB;
        // Both threads have worked before, and memory is what it is when idle.
        self.transfer("warm", &[Direction::Up, Direction::Down].repeat(4), MIB)
            .await?;
        sleep(SETTLE).await;
        for (name, directions, most) in [
            ("upload", vec![Direction::Up], Some(MOST)),
            ("download", vec![Direction::Down], Some(MOST)),
            ("all at once", self.both(), None),
        ] {
            let before = report.memory(edge.process(), &format!("before {name}"));
            let watch = Watch::begin(edge.process());
            let began = Instant::now();
            self.transfer(name, &directions, size).await?;
            let took = began.elapsed().as_secs_f64();
            let highest = watch.end().await;
            report.row(&format!("memory KiB during {name}, highest"), highest);
            let all = size / MIB * directions.len() as u64;
            report.number(&format!("{name}, MiB a second"), all as f64 / took);
            let grown = before
                .zip(highest)
                .map(|(before, highest)| highest as f64 - before as f64);
            let grown = grown.map(|grown| grown.max(0.0));
            match most {
                Some(most) => report.at_most(&format!("memory KiB more for {name}"), grown, most),
                None => report.row(&format!("memory KiB more for {name}"), grown),
            }
            sleep(SETTLE).await;
        }
        report.memory(edge.process(), "after");
        upstream.abort();
        Ok(())
    }

    fn both(&self) -> Vec<Direction> {
        let directions = [Direction::Up, Direction::Down].into_iter().cycle();
        (0..self.clients)
            .zip(directions)
            .map(|(_, direction)| direction)
            .collect()
    }

    async fn transfer(&self, name: &str, all: &[Direction], size: u64) -> Result<(), Failure> {
        let way = Way::from(EDGE.parse::<Target>()?);
        let mut transfers: JoinSet<_> = all
            .iter()
            .map(|direction| pass(way.clone(), *direction, size))
            .collect();
        let all = async {
            while let Some(passed) = transfers.join_next().await {
                passed
                    .map_err(|_| "broken off")?
                    .map_err(|why| format!("{name}: {why}"))?;
            }
            Ok(())
        };
        timeout(LONGEST, all)
            .await
            .map_err(|_| format!("{name}: timeout"))?
    }
}

/// Reads a process's memory until it is told to end.
struct Watch {
    highest: JoinHandle<()>,
    figure: Arc<AtomicU64>,
}

impl Watch {
    fn begin(process: Process) -> Self {
        let figure = Arc::<AtomicU64>::default();
        let own = figure.clone();
        let highest = tokio::spawn(async move {
            let mut ticks = interval(GLANCE);
            loop {
                ticks.tick().await;
                let resident = process.resident().unwrap_or(0);
                own.fetch_max(resident, Ordering::Relaxed);
            }
        });
        Self { highest, figure }
    }

    async fn end(self) -> Option<u64> {
        self.highest.abort();
        let _ = self.highest.await;
        let figure = self.figure.load(Ordering::Relaxed);
        (figure > 0).then_some(figure)
    }
}

/// One body, there or back.
async fn pass(way: Way, direction: Direction, size: u64) -> Result<(), Failure> {
    let mut stream = way.connect().await?;
    let broken = |error: std::io::Error| error.kind().to_string();
    let (start, sent) = match direction {
        Direction::Up => (
            format!("PUT / HTTP/1.1\r\ncontent-length: {size}\r\n"),
            size,
        ),
        Direction::Down => (format!("GET /{size} HTTP/1.1\r\n"), 0),
    };
    let head = format!("{start}host: storm\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await.map_err(broken)?;
    fill(&mut stream, sent).await.map_err(broken)?;
    let (head, begun) = read_head(&mut stream).await.ok_or("no answer")?;
    if !head.starts_with("HTTP/1.1 200") {
        return Err(head.lines().next().unwrap_or_default().to_owned());
    }
    let rest = begun + drain(&mut stream, u64::MAX).await;
    match direction {
        Direction::Up if rest == 0 => Ok(()),
        Direction::Down if rest == size => Ok(()),
        _ => Err(format!("{rest} bytes instead of {size}")),
    }
}

/// An upstream that swallows bodies, or sends as much as is asked for.
async fn answer(mut stream: TcpStream) -> Option<()> {
    while let Some((head, begun)) = read_head(&mut stream).await {
        let field = |line: &str| {
            let (name, value) = line.split_once(':')?;
            let is = name.eq_ignore_ascii_case("content-length");
            is.then(|| value.trim().parse::<u64>().ok())?
        };
        let length = head.lines().find_map(field).unwrap_or(0);
        let missing = length.saturating_sub(begun);
        let read = drain(&mut stream, missing).await;
        let path = head.split(' ').nth(1)?;
        let size = path.trim_start_matches('/').parse().unwrap_or(0);
        let status = if read == missing {
            "200 OK"
        } else {
            "400 Bad Request"
        };
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {size}\r\n\r\n");
        stream.write_all(answer.as_bytes()).await.ok()?;
        fill(&mut stream, size).await.ok()?;
    }
    Some(())
}

/// A head, and how much of what follows it came along.
pub(crate) async fn read_head(stream: &mut TcpStream) -> Option<(String, u64)> {
    const LONGEST: usize = 64 << 10;
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let rest = bytes.split_off(end + 4);
            return Some((String::from_utf8(bytes).ok()?, rest.len() as u64));
        }
        if bytes.len() > LONGEST || stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
}

/// Sends so many bytes.
async fn fill(stream: &mut TcpStream, mut left: u64) -> std::io::Result<()> {
    let part = vec![b'.'; 64 << 10];
    while left > 0 {
        let length = usize::try_from(left).map_or(part.len(), |left| left.min(part.len()));
        stream
            .write_all(part.get(..length).unwrap_or_default())
            .await?;
        left -= length as u64;
    }
    Ok(())
}

/// Reads so many bytes, or to the end; how many it were.
async fn drain(stream: &mut TcpStream, most: u64) -> u64 {
    let mut part = vec![0; 64 << 10];
    let mut all = 0;
    while all < most {
        match stream.read(&mut part).await {
            Ok(read) if read > 0 => all += read as u64,
            _ => break,
        }
    }
    all
}
