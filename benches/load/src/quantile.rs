//! The value that so many of all do not exceed.

/// By the nearest rank: always one of the values, never one between two. They are in order.
pub fn quantile<T: Copy>(sorted: &[T], percent: usize) -> Option<T> {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

/// Median, tail and worst.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quantiles<T> {
    /// Half take no longer.
    pub p50: T,
    /// 95 of 100 take no longer.
    pub p95: T,
    /// 99 of 100 take no longer.
    pub p99: T,
    /// None takes longer.
    pub max: T,
}

impl<T: Copy + Ord> Quantiles<T> {
    /// Of these, in whatever order; `None` of nothing.
    pub fn of(mut values: Vec<T>) -> Option<Self> {
        values.sort_unstable();
        Some(Self {
            p50: quantile(&values, 50)?,
            p95: quantile(&values, 95)?,
            p99: quantile(&values, 99)?,
            max: quantile(&values, 100)?,
        })
    }

    /// The same in another unit.
    pub fn map<U>(self, unit: impl Fn(T) -> U) -> Quantiles<U> {
        Quantiles {
            p50: unit(self.p50),
            p95: unit(self.p95),
            p99: unit(self.p99),
            max: unit(self.max),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_the_value_that_so_many_do_not_exceed() {
        let values: Vec<_> = (1..=200).collect();
        let at = |percent| quantile(&values, percent);
        assert_eq!((at(50), at(95), at(100)), (Some(100), Some(190), Some(200)));
        assert_eq!(quantile::<u8>(&[], 50), None);
    }

    #[test]
    fn order_does_not_matter_and_one_value_is_all_of_them() {
        let quantiles = Quantiles::of((1..=100).rev().collect()).unwrap();
        let all = (quantiles.p50, quantiles.p95, quantiles.p99, quantiles.max);
        assert_eq!(all, (50, 95, 99, 100));
        let one = Quantiles::of(vec![7]).unwrap();
        assert_eq!((one.p50, one.p95, one.p99, one.max), (7, 7, 7, 7));
        assert_eq!(Quantiles::<u32>::of(Vec::new()), None);
    }
}
