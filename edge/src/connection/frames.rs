//! What a client of HTTP/2 says beside its requests, counted: frames that cost edge work and nobody
//! asked for (RFC 9113 10.5). `h2` answers each PING and SETTINGS, however many come, and lets a client
//! reset whatever has begun.

use std::time::Duration;

use tokio::time::Instant;

/// What a client may cost at once, and what it gets back each second.
const MOST: u64 = 1_000;
const EACH_SECOND: u64 = 100;
/// A frame of an answer lets the client say more of windows, and send a PING to measure its way.
const ANSWERED: u64 = 4;

/// A frame's head (RFC 9113 4.1).
const HEAD: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;

/// What a client may still cost.
#[derive(Debug)]
pub(super) struct Frames {
    heard: Walker,
    said: Walker,
    left: u64,
    since: Instant,
}

impl Frames {
    /// Of a connection that begins with a preface of this length.
    pub(super) fn new(preface: usize) -> Self {
        Self {
            heard: Walker {
                skip: preface,
                ..Walker::default()
            },
            said: Walker::default(),
            left: MOST,
            since: Instant::now(),
        }
    }

    /// The client has said this; `false` if that is too much.
    pub(super) fn heard(&mut self, bytes: &[u8]) -> bool {
        let mut cost = 0;
        self.heard.walk(bytes, |frame| cost += frame.cost());
        if cost > self.left {
            self.refill(Instant::now());
        }
        match self.left.checked_sub(cost) {
            Some(left) => self.left = left,
            None => return false,
        }
        true
    }

    /// The client was told this.
    pub(super) fn said(&mut self, bytes: &[u8]) {
        let mut earned = 0;
        self.said.walk(bytes, |frame| {
            earned += u64::from(frame.kind == DATA) * ANSWERED;
        });
        self.left = (self.left + earned).min(MOST);
    }

    /// Is all that was told the client whole frames?
    pub(super) fn between(&self) -> bool {
        (self.said.skip, self.said.come) == (0, 0)
    }

    fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.since);
        let more = u64::try_from(passed.as_millis()).unwrap_or(u64::MAX);
        let more = more.saturating_mul(EACH_SECOND) / 1_000;
        if more > 0 {
            self.left = self.left.saturating_add(more).min(MOST);
            // What was too little to count is not lost.
            self.since += Duration::from_millis(more.saturating_mul(1_000 / EACH_SECOND));
        }
    }
}

/// What is known of a frame from its head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Frame {
    kind: u8,
    flags: u8,
    length: usize,
}

impl Frame {
    fn cost(self) -> u64 {
        match self.kind {
            DATA if self.length > 0 || self.flags & END_STREAM != 0 => 0,
            HEADERS => 0,
            SETTINGS | PING if self.flags & ACK != 0 => 0,
            // Whoever resets has made edge begin something for nothing.
            RST_STREAM => 2,
            // All streams may have to be gone through.
            SETTINGS => 10,
            _ => 1,
        }
    }
}

/// Goes from head to head.
#[derive(Debug, Default)]
struct Walker {
    /// Bytes to the next head.
    skip: usize,
    head: [u8; HEAD],
    /// So much of it has come.
    come: usize,
}

impl Walker {
    fn walk(&mut self, mut bytes: &[u8], mut each: impl FnMut(Frame)) {
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = bytes.get(skipped..).unwrap_or_default();
            let Some(room) = self.head.get_mut(self.come..) else {
                return;
            };
            let come = room.len().min(bytes.len());
            let (now, later) = bytes.split_at(come);
            for (place, byte) in room.iter_mut().zip(now) {
                *place = *byte;
            }
            self.come += come;
            bytes = later;
            if self.come == HEAD {
                let [high, middle, low, kind, flags, ..] = self.head;
                let length = u32::from_be_bytes([0, high, middle, low]);
                let length = usize::try_from(length).unwrap_or(usize::MAX);
                (self.skip, self.come) = (length, 0);
                each(Frame {
                    kind,
                    flags,
                    length,
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, length: usize) -> Vec<u8> {
        let length = u32::try_from(length).unwrap().to_be_bytes();
        let mut frame = length[1..].to_vec();
        frame.extend([kind, flags, 0, 0, 0, 1]);
        frame.resize(
            HEAD + usize::from(length[3]) + (usize::from(length[2]) << 8),
            b'x',
        );
        frame
    }

    fn walked(bytes: &[u8], at_once: usize) -> Vec<(u8, usize)> {
        let mut walker = Walker {
            skip: 3,
            ..Walker::default()
        };
        let mut all = Vec::new();
        for part in bytes.chunks(at_once) {
            walker.walk(part, |frame| all.push((frame.kind, frame.length)));
        }
        all
    }

    #[test]
    fn heads_are_found_however_the_bytes_come() {
        let bytes = [
            b"PRI".to_vec(),
            frame(SETTINGS, 0, 0),
            frame(DATA, 0, 300),
            frame(PING, 0, 8),
        ]
        .concat();
        for at_once in [1, 2, 7, 9, 10, 1_000] {
            let all = walked(&bytes, at_once);
            assert_eq!(all, [(SETTINGS, 0), (DATA, 300), (PING, 8)], "{at_once}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_is_too_much_and_what_requests_need_is_not() {
        let many = |frame: Vec<u8>, count| frame.repeat(count);
        let fits = |bytes: Vec<u8>| Frames::new(0).heard(&bytes);
        assert!(!fits(many(frame(PING, 0, 8), 1_001)));
        assert!(!fits(many(frame(SETTINGS, 0, 0), 101)));
        assert!(!fits(many(frame(RST_STREAM, 0, 4), 501)));
        assert!(
            !fits(many(frame(DATA, 0, 0), 1_001)),
            "empty and not the last"
        );
        assert!(!fits(many(frame(2, 0, 5), 1_001)), "PRIORITY");
        assert!(!fits(many(frame(8, 0, 4), 1_001)), "WINDOW_UPDATE");
        assert!(!fits(many(frame(9, 0, 0), 1_001)), "CONTINUATION");
        assert!(!fits(many(frame(0xee, 0, 0), 1_001)), "what nobody knows");
        assert!(fits(many(frame(PING, 0, 8), 1_000)));
        assert!(fits(many(frame(DATA, 0, 1), 20_000)));
        assert!(fits(many(frame(HEADERS, 4, 20), 20_000)));
        assert!(fits(many(frame(PING, ACK, 8), 20_000)));
    }

    #[tokio::test(start_paused = true)]
    async fn time_and_answers_give_back() {
        let mut frames = Frames::new(0);
        let ping = frame(PING, 0, 8);
        assert!(frames.heard(&ping.repeat(1_000)));
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(frames.heard(&ping.repeat(100)));
        assert!(!frames.heard(&ping));
        frames.said(&frame(DATA, 0, 100));
        assert!(frames.heard(&ping.repeat(4)));
        frames.said(&frame(PING, ACK, 8).repeat(100));
        assert!(!frames.heard(&ping), "answers to a flood give nothing back");
    }
}
