//! What took how long, second by second. Every time is kept, so that no percentile is a guess.

use std::time::Duration;

use crate::counts::{Counts, add, count};
use crate::offer::MOST_SECONDS;
use crate::quantile::Quantiles;
use crate::reason::is_limit;

/// What came of one kind of thing that was asked for.
#[derive(Debug, Clone, Default)]
pub struct Series {
    seconds: Vec<Second>,
    /// What failed, by kind.
    pub errors: Counts,
    /// What a limit did not let through, by kind.
    pub limited: Counts,
    /// When the last one came, since the beginning.
    last: Duration,
}

/// What was due in one second.
#[derive(Debug, Clone, Default)]
struct Second {
    /// In microseconds.
    times: Vec<u32>,
    failed: u32,
    limited: u32,
}

/// One second, as it is shown.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shown {
    /// Counted from the beginning.
    pub second: usize,
    /// How many came well of those that were due in it.
    pub done: usize,
    /// How many failed.
    pub failed: u32,
    /// How many a limit did not let through.
    pub limited: u32,
    /// In milliseconds.
    pub times: Option<Quantiles<f64>>,
}

impl Series {
    /// One that came well; `due` since the beginning. It belongs to the second in which it was due:
    /// what a stall holds up shows where the stall began.
    pub fn note(&mut self, due: Duration, took: Duration) {
        let micros = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
        self.second(due).times.push(micros);
        self.last = self.last.max(due + took);
    }

    /// One that did not.
    pub fn lose(&mut self, due: Duration, word: String) {
        let limited = is_limit(&word);
        let second = self.second(due);
        second.failed += u32::from(!limited);
        second.limited += u32::from(limited);
        self.complain(word);
    }

    /// Something that went wrong apart from all that was due.
    pub fn complain(&mut self, word: String) {
        let limited = is_limit(&word);
        let counts = if limited {
            &mut self.limited
        } else {
            &mut self.errors
        };
        count(counts, word);
    }

    /// Adds what another has met.
    pub fn add(&mut self, other: Self) {
        for (number, second) in other.seconds.into_iter().enumerate() {
            let here = self.numbered(number);
            here.times.extend(second.times);
            here.failed += second.failed;
            here.limited += second.limited;
        }
        add(&mut self.errors, other.errors);
        add(&mut self.limited, other.limited);
        self.last = self.last.max(other.last);
    }

    /// How many came well.
    pub fn done(&self) -> usize {
        self.seconds.iter().map(|second| second.times.len()).sum()
    }

    /// When the last one came, since the beginning.
    pub fn last(&self) -> Duration {
        self.last
    }

    /// Over all of it, in milliseconds; `None` where nothing came.
    pub fn quantiles(&self) -> Option<Quantiles<f64>> {
        let all = self.seconds.iter().flat_map(|second| &second.times);
        Some(Quantiles::of(all.copied().collect())?.map(millis))
    }

    /// Second by second.
    pub fn shown(&self) -> impl Iterator<Item = Shown> {
        let seconds = self.seconds.iter().enumerate();
        seconds.map(|(number, second)| Shown {
            second: number,
            done: second.times.len(),
            failed: second.failed,
            limited: second.limited,
            times: Quantiles::of(second.times.clone()).map(|times| times.map(millis)),
        })
    }

    fn second(&mut self, due: Duration) -> &mut Second {
        let most = usize::try_from(MOST_SECONDS).unwrap_or(usize::MAX);
        let number = usize::try_from(due.as_secs()).unwrap_or(most);
        self.numbered(number.min(most))
    }

    #[expect(clippy::indexing_slicing, reason = "it was made long enough just now")]
    fn numbered(&mut self, number: usize) -> &mut Second {
        if self.seconds.len() <= number {
            self.seconds.resize_with(number + 1, Second::default);
        }
        &mut self.seconds[number]
    }
}

fn millis(micros: u32) -> f64 {
    f64::from(micros) / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_time_belongs_to_the_second_in_which_it_was_due() {
        let mut series = Series::default();
        series.note(ms(999), ms(5_000));
        series.note(ms(2_000), ms(1));
        let done: Vec<_> = series.shown().map(|shown| shown.done).collect();
        assert_eq!(done, [1, 0, 1]);
        assert_eq!(series.last(), ms(5_999));
        assert_eq!(series.quantiles().unwrap().max, 5_000.0);
    }

    #[test]
    fn a_refusal_is_fast_and_flatters_no_percentile() {
        let mut series = Series::default();
        series.note(ms(0), ms(40));
        for _ in 0..99 {
            series.lose(ms(1), "429 client_limit".to_owned());
        }
        assert_eq!(series.quantiles().unwrap().p50, 40.0);
        assert_eq!((series.done(), series.errors.len()), (1, 0));
        assert_eq!(series.limited["429 client_limit"], 99);
        let shown = series.shown().next().unwrap();
        assert_eq!((shown.limited, shown.failed), (99, 0));
    }

    #[test]
    fn two_series_are_added_second_by_second() {
        let mut one = Series::default();
        one.note(ms(0), ms(10));
        let mut other = Series::default();
        other.note(ms(10), ms(30));
        other.lose(ms(1_500), "answer: closed".to_owned());
        one.add(other);
        let shown: Vec<_> = one.shown().collect();
        assert_eq!((shown[0].done, shown[1].failed), (2, 1));
        assert_eq!(shown[0].times.unwrap().max, 30.0);
        assert_eq!(shown[1].times, None);
        assert_eq!(one.errors["answer: closed"], 1);
    }
}
