//! Server-sent events through edge: how much later does each arrive?

use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use clap::Args;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{interval, timeout};

use crate::bodies::{ADMIN, EDGE, UPSTREAM};
use crate::child::{Edge, Program, config};
use crate::origin::{listen, place};
use crate::report::{Counts, Report, count};
use crate::target::{Failure, PATIENCE, Target, Way};

/// See the module.
#[derive(Args, Debug, Clone)]
pub(crate) struct Events {
    #[command(flatten)]
    program: Program,
    /// edge's configuration.
    #[arg(long, value_name = "FILE", default_value_os_t = config("streams.toml"))]
    config: PathBuf,
    /// How many clients listen at once.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    clients: u32,
    /// For how long, each way.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    seconds: u64,
}

/// An event each.
const EVERY: Duration = Duration::from_millis(20);
/// 99 of 100 arrive within so many milliseconds.
const MOST: f64 = 5.0;

/// The time of an event is told since this.
static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

impl Events {
    pub(crate) async fn run(self) -> Report {
        let mut report = Report::default();
        let loaded = self.load(&mut report).await;
        report.done(loaded);
        report
    }

    async fn load(&self, report: &mut Report) -> Result<(), Failure> {
        LazyLock::force(&EPOCH);
        let listener = listen(place(UPSTREAM)?);
        let listener = listener.map_err(|error| format!("upstream: {}", error.kind()))?;
        let upstream = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(send(stream));
            }
        });
        let _edge = Edge::start(&self.program, &self.config, ADMIN).await?;
        let direct = format!("http://{UPSTREAM}/");
        for (name, url, most) in [
            ("directly", direct.as_str(), None),
            ("through edge", EDGE, Some(MOST)),
        ] {
            let way = Way::from(url.parse::<Target>()?);
            let mut listening: JoinSet<_> = (0..self.clients)
                .map(|_| hear(way.clone(), Duration::from_secs(self.seconds)))
                .collect();
            let (mut times, mut failures) = (Vec::new(), Counts::new());
            while let Some(heard) = listening.join_next().await {
                match heard {
                    Ok(Ok(heard)) => times.extend(heard),
                    Ok(Err(failure)) => count(&mut failures, failure),
                    Err(_) => count(&mut failures, "broken off".to_owned()),
                }
            }
            report.row(&format!("events {name}"), times.len());
            report.failures(&format!("failed {name}"), &failures);
            if let Some(most) = most {
                report.at_most(&format!("{name} p99 ms"), p99(&times), most);
            }
            report.times(name, times);
        }
        upstream.abort();
        Ok(())
    }
}

fn p99(times: &[Duration]) -> Option<f64> {
    let mut times = times.to_vec();
    times.sort_unstable();
    let place = (times.len() * 99).div_ceil(100).checked_sub(1)?;
    times.get(place).map(|time| time.as_secs_f64() * 1e3)
}

/// Sends an event each so often, with the time.
async fn send(mut stream: TcpStream) -> Option<()> {
    let mut buffer = Vec::new();
    stream.set_nodelay(true).ok()?;
    crate::origin::read_path(&mut stream, &mut buffer).await?;
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\
                cache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await.ok()?;
    let mut ticks = interval(EVERY);
    loop {
        ticks.tick().await;
        let event = format!("data: {}\n\n", EPOCH.elapsed().as_nanos());
        let chunk = format!("{:x}\r\n{event}\r\n", event.len());
        stream.write_all(chunk.as_bytes()).await.ok()?;
    }
}

/// How long each event took.
async fn hear(way: Way, time: Duration) -> Result<Vec<Duration>, Failure> {
    let mut stream = way.connect().await?;
    let (path, host) = (&way.target.path, &way.target.authority);
    let request =
        format!("GET {path} HTTP/1.1\r\nhost: {host}\r\naccept: text/event-stream\r\n\r\n");
    let sent = stream.write_all(request.as_bytes()).await;
    sent.map_err(|error| format!("send: {}", error.kind()))?;
    let until = Instant::now() + time;
    let (mut buffer, mut times) = (Vec::new(), Vec::new());
    while Instant::now() < until {
        let read = timeout(PATIENCE, stream.read_buf(&mut buffer)).await;
        match read.map_err(|_| "event: timeout")? {
            Ok(0) => return Err("event: closed".to_owned()),
            Ok(_) => take(&mut buffer, EPOCH.elapsed(), &mut times)?,
            Err(error) => return Err(format!("event: {}", error.kind())),
        }
    }
    Ok(times)
}

/// Takes the events that are whole out of what has come; heads and chunks' sizes lie between.
fn take(buffer: &mut Vec<u8>, now: Duration, times: &mut Vec<Duration>) -> Result<(), Failure> {
    while let Some(end) = buffer.windows(2).position(|two| two == b"\n\n") {
        let event: Vec<u8> = buffer.drain(..end + 2).collect();
        let text = String::from_utf8(event).map_err(|_| "event: no text")?;
        let sent = text.split_once("data: ").map(|(_, sent)| sent.trim_end());
        let sent = sent.and_then(|sent| sent.parse().ok());
        let sent = Duration::from_nanos(sent.ok_or("event: no time")?);
        times.push(now.saturating_sub(sent));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_found_among_heads_and_chunks() {
        let mut buffer =
            b"HTTP/1.1 200 OK\r\n\r\n9\r\ndata: 5\n\n\r\n9\r\ndata: 7\n\n\r\n9\r\nda".to_vec();
        let mut times = Vec::new();
        take(&mut buffer, Duration::from_nanos(10), &mut times).unwrap();
        assert_eq!(times, [Duration::from_nanos(5), Duration::from_nanos(3)]);
        assert_eq!(buffer, b"\r\n9\r\nda");
    }

    #[test]
    fn one_of_a_hundred_may_be_late() {
        let times: Vec<_> = (1..=200).map(Duration::from_millis).collect();
        assert_eq!(p99(&times), Some(198.0));
        assert_eq!(p99(&[]), None);
    }
}
