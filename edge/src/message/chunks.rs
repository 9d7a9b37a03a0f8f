//! A body in chunks, byte by byte (RFC 9112 7.1).

use super::class;
use crate::refusal::Refusal;

/// A chunk's size has no more digits: what needs more is no honest body.
const MOST_DIGITS: u8 = 15;

/// A chunk's extensions are no longer; nobody has use for them.
const LONGEST_EXTENSION: usize = 1_024;

/// What follows the last chunk is no longer.
const LARGEST_TRAILERS: usize = 16 << 10;

/// Follows a body in chunks to its end.
#[derive(Debug, Default)]
pub struct Chunks {
    at: At,
    digits: u8,
    size: u64,
    /// How much of an extension, or of the trailers, has come.
    read: usize,
    trailer: Vec<u8>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum At {
    #[default]
    Size,
    /// A blank after the size: an extension must follow.
    Blank,
    Extension,
    SizeEnd,
    Data,
    DataEnd,
    DataEndLf,
    Trailer,
}

impl Chunks {
    /// Reads on; how many of these bytes belong to the body, once it has ended. `Err` tells how
    /// many could be read.
    pub fn read(&mut self, bytes: &[u8]) -> Result<Option<usize>, (usize, Refusal)> {
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            if self.at == At::Data {
                let left = bytes.len() - at;
                let data = usize::try_from(self.size).map_or(left, |size| size.min(left));
                at += data;
                self.size -= u64::try_from(data).unwrap_or_default();
                if self.size == 0 {
                    self.at = At::DataEnd;
                }
                continue;
            }
            match self.step(byte) {
                Some(true) => return Ok(Some(at + 1)),
                Some(false) => at += 1,
                None => return Err((at, Refusal::MessageForm)),
            }
        }
        Ok(None)
    }

    /// One byte that is not data: was it the last one? `None`: it has no place here.
    fn step(&mut self, byte: u8) -> Option<bool> {
        self.at = match (self.at, byte) {
            (At::Size, _) if byte.is_ascii_hexdigit() => self.digit(byte)?,
            (At::Size, b'\r') if self.digits > 0 => At::SizeEnd,
            (At::Size, b' ' | b'\t') if self.digits > 0 => At::Blank,
            (At::Size, b';') if self.digits > 0 => At::Extension,
            (At::Blank, b' ' | b'\t') => self.more(LONGEST_EXTENSION, At::Blank)?,
            (At::Blank, b';') => At::Extension,
            (At::Extension, b'\r') => At::SizeEnd,
            (At::Extension, _) if class::is_value(&[byte]) => {
                self.more(LONGEST_EXTENSION, At::Extension)?
            }
            (At::SizeEnd, b'\n') => self.data(),
            (At::DataEnd, b'\r') => At::DataEndLf,
            (At::DataEndLf, b'\n') => At::Size,
            (At::Trailer, b'\n') => return self.trailer_line(),
            (At::Trailer, _) => {
                self.trailer.push(byte);
                self.more(LARGEST_TRAILERS, At::Trailer)?
            }
            _ => return None,
        };
        Some(false)
    }

    fn more(&mut self, most: usize, at: At) -> Option<At> {
        self.read += 1;
        (self.read <= most).then_some(at)
    }

    fn digit(&mut self, byte: u8) -> Option<At> {
        let digit = char::from(byte).to_digit(16)?;
        self.digits += 1;
        self.size = self.size << 4 | u64::from(digit);
        (self.digits <= MOST_DIGITS).then_some(At::Size)
    }

    /// The line with the size has ended.
    fn data(&mut self) -> At {
        self.digits = 0;
        self.read = 0;
        match self.size {
            0 => At::Trailer,
            _ => At::Data,
        }
    }

    fn trailer_line(&mut self) -> Option<bool> {
        let line = std::mem::take(&mut self.trailer);
        match line.strip_suffix(b"\r")? {
            [] => Some(true),
            line => is_trailer(line).then_some(false),
        }
    }
}

/// What may follow a body: fields, but none that says how the message is to be read or whose it is
/// (RFC 9110 6.5.1).
fn is_trailer(line: &[u8]) -> bool {
    const NEVER: [&str; 6] = [
        "host",
        "content-length",
        "transfer-encoding",
        "authorization",
        "cookie",
        "trailer",
    ];
    let Some(colon) = memchr::memchr(b':', line) else {
        return false;
    };
    let (name, value) = line.split_at(colon);
    let never = NEVER
        .iter()
        .any(|never| name.eq_ignore_ascii_case(never.as_bytes()));
    class::is_token(name) && class::is_value(value) && !never
}
