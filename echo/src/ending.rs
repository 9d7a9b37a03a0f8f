//! How a WebSocket ends: one value says the close code, the reason and who began, for the peer,
//! the log and the counters alike.

use std::borrow::Cow;
use tokio_tungstenite::tungstenite::{
    Error,
    error::ProtocolError,
    protocol::{CloseFrame, frame::coding::CloseCode},
};

/// How a WebSocket ends, and so what the peer still gets to hear.
#[derive(Debug)]
pub(crate) enum Ending {
    /// The peer said Close; tungstenite answers with the same code.
    Heard(Option<CloseFrame>),
    /// We say Close, and wait for the peer's.
    Said(CloseFrame),
    /// The peer broke a rule: we say Close and read no more frames, as nobody knows where one begins.
    Failed(CloseFrame),
    /// The connection is gone: there is nobody to say Close to.
    Lost(Cow<'static, str>),
    /// We let go without a Close, because none would get through.
    Dropped(&'static str),
}

impl Ending {
    pub(crate) fn draining() -> Self {
        Self::Said(close(CloseCode::Away, "server is shutting down"))
    }

    pub(crate) fn idle() -> Self {
        Self::Said(close(CloseCode::Away, "idle for too long"))
    }

    pub(crate) fn code(&self) -> u16 {
        match self {
            Self::Heard(Some(frame)) | Self::Said(frame) | Self::Failed(frame) => frame.code.into(),
            Self::Heard(None) => CloseCode::Status.into(),
            Self::Lost(_) | Self::Dropped(_) => CloseCode::Abnormal.into(),
        }
    }

    pub(crate) fn reason(&self) -> &str {
        match self {
            Self::Heard(Some(frame)) | Self::Said(frame) | Self::Failed(frame) => &frame.reason,
            Self::Heard(None) => "",
            Self::Lost(reason) => reason,
            Self::Dropped(reason) => reason,
        }
    }

    pub(crate) fn by(&self) -> &'static str {
        match self {
            Self::Heard(_) | Self::Lost(_) => "client",
            Self::Said(_) | Self::Failed(_) | Self::Dropped(_) => "server",
        }
    }
}

impl From<Error> for Ending {
    fn from(error: Error) -> Self {
        match error {
            Error::Io(error) => Self::Lost(error.to_string().into()),
            Error::ConnectionClosed
            | Error::AlreadyClosed
            | Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => {
                Self::Lost("connection ended without a Close".into())
            }
            Error::Protocol(rule) => Self::Failed(close(CloseCode::Protocol, rule.to_string())),
            Error::Utf8(_) => Self::Failed(close(CloseCode::Invalid, "text is not valid UTF-8")),
            Error::Capacity(limit) => Self::Failed(close(CloseCode::Size, limit.to_string())),
            _ => Self::Failed(close(CloseCode::Error, "internal error")),
        }
    }
}

fn close(code: CloseCode, reason: impl Into<String>) -> CloseFrame {
    let mut reason = reason.into();
    // A control frame holds 125 bytes, and the code takes two.
    while reason.len() > 123 {
        reason.pop();
    }
    CloseFrame {
        code,
        reason: reason.into(),
    }
}

/// The label of a close code: peers choose codes freely, so ranges of them share one.
pub(crate) fn code_label(code: u16) -> &'static str {
    match code {
        1000 => "1000",
        1001 => "1001",
        1002 => "1002",
        1003 => "1003",
        1005 => "1005",
        1006 => "1006",
        1007 => "1007",
        1008 => "1008",
        1009 => "1009",
        1010 => "1010",
        1011 => "1011",
        1012 => "1012",
        1013 => "1013",
        1014 => "1014",
        3000..=3999 => "3xxx",
        4000..=4999 => "4xxx",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_tungstenite::tungstenite::error::CapacityError;

    #[test]
    fn each_fault_has_its_close_code() {
        let too_long = CapacityError::MessageTooLong {
            size: 11,
            max_size: 10,
        };
        for (error, code, by) in [
            (Error::Capacity(too_long), 1009, "server"),
            (Error::Utf8("x".into()), 1007, "server"),
            (ProtocolError::NonZeroReservedBits.into(), 1002, "server"),
            (ProtocolError::FragmentedControlFrame.into(), 1002, "server"),
            (Error::ConnectionClosed, 1006, "client"),
        ] {
            let ending = Ending::from(error);
            assert_eq!((ending.code(), ending.by()), (code, by), "{ending:?}");
        }
    }

    #[test]
    fn a_reason_fits_a_control_frame() {
        assert_eq!(close(CloseCode::Error, "é".repeat(100)).reason.len(), 122);
    }
}
