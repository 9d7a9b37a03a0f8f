//! Frames as they pass (RFC 6455 section 5): only headers are read, payloads are neither
//! unmasked nor copied.
//!
//! A [`Walker`] is shown what one side sends, piece by piece, and says how much of it may go on.
//! Control frames go on whole, so that a Close or a Pong can be read and a Ping of edge's own
//! put between two frames.

/// Who sends the frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    /// Masks every frame (5.1).
    Client,
    /// Should mask none. One that does, as servers on a well-known library do, can be read all
    /// the same: it is the client's to refuse it.
    Upstream,
}

/// The longest payload of a control frame (5.5).
pub const CONTROL: usize = 125;
/// The longest control frame: a header of two bytes, a mask and the payload. So much at most
/// waits for the rest of it, or of a header.
pub const HELD: usize = 2 + 4 + CONTROL;

/// What a sender may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Who sends.
    pub sender: Sender,
    /// The most bytes of a frame's payload.
    pub frame: u64,
    /// The most bytes of a message's payload, all its frames together.
    pub message: u64,
    /// Was permessage-deflate agreed on? Then the first frame of a message may have RSV1 set
    /// (RFC 7692 6).
    pub compressed: bool,
}

/// Why no more frames can be read: nobody knows where the next one begins, or it is too large.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A frame that RFC 6455 forbids.
    Protocol,
    /// A frame larger than allowed.
    FrameTooLarge,
    /// A message larger than allowed.
    MessageTooLarge,
}

/// What comes next in the bytes that were shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// So many bytes go on: payload, or a data frame's header with what there is of its payload.
    Data {
        /// How many.
        length: usize,
        /// What they are.
        kind: Data,
    },
    /// A whole control frame of so many bytes.
    Control {
        /// Which.
        kind: Control,
        /// How many bytes, header and payload.
        length: usize,
    },
    /// A header or a control frame is not complete: show it again with what follows it.
    /// Never more than [`HELD`] bytes.
    More,
}

/// What data is a part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Data {
    /// A message begins.
    Begins,
    /// A message goes on.
    Continues,
    /// A message goes on with a frame that brings nothing: of these one message may have any
    /// number.
    Empty,
}

/// Frames that are about the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// The sender will send nothing more.
    Close,
    /// Asks for a Pong.
    Ping,
    /// Answers a Ping, or comes unasked.
    Pong,
}

/// Reads the headers of one side's frames.
#[derive(Debug)]
pub struct Walker {
    rules: Rules,
    /// Bytes of the frame's payload that are still to come.
    left: u64,
    /// Payload so far of a message whose last frame has not begun.
    message: Option<u64>,
}

const FIN: u8 = 0x80;
const RSV: u8 = 0x70;
const RSV1: u8 = 0x40;
const MASKED: u8 = 0x80;

/// A header's first bytes.
struct Header {
    first: u8,
    /// Of the header itself.
    length: usize,
    payload: u64,
}

impl Walker {
    /// At the first frame.
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            left: 0,
            message: None,
        }
    }

    /// Is nothing of a frame still to come? Then another frame may be put here.
    pub fn at_boundary(&self) -> bool {
        self.left == 0
    }

    /// What comes next; `bytes` must not be empty. Called again with what is behind it.
    pub fn step(&mut self, bytes: &[u8]) -> Result<Step, Fault> {
        if self.left > 0 {
            return Ok(Step::Data {
                length: self.pass(bytes.len()),
                kind: Data::Continues,
            });
        }
        let Some(header) = self.header(bytes)? else {
            return Ok(Step::More);
        };
        if let Some(kind) = control(header.first) {
            let length = header.length + usize::try_from(header.payload).unwrap_or(CONTROL);
            return Ok(match bytes.len() >= length {
                true => Step::Control { kind, length },
                false => Step::More,
            });
        }
        let kind = self.data(&header)?;
        self.left = header.payload;
        let length = header.length + self.pass(bytes.len() - header.length);
        Ok(Step::Data { length, kind })
    }

    /// Lets payload pass, as much as there is of it.
    fn pass(&mut self, there: usize) -> usize {
        let passed = usize::try_from(self.left).map_or(there, |left| left.min(there));
        self.left -= passed as u64;
        passed
    }

    /// The header at the start of `bytes`, if it is complete; each fault as early as it can be
    /// seen.
    fn header(&self, bytes: &[u8]) -> Result<Option<Header>, Fault> {
        let &[first, second, ref rest @ ..] = bytes else {
            return Ok(None);
        };
        let masked = second & MASKED != 0;
        let opcode = first & 0x0f;
        let known = matches!(opcode, 0x0..=0x2 | 0x8..=0xa);
        let may_have = match opcode {
            0x1 | 0x2 if self.rules.compressed => RSV1,
            _ => 0,
        };
        let unmasked = self.rules.sender == Sender::Client && !masked;
        if !known || first & RSV & !may_have != 0 || unmasked {
            return Err(Fault::Protocol);
        }
        let short = second & !MASKED;
        if control(first).is_some() && (first & FIN == 0 || usize::from(short) > CONTROL) {
            return Err(Fault::Protocol);
        }
        let (extended, least, payload) = match (short, rest) {
            (126, [a, b, ..]) => (2, 126, u64::from(u16::from_be_bytes([*a, *b]))),
            (127, [a, b, c, d, e, f, g, h, ..]) => {
                let payload = u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]);
                (8, 1 << 16, payload)
            }
            (126 | 127, _) => return Ok(None),
            _ => (0, 0, u64::from(short)),
        };
        // The shortest form is the only one, and the highest bit is zero (5.2).
        if payload < least || payload >> 63 != 0 {
            return Err(Fault::Protocol);
        }
        let length = 2 + extended + if masked { 4 } else { 0 };
        Ok((bytes.len() >= length).then_some(Header {
            first,
            length,
            payload,
        }))
    }

    /// A data frame begins.
    fn data(&mut self, header: &Header) -> Result<Data, Fault> {
        let begins = header.first & 0x0f != 0;
        if begins == self.message.is_some() {
            return Err(Fault::Protocol);
        }
        if header.payload > self.rules.frame {
            return Err(Fault::FrameTooLarge);
        }
        let message = self.message.unwrap_or(0).saturating_add(header.payload);
        if message > self.rules.message {
            return Err(Fault::MessageTooLarge);
        }
        self.message = (header.first & FIN == 0).then_some(message);
        Ok(match begins {
            true => Data::Begins,
            false if header.payload == 0 => Data::Empty,
            false => Data::Continues,
        })
    }
}

fn control(first: u8) -> Option<Control> {
    Some(match first & 0x0f {
        0x8 => Control::Close,
        0x9 => Control::Ping,
        0xa => Control::Pong,
        _ => return None,
    })
}

/// The payload of a whole control frame, unmasked.
pub fn payload(frame: &[u8]) -> Vec<u8> {
    match frame {
        [_, second, a, b, c, d, payload @ ..] if second & MASKED != 0 => {
            let key = [a, b, c, d].into_iter().cycle();
            payload
                .iter()
                .zip(key)
                .map(|(byte, key)| byte ^ key)
                .collect()
        }
        [_, _, payload @ ..] => payload.to_vec(),
        _ => Vec::new(),
    }
}

/// The code in a Close frame's payload; 1005 where there is none (7.1.5).
pub fn close_code(payload: &[u8]) -> u16 {
    match payload {
        [high, low, ..] => u16::from_be_bytes([*high, *low]),
        _ => 1005,
    }
}

/// Writes a control frame; with a key it is masked, as a client's must be.
fn write(opcode: u8, payload: &[u8], key: Option<[u8; 4]>) -> Vec<u8> {
    let payload = payload.get(..CONTROL).unwrap_or(payload);
    let mut frame = Vec::with_capacity(6 + payload.len());
    let length = u8::try_from(payload.len()).unwrap_or_default();
    frame.extend([FIN | opcode, length | key.map_or(0, |_| MASKED)]);
    frame.extend(key.into_iter().flatten());
    let key = key.unwrap_or_default().into_iter().cycle();
    frame.extend(payload.iter().zip(key).map(|(byte, key)| byte ^ key));
    frame
}

/// A Close frame with its code and reason (5.5.1).
pub fn close(code: u16, reason: &str, key: Option<[u8; 4]>) -> Vec<u8> {
    let payload = [&code.to_be_bytes(), reason.as_bytes()].concat();
    write(0x8, &payload, key)
}

/// A Ping frame of a server's (5.5.2): a mark, by which its Pong is known, and a number.
pub fn ping(mark: u32, number: u32) -> Vec<u8> {
    let payload = [mark.to_be_bytes(), number.to_be_bytes()].concat();
    write(0x9, &payload, None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: [u8; 4] = [1, 2, 3, 4];

    fn rules(sender: Sender) -> Rules {
        Rules {
            sender,
            frame: 1 << 20,
            message: 4 << 20,
            compressed: false,
        }
    }

    /// A frame of a client's; `first` is FIN, RSV and the opcode.
    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![first];
        match payload.len() {
            short @ 0..126 => frame.push(MASKED | u8::try_from(short).unwrap()),
            medium @ 126..65_536 => {
                frame.push(MASKED | 126);
                frame.extend(u16::try_from(medium).unwrap().to_be_bytes());
            }
            long => {
                frame.push(MASKED | 127);
                frame.extend((long as u64).to_be_bytes());
            }
        }
        frame.extend(KEY);
        let masked = payload.iter().zip(KEY.into_iter().cycle());
        frame.extend(masked.map(|(byte, key)| byte ^ key));
        frame
    }

    /// What a relay would do with these pieces: what goes on, the messages begun, the control
    /// frames, and how it ended.
    type Walk = (Vec<u8>, usize, Vec<(Control, Vec<u8>)>, Option<Fault>);

    fn walk(rules: Rules, pieces: &[&[u8]]) -> Walk {
        let mut walker = Walker::new(rules);
        let (mut on, mut messages, mut controls) = (Vec::new(), 0, Vec::new());
        let mut held: Vec<u8> = Vec::new();
        for piece in pieces {
            held.extend_from_slice(piece);
            let mut at = 0;
            while at < held.len() {
                let length = match walker.step(&held[at..]) {
                    Ok(Step::Data { length, kind }) => {
                        messages += usize::from(kind == Data::Begins);
                        length
                    }
                    Ok(Step::Control { kind, length }) => {
                        controls.push((kind, payload(&held[at..at + length])));
                        length
                    }
                    Ok(Step::More) => {
                        assert!(held.len() - at < HELD, "what waits is bounded");
                        break;
                    }
                    Err(fault) => return (on, messages, controls, Some(fault)),
                };
                assert!(length > 0, "every step goes on");
                on.extend_from_slice(&held[at..at + length]);
                at += length;
            }
            held.drain(..at);
        }
        (on, messages, controls, None)
    }

    fn fault(rules: Rules, bytes: &[u8]) -> Option<Fault> {
        walk(rules, &[bytes]).3
    }

    #[test]
    fn what_rfc_6455_forbids_is_a_fault() {
        let client = rules(Sender::Client);
        for (what, bytes) in [
            ("an unmasked frame", vec![0x81, 0x01, b'a']),
            ("RSV1 without an extension", frame(0xc1, b"a")),
            ("RSV2", frame(0xa1, b"a")),
            ("RSV3", frame(0x91, b"a")),
            ("an opcode that nobody defined", frame(0x83, b"")),
            ("a control opcode that nobody defined", frame(0x8b, b"")),
            ("a fragmented Ping", frame(0x09, b"")),
            ("a control frame of 126 bytes", frame(0x89, &[0; 126])),
            ("a continuation of nothing", frame(0x80, b"a")),
            (
                "a message within a message",
                [frame(0x01, b"a"), frame(0x81, b"b")].concat(),
            ),
            (
                "a length longer than it need be",
                vec![0x82, 0xfe, 0, 125, 1, 2, 3, 4],
            ),
            (
                "a length of 64 bits",
                vec![0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4],
            ),
        ] {
            assert_eq!(fault(client, &bytes), Some(Fault::Protocol), "{what}");
        }
    }

    #[test]
    fn an_upstream_that_masks_can_be_read() {
        let frames = [frame(0x81, b"a"), frame(0x88, &[3, 232])].concat();
        let (on, _, controls, fault) = walk(rules(Sender::Upstream), &[&frames]);
        assert_eq!((on, fault), (frames, None));
        assert_eq!(close_code(&controls[0].1), 1000);
    }

    #[test]
    fn a_fault_is_seen_in_the_first_two_bytes() {
        for bytes in [[0x83, 0x80], [0x81, 0x00], [0x89, 0xfe], [0xf1, 0x80]] {
            assert_eq!(
                fault(rules(Sender::Client), &bytes),
                Some(Fault::Protocol),
                "{bytes:?}"
            );
        }
    }

    #[test]
    fn rsv1_marks_a_compressed_message_at_its_beginning_only() {
        let compressed = Rules {
            compressed: true,
            ..rules(Sender::Client)
        };
        let good = [frame(0x41, b"a"), frame(0x89, b""), frame(0x80, b"b")].concat();
        assert_eq!(fault(compressed, &good), None);
        for bad in [
            [frame(0x41, b"a"), frame(0xc0, b"b")].concat(),
            frame(0xc9, b""),
        ] {
            assert_eq!(fault(compressed, &bad), Some(Fault::Protocol));
        }
    }

    #[test]
    fn sizes_are_bounded_to_the_byte() {
        let small = Rules {
            frame: 200,
            message: 300,
            ..rules(Sender::Client)
        };
        assert_eq!(fault(small, &frame(0x82, &[0; 200])), None);
        assert_eq!(
            fault(small, &frame(0x82, &[0; 201])),
            Some(Fault::FrameTooLarge)
        );
        let parts = |last| [frame(0x02, &[0; 200]), frame(0x80, &vec![0; last])].concat();
        assert_eq!(fault(small, &parts(100)), None);
        assert_eq!(fault(small, &parts(101)), Some(Fault::MessageTooLarge));
        let (on, ..) = walk(small, &[&frame(0x02, &[0; 200]), &frame(0x80, &[0; 101])]);
        assert_eq!(on, frame(0x02, &[0; 200]), "the frame too much stays back");
    }

    #[test]
    fn what_edge_writes_can_be_read() {
        for key in [None, Some(KEY)] {
            let sender = if key.is_some() {
                Sender::Client
            } else {
                Sender::Upstream
            };
            let (_, _, controls, fault) = walk(rules(sender), &[&close(1012, "draining", key)]);
            assert_eq!(fault, None);
            let [(Control::Close, payload)] = controls.as_slice() else {
                panic!("{controls:?}");
            };
            assert_eq!(close_code(payload), 1012);
            assert_eq!(&payload[2..], b"draining");
        }
        let (_, _, controls, _) = walk(rules(Sender::Upstream), &[&ping(0x0707_0707, 0x0707_0707)]);
        assert_eq!(controls, [(Control::Ping, vec![7; 8])]);
        assert_eq!(close_code(b""), 1005);
    }

    fn sizes() -> impl Strategy<Value = usize> {
        prop_oneof![
            0..10usize,
            120..130usize,
            0..3_000usize,
            65_530..65_540usize
        ]
    }

    /// A valid stream, and how many messages it has.
    fn streams() -> impl Strategy<Value = (Vec<u8>, usize)> {
        let fragment = (sizes(), prop::option::of(0..=CONTROL));
        let message = (prop::collection::vec(fragment, 1..4), any::<bool>());
        prop::collection::vec(message, 0..6).prop_map(|messages| {
            let mut bytes = Vec::new();
            for (fragments, text) in &messages {
                let last = fragments.len() - 1;
                for (place, (size, control)) in fragments.iter().enumerate() {
                    let opcode = match place {
                        0 => 1 + u8::from(!text),
                        _ => 0,
                    };
                    let fin = if place == last { FIN } else { 0 };
                    bytes.extend(frame(fin | opcode, &vec![0x5a; *size]));
                    bytes.extend(control.map_or(Vec::new(), |size| frame(0x89, &vec![1; size])));
                }
            }
            (bytes, messages.len())
        })
    }

    fn split<'a>(bytes: &'a [u8], cuts: &[prop::sample::Index]) -> Vec<&'a [u8]> {
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.sort_unstable();
        let mut pieces = Vec::new();
        let mut from = 0;
        for cut in cuts.into_iter().chain([bytes.len()]) {
            pieces.push(&bytes[from..cut]);
            from = cut;
        }
        pieces
    }

    proptest! {
        /// The law: what goes on is what came, however it was cut into pieces.
        #[test]
        fn every_split_of_a_valid_stream_goes_on_unchanged(
            (bytes, messages) in streams(),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        ) {
            let walked = walk(rules(Sender::Client), &split(&bytes, &cuts));
            prop_assert_eq!(walked.3, None);
            prop_assert_eq!(walked.1, messages);
            prop_assert!(walked.0 == bytes);
        }

        /// And of any stream, the same goes on and the same is found, however it was cut.
        #[test]
        fn no_split_changes_the_verdict(
            (mut bytes, _) in streams(),
            noise in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        ) {
            for (place, byte) in noise {
                if !bytes.is_empty() {
                    let place = place.index(bytes.len());
                    bytes[place] = byte;
                }
            }
            let whole = walk(rules(Sender::Client), &[&bytes]);
            let cut = walk(rules(Sender::Client), &split(&bytes, &cuts));
            prop_assert!(whole == cut);
        }
    }
}
