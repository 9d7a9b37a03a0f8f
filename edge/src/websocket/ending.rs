//! How a WebSocket ends: one value gives the close code, the reason word and who began, the same
//! in the Close frame, the log and the metrics.

use super::frame::Fault;

/// Who ended a WebSocket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum By {
    /// The client.
    Client,
    /// The upstream.
    Upstream,
    /// edge.
    Edge,
}

impl By {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Client, Self::Upstream, Self::Edge];

    /// Its word in log and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Upstream => "upstream",
            Self::Edge => "edge",
        }
    }
}

/// What edge ends a WebSocket for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// No frame either way for `idle`.
    IdleTimeout,
    /// The client answered no Ping within `pong`.
    PongTimeout,
    /// It has been open for `lifetime`.
    Lifetime,
    /// edge is ending.
    Draining,
    /// The client sent a frame larger than `frame`.
    FrameTooLarge,
    /// The client sent a message larger than `message`.
    MessageTooLarge,
    /// The client sent more than `messages_per_client`.
    MessageLimit,
    /// The client sent what RFC 6455 forbids.
    ProtocolError,
    /// The upstream sent what RFC 6455 forbids.
    UpstreamInvalid,
    /// The upstream's connection ended without a Close frame.
    UpstreamClosed,
}

impl Cause {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::IdleTimeout,
        Self::PongTimeout,
        Self::Lifetime,
        Self::Draining,
        Self::FrameTooLarge,
        Self::MessageTooLarge,
        Self::MessageLimit,
        Self::ProtocolError,
        Self::UpstreamInvalid,
        Self::UpstreamClosed,
    ];

    /// A client's fault.
    pub fn of_client(fault: Fault) -> Self {
        match fault {
            Fault::Protocol => Self::ProtocolError,
            Fault::FrameTooLarge => Self::FrameTooLarge,
            Fault::MessageTooLarge => Self::MessageTooLarge,
        }
    }

    /// The code in the Close frame (RFC 6455 7.4.1 and the IANA registry), and the reason word.
    fn arm(self) -> (u16, &'static str) {
        match self {
            Self::IdleTimeout => (1001, "idle_timeout"),
            Self::PongTimeout => (1001, "pong_timeout"),
            Self::Lifetime => (1001, "lifetime"),
            // Service Restart: come again, though not all at once.
            Self::Draining => (1012, "draining"),
            Self::FrameTooLarge => (1009, "frame_too_large"),
            Self::MessageTooLarge => (1009, "message_too_large"),
            Self::MessageLimit => (1008, "message_limit"),
            Self::ProtocolError => (1002, "protocol_error"),
            Self::UpstreamInvalid => (1002, "upstream_invalid"),
            // 1014, Bad Gateway, would say more, but half of the clients take it for a fault.
            Self::UpstreamClosed => (1011, "upstream_closed"),
        }
    }

    /// The code in the Close frame.
    pub fn code(self) -> u16 {
        self.arm().0
    }

    /// The one word in the Close frame, the log and the metrics.
    pub fn reason(self) -> &'static str {
        self.arm().1
    }
}

/// How it ended: whatever came first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// One side said Close, with this code.
    Said(By, u16),
    /// The client's connection ended without a Close frame.
    ClientClosed,
    /// edge said Close.
    Edge(Cause),
}

impl Ending {
    /// Who began.
    pub fn by(self) -> By {
        match self {
            Self::Said(by, _) => by,
            Self::ClientClosed => By::Client,
            Self::Edge(Cause::UpstreamClosed) => By::Upstream,
            Self::Edge(_) => By::Edge,
        }
    }

    /// The close code; 1006 where the client sent none (RFC 6455 7.1.5).
    pub fn code(self) -> u16 {
        match self {
            Self::Said(_, code) => code,
            Self::ClientClosed => 1006,
            Self::Edge(cause) => cause.code(),
        }
    }

    /// One word; `closed` where one of the two sides wished it so.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Said(..) => "closed",
            Self::ClientClosed => "client_closed",
            Self::Edge(cause) => cause.reason(),
        }
    }
}

/// May this code stand in a Close frame (RFC 6455 7.4)?
pub fn is_sendable(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// A close code as a label: clients choose codes freely, so ranges of them share one.
pub fn code_label(code: u16) -> &'static str {
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
        3000..4000 => "3xxx",
        4000..5000 => "4xxx",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn each_cause_has_a_reason_of_its_own_that_fits_a_close_frame() {
        let reasons: HashSet<_> = Cause::ALL.into_iter().map(Cause::reason).collect();
        assert_eq!(reasons.len(), Cause::ALL.len());
        assert!(reasons.iter().all(|reason| reason.len() <= 123));
    }

    #[test]
    fn no_client_can_grow_the_labels() {
        let labels: HashSet<_> = (0..=u16::MAX).map(code_label).collect();
        assert_eq!(labels.len(), 17);
    }

    #[test]
    fn an_upstream_that_dies_is_not_edges_doing() {
        let ending = Ending::Edge(Cause::UpstreamClosed);
        assert_eq!((ending.by(), ending.code()), (By::Upstream, 1011));
        assert_eq!(Ending::Edge(Cause::Draining).by(), By::Edge);
    }
}
