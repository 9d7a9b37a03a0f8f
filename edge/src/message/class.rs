//! The classes of bytes.

const TOKEN: u8 = 1;
const VALUE: u8 = 2;
const TARGET: u8 = 4;

const CLASSES: [u8; 256] = classes();

const fn classes() -> [u8; 256] {
    let mut classes = [0; 256];
    let mut byte = 0_u8;
    loop {
        let mut class = 0;
        let word = byte.is_ascii_alphanumeric();
        let mark = matches!(
            byte,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        );
        if word || mark {
            class |= TOKEN;
        }
        if byte == b'\t' || (byte >= b' ' && byte != 0x7f) {
            class |= VALUE;
        }
        if byte.is_ascii_graphic() && !matches!(byte, b'"' | b'#' | b'<' | b'>') {
            class |= TARGET;
        }
        #[expect(
            clippy::indexing_slicing,
            clippy::as_conversions,
            reason = "at compile time; a byte is below 256, and nothing else is const"
        )]
        {
            classes[byte as usize] = class;
        }
        if byte == u8::MAX {
            return classes;
        }
        byte += 1;
    }
}

fn is(byte: u8, class: u8) -> bool {
    CLASSES
        .get(usize::from(byte))
        .is_some_and(|own| own & class != 0)
}

/// Is it a token (RFC 9110 5.6.2)?
pub(super) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|&byte| is_token_byte(byte))
}

pub(super) fn is_token_byte(byte: u8) -> bool {
    is(byte, TOKEN)
}

/// May it stand in a field's value (RFC 9110 5.5)? Visible, blank, or beyond ASCII.
pub(super) fn is_value(bytes: &[u8]) -> bool {
    bytes.iter().all(|&byte| is(byte, VALUE))
}

/// May it stand in a target? Visible ASCII but what RFC 3986 never lets stand and honest clients
/// always escape. `[]^{|}\` and the backtick come from browsers.
pub(super) fn is_target(bytes: &[u8]) -> bool {
    bytes.iter().all(|&byte| is(byte, TARGET))
}

/// Without the blanks at both ends (RFC 9110 5.6.3).
pub(super) fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = bytes {
        bytes = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

/// A length as it must be written: digits, no zero before others, at most 18 of them.
pub(super) fn length(digits: &[u8]) -> Option<u64> {
    let plain = match digits {
        [b'0'] => true,
        [b'1'..=b'9', ..] => digits.len() <= 18 && digits.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    let value = |sum: u64, digit: &u8| sum * 10 + u64::from(digit - b'0');
    plain.then(|| digits.iter().fold(0, value))
}
