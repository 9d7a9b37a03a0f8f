//! The tags by which an upstream names groups of answers, so that a group can be forgotten at once.

use http::header::{HeaderMap, HeaderName};

/// The fields that carry tags: separated by spaces, and by commas.
pub const FIELDS: [HeaderName; 2] = [
    HeaderName::from_static("surrogate-key"),
    HeaderName::from_static("cache-tag"),
];

/// An answer has no more tags than this; the rest is left out.
pub const MOST_TAGS: usize = 64;

/// A longer tag is left out, in bytes.
pub const LONGEST_TAG: usize = 256;

/// The tags of an answer, each once, in their order.
///
/// A tag is made of visible ASCII; what is not is left out.
pub fn tags(answer: &HeaderMap) -> Vec<&str> {
    let mut tags: Vec<&str> = Vec::new();
    for (name, border) in FIELDS.iter().zip([b' ', b',']) {
        let lines = answer.get_all(name).iter();
        let words = lines.flat_map(|line| line.as_bytes().split(move |b| *b == border));
        for tag in words.filter_map(|word| read(word.trim_ascii())) {
            if tags.len() == MOST_TAGS {
                return tags;
            }
            if !tags.contains(&tag) {
                tags.push(tag);
            }
        }
    }
    tags
}

fn read(word: &[u8]) -> Option<&str> {
    let fits = (1..=LONGEST_TAG).contains(&word.len()) && word.iter().all(u8::is_ascii_graphic);
    std::str::from_utf8(word).ok().filter(|_| fits)
}

#[cfg(test)]
mod tests {
    use super::super::tests::headers;
    use super::*;

    #[test]
    fn tags_are_read_from_both_fields_each_once() {
        let answer = headers(&[
            ("cache-tag", "c, a,, e f ,d"),
            ("surrogate-key", " a  b "),
            ("surrogate-key", "a,b"),
        ]);
        assert_eq!(tags(&answer), ["a", "b", "a,b", "c", "d"]);
        assert_eq!(tags(&HeaderMap::new()), [""; 0]);
    }

    #[test]
    fn too_many_too_long_and_invisible_tags_are_left_out() {
        let many: Vec<_> = (0..99).map(|n| n.to_string()).collect();
        let (longest, longer) = ("x".repeat(LONGEST_TAG), "x".repeat(LONGEST_TAG + 1));
        assert_eq!(
            tags(&headers(&[("surrogate-key", &many.join(" "))])).len(),
            MOST_TAGS
        );
        let answer = headers(&[("cache-tag", &format!("{longest},{longer},ü"))]);
        assert_eq!(tags(&answer), [longest]);
    }
}
