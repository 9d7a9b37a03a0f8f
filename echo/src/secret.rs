//! What only echo and its clients may know: read once, never shown.

use std::{fmt, fs::File, io::Read, path::Path};
use subtle::ConstantTimeEq;

/// The most that is read of a secret's file.
const LONGEST: u64 = 64 << 10;

/// What only echo and its clients may know. It has no text form, so that no log can show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl<T: Into<Vec<u8>>> From<T> for Secret {
    /// Takes the bytes without the newline that editors and `echo` put at the end.
    fn from(bytes: T) -> Self {
        let mut bytes = bytes.into();
        if bytes.pop_if(|last| *last == b'\n').is_some() {
            bytes.pop_if(|last| *last == b'\r');
        }
        Self(bytes)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    /// The secret in this file.
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let mut bytes = Vec::new();
        let read = File::open(path).and_then(|file| file.take(LONGEST + 1).read_to_end(&mut bytes));
        match read {
            Err(error) => Err(format!("cannot read {}: {error}", path.display())),
            Ok(_) if bytes.len() as u64 > LONGEST => {
                let path = path.display();
                Err(format!("{path} has more than {LONGEST} bytes: no secret"))
            }
            Ok(_) => Ok(Self::from(bytes)),
        }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether this is the secret. The time that takes tells at most whether the length is right.
    pub(crate) fn is(&self, told: &[u8]) -> bool {
        self.0.ct_eq(told).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_newline_at_the_end_is_not_part_of_it() {
        for (written, meant) in [
            ("key", "key"),
            ("key\n", "key"),
            ("key\r\n", "key"),
            ("key\n\n", "key\n"),
            ("key\r", "key\r"),
            (" key ", " key "),
            ("\n", ""),
        ] {
            assert_eq!(Secret::from(written).bytes(), meant.as_bytes());
        }
    }

    #[test]
    fn it_is_never_shown() {
        assert_eq!(format!("{:?}", Secret::from("key")), "Secret");
    }

    #[test]
    fn only_the_whole_of_it_is_it() {
        let secret = Secret::from("0123456789abcdef");
        assert!(secret.is(b"0123456789abcdef"));
        for wrong in [
            "",
            "0123456789abcde",
            "0123456789abcdeF",
            "0123456789abcdef0",
        ] {
            assert!(!secret.is(wrong.as_bytes()), "{wrong}");
        }
    }
}
