//! One direction of a WebSocket: what one side sends, as it goes to the other.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use pingora::protocols::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::account::Account;
use crate::websocket::ending::{Cause, is_sendable};
use crate::websocket::frame::{self, Control, Data, HELD, Rules, Sender, Step, Walker};

/// One direction.
pub(super) struct Pump {
    sender: Sender,
    /// `None` once no more frames are read: after the sender's Close, or after a fault.
    walker: Option<Walker>,
    /// What came before the pump was there.
    early: Bytes,
    /// What was read and could not be written yet: at most [`CHUNK`] and two frames of edge's
    /// own. Nothing more is read before it is gone.
    held: BytesMut,
    /// A header or a control frame that is not complete; less than [`HELD`] bytes.
    partial: Vec<u8>,
    /// A frame of edge's own that waits for the end of another.
    waiting: Option<Own>,
    /// Where the sender says Close from now on, edge says its own.
    pub(super) keep_close: bool,
    /// The code of the sender's Close.
    pub(super) said: Option<u16>,
    /// Why the sender's frames are not read any more.
    pub(super) fault: Option<Cause>,
    /// The sender's connection has ended.
    pub(super) ended: bool,
    /// A Close has gone to the receiver, so that nothing may follow it.
    pub(super) closed: bool,
    /// The receiver takes nothing any more.
    pub(super) broken: bool,
    /// The receiver's connection is to be ended once all is written.
    pub(super) finish: bool,
    /// And it was.
    pub(super) finished: bool,
}

/// A frame of edge's own.
enum Own {
    Ping(Vec<u8>),
    Close(Vec<u8>),
}

/// As much is read at once.
const CHUNK: usize = 16 << 10;

thread_local! {
    /// One buffer for all WebSockets of a thread: in none of them is anything in flight while
    /// another one is polled. In front is room for what waited for the rest of it.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; HELD + CHUNK].into_boxed_slice());
}

/// The receiver's connection, and who is woken when it takes more.
struct Way<'a, 'c> {
    context: &'a mut Context<'c>,
    to: &'a mut Stream,
}

impl Pump {
    pub(super) fn new(rules: Rules, early: Bytes) -> Self {
        Self {
            sender: rules.sender,
            walker: Some(Walker::new(rules)),
            early,
            held: BytesMut::new(),
            partial: Vec::new(),
            waiting: None,
            keep_close: false,
            said: None,
            fault: None,
            ended: false,
            closed: false,
            broken: false,
            finish: false,
            finished: false,
        }
    }

    /// The receiver has not taken yet what was sent to it.
    pub(super) fn is_behind(&self) -> bool {
        !self.held.is_empty()
    }

    /// Sends a Ping as soon as a frame has ended.
    pub(super) fn ping(&mut self, ping: Vec<u8>) {
        if self.waiting.is_none() {
            self.waiting = Some(Own::Ping(ping));
        }
    }

    /// Says Close as soon as a frame has ended; after it nothing passes.
    pub(super) fn close(&mut self, close: Vec<u8>) {
        self.waiting = Some(Own::Close(close));
    }

    /// Will the sender's Close never be heard?
    pub(super) fn is_mute(&self) -> bool {
        self.ended || (self.walker.is_none() && self.said.is_none())
    }

    /// Can nothing more be put after what has passed? A Close went, or none ever can.
    pub(super) fn is_settled(&self) -> bool {
        self.closed || self.broken || (self.ended && !self.is_at_boundary())
    }

    /// Moves what there is. Never done: what has happened stands in the fields.
    pub(super) fn poll(
        &mut self,
        context: &mut Context<'_>,
        from: &mut Stream,
        to: &mut Stream,
        account: &mut Account,
    ) -> Poll<()> {
        let mut way = Way { context, to };
        loop {
            ready!(self.poll_held(&mut way, account));
            if self.put_own(account) {
                continue;
            }
            if self.finish && !self.finished {
                ready!(way.poll_shutdown());
                self.finished = true;
            }
            if self.ended {
                return Poll::Pending;
            }
            let read = SCRATCH.with_borrow_mut(|scratch| {
                // What waits for its rest stands in front of what comes.
                let waits = self.partial.len();
                let start = HELD.saturating_sub(waits);
                if let Some(front) = scratch.get_mut(start..HELD) {
                    front.copy_from_slice(&self.partial);
                }
                let fresh = scratch.get_mut(HELD..).unwrap_or_default();
                let count = ready!(self.poll_read(way.context, from, fresh));
                self.partial.clear();
                let bytes = scratch.get(start..HELD + count).unwrap_or_default();
                self.take(bytes, &mut way, account);
                Poll::Ready(())
            });
            if read.is_pending() {
                self.poll_flush(&mut way);
                return Poll::Pending;
            }
        }
    }

    /// Reads what there is; the end of the connection is zero bytes.
    fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        from: &mut Stream,
        to: &mut [u8],
    ) -> Poll<usize> {
        if !self.early.is_empty() {
            let count = self.early.len().min(to.len());
            self.early
                .copy_to_slice(to.get_mut(..count).unwrap_or_default());
            if self.early.is_empty() {
                // Emptied it would still hold all its memory, for as long as the WebSocket lives.
                self.early = Bytes::new();
            }
            return Poll::Ready(count);
        }
        let mut buffer = ReadBuf::new(to);
        let read = ready!(Pin::new(from).poll_read(context, &mut buffer));
        // A reset is an end like any other: nothing more will come.
        let count = read.map_or(0, |()| buffer.filled().len());
        self.ended = count == 0;
        Poll::Ready(count)
    }

    /// Passes on what was read, frame by frame.
    fn take(&mut self, bytes: &[u8], way: &mut Way<'_, '_>, account: &mut Account) {
        if bytes.is_empty() {
            return;
        }
        account.heard(self.sender);
        let (mut from, mut at) = (0, 0);
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            let Some(walker) = &mut self.walker else {
                break;
            };
            match walker.step(rest) {
                Ok(Step::More) => {
                    self.partial = rest.to_vec();
                    break;
                }
                Ok(Step::Data { length, kind }) => {
                    let passes = !self.closed && !self.broken;
                    let charged = match kind {
                        Data::Begins if passes => account.message(self.sender),
                        Data::Empty if passes => account.message_limit(self.sender),
                        _ => Ok(()),
                    };
                    if let Err(cause) = charged {
                        self.fail(cause);
                        break;
                    }
                    at += length;
                }
                Ok(Step::Control { kind, length }) => {
                    let frame = rest.get(..length).unwrap_or_default();
                    match self.control(kind, frame, account) {
                        Ok(true) => at += length,
                        Ok(false) => {
                            self.pass(bytes.get(from..at), way, account);
                            at += length;
                            from = at;
                        }
                        Err(cause) => {
                            self.fail(cause);
                            break;
                        }
                    }
                }
                Err(fault) => {
                    self.fail(match self.sender {
                        Sender::Client => Cause::of_client(fault),
                        Sender::Upstream => self.protocol_error(),
                    });
                    break;
                }
            }
            // After the sender's Close nothing is put, and after a fault `poll` puts it.
            let between = self.walker.as_ref().is_some_and(Walker::at_boundary);
            if self.waiting.is_some() && between {
                self.pass(bytes.get(from..at), way, account);
                from = at;
                self.put_own(account);
            }
        }
        self.pass(bytes.get(from..at), way, account);
        if self.said.is_some() {
            self.closed |= !self.keep_close;
        }
    }

    /// Does this control frame go on?
    fn control(
        &mut self,
        kind: Control,
        frame: &[u8],
        account: &mut Account,
    ) -> Result<bool, Cause> {
        match kind {
            Control::Close => {
                let payload = frame::payload(frame);
                let code = frame::close_code(&payload);
                // 1006 from a client would look like a connection that was lost.
                let fine = match self.sender {
                    Sender::Client => payload.is_empty() || is_sendable(code),
                    Sender::Upstream => payload.len() != 1,
                };
                if !fine {
                    return Err(self.protocol_error());
                }
                self.said = Some(code);
                self.walker = None;
                Ok(!self.keep_close)
            }
            Control::Pong if account.pong(self.sender, frame) => Ok(false),
            // Else a client could make the upstream work without sending a message.
            Control::Ping | Control::Pong => account.message_limit(self.sender).map(|()| true),
        }
    }

    fn protocol_error(&self) -> Cause {
        match self.sender {
            Sender::Client => Cause::ProtocolError,
            Sender::Upstream => Cause::UpstreamInvalid,
        }
    }

    /// No more frames can be read: nobody knows where the next one begins.
    fn fail(&mut self, cause: Cause) {
        self.fault = Some(cause);
        self.walker = None;
    }

    /// Is what has passed the end of a frame?
    fn is_at_boundary(&self) -> bool {
        self.walker.as_ref().is_none_or(Walker::at_boundary)
    }

    /// Puts a frame of edge's own where one may stand.
    fn put_own(&mut self, account: &mut Account) -> bool {
        if self.is_settled() {
            self.waiting = None;
        }
        if !self.is_at_boundary() {
            return false;
        }
        match self.waiting.take() {
            None => return false,
            Some(Own::Ping(frame)) => {
                account.pinged();
                self.held.extend_from_slice(&frame);
            }
            Some(Own::Close(frame)) => {
                self.closed = true;
                self.held.extend_from_slice(&frame);
            }
        }
        true
    }

    /// Writes what was just read as far as it goes; the rest is held.
    fn pass(&mut self, bytes: Option<&[u8]>, way: &mut Way<'_, '_>, account: &mut Account) {
        let mut bytes = bytes.unwrap_or_default();
        if bytes.is_empty() || self.closed || self.broken {
            return;
        }
        account.moved(self.sender, bytes.len());
        while self.held.is_empty() && !bytes.is_empty() {
            match Pin::new(&mut *way.to).poll_write(way.context, bytes) {
                Poll::Ready(Ok(written)) if written > 0 => bytes.advance(written),
                Poll::Ready(_) => return self.break_off(),
                Poll::Pending => break,
            }
        }
        self.held.extend_from_slice(bytes);
    }

    /// Writes what is held.
    fn poll_held(&mut self, way: &mut Way<'_, '_>, account: &mut Account) -> Poll<()> {
        while !self.held.is_empty() {
            match ready!(Pin::new(&mut *way.to).poll_write(way.context, &self.held)) {
                Ok(written) if written > 0 => {
                    self.held.advance(written);
                    account.took(self.sender);
                }
                _ => self.break_off(),
            }
        }
        // What is empty gives its memory back.
        if self.held.capacity() > 0 {
            self.held = BytesMut::new();
        }
        Poll::Ready(())
    }

    fn poll_flush(&mut self, way: &mut Way<'_, '_>) {
        if let Poll::Ready(Err(_)) = Pin::new(&mut *way.to).poll_flush(way.context) {
            self.break_off();
        }
    }

    /// The receiver takes nothing any more: the sender is still heard out.
    fn break_off(&mut self) {
        self.broken = true;
        self.held = BytesMut::new();
    }
}

impl Way<'_, '_> {
    /// Ends our half of the connection. That it has gone already is as good.
    fn poll_shutdown(&mut self) -> Poll<()> {
        let flushed: io::Result<()> = ready!(Pin::new(&mut *self.to).poll_flush(self.context));
        let _ = flushed;
        Pin::new(&mut *self.to)
            .poll_shutdown(self.context)
            .map(|_| ())
    }
}
