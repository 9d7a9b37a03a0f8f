//! The texts with units that a configuration is written in: `"3s"`, `"10/s"`, `"64MiB"`, `"10%"`.
//!
//! Each error is a fragment that says what would have been right.

use std::time::Duration;

/// So many per so long, as written: `"10/s"`, `"600/m"`, `"5/10s"`. Neither part is zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// How many.
    pub count: u64,
    /// Within which time.
    pub per: Duration,
}

/// The most that one may ask for: one a nanosecond, the clock's own grain.
pub const MOST_PER_SECOND: u64 = 1_000_000_000;

/// Reads `"250ms"`, `"3s"`, `"5m"`, `"1h"` or `"1d"`. Zero and fractions are refused.
pub fn duration(text: &str) -> Result<Duration, String> {
    let right = "a duration such as \"250ms\", \"3s\", \"5m\" or \"1h\"";
    let (number, unit) = split(text).ok_or_else(|| format!("expected {right}"))?;
    let unit = time_unit(unit).ok_or_else(|| format!("expected {right}"))?;
    let length = u32::try_from(number)
        .ok()
        .and_then(|number| unit.checked_mul(number));
    match length {
        Some(length) if length.is_zero() => Err(format!("zero is no time: expected {right}")),
        Some(length) => Ok(length),
        None => Err(format!("too long: expected {right}")),
    }
}

/// Reads `"10/s"`, `"600/m"`, `"5/10s"`. Zero is refused: to switch a limit off, say `"off"`.
pub fn rate(text: &str) -> Result<Rate, String> {
    let right = "a rate such as \"10/s\", \"600/m\" or \"5/10s\"";
    let wrong = || format!("expected {right}");
    let (count, per) = text.split_once('/').ok_or_else(wrong)?;
    let count = digits(count).ok_or_else(wrong)?;
    let per = match time_unit(per) {
        Some(unit) => unit,
        None => duration(per).map_err(|_| wrong())?,
    };
    if count == 0 {
        return Err(format!(
            "zero lets nobody through: expected {right}, or \"off\""
        ));
    }
    if u128::from(count) > per.as_nanos() {
        return Err(format!(
            "more than {MOST_PER_SECOND}/s cannot be told apart: expected {right}"
        ));
    }
    Ok(Rate { count, per })
}

/// Reads `"512B"`, `"64KiB"`, `"64MiB"` or `"1GiB"` into bytes. Zero is refused.
pub fn size(text: &str) -> Result<u64, String> {
    let right = "a size such as \"64KiB\" or \"64MiB\"";
    let (number, unit) = split(text).ok_or_else(|| format!("expected {right}"))?;
    let unit: u64 = match unit {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(format!("expected {right}")),
    };
    match number.checked_mul(unit) {
        Some(0) => Err(format!("zero holds nothing: expected {right}")),
        Some(bytes) => Ok(bytes),
        None => Err(format!("too large: expected {right}")),
    }
}

/// Reads `"256B/s"` or `"1KiB/s"` into bytes a second. Zero is refused.
pub fn byte_rate(text: &str) -> Result<u64, String> {
    let right = "a rate of bytes, such as \"256B/s\" or \"1KiB/s\"";
    let rate = text.strip_suffix("/s").and_then(|rate| size(rate).ok());
    rate.ok_or_else(|| format!("expected {right}"))
}

/// Reads `"1%"` to `"100%"`, in whole numbers.
pub fn percentage(text: &str) -> Result<u8, String> {
    let right = "a percentage, as \"10%\"";
    let Some((number, "%")) = split(text) else {
        return Err(format!("expected {right}"));
    };
    u8::try_from(number)
        .ok()
        .filter(|number| (1..=100).contains(number))
        .ok_or_else(|| format!("no part of the whole: expected {right}, from 1 to 100"))
}

fn split(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(end);
    Some((digits(number)?, unit))
}

fn digits(text: &str) -> Option<u64> {
    text.bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| text.parse().ok())?
}

fn time_unit(text: &str) -> Option<Duration> {
    Some(match text {
        "ms" => Duration::from_millis(1),
        "s" => Duration::from_secs(1),
        "m" => Duration::from_secs(60),
        "h" => Duration::from_secs(3_600),
        "d" => Duration::from_secs(86_400),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_unit_is_read() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("3s"), Ok(Duration::from_secs(3)));
        assert_eq!(duration("1h"), Ok(Duration::from_secs(3_600)));
        assert_eq!(
            rate("10/s"),
            Ok(Rate {
                count: 10,
                per: Duration::from_secs(1)
            })
        );
        assert_eq!(
            rate("5/10s"),
            Ok(Rate {
                count: 5,
                per: Duration::from_secs(10)
            })
        );
        assert_eq!(size("64MiB"), Ok(64 << 20));
        assert_eq!(byte_rate("1KiB/s"), Ok(1_024));
        assert_eq!(percentage("1%"), Ok(1));
        assert_eq!(percentage("100%"), Ok(100));
    }

    #[test]
    fn what_has_no_unit_or_no_sense_is_refused_with_the_right_form() {
        for text in [
            "3",
            "s",
            "",
            "3 s",
            "-3s",
            "3.5s",
            "0s",
            "3sec",
            "99999999999d",
            "3S",
            "３s",
        ] {
            assert!(duration(text).unwrap_err().contains("\"3s\""), "{text}");
        }
        for text in [
            "10",
            "10/",
            "/s",
            "10/x",
            "0/s",
            "10 / s",
            "-1/s",
            "2000000000/s",
            "+1/s",
        ] {
            assert!(rate(text).unwrap_err().contains("\"10/s\""), "{text}");
        }
        for text in ["64", "64MB", "0KiB", "MiB", "99999999999GiB", "64 MiB"] {
            assert!(size(text).unwrap_err().contains("\"64MiB\""), "{text}");
        }
        for text in ["256", "256B", "256B/m", "0B/s", "256/s", "KiB/s"] {
            assert!(
                byte_rate(text).unwrap_err().contains("\"256B/s\""),
                "{text}"
            );
        }
        for text in [
            "10", "%", "0%", "101%", "10 %", "-1%", "1.5%", "300%", "10%%",
        ] {
            assert!(percentage(text).unwrap_err().contains("\"10%\""), "{text}");
        }
    }
}
