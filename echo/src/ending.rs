//! How a WebSocket ends: one value says the close code, the reason and who began, for the peer,
//! the log and the counters alike.

use std::borrow::Cow;
use tokio_tungstenite::tungstenite::{
    Error,
    error::ProtocolError,
    protocol::{CloseFrame, frame::coding::CloseCode},
};

/// Why the server ends a WebSocket that broke no rule of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The server goes away.
    Draining,
    /// The peer said nothing for too long.
    Idle,
    /// The peer did not answer a ping.
    NoPong,
    /// The token that let the peer in has ended.
    TokenExpired,
    /// The peer says more than it may.
    TooFast,
}

impl Cause {
    /// The close code, and the reason: one word, the same in the Close, the log and the metric.
    fn parts(self) -> (CloseCode, &'static str) {
        match self {
            Self::Draining => (CloseCode::Restart, "draining"),
            Self::Idle => (CloseCode::Away, "idle_timeout"),
            Self::NoPong => (CloseCode::Away, "pong_timeout"),
            Self::TokenExpired => (CloseCode::Policy, "token_expired"),
            Self::TooFast => (CloseCode::Policy, "message_rate"),
        }
    }

    fn close(self) -> CloseFrame {
        let (code, reason) = self.parts();
        CloseFrame {
            code,
            reason: reason.into(),
        }
    }
}

/// How a WebSocket ends, and so what the peer still gets to hear.
#[derive(Debug)]
pub(crate) enum Ending {
    /// The peer said Close; tungstenite answers with the same code.
    Heard(Option<CloseFrame>),
    /// We say Close, and wait for the peer's.
    Said(Cause),
    /// The peer broke a rule: we say Close and read no more frames, as nobody knows where one begins.
    Failed(CloseFrame),
    /// The connection is gone: there is nobody to say Close to.
    Lost(Cow<'static, str>),
    /// We let go without a Close, because none would get through; why, in a word.
    Dropped(&'static str),
}

impl Ending {
    /// The Close that is ours to say, if there is one and somebody to hear it.
    pub(crate) fn close(&self) -> Option<CloseFrame> {
        match self {
            Self::Said(cause) => Some(cause.close()),
            Self::Failed(frame) => Some(frame.clone()),
            Self::Heard(_) | Self::Lost(_) | Self::Dropped(_) => None,
        }
    }

    pub(crate) fn code(&self) -> u16 {
        match self {
            Self::Heard(Some(frame)) | Self::Failed(frame) => frame.code.into(),
            Self::Said(cause) => cause.parts().0.into(),
            Self::Heard(None) => CloseCode::Status.into(),
            Self::Lost(_) | Self::Dropped(_) => CloseCode::Abnormal.into(),
        }
    }

    pub(crate) fn reason(&self) -> &str {
        match self {
            Self::Heard(Some(frame)) | Self::Failed(frame) => &frame.reason,
            Self::Heard(None) => "",
            Self::Said(cause) => cause.parts().1,
            Self::Lost(reason) => reason,
            Self::Dropped(reason) => reason,
        }
    }

    /// The word under which this is counted.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::Heard(_) => "close",
            Self::Said(cause) => cause.parts().1,
            Self::Failed(frame) => match frame.code {
                CloseCode::Protocol => "protocol",
                CloseCode::Invalid => "invalid_utf8",
                CloseCode::Size => "message_size",
                _ => "internal",
            },
            Self::Lost(_) => "lost",
            Self::Dropped(label) => label,
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
        let rules = [
            ProtocolError::NonZeroReservedBits,
            ProtocolError::FragmentedControlFrame,
        ];
        for (error, code, by, label) in [
            (Error::Capacity(too_long), 1009, "server", "message_size"),
            (Error::Utf8("x".into()), 1007, "server", "invalid_utf8"),
            (Error::AttackAttempt, 1011, "server", "internal"),
            (Error::ConnectionClosed, 1006, "client", "lost"),
        ]
        .into_iter()
        .chain(rules.map(|rule| (rule.into(), 1002, "server", "protocol")))
        {
            let ending = Ending::from(error);
            let told = (ending.code(), ending.by(), ending.label());
            assert_eq!(told, (code, by, label), "{ending:?}");
        }
    }

    #[test]
    fn a_close_of_ours_says_in_one_word_why() {
        for (cause, code, word) in [
            (Cause::Draining, 1012, "draining"),
            (Cause::Idle, 1001, "idle_timeout"),
            (Cause::NoPong, 1001, "pong_timeout"),
            (Cause::TokenExpired, 1008, "token_expired"),
            (Cause::TooFast, 1008, "message_rate"),
        ] {
            let ending = Ending::Said(cause);
            assert_eq!((ending.code(), ending.by()), (code, "server"));
            assert_eq!((ending.reason(), ending.label()), (word, word));
            let close = ending.close().unwrap();
            assert_eq!((u16::from(close.code), &*close.reason), (code, word));
        }
    }

    #[test]
    fn a_reason_fits_a_control_frame() {
        assert_eq!(close(CloseCode::Error, "é".repeat(100)).reason.len(), 122);
    }
}
