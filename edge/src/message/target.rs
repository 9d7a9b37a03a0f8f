//! What a request asks for (RFC 9112 3.2).

use super::class;
use crate::forward;
use crate::refusal::Refusal;

/// Does the target's form fit the method? Tells the authority that it names, with the port that
/// need not be said.
pub(super) fn check<'a>(
    method: &[u8],
    target: &'a [u8],
) -> Result<Option<(&'a [u8], &'static str)>, Refusal> {
    if !class::is_target(target) {
        return Err(Refusal::MessageForm);
    }
    // No tunnels are built: whatever it names, it is refused by its method (RFC 9110 9.3.6).
    if method == b"CONNECT" {
        return Ok(None);
    }
    match target {
        [b'/', ..] => Ok(None),
        // The server as a whole is not behind any route.
        _ => match absolute(target) {
            Some((authority, port)) => {
                match std::str::from_utf8(authority).ok().and_then(forward::host) {
                    Some(_) => Ok(Some((authority, port))),
                    None => Err(Refusal::BadHost),
                }
            }
            None => Err(Refusal::BadPath),
        },
    }
}

fn absolute(target: &[u8]) -> Option<(&[u8], &'static str)> {
    let with = |scheme: &[u8]| {
        let (start, rest) = target.split_at_checked(scheme.len())?;
        start.eq_ignore_ascii_case(scheme).then_some(rest)
    };
    let (rest, port) = match with(b"http://") {
        Some(rest) => (rest, ":80"),
        None => (with(b"https://")?, ":443"),
    };
    let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?'));
    Some((rest.get(..end.unwrap_or(rest.len()))?, port))
}

/// Are these the same host? `port` need not be said.
pub(super) fn same(one: &[u8], other: &[u8], port: &str) -> bool {
    let bare = |host: &'_ [u8]| -> usize {
        let without = host.strip_suffix(port.as_bytes());
        let without = without.or_else(|| host.strip_suffix(b":"));
        without.map_or(host.len(), <[u8]>::len)
    };
    let (one, other) = (one.get(..bare(one)), other.get(..bare(other)));
    matches!((one, other), (Some(one), Some(other)) if one.eq_ignore_ascii_case(other))
}
