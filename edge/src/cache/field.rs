//! How a cache reads fields: lists, dates and seconds.

use std::time::{Duration, SystemTime};

use http::header::{HeaderMap, HeaderName};

/// No time is longer than this, 68 years (RFC 9111 1.2.2).
pub(super) const LONGEST: Duration = Duration::from_secs(1 << 31);

/// Splits at commas outside quotes; members come trimmed, empty ones too.
///
/// A quote that nobody closes is a byte like any other, and so are all behind it: it hides
/// nothing. With `escapes` a backslash within quotes takes the next byte along (RFC 9110 5.6.4);
/// an entity tag knows none.
pub(super) fn split(text: &[u8], escapes: bool) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(text);
    let mut quotes = true;
    std::iter::from_fn(move || {
        let text = rest?;
        let end = member(text, escapes, &mut quotes);
        rest = text.get(end + 1..);
        text.get(..end).map(<[u8]>::trim_ascii)
    })
}

/// Where the first member ends. `quotes` turns false at a quote that nobody closes, so that the
/// text behind it is not searched once for each quote.
fn member(text: &[u8], escapes: bool, quotes: &mut bool) -> usize {
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        let rest = text.get(at..).filter(|_| byte == b'"' && *quotes);
        match rest.map(|rest| quoted(rest, escapes)) {
            Some(Some(length)) => at += length,
            Some(None) => *quotes = false,
            None if byte == b',' => return at,
            None => at += 1,
        }
    }
    text.len()
}

/// How long the quoted string is that `text` begins with, if somebody closes it.
fn quoted(text: &[u8], escapes: bool) -> Option<usize> {
    let mut at = 1;
    loop {
        match text.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' if escapes => at += 2,
            _ => at += 1,
        }
    }
}

/// The members of a list over all its lines, without empty ones (RFC 9110 5.6.1).
pub(super) fn list<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> impl Iterator<Item = &'a [u8]> {
    let lines = headers.get_all(name).iter();
    lines
        .flat_map(|line| split(line.as_bytes(), true))
        .filter(|member| !member.is_empty())
}

/// A date in any of the three forms (RFC 9110 5.6.7), in capitals or not (RFC 9111 4.2); the day
/// of the week says nothing that the rest does not. What cannot be read is none.
pub(super) fn date(headers: &HeaderMap, name: &HeaderName) -> Option<SystemTime> {
    let text = headers.get(name)?.to_str().ok()?.trim_ascii();
    let date = httpdate::parse_http_date(text).ok();
    date.or_else(|| {
        let text = in_usual_case(text);
        let (day, rest) = text.split_at(text.find(|c: char| !c.is_ascii_alphabetic())?);
        let mut days = WEEK.iter().map(|name| match day.len() {
            3 => name.get(..3).unwrap_or(name),
            _ => name,
        });
        days.find_map(|day| httpdate::parse_http_date(&[day, rest].concat()).ok())
    })
}

const WEEK: [&str; 7] = [
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
    "Sunday",
];

/// Words as dates write them: a capital first, and `GMT`.
fn in_usual_case(text: &str) -> String {
    let mut before = ' ';
    let letters = text.chars().map(|letter| {
        let first = !before.is_ascii_alphabetic();
        before = letter;
        if first {
            letter.to_ascii_uppercase()
        } else {
            letter.to_ascii_lowercase()
        }
    });
    letters.collect::<String>().replace("Gmt", "GMT")
}

/// Delta seconds: digits alone. What is too large to count is very long (RFC 9111 1.2.2).
pub(super) fn seconds(text: &[u8]) -> Option<Duration> {
    number(text).map(|seconds| Duration::from_secs(seconds).min(LONGEST))
}

/// Digits alone; what is too large to count is the largest number.
pub(super) fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(std::str::from_utf8(text).ok()?.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(text: &str, escapes: bool) -> Vec<&str> {
        split(text.as_bytes(), escapes)
            .map(|member| std::str::from_utf8(member).unwrap())
            .collect()
    }

    #[test]
    fn a_comma_within_quotes_is_no_border() {
        assert_eq!(members("a, b=\"c, d\" ,e", true), ["a", "b=\"c, d\"", "e"]);
        assert_eq!(members(r#""a\", b""#, true), [r#""a\", b""#]);
        assert_eq!(members(r#""a\", "b""#, false), [r#""a\""#, "\"b\""]);
        assert_eq!(members("a=\"b, no-store", true), ["a=\"b", "no-store"]);
        assert_eq!(members(",a,", true), ["", "a", ""]);
        assert_eq!(members("", true), [""]);
    }

    /// It took a time that grew with the square of their number.
    #[test]
    fn a_long_row_of_quotes_that_nobody_closes_is_read_once() {
        let row = format!("\"{}", "\\\",".repeat(100_000));
        assert_eq!(split(row.as_bytes(), true).count(), 100_001);
    }

    /// RFC 9111 4.2.
    #[test]
    fn a_date_is_read_in_any_case_and_on_any_weekday() {
        for text in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "SUN, 06 NOV 1994 08:49:37 gmt",
            "sunday, 06-nov-94 08:49:37 Gmt",
            "sun nov  6 08:49:37 1994",
            "Mon, 06 Nov 1994 08:49:37 GMT",
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("date", text.parse().unwrap());
            let date = date(&headers, &http::header::DATE).unwrap();
            let since = date.duration_since(SystemTime::UNIX_EPOCH).unwrap();
            assert_eq!(since.as_secs(), 784_111_777, "{text}");
        }
    }

    #[test]
    fn only_digits_are_seconds() {
        for (text, time) in [
            ("0", Some(0)),
            ("003600", Some(3_600)),
            ("2147483648", Some(1 << 31)),
            ("99999999999", Some(1 << 31)),
            ("99999999999999999999999999", Some(1 << 31)),
            ("", None),
            ("-1", None),
            ("+1", None),
            ("1.5", None),
            (" 1", None),
            ("'1'", None),
            ("١", None),
        ] {
            let read = seconds(text.as_bytes()).map(|time| time.as_secs());
            assert_eq!(read, time, "{text}");
        }
    }
}
