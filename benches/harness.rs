//! How each bench measures: shortly, so that all of them together end within two minutes.

use std::time::Duration;

use criterion::Criterion;

/// A fifth of a second to warm up, half a second to measure.
pub(crate) fn short() -> Criterion {
    Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(500))
}
