//! What a WebSocket is told that speaks JSON only, and hears something else.

use serde::{Serialize, de::IgnoredAny};
use tokio_tungstenite::tungstenite::Message;

/// Why a message was not taken. The word is the same in the answer and in the metric.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Fault {
    /// `invalid_json` or `not_text`.
    pub(crate) error: &'static str,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    column: Option<usize>,
}

/// Whether a message is one JSON text (RFC 8259), and text.
///
/// Nothing is built of it, and nesting is followed without recursion: a level costs one byte, so
/// the bound on a message's size bounds that, too.
pub(crate) fn verify(message: &Message) -> Result<(), Fault> {
    let Message::Text(text) = message else {
        return Err(Fault {
            error: "not_text",
            detail: "only text messages are taken, each a JSON text".to_owned(),
            line: None,
            column: None,
        });
    };
    match serde_json::from_str::<IgnoredAny>(text) {
        Ok(IgnoredAny) => Ok(()),
        Err(error) => {
            let (line, column) = (error.line(), error.column());
            let detail = error.to_string();
            // The place has fields of its own.
            let place = format!(" at line {line} column {column}");
            let detail = detail.strip_suffix(&place).unwrap_or(&detail).to_owned();
            Err(Fault {
                error: "invalid_json",
                detail,
                line: Some(line),
                column: Some(column),
            })
        }
    }
}

impl Fault {
    /// The message that tells the peer.
    pub(crate) fn answer(&self) -> Message {
        // Texts and numbers always serialize.
        Message::text(serde_json::to_string(self).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_json_text_is_taken_not_only_objects() {
        for text in ["{}", "[1,2]", "\"a\"", "-1.5e3", "null", " true\n"] {
            assert_eq!(verify(&Message::text(text)), Ok(()), "{text}");
        }
    }

    #[test]
    fn a_fault_names_its_place() {
        let fault = verify(&Message::text("{\"a\":\n 1,}")).unwrap_err();
        let told =
            r#"{"error":"invalid_json","detail":"key must be a string","line":2,"column":4}"#;
        assert_eq!(fault.answer(), Message::text(told));
        for text in ["", "{", "{}{}", "nul", "\"\u{1}\"", "01", "'a'", "NaN"] {
            let fault = verify(&Message::text(text)).unwrap_err();
            assert_eq!(fault.error, "invalid_json", "{text}");
            assert!(!fault.detail.contains(" at line "), "{}", fault.detail);
        }
    }

    #[test]
    fn deep_nesting_needs_no_stack() {
        let levels = 1 << 20;
        let deep = ["[".repeat(levels), "]".repeat(levels)].concat();
        assert_eq!(verify(&Message::text(deep)), Ok(()));
    }

    #[test]
    fn binary_is_not_text() {
        let fault = verify(&Message::binary(b"{}".to_vec())).unwrap_err();
        let told =
            r#"{"error":"not_text","detail":"only text messages are taken, each a JSON text"}"#;
        assert_eq!(fault.answer(), Message::text(told));
    }
}
