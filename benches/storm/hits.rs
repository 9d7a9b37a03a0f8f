//! Hits among one object and among a million: does a hit cost the same?

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use clap::Args;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::admin::Admin;
use crate::fill::{CONNECTIONS, Objects};
use crate::http1::Connection;
use crate::origin::{Answers, Place};
use crate::process::Process;
use crate::report::{Counts, Report, add, count};
use crate::target::{Failure, Way, fresh};

/// See the module.
#[derive(Args, Debug, Clone)]
#[command(after_long_help = concat!("edge runs with this:\n\n", include_str!("cache.toml")))]
pub(crate) struct Hits {
    #[command(flatten)]
    way: Way,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    admin: Admin,
    /// Among how many objects, one measurement after the other; the ratios are to the first.
    #[arg(long, value_delimiter = ',', default_value = "1,1000,1000000",
          value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    objects: Vec<u64>,
    /// Bytes in each of them.
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(0..=1_048_576))]
    size: u32,
    /// How long each measurement takes.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// How often each is measured, taking turns; the median counts.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// The process whose time is read (edge's).
    #[arg(long)]
    pid: Process,
}

/// How many times the CPU of a hit among the fewest a hit among more may cost.
const MOST: f64 = 1.5;

impl Hits {
    pub(crate) async fn run(self) -> Report {
        let mut report = Report::default();
        let done = self.load(&mut report).await;
        report.done(done);
        report
    }

    async fn load(&self, report: &mut Report) -> Result<(), Failure> {
        let size = usize::try_from(self.size).unwrap_or(usize::MAX);
        let answers = Answers {
            after: Duration::ZERO,
            size,
            kept: true,
        };
        let origin = self.place.answer(answers)?;
        let way = self.way.to(&fresh(&self.way.target.path));
        let objects = Objects { way, size };
        self.fill(&objects, report).await?;
        let mut costs = vec![Vec::new(); self.objects.len()];
        let (mut lost, mut hits, fetched) = (Counts::new(), 0, origin.requests());
        for _ in 0..self.rounds {
            for (among, costs) in self.objects.iter().zip(&mut costs) {
                let (answers, cost) = self.measure(&objects, *among, &mut lost).await?;
                hits += answers;
                costs.push(cost);
            }
        }
        report.row("hits", hits);
        report.failures("lost", &lost);
        report.fault("not hits", origin.requests() - fetched);
        self.report(costs, report);
        Ok(())
    }

    async fn fill(&self, objects: &Objects, report: &mut Report) -> Result<(), Failure> {
        let before = report.memory(self.pid, "before");
        let most = self.objects.iter().copied().max().unwrap_or(1);
        let filling = objects
            .clone()
            .read_all(0..most, Arc::new(AtomicU64::new(0)));
        report.failures("not filled", &filling.await);
        let after = report.memory(self.pid, "filled");
        let stock = self.admin.stock().await?;
        report.number("edge_cache_entries", stock.entries);
        report.number(
            "edge_cache_bytes each",
            stock.bytes / stock.entries.max(1.0),
        );
        if let Some((before, after)) = before.zip(after) {
            let grown = after.saturating_sub(before) as f64 * 1_024.0;
            report.number("memory bytes each", grown / stock.entries.max(1.0));
        }
        Ok(())
    }

    /// How many answers there were among so many objects, and what each cost in µs of CPU.
    async fn measure(
        &self,
        objects: &Objects,
        among: u64,
        lost: &mut Counts,
    ) -> Result<(u64, f64), Failure> {
        let mut open = Vec::new();
        for _ in 0..CONNECTIONS {
            open.push(Connection::open(&self.way).await?);
        }
        let before = self.pid.cpu().ok_or("no CPU time")?;
        let end = Instant::now() + Duration::from_secs(self.seconds);
        let mut reading = JoinSet::new();
        for (seed, open) in (1..).zip(open) {
            reading.spawn(read(objects.clone(), open, Random(seed), among, end));
        }
        let mut answers = 0;
        while let Some(read) = reading.join_next().await {
            let (hits, failed) = read.unwrap_or_default();
            answers += hits;
            add(lost, failed);
        }
        let spent = self.pid.cpu().ok_or("no CPU time")?.saturating_sub(before);
        Ok((answers, spent.as_secs_f64() * 1e6 / answers.max(1) as f64))
    }

    fn report(&self, costs: Vec<Vec<f64>>, report: &mut Report) {
        let mut first = None;
        for (among, mut costs) in self.objects.iter().zip(costs) {
            costs.sort_unstable_by(f64::total_cmp);
            let median = costs.get(costs.len() / 2).copied();
            for (which, cost) in [("least", costs.first()), ("most", costs.last())] {
                let cost = cost.copied().unwrap_or(f64::NAN);
                report.number(&format!("CPU us a hit among {among}, {which}"), cost);
            }
            let cost = median.unwrap_or(f64::NAN);
            report.number(&format!("CPU us a hit among {among}, median"), cost);
            let ratio = median.map(|median| median / *first.get_or_insert(median));
            report.at_most(&format!("times the first, among {among}"), ratio, MOST);
        }
    }
}

/// Reads objects at random until then; how many, and what was lost.
async fn read(
    objects: Objects,
    mut open: Connection,
    mut random: Random,
    among: u64,
    end: Instant,
) -> (u64, Counts) {
    let (mut hits, mut lost) = (0, Counts::new());
    while Instant::now() < end {
        if let Err(failure) = objects.read(&mut open, random.next() % among).await {
            count(&mut lost, failure);
            break;
        }
        hits += 1;
    }
    (hits, lost)
}

/// Numbers without a pattern that matters here (`SplitMix64`).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}
