//! Frames pass unchanged, and nothing that a side sends is read otherwise because of how it was
//! cut into pieces.

#![no_main]

use edge::websocket::frame::{self, Control, Data, Fault, HELD, Rules, Sender, Step, Walker};
use libfuzzer_sys::fuzz_target;

#[derive(Debug, PartialEq, Eq)]
struct Walk {
    passed: usize,
    messages: usize,
    controls: Vec<(Control, Vec<u8>)>,
    fault: Option<Fault>,
}

/// `cut` says how long the next piece is.
fn walk(rules: Rules, bytes: &[u8], mut cut: impl FnMut(usize) -> usize) -> Walk {
    let mut walker = Walker::new(rules);
    let mut walk = Walk {
        passed: 0,
        messages: 0,
        controls: Vec::new(),
        fault: None,
    };
    let (mut at, mut shown) = (0, 0);
    while shown < bytes.len() {
        shown += cut(bytes.len() - shown).clamp(1, bytes.len() - shown);
        while at < shown {
            let was_at_boundary = walker.at_boundary();
            match walker.step(&bytes[at..shown]) {
                Ok(Step::More) => {
                    assert!(was_at_boundary && shown - at < HELD);
                    break;
                }
                Ok(Step::Data { length, kind }) => {
                    assert!(length > 0 && at + length <= shown);
                    walk.messages += usize::from(kind == Data::Begins);
                    at += length;
                }
                Ok(Step::Control { kind, length }) => {
                    assert!(length >= 2 && length <= HELD && at + length <= shown);
                    let payload = frame::payload(&bytes[at..at + length]);
                    assert!(payload.len() <= frame::CONTROL);
                    walk.controls.push((kind, payload));
                    at += length;
                }
                Err(fault) => {
                    walk.fault = Some(fault);
                    walk.passed = at;
                    return walk;
                }
            }
        }
    }
    walk.passed = at;
    walk
}

// The first bytes choose the rules and the pieces, the rest is sent.
fuzz_target!(|bytes: &[u8]| {
    let Some((&[choice, cuts @ ..], sent)) = bytes.split_first_chunk::<5>() else {
        return;
    };
    let rules = Rules {
        sender: if choice & 1 == 0 {
            Sender::Client
        } else {
            Sender::Upstream
        },
        compressed: choice & 2 != 0,
        frame: if choice & 4 == 0 { u64::MAX } else { 100 },
        message: if choice & 8 == 0 { u64::MAX } else { 150 },
    };
    let whole = walk(rules, sent, |all| all);
    let mut turn = 0;
    let pieces = walk(rules, sent, |_| {
        turn += 1;
        usize::from(cuts[turn % cuts.len()])
    });
    assert_eq!(whole, pieces);
    assert_eq!(whole, walk(rules, sent, |_| 1));
});
