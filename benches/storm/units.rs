//! How long, in the words that edge's configuration has for it.

use std::time::Duration;

/// Reads `250ms` or `10s`: more than nothing, an hour at most.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "expected a duration such as 250ms or 10s, an hour at most".to_owned();
    let (number, unit) = text
        .find(|letter: char| !letter.is_ascii_digit())
        .and_then(|end| text.split_at_checked(end))
        .ok_or_else(wrong)?;
    let number = number.parse().map_err(|_| wrong())?;
    let time = match unit {
        "ms" => Duration::from_millis(number),
        "s" => Duration::from_secs(number),
        _ => return Err(wrong()),
    };
    let bounds = Duration::from_millis(1)..=Duration::from_secs(3_600);
    bounds.contains(&time).then_some(time).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_has_a_unit_and_bounds() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("10s"), Ok(Duration::from_secs(10)));
        for text in ["", "10", "s", "0s", "1h", "3601s", "-1s", "1 s", "1ſ"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
