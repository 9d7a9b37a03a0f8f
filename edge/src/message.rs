//! A message's form: what could be read in two ways is refused (RFC 9112).
//!
//! [`Walk`] goes along the bytes of a connection as they come, before any parser sees them, and
//! knows where each message ends. [`check`] looks at one head. [`check_fields`] does the same for
//! HTTP/2, whose frames say where messages end, but whose fields become text for the peer.

mod chunks;
mod class;
mod fields;
mod head;
mod target;
#[cfg(test)]
mod tests;
mod walk;

pub use chunks::Chunks;
pub use fields::check_fields;
pub use head::{Framing, Head};
pub use walk::{Fault, Walk};

use crate::refusal::Refusal;

/// More fields than this Pingora does not read.
pub const MOST_FIELDS: usize = 256;

/// More bytes than this no head may have, whatever `[request]` says; Pingora reads 1 MiB.
pub const LARGEST_HEAD: usize = (1 << 20) - 1;

/// Is this one whole head of HTTP/1.x, up to its empty line, and nothing more? Tells how its body
/// is framed.
pub fn check(head: &[u8]) -> Result<Framing, Refusal> {
    let mut reading = Head::default();
    match reading.read(head, LARGEST_HEAD)? {
        Some((framing, length)) if length == head.len() => Ok(framing),
        _ => Err(Refusal::BadRequest),
    }
}
