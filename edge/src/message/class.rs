//! The classes of bytes.

const TOKENS: [bool; 256] = tokens();

const fn tokens() -> [bool; 256] {
    let mut tokens = [false; 256];
    let mut byte = 0_u8;
    while byte < 128 {
        #[expect(
            clippy::indexing_slicing,
            clippy::as_conversions,
            reason = "at compile time; a byte is below 256, and nothing else is const"
        )]
        {
            tokens[byte as usize] = byte.is_ascii_alphanumeric()
                || matches!(byte, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.')
                || matches!(byte, b'^'..=b'`' | b'|' | b'~');
        }
        byte += 1;
    }
    tokens
}

/// Is it a token (RFC 9110 5.6.2)?
pub(super) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|&byte| is_token_byte(byte))
}

pub(super) fn is_token_byte(byte: u8) -> bool {
    TOKENS.get(usize::from(byte)).is_some_and(|&token| token)
}

/// May it stand in a field's value (RFC 9110 5.5)? Visible, blank, or beyond ASCII.
pub(super) fn is_value(bytes: &[u8]) -> bool {
    none(bytes, |byte| (byte < b' ' && byte != b'\t') || byte == 0x7f)
}

/// May it stand in a target? Visible ASCII but what RFC 3986 never lets stand and honest clients
/// always escape. `[]^{|}\` and the backtick come from browsers.
pub(super) fn is_target(bytes: &[u8]) -> bool {
    none(bytes, |byte| {
        !(b'!'..0x7f).contains(&byte) || matches!(byte, b'"' | b'#' | b'<' | b'>')
    })
}

/// Is none of these bytes so? Looks at all of them, many at once, as the compiler likes it.
fn none(bytes: &[u8], bad: impl Fn(u8) -> bool) -> bool {
    !bytes.iter().fold(false, |any, &byte| any | bad(byte))
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
