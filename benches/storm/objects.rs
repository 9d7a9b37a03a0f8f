//! Far more objects than the cache has room for: does memory stay within the bound, and is what
//! is purged asked for again?

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use tokio::time::sleep;

use crate::admin::{Admin, Stock};
use crate::fill::Objects;
use crate::http1::Connection;
use crate::origin::{Answers, Origin, Place, TAGS};
use crate::process::Process;
use crate::report::{Counts, Report, count};
use crate::target::{Failure, Way, fresh};

/// See the module.
#[derive(Args, Debug, Clone)]
#[command(after_long_help = concat!("edge runs with this:\n\n", include_str!("cache.toml")))]
pub(crate) struct Many {
    #[command(flatten)]
    way: Way,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    admin: Admin,
    /// How many, each read once.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    count: u64,
    /// Bytes in each of them.
    #[arg(long, default_value_t = 4_096, value_parser = clap::value_parser!(u32).range(0..=1_048_576))]
    size: u32,
    /// The process whose memory is read (edge's).
    #[arg(long)]
    pid: Process,
    /// What it may hold at most, in MiB.
    #[arg(long, default_value_t = 80, value_parser = clap::value_parser!(u32).range(1..))]
    limit_mib: u32,
    /// Then purge these tags one after the other, as t7,t8,all: `all` is on every object, `t7` on
    /// those whose numbers end so, up to t999.
    #[arg(long, value_name = "TAG", value_delimiter = ',')]
    then_purge: Vec<String>,
}

/// How often memory and metrics are read meanwhile.
const GLANCE: Duration = Duration::from_secs(1);

/// What was seen meanwhile.
#[derive(Default)]
struct Seen {
    highest: Option<u64>,
    /// At 25, 50, 75 and 100 of 100.
    quarters: Vec<Option<u64>>,
    most: Stock,
    failed: Counts,
}

impl Many {
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
        report.memory(self.pid, "before");
        self.fill(&objects, &origin, report).await?;
        if !self.then_purge.is_empty() {
            self.purge(&objects, &origin, report).await?;
        }
        Ok(())
    }

    async fn fill(
        &self,
        objects: &Objects,
        origin: &Origin,
        report: &mut Report,
    ) -> Result<(), Failure> {
        let (start, next) = (Instant::now(), Arc::new(AtomicU64::new(0)));
        let filling = tokio::spawn(objects.clone().read_all(0..self.count, next.clone()));
        let mut seen = Seen::default();
        while !filling.is_finished() {
            self.look(&next, &mut seen).await;
            sleep(GLANCE).await;
        }
        let lost = filling.await.map_err(|_| "broken off")?;
        let seconds = start.elapsed().as_secs_f64();
        self.look(&next, &mut seen).await;
        report.row("objects", self.count);
        report.failures("lost", &lost);
        report.failures("metrics not read", &seen.failed);
        let twice = origin.requests().abs_diff(self.count);
        report.fault("not asked for exactly once", twice);
        report.number("objects a second", self.count as f64 / seconds);
        for (percent, memory) in [25, 50, 75, 100].iter().zip(&seen.quarters) {
            report.row(&format!("memory KiB at {percent} %"), *memory);
        }
        let highest = seen.highest.map(|highest| highest as f64 / 1_024.0);
        let most = f64::from(self.limit_mib);
        report.at_most("memory MiB, highest", highest, most);
        report.number(
            "edge_cache_bytes MiB, highest",
            seen.most.bytes / 1_048_576.0,
        );
        report.number("edge_cache_entries, highest", seen.most.entries);
        report.number("edge_cache_evictions_total", seen.most.evictions);
        Ok(())
    }

    async fn look(&self, next: &AtomicU64, seen: &mut Seen) {
        let memory = self.pid.resident();
        seen.highest = seen.highest.max(memory);
        let quarters = next.load(Ordering::Relaxed).min(self.count) * 4 / self.count;
        while (seen.quarters.len() as u64) < quarters {
            seen.quarters.push(memory);
        }
        match self.admin.stock().await {
            Ok(stock) => seen.most = seen.most.max(stock),
            Err(failure) => count(&mut seen.failed, failure),
        }
    }

    /// Purges one tag after the other and reads, each time, an object that has it.
    async fn purge(
        &self,
        objects: &Objects,
        origin: &Origin,
        report: &mut Report,
    ) -> Result<(), Failure> {
        let mut open = Connection::open(&self.way).await?;
        let (mut purged, mut purges, mut reads) = (0, Vec::new(), Vec::new());
        let (mut not_kept, mut not_purged) = (0, 0);
        for tag in &self.then_purge {
            let number = self.with(tag)?;
            objects.read(&mut open, number).await?;
            let before = origin.requests();
            objects.read(&mut open, number).await?;
            not_kept += origin.requests() - before;
            let (number_purged, time) = self.admin.purge(tag).await?;
            purged += number_purged;
            purges.push(time);
            let (before, start) = (origin.requests(), Instant::now());
            objects.read(&mut open, number).await?;
            reads.push(start.elapsed());
            not_purged += u64::from(origin.requests() == before);
        }
        report.row("purges", self.then_purge.len());
        report.row("purged", purged);
        report.fault("not kept before its purge", not_kept);
        report.fault("still there after its purge", not_purged);
        report.times("purge", purges);
        report.times("next read", reads);
        Ok(())
    }

    /// The last object that has this tag.
    fn with(&self, tag: &str) -> Result<u64, Failure> {
        let last = self.count - 1;
        if tag == "all" {
            return Ok(last);
        }
        let number = tag.strip_prefix('t').and_then(|number| number.parse().ok());
        let number: u64 = number.ok_or_else(|| format!("no object has the tag {tag}"))?;
        let back = (last + TAGS - number % TAGS) % TAGS;
        last.checked_sub(back)
            .filter(|_| number < TAGS)
            .ok_or_else(|| format!("no object has the tag {tag}"))
    }
}
