//! Goes along a connection of HTTP/1.x, message by message.

use super::{Chunks, Framing, Head, LARGEST_HEAD};
use crate::refusal::Refusal;

/// A message that could be read in two ways.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Which one on its connection, from 1 on.
    pub message: u64,
    /// Why.
    pub refusal: Refusal,
    /// Was its head good, and is its body at fault?
    pub in_body: bool,
}

/// Where in the connection's bytes one stands. After the first fault nothing is looked at any
/// more: nobody knows where the next message begins.
#[derive(Debug)]
pub struct Walk {
    at: At,
    /// The most bytes of a head.
    most: usize,
    message: u64,
    fault: Option<Fault>,
}

#[derive(Debug)]
enum At {
    Head(Head),
    Data(u64),
    Chunks(Chunks),
}

impl Default for At {
    fn default() -> Self {
        Self::Head(Head::default())
    }
}

impl Default for Walk {
    fn default() -> Self {
        Self::bounded(LARGEST_HEAD)
    }
}

impl Walk {
    /// From the beginning of a connection; larger heads than this are at fault.
    pub fn bounded(most: usize) -> Self {
        Self {
            at: At::default(),
            most: most.min(LARGEST_HEAD),
            message: 0,
            fault: None,
        }
    }

    /// Reads on. Tells how many of these bytes may be passed on: all of them, but none of a body
    /// from where it is at fault. A head that is, is passed, for it is answered.
    pub fn read(&mut self, bytes: &[u8]) -> usize {
        if let Some(fault) = &self.fault {
            return if fault.in_body { 0 } else { bytes.len() };
        }
        let mut left = bytes;
        while !left.is_empty() {
            match self.step(left) {
                Ok(read) => left = left.get(read..).unwrap_or_default(),
                Err((read, refusal)) => {
                    let in_body = matches!(self.at, At::Chunks(_));
                    let message = self.message + u64::from(!in_body);
                    self.fault = Some(Fault {
                        message,
                        refusal,
                        in_body,
                    });
                    let passed = bytes.len() - left.len() + read;
                    return if in_body { passed } else { bytes.len() };
                }
            }
        }
        bytes.len()
    }

    /// The first fault.
    pub fn fault(&self) -> Option<&Fault> {
        self.fault.as_ref()
    }

    /// Reads a part of one message and tells how long it is.
    fn step(&mut self, bytes: &[u8]) -> Result<usize, (usize, Refusal)> {
        match &mut self.at {
            At::Head(head) => {
                let read = head
                    .read(bytes, self.most)
                    .map_err(|refusal| (0, refusal))?;
                let Some((framing, read)) = read else {
                    return Ok(bytes.len());
                };
                self.message += 1;
                self.at = match framing {
                    Framing::Length(0) => At::default(),
                    Framing::Length(length) => At::Data(length),
                    Framing::Chunked => At::Chunks(Chunks::default()),
                };
                Ok(read)
            }
            At::Data(length) => {
                let read = usize::try_from(*length).map_or(bytes.len(), |all| all.min(bytes.len()));
                *length -= u64::try_from(read).unwrap_or_default();
                if *length == 0 {
                    self.at = At::default();
                }
                Ok(read)
            }
            At::Chunks(chunks) => {
                let ended = chunks.read(bytes)?;
                if ended.is_some() {
                    self.at = At::default();
                }
                Ok(ended.unwrap_or(bytes.len()))
            }
        }
    }
}
