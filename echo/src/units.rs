//! Values with their unit, as a person writes them: `250ms`, `10s`, `1MiB`.

use std::time::Duration;

/// Reads `250ms`, `3s`, `10m` or `1h`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is no duration: write 250ms, 3s, 10m or 1h");
    let (number, unit) = split(text);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let millis = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(wrong()),
    };
    match number.checked_mul(millis) {
        Some(0) => Err(format!("`{text}` is too short: at least 1ms")),
        // Clocks add a duration to now; a hundred years always fit.
        Some(sum) if sum <= 100 * 366 * 24 * 3_600_000 => Ok(Duration::from_millis(sum)),
        _ => Err(format!("`{text}` is too long")),
    }
}

/// Reads a size in bytes: `512`, `64KiB`, `1MiB` or `1GiB`, up to 1 GiB.
pub(crate) fn size(text: &str) -> Result<usize, String> {
    let wrong = || format!("`{text}` is no size: write 512, 64KiB or 1MiB");
    let (number, unit) = split(text);
    let number: usize = number.parse().map_err(|_| wrong())?;
    let bytes = match unit {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(wrong()),
    };
    match number.checked_mul(bytes) {
        Some(0) => Err(format!("`{text}` is too small: at least one byte")),
        Some(sum) if sum <= 1 << 30 => Ok(sum),
        _ => Err(format!("`{text}` is too large: at most 1GiB")),
    }
}

/// Reads `100/s`, `600/m` or `5/10s`: so many, in which time.
pub(crate) fn rate(text: &str) -> Result<(u32, Duration), String> {
    let wrong = || format!("`{text}` is no rate: write 100/s, 600/m or 5/10s, or off");
    let (count, per) = text.split_once('/').ok_or_else(wrong)?;
    let count: u32 = match split(count) {
        (number, "") => number.parse().map_err(|_| wrong())?,
        _ => return Err(wrong()),
    };
    let per = if per.starts_with(|c: char| c.is_ascii_digit()) {
        duration(per)
    } else {
        duration(&format!("1{per}"))
    };
    let per = per.map_err(|_| wrong())?;
    match count {
        0 => Err(format!("`{text}` lets nothing through: at least one")),
        1..=1_000_000 => Ok((count, per)),
        _ => Err(format!("`{text}` is too many: at most 1000000")),
    }
}

/// Reads `off`, or else what `read` reads.
pub(crate) fn or_off<T>(
    text: &str,
    read: impl FnOnce(&str) -> Result<T, String>,
) -> Result<Option<T>, String> {
    if text == "off" {
        return Ok(None);
    }
    read(text).map(Some)
}

fn split(text: &str) -> (&str, &str) {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    text.split_at(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_has_a_number_and_a_unit() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("3s"), Ok(Duration::from_secs(3)));
        assert_eq!(duration("10m"), Ok(Duration::from_secs(600)));
        assert_eq!(duration("1h"), Ok(Duration::from_secs(3_600)));
        for wrong in ["", "3", "s", "-3s", "3 s", "3S", "0s", "99999999999h"] {
            assert!(duration(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_size_is_bytes_unless_it_says_otherwise() {
        assert_eq!(size("512"), Ok(512));
        assert_eq!(size("64KiB"), Ok(64 * 1024));
        assert_eq!(size("1MiB"), Ok(1024 * 1024));
        assert_eq!(size("1GiB"), Ok(1024 * 1024 * 1024));
        for wrong in ["", "MiB", "1MB", "0", "2GiB", "1.5MiB", "99999999999GiB"] {
            assert!(size(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_rate_is_a_number_per_time() {
        assert_eq!(rate("100/s"), Ok((100, Duration::from_secs(1))));
        assert_eq!(rate("600/m"), Ok((600, Duration::from_secs(60))));
        assert_eq!(rate("5/10s"), Ok((5, Duration::from_secs(10))));
        for wrong in [
            "",
            "5",
            "/s",
            "5/",
            "0/s",
            "5/0s",
            "-5/s",
            "5 /s",
            "5/x",
            "1000001/s",
        ] {
            assert!(rate(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn off_is_a_value_where_a_thing_can_be_off() {
        assert_eq!(or_off("off", duration), Ok(None));
        assert_eq!(or_off("3s", duration), Ok(Some(Duration::from_secs(3))));
        assert!(or_off("OFF", duration).is_err());
    }

    #[test]
    fn a_wrong_value_is_told_what_would_be_right() {
        assert_eq!(
            duration("3").unwrap_err(),
            "`3` is no duration: write 250ms, 3s, 10m or 1h"
        );
    }
}
