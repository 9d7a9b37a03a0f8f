//! Header fields that the configuration sets, adds and removes.

mod template;

pub use template::{Template, Variable};

use http::HeaderValue;
use http::header::{self, HeaderName};

/// What changes of a request's fields and of an answer's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// Towards the peer.
    pub request: Changes,
    /// Towards the client.
    pub response: Changes,
    /// Do answers get what keeps a page safe, where the peer has not said it itself?
    pub security: Option<bool>,
}

/// In this order: removed, set, added.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// All of a name go.
    pub remove: Vec<HeaderName>,
    /// One of a name, in place of all.
    pub set: Vec<(HeaderName, Template)>,
    /// One more of a name.
    pub add: Vec<(HeaderName, Template)>,
}

impl Changes {
    /// Is there nothing to change?
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }

    /// Each name with what is to be set or added.
    pub fn templates(&self) -> impl Iterator<Item = &(HeaderName, Template)> {
        self.set.iter().chain(&self.add)
    }
}

/// What an answer is given when it goes out, whatever it says: made at the door, once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dressing {
    /// All of a name go.
    pub remove: Vec<HeaderName>,
    /// One of a name, in place of all.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// One more of a name.
    pub add: Vec<(HeaderName, HeaderValue)>,
    /// Where there is none of the name.
    pub unless: Vec<(HeaderName, HeaderValue)>,
}

impl Dressing {
    /// What these changes come to for one answer. A value that is none (for what a client has sent
    /// stands in it) is not sent, nor is what it was to take the place of.
    pub fn put(&mut self, changes: &Changes, value: impl Fn(Variable) -> String) {
        self.remove.extend(changes.remove.iter().cloned());
        for (name, template) in &changes.set {
            match template.fill(&value) {
                Some(value) => self.set.push((name.clone(), value)),
                None => self.remove.push(name.clone()),
            }
        }
        let filled = |(name, template): &(HeaderName, Template)| {
            Some((name.clone(), template.fill(&value)?))
        };
        self.add.extend(changes.add.iter().filter_map(filled));
    }

    /// What keeps a page safe (OWASP's list of secure headers); what is for TLS alone only there.
    pub fn put_security(&mut self, secure: bool) {
        const FIELDS: [(HeaderName, &str); 3] = [
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (header::X_FRAME_OPTIONS, "DENY"),
            (header::REFERRER_POLICY, "strict-origin-when-cross-origin"),
        ];
        const HSTS: &str = "max-age=31536000; includeSubDomains";
        // Over anything else a browser ignores it (RFC 6797 7.2).
        let hsts = secure.then_some((header::STRICT_TRANSPORT_SECURITY, HSTS));
        let fields = FIELDS.into_iter().chain(hsts);
        let fields = fields.map(|(name, value)| (name, HeaderValue::from_static(value)));
        self.unless.extend(fields);
    }
}

/// May the configuration change this field? If not, why.
pub fn may_change(name: &HeaderName) -> Result<(), &'static str> {
    const FRAMING: [HeaderName; 9] = [
        header::CONNECTION,
        header::CONTENT_LENGTH,
        header::HOST,
        header::TE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("proxy-connection"),
    ];
    if FRAMING.contains(name) {
        return Err("it says how messages are framed or where they go");
    }
    let text = name.as_str();
    if text.starts_with("access-control-") {
        return Err("`cors` says it");
    }
    let own = [
        "via",
        "x-request-id",
        "cache-status",
        "proxy-status",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-proto",
        "x-forwarded-client-cert",
        "www-authenticate",
    ];
    if own.contains(&text) || text.starts_with("sec-websocket-") {
        return Err("edge says it");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_frames_a_message_cannot_be_changed() {
        for name in [
            "host",
            "content-length",
            "transfer-encoding",
            "connection",
            "via",
            "access-control-allow-origin",
            "sec-websocket-key",
        ] {
            assert!(
                may_change(&HeaderName::from_static(name)).is_err(),
                "{name}"
            );
        }
        for name in ["server", "x-powered-by", "cache-control", "authorization"] {
            assert!(may_change(&HeaderName::from_static(name)).is_ok(), "{name}");
        }
    }

    #[test]
    fn security_is_hsts_only_behind_tls() {
        let names = |secure| {
            let mut dressing = Dressing::default();
            dressing.put_security(secure);
            dressing.unless.len()
        };
        assert_eq!((names(false), names(true)), (3, 4));
    }

    #[test]
    fn a_value_that_would_break_the_head_is_not_sent_and_takes_the_field_away() {
        let changes = Changes {
            set: vec![(
                HeaderName::from_static("x-a"),
                Template::read("a {host}").unwrap(),
            )],
            ..Changes::default()
        };
        let mut dressing = Dressing::default();
        dressing.put(&changes, |_| "x\r\nEvil: 1".to_owned());
        assert!(dressing.set.is_empty());
        assert_eq!(dressing.remove, ["x-a"], "not a client's either");
        dressing.put(&changes, |_| "b".to_owned());
        assert_eq!(dressing.set[0].1, "a b");
    }
}
