//! How late this program itself is: so much of each time is not the system's.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::schedule::Schedule;
use crate::series::Series;

/// How often it is looked at.
const BEATS: u32 = 200;

/// Wakes at its moments as all else here does, and does nothing: how late is it? It beats on where
/// requests only wait, so that a machine that stands still can be told from a system that does.
pub async fn lateness((start, total): (Instant, Duration)) -> Series {
    let mut late = Series::default();
    let Some(beats) = Schedule::new(BEATS) else {
        return late;
    };
    for number in 0..beats.before(total) {
        let moment = beats.moment(number);
        sleep_until(start + moment).await;
        late.note(moment, (start + moment).elapsed());
    }
    late
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_program_that_stands_still_is_late() {
        let total = Duration::from_millis(100);
        let blocked = async {
            sleep_until(Instant::now() + Duration::from_millis(20)).await;
            std::thread::sleep(Duration::from_millis(50));
        };
        let (late, ()) = tokio::join!(lateness((Instant::now(), total)), blocked);
        assert_eq!(late.done(), 20);
        assert!(late.quantiles().unwrap().max >= 40.0);
    }
}
