//! A body compressed as it passes.
//!
//! What one stream may hold is fixed by its window and level, whatever the body, and what all hold
//! together is bounded: see [`Place`]. The usual levels are for speed; each answer is compressed anew.

use std::io::{Result, Write};
use std::sync::atomic::{AtomicUsize, Ordering};

use brotli::CompressorWriter;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use zstd::stream::raw::CParameter;

use crate::compression::Encoding;

/// Compresses one body. After an error it is of no more use: the body must not look complete.
pub(crate) struct Encoder(Stream);

enum Stream {
    Brotli(Box<CompressorWriter<Vec<u8>>>),
    Zstd(Box<zstd::stream::write::Encoder<'static, Vec<u8>>>),
    Gzip(Box<GzEncoder<Vec<u8>>>),
}

/// Quality and window (2^18 = 256 KiB) of brotli.
const BROTLI: (u8, u32) = (3, 18);
/// Better ones would take as much as all others together: 5 MiB and more for each body.
const BROTLI_MOST: u8 = 5;
/// Brotli's own buffer on the way out.
const BROTLI_BUFFER: usize = 4 << 10;
/// Level and window (2^18 = 256 KiB) of zstd; RFC 9659 allows 8 MiB.
const ZSTD: (u8, u32) = (1, 18);
/// From the level behind this one on, zstd's tables have so many places (2^16), not its own number.
const ZSTD_PLAIN: i32 = 2;
const ZSTD_TABLES: u32 = 16;
/// Level of gzip, whose window is 32 KiB.
const GZIP: u8 = 4;

/// All bodies that are being compressed hold at most so much, in KiB; more go as they are.
const MOST: usize = 256 << 10;

/// What is taken of [`MOST`] now.
static TAKEN: AtomicUsize = AtomicUsize::new(0);

/// Room for one encoder.
pub(crate) struct Place(usize);

impl Place {
    /// Takes room, if there is some.
    pub(crate) fn take(encoding: Encoding, level: Option<u8>) -> Option<Self> {
        let size = size(encoding, level);
        let more = |taken: usize| Some(taken + size).filter(|taken| *taken <= MOST);
        let taken = TAKEN.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        taken.ok().map(|_| Self(size))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        TAKEN.fetch_sub(self.0, Ordering::Relaxed);
    }
}

/// What an encoder holds once it has seen more than its window, in KiB: measured, see
/// docs/decisions.md.
fn size(encoding: Encoding, level: Option<u8>) -> usize {
    match (encoding, level) {
        (Encoding::Gzip, _) => 400,
        (Encoding::Zstd, None | Some(1)) => 700,
        (Encoding::Zstd, _) => 1_100,
        (Encoding::Brotli, Some(1)) => 500,
        (Encoding::Brotli, None | Some(2 | 3)) => 1_450,
        (Encoding::Brotli, _) => 4_500,
    }
}

impl Encoder {
    /// Begins a body; `level` from 1 to 9 is the library's own.
    pub(crate) fn new(encoding: Encoding, level: Option<u8>) -> Result<Self> {
        let level = |own: u8| level.unwrap_or(own);
        Ok(Self(match encoding {
            Encoding::Brotli => {
                let (quality, window) = BROTLI;
                let quality = u32::from(level(quality).min(BROTLI_MOST));
                let writer = CompressorWriter::new(Vec::new(), BROTLI_BUFFER, quality, window);
                Stream::Brotli(Box::new(writer))
            }
            Encoding::Zstd => {
                let (own, window) = ZSTD;
                let level = i32::from(level(own));
                let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), level)?;
                encoder.set_parameter(CParameter::WindowLog(window))?;
                if level > ZSTD_PLAIN {
                    // Its own tables are for bodies of many megabytes, and as large.
                    encoder.set_parameter(CParameter::HashLog(ZSTD_TABLES))?;
                    encoder.set_parameter(CParameter::ChainLog(ZSTD_TABLES))?;
                }
                Stream::Zstd(Box::new(encoder))
            }
            Encoding::Gzip => {
                let level = Compression::new(u32::from(level(GZIP)));
                Stream::Gzip(Box::new(GzEncoder::new(Vec::new(), level)))
            }
        }))
    }

    /// Takes more of the body; what is ready so far comes back, which may be nothing.
    pub(crate) fn push(&mut self, part: &[u8]) -> Result<Bytes> {
        match &mut self.0 {
            Stream::Brotli(writer) => writer.write_all(part)?,
            Stream::Zstd(encoder) => encoder.write_all(part)?,
            Stream::Gzip(encoder) => encoder.write_all(part)?,
        }
        Ok(self.take())
    }

    /// Gives all that was pushed: whoever has got it can read the body up to here.
    pub(crate) fn flush(&mut self) -> Result<Bytes> {
        match &mut self.0 {
            Stream::Brotli(writer) => writer.flush()?,
            Stream::Zstd(encoder) => encoder.flush()?,
            Stream::Gzip(encoder) => encoder.flush()?,
        }
        Ok(self.take())
    }

    /// The rest, and the end.
    pub(crate) fn finish(self) -> Result<Bytes> {
        let rest = match self.0 {
            Stream::Brotli(writer) => writer.into_inner(),
            Stream::Zstd(encoder) => encoder.finish()?,
            Stream::Gzip(encoder) => encoder.finish()?,
        };
        Ok(Bytes::from(rest))
    }

    fn take(&mut self) -> Bytes {
        Bytes::from(std::mem::take(match &mut self.0 {
            Stream::Brotli(writer) => writer.get_mut(),
            Stream::Zstd(encoder) => encoder.get_mut(),
            Stream::Gzip(encoder) => encoder.get_mut(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use proptest::prelude::*;

    use super::*;

    fn decoded(encoding: Encoding, bytes: &[u8]) -> Vec<u8> {
        let mut body = Vec::new();
        let read = match encoding {
            Encoding::Brotli => brotli::Decompressor::new(bytes, 4096).read_to_end(&mut body),
            Encoding::Zstd => zstd::stream::read::Decoder::new(bytes)
                .unwrap()
                .read_to_end(&mut body),
            Encoding::Gzip => flate2::read::GzDecoder::new(bytes).read_to_end(&mut body),
        };
        read.unwrap();
        body
    }

    /// What can be read of a body that has not ended.
    fn readable(encoding: Encoding, bytes: &[u8], length: usize) -> Vec<u8> {
        let mut body = vec![0; length];
        match encoding {
            Encoding::Brotli => brotli::Decompressor::new(bytes, 4096).read_exact(&mut body),
            Encoding::Zstd => zstd::stream::read::Decoder::new(bytes)
                .unwrap()
                .read_exact(&mut body),
            Encoding::Gzip => flate2::read::GzDecoder::new(bytes).read_exact(&mut body),
        }
        .unwrap();
        body
    }

    fn parts() -> impl Strategy<Value = Vec<(Vec<u8>, bool)>> {
        let noise = proptest::collection::vec(any::<u8>(), 0..3000);
        let text = "[a-e ]{0,2000}".prop_map(String::into_bytes);
        let long = (any::<u8>(), 0..300_000_usize).prop_map(|(byte, size)| vec![byte; size]);
        let part = prop_oneof![4 => noise, 4 => text, 1 => long];
        proptest::collection::vec((part, any::<bool>()), 0..12)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn what_was_encoded_decodes(parts in parts()) {
            for encoding in Encoding::ALL {
                let mut encoder = Encoder::new(encoding, None).unwrap();
                let (mut body, mut out) = (Vec::new(), Vec::new());
                for (part, flushed) in &parts {
                    body.extend_from_slice(part);
                    out.extend_from_slice(&encoder.push(part).unwrap());
                    if *flushed {
                        out.extend_from_slice(&encoder.flush().unwrap());
                        prop_assert!(readable(encoding, &out, body.len()) == body);
                    }
                }
                out.extend_from_slice(&encoder.finish().unwrap());
                prop_assert!(decoded(encoding, &out) == body);
            }
        }
    }

    #[test]
    fn so_many_bodies_at_once_find_room_and_no_more() {
        let mut places = Vec::new();
        while let Some(place) = Place::take(Encoding::Brotli, Some(9)) {
            places.push(place);
        }
        assert!(!places.is_empty() && places.len() <= MOST / size(Encoding::Brotli, Some(9)));
        places.pop();
        assert!(Place::take(Encoding::Brotli, Some(9)).is_some());
    }

    #[test]
    fn every_level_decodes() {
        let text = "some words, and some words again; ".repeat(3_000);
        for level in 1..=9 {
            for encoding in Encoding::ALL {
                let mut encoder = Encoder::new(encoding, Some(level)).unwrap();
                let mut out = encoder.push(text.as_bytes()).unwrap().to_vec();
                out.extend_from_slice(&encoder.finish().unwrap());
                assert_eq!(
                    decoded(encoding, &out),
                    text.as_bytes(),
                    "{encoding} {level}"
                );
            }
        }
    }

    #[test]
    fn an_end_is_never_empty() {
        for encoding in Encoding::ALL {
            for part in [&b""[..], b"a"] {
                let mut encoder = Encoder::new(encoding, None).unwrap();
                let mut out = encoder.push(part).unwrap().to_vec();
                out.extend_from_slice(&encoder.flush().unwrap());
                let end = encoder.finish().unwrap();
                assert!(!end.is_empty(), "{encoding}");
                out.extend_from_slice(&end);
                assert_eq!(decoded(encoding, &out), part);
            }
        }
    }

    #[test]
    fn text_gets_smaller() {
        let text = "the quick brown fox jumps over the lazy dog; ".repeat(2000);
        for encoding in Encoding::ALL {
            let mut encoder = Encoder::new(encoding, None).unwrap();
            let pushed = encoder.push(text.as_bytes()).unwrap().len();
            let out = pushed + encoder.finish().unwrap().len();
            assert!(out < text.len() / 10, "{encoding}: {out}");
        }
    }
}
