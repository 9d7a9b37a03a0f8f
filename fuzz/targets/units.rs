//! What is read is never nothing, and written plainly it is read as the same.

#![no_main]

use edge::limit::Quota;
use edge::units;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(duration) = units::duration(text) {
        assert!(!duration.is_zero());
        if u32::try_from(duration.as_millis()).is_ok() {
            let plain = format!("{}ms", duration.as_millis());
            assert_eq!(units::duration(&plain), Ok(duration));
        }
    }
    if let Ok(size) = units::size(text) {
        assert!(size > 0);
        assert_eq!(units::size(&format!("{size}B")), Ok(size));
    }
    if let Ok(percentage) = units::percentage(text) {
        assert!((1..=100).contains(&percentage));
        assert_eq!(units::percentage(&format!("{percentage}%")), Ok(percentage));
    }
    if let Ok(rate) = units::rate(text) {
        assert!(rate.count > 0 && !rate.per.is_zero());
        let quota = Quota::new(rate.count, rate.per, rate.count);
        let _ = quota.to_string();
        // From an empty past one request fits, and what it uses comes back within the time.
        let full = quota.take(0, 0).expect("a fresh bucket is full");
        assert!(u128::from(full) <= rate.per.as_nanos());
    }
});
