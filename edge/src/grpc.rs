//! What edge knows of gRPC: its deadline, and how a refusal is said to its clients. Everything
//! else is HTTP/2.

use std::time::Duration;

use http::{HeaderMap, HeaderName, header};

use crate::refusal::Refusal;

/// How long the client waits for the whole answer.
pub const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// How a call ended.
pub const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// The same for people.
pub const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// Does this request, or answer, belong to a gRPC call? gRPC-Web is another protocol.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    let Some(kind) = headers.get(header::CONTENT_TYPE) else {
        return false;
    };
    let kind = kind.as_bytes();
    let Some((start, rest)) = kind.split_at_checked(KIND.len()) else {
        return false;
    };
    start.eq_ignore_ascii_case(KIND) && matches!(rest.first(), None | Some(b'+' | b';' | b' '))
}

const KIND: &[u8] = b"application/grpc";
/// A time has at most so many digits.
const DIGITS: usize = 8;

/// How long the client waits; `None`: it does not say, or not in words of gRPC's.
pub fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(GRPC_TIMEOUT)?.as_bytes();
    let (unit, digits) = text.split_last()?;
    let good = (1..=DIGITS).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    let number: u64 = std::str::from_utf8(digits)
        .ok()
        .filter(|_| good)?
        .parse()
        .ok()?;
    Some(match unit {
        b'H' => Duration::from_secs(number * 3_600),
        b'M' => Duration::from_secs(number * 60),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return None,
    })
}

/// What a refusal is to a client of gRPC: as its specification maps HTTP statuses, and where that
/// knows less than edge does, as its codes are meant.
pub fn status(refusal: &Refusal) -> u8 {
    match refusal {
        Refusal::ClientClosed => CANCELLED,
        Refusal::ResponseTimeout
        | Refusal::TryTimeout
        | Refusal::ConnectTimeout
        | Refusal::RequestTimeout => DEADLINE_EXCEEDED,
        _ => match refusal.status().as_u16() {
            400 | 431 => INTERNAL,
            401 => UNAUTHENTICATED,
            403 => PERMISSION_DENIED,
            404 | 405 => UNIMPLEMENTED,
            429 => RESOURCE_EXHAUSTED,
            502..=504 => UNAVAILABLE,
            _ => UNKNOWN,
        },
    }
}

const CANCELLED: u8 = 1;
const UNKNOWN: u8 = 2;
const DEADLINE_EXCEEDED: u8 = 4;
const PERMISSION_DENIED: u8 = 7;
const RESOURCE_EXHAUSTED: u8 = 8;
const UNIMPLEMENTED: u8 = 12;
const INTERNAL: u8 = 13;
const UNAVAILABLE: u8 = 14;
const UNAUTHENTICATED: u8 = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn with(name: HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_str(value).unwrap())])
    }

    #[test]
    fn grpc_is_told_by_its_type_and_grpc_web_is_not_it() {
        for (kind, is) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("Application/GRPC;charset=x", true),
            ("application/grpc-web", false),
            ("application/grpc-web+proto", false),
            ("application/json", false),
            ("application/grp", false),
            ("", false),
        ] {
            assert_eq!(is_grpc(&with(header::CONTENT_TYPE, kind)), is, "{kind}");
        }
        assert!(!is_grpc(&HeaderMap::new()));
    }

    #[test]
    fn a_timeout_has_eight_digits_at_most_and_a_unit() {
        let ms = |ms| Some(Duration::from_millis(ms));
        for (text, time) in [
            ("1H", ms(3_600_000)),
            ("2M", ms(120_000)),
            ("3S", ms(3_000)),
            ("250m", ms(250)),
            ("5000u", ms(5)),
            ("6000000n", ms(6)),
            ("00000001S", ms(1_000)),
            ("99999999H", ms(99_999_999 * 3_600_000)),
            ("000000001S", None),
            ("S", None),
            ("", None),
            ("1", None),
            ("1s", None),
            ("-1S", None),
            ("+1S", None),
            ("1.5S", None),
            (" 1S", None),
        ] {
            assert_eq!(timeout(&with(GRPC_TIMEOUT, text)), time, "{text:?}");
        }
    }

    #[test]
    fn every_refusal_has_a_code_that_is_no_success() {
        for refusal in Refusal::all() {
            let code = status(&refusal);
            assert!((1..=16).contains(&code), "{refusal:?}");
        }
        assert_eq!(status(&Refusal::NoRoute), UNIMPLEMENTED);
        assert_eq!(status(&Refusal::ResponseTimeout), DEADLINE_EXCEEDED);
        assert_eq!(status(&Refusal::ConnectRefused), UNAVAILABLE);
        assert_eq!(status(&Refusal::NoPeer), UNAVAILABLE);
    }
}
