//! A request's body on its way from the client to a peer, kept as far as it may have to be sent
//! again.

use std::sync::Arc;

use bytes::Bytes;
use http::header;
use pingora::proxy::Session;
use pingora::{Error, ErrorType, Result};

use crate::connection::Connection;

/// See above.
pub(super) struct Upload {
    connection: Arc<Connection>,
    /// What was read, as long as all of it is kept.
    kept: Vec<Bytes>,
    /// What that comes to.
    bytes: u64,
    /// The most that is kept.
    most: u64,
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
    /// It may be so large.
    bound: Option<u64>,
}

/// What a body is that is larger than it may be.
pub(super) const TOO_LARGE: ErrorType = ErrorType::Custom("body_too_large");

/// What a part costs beside its own bytes: all parts together may cost as much as their bytes.
const PART: u64 = 128;
/// Or as much as this: so much is always one part.
const LEAST: u64 = 16 * PART;

/// Up to so many bytes a body is small.
const SMALL: u64 = 64 << 10;

impl Upload {
    /// The body of this request, of which at most so many bytes are kept.
    pub(super) fn new(
        session: &mut Session,
        connection: Arc<Connection>,
        most: u64,
        bound: Option<u64>,
    ) -> Self {
        let empty = session.downstream_session.is_body_done();
        let expects = session.req_header().headers.contains_key(header::EXPECT);
        Self {
            connection,
            kept: Vec::new(),
            bytes: 0,
            most,
            lost: false,
            expects,
            next: 0,
            arrived: empty,
            ended: empty,
            bound,
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
        let deadline = &self.connection.deadline;
        // A client that waits to be asked for its body is not slow.
        let awaiting = (!self.arrived && !self.expects).then(|| deadline.await_body());
        let part = session
            .downstream_session
            .read_body_or_idle(self.arrived)
            .await?;
        drop(awaiting);
        match &part {
            Some(part) => {
                deadline.body_came(part.len());
                self.keep(part);
                if self.bound.is_some_and(|bound| self.bytes > bound) {
                    return Error::e_explain(TOO_LARGE, "the body is larger than it may be");
                }
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
