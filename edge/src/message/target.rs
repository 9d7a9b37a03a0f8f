//! What a request asks for (RFC 9112 3.2).

use super::class;
use crate::forward;
use crate::refusal::Refusal;

/// Does the target's form fit the method? Tells the authority that it names.
pub(super) fn check<'a>(method: &[u8], target: &'a [u8]) -> Result<Option<&'a [u8]>, Refusal> {
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
        _ => {
            let authority = absolute(target).ok_or(Refusal::BadPath)?;
            let host = std::str::from_utf8(authority).ok().and_then(forward::host);
            host.map(|_| Some(authority)).ok_or(Refusal::BadHost)
        }
    }
}

fn absolute(target: &[u8]) -> Option<&[u8]> {
    let with = |scheme: &[u8]| {
        let (start, rest) = target.split_at_checked(scheme.len())?;
        start.eq_ignore_ascii_case(scheme).then_some(rest)
    };
    let rest = with(b"http://").or_else(|| with(b"https://"))?;
    let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?'));
    rest.get(..end.unwrap_or(rest.len()))
}
