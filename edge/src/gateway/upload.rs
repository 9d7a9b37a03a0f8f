//! A request's body on its way from the client to a peer, kept as far as it may have to be sent
//! again.

use bytes::Bytes;
use http::header;
use pingora::proxy::Session;
use pingora::{Error, ErrorType, Result};

use super::failing::TOO_LARGE;

/// See above.
pub(super) struct Upload {
    /// What was read, as long as all of it is kept.
    kept: Vec<Bytes>,
    /// What that comes to.
    bytes: u64,
    /// The most that is kept.
    most: u64,
    /// How much of it may come.
    left: u64,
    /// Something was read that is not kept.
    lost: bool,
    /// The client may wait for a 100 before it sends anything.
    expects: bool,
    /// The place of the next kept part to be sent.
    next: usize,
    /// Has the client sent all of it?
    arrived: bool,
    /// Has its end been told?
    ended: bool,
}

/// What a part costs beside its own bytes: all parts together may cost as much as their bytes.
const PART: u64 = 128;
/// Or as much as this: so much is always one part.
const LEAST: u64 = 16 * PART;

/// Up to so many bytes a body is small.
const SMALL: u64 = 64 << 10;

impl Upload {
    /// The body of this request, of which at most so many bytes are kept, and which may be no
    /// larger than `largest`.
    pub(super) fn new(session: &mut Session, most: u64, largest: Option<u64>) -> Self {
        let empty = session.downstream_session.is_body_done();
        let expects = session.req_header().headers.contains_key(header::EXPECT);
        Self {
            kept: Vec::new(),
            bytes: 0,
            most,
            left: largest.unwrap_or(u64::MAX),
            lost: false,
            expects,
            next: 0,
            arrived: empty,
            ended: empty,
        }
    }

    /// Has the client sent all of it?
    pub(super) fn has_arrived(&self) -> bool {
        self.arrived
    }

    /// Has its end been told?
    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Is it the client who has to say something now?
    pub(super) fn is_awaited(&self) -> bool {
        !self.arrived && !self.expects && self.next == self.kept.len()
    }

    /// The peer has told the client to go on.
    pub(super) fn invite(&mut self) {
        self.expects = false;
    }

    /// Has little of it been read so far?
    pub(super) fn is_small(&self) -> bool {
        self.bytes <= SMALL
    }

    /// May it be sent again from its beginning?
    pub(super) fn is_kept(&self) -> bool {
        !self.lost
    }

    /// Is there nothing to send?
    pub(super) fn is_empty(&self) -> bool {
        self.arrived && self.kept.is_empty() && !self.lost
    }

    /// The next part; `None` at its end. After that it waits for the client to go away, which is
    /// an error. Dropped halfway, nothing is lost.
    pub(super) async fn read(&mut self, session: &mut Session) -> Result<Option<Bytes>> {
        if let Some(part) = self.kept.get(self.next) {
            self.next += 1;
            return Ok(Some(part.clone()));
        }
        if self.arrived && !self.ended {
            self.ended = true;
            return Ok(None);
        }
        let part = session
            .downstream_session
            .read_body_or_idle(self.arrived)
            .await?;
        match &part {
            Some(part) => {
                let left = self.left.checked_sub(part.len() as u64);
                let too_large = || Error::explain(ErrorType::Custom(TOO_LARGE), "of this route");
                self.left = left.ok_or_else(too_large)?;
                self.keep(part);
            }
            None => self.ended = true,
        }
        self.expects = false;
        self.arrived |= part.is_none() || session.downstream_session.is_body_done();
        Ok(part)
    }

    /// Has all of it been read, by the client's sending and for this peer? Told once.
    pub(super) fn ends_here(&mut self) -> bool {
        let ends = self.arrived && !self.ended && self.next == self.kept.len();
        self.ended |= ends;
        ends
    }

    fn keep(&mut self, part: &Bytes) {
        self.bytes += part.len() as u64;
        let parts = (self.kept.len() as u64 + 1) * PART;
        if self.lost || self.bytes > self.most || parts > self.most.max(LEAST) {
            self.forget();
            return;
        }
        self.kept.push(part.clone());
        self.next = self.kept.len();
    }

    /// It will not be sent again.
    pub(super) fn forget(&mut self) {
        // What was read and is not sent yet still is.
        self.kept.drain(..self.next.min(self.kept.len()));
        self.next = 0;
        self.lost = true;
    }

    /// It is sent again from its beginning.
    pub(super) fn rewind(&mut self) {
        self.next = 0;
        self.ended = self.is_empty();
    }
}
