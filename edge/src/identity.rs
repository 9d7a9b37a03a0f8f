//! Who a client has been shown to be, and the certificates that show it.

use std::fmt;

use http::{HeaderMap, HeaderName, HeaderValue};

/// Who asks, as a token, an API key or a certificate proves it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// The name in log and limits: the token's subject, the API key's name, the certificate's
    /// subject.
    pub name: String,
    /// The name by which `limit.by` counts; `None`: by [`Identity::name`].
    pub counted: Option<String>,
    /// What the peer is told of it; the client's own fields of these names never pass.
    pub fields: Vec<(HeaderName, HeaderValue)>,
}

/// What a client's certificate says of its subject.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Certificate {
    /// URIs (RFC 5280 4.2.1.6), as `spiffe://cluster.local/ns/default/sa/web`.
    pub uris: Vec<String>,
    /// Names of hosts.
    pub dns: Vec<String>,
    /// The common name of its subject.
    pub common_name: Option<String>,
    /// The SHA-256 of the certificate, if it is known.
    pub hash: Option<String>,
}

/// What a proxy tells of the certificate that its client has shown (Envoy's words).
pub const X_FORWARDED_CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");

/// Longer ones are not read.
const LONGEST: usize = 16 << 10;
/// More names of one certificate are not read.
const MOST_NAMES: usize = 64;

impl Certificate {
    /// The certificate of which the nearest proxy tells: the last element counts, for what stands
    /// further left is hearsay. Whether that proxy is believed is not asked here.
    pub fn forwarded(headers: &HeaderMap) -> Option<Self> {
        let last = headers
            .get_all(X_FORWARDED_CLIENT_CERT)
            .iter()
            .next_back()?;
        let text = last.to_str().ok().filter(|text| text.len() <= LONGEST)?;
        let element = split(text, ',').pop()?;
        let mut certificate = Self::default();
        for pair in split(element, ';').into_iter().take(MOST_NAMES) {
            let (key, value) = pair.split_once('=')?;
            let raw = value.trim();
            let value = unquoted(raw)?;
            match key.trim().to_ascii_lowercase().as_str() {
                "uri" => certificate.uris.push(value),
                "dns" => certificate.dns.push(value),
                "hash" if is_hash(&value) => certificate.hash = Some(value),
                "hash" => return None,
                "subject" => certificate.common_name = common_name(raw),
                _ => {}
            }
        }
        Some(certificate)
    }

    /// The same, as edge tells it to a peer.
    pub fn to_field(&self) -> Option<HeaderValue> {
        let quoted = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"");
        let hash = self.hash.iter().map(|hash| format!("Hash={hash}"));
        let name = self.common_name.as_deref().and_then(distinguished);
        let subject = name.iter().map(|name| format!("Subject=\"{name}\""));
        let uris = self
            .uris
            .iter()
            .map(|uri| format!("URI=\"{}\"", quoted(uri)));
        let dns = self
            .dns
            .iter()
            .map(|name| format!("DNS=\"{}\"", quoted(name)));
        let pairs: Vec<_> = hash.chain(subject).chain(uris).chain(dns).collect();
        HeaderValue::try_from(pairs.join(";")).ok()
    }
}

/// The parts between these, but not between those in quotes.
fn split(text: &str, by: char) -> Vec<&str> {
    let (mut quoted, mut escaped) = (false, false);
    let separates = |c: char| {
        if escaped {
            escaped = false;
        } else if quoted && c == '\\' {
            escaped = true;
        } else if c == '"' {
            quoted = !quoted;
        } else {
            return !quoted && c == by;
        }
        false
    };
    text.split(separates).map(str::trim).collect()
}

/// In hexadecimal; as it is written without quotes, nothing else may stand in it.
fn is_hash(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// `None`: the quotes are not closed, or stand in the middle.
fn unquoted(text: &str) -> Option<String> {
    let Some(inner) = text.strip_prefix('"') else {
        return (!text.contains('"')).then(|| text.to_owned());
    };
    let mut plain = String::with_capacity(inner.len());
    let mut left = inner.chars();
    loop {
        match left.next()? {
            '"' => return left.next().is_none().then_some(plain),
            '\\' => plain.push(left.next()?),
            other => plain.push(other),
        }
    }
}

/// The common name within a distinguished one, as `"O=Example,CN=web"` (RFC 4514); `None` where it
/// has none or two, or holds what can be read in two ways: not all proxies escape a backslash.
fn common_name(subject: &str) -> Option<String> {
    let inner = subject.strip_prefix('"').unwrap_or(subject);
    let inner = inner.strip_suffix('"').unwrap_or(inner);
    if inner.contains("\\\\") || inner.contains("\\\"") || inner.starts_with('/') {
        return None;
    }
    let mut escaped = false;
    let separates = |c: char| {
        let plain = !std::mem::take(&mut escaped);
        escaped = plain && c == '\\';
        plain && (c == ',' || c == '+')
    };
    let parts = inner.split(separates).map(str::trim_start);
    let mut names = parts.filter_map(|part| part.strip_prefix("CN="));
    let (name, other) = (names.next()?, names.next());
    let name = other.is_none().then(|| unescaped(name))?;
    name.filter(|name| !name.is_empty())
}

/// A value of RFC 4514 2.4; `None`: what follows a backslash is nothing that needs one.
fn unescaped(text: &str) -> Option<String> {
    let mut plain = String::with_capacity(text.len());
    let mut left = text.chars();
    while let Some(c) = left.next() {
        match c {
            '\\' => plain.push(left.next().filter(|c| SPECIAL.contains(c))?),
            other => plain.push(other),
        }
    }
    Some(plain)
}

/// What is written behind a backslash in a distinguished name, quotes and the backslash aside.
const SPECIAL: [char; 8] = [',', '+', ';', '<', '>', '=', '#', ' '];

/// The distinguished name of one who has but this name; `None` if not everybody would read it so.
fn distinguished(name: &str) -> Option<String> {
    let odd = |c: char| c == '\\' || c == '"' || c.is_control();
    if name.is_empty() || name.contains(odd) {
        return None;
    }
    let mut text = "CN=".to_owned();
    let last = name.chars().count() - 1;
    for (place, c) in name.chars().enumerate() {
        let within = matches!(c, '#' | ' ') && place != 0 && place != last;
        if SPECIAL.contains(&c) && !within {
            text.push('\\');
        }
        text.push(c);
    }
    Some(text)
}

/// Whose certificates are let in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Subjects(Vec<Subject>);

/// One of them, or all below a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// This URI.
    Uri(String),
    /// All URIs that begin so.
    UriBelow(String),
    /// This name of a host.
    Dns(String),
    /// This common name.
    CommonName(String),
}

impl Subjects {
    /// These.
    pub fn new(list: Vec<Subject>) -> Self {
        Self(list)
    }

    /// By which name this certificate is let in; `None`: it is not.
    pub fn permits(&self, certificate: &Certificate) -> Option<String> {
        self.0
            .iter()
            .find_map(|subject| subject.name_in(certificate))
    }
}

impl Subject {
    /// As the configuration writes it.
    pub fn read(text: &str) -> Result<Self, String> {
        let right = "expected a URI as \"spiffe://cluster.local/ns/default/sa/*\", \"DNS:web.example\" or \"CN=web\"";
        let plain =
            !text.is_empty() && text.len() <= 1_024 && text.bytes().all(|b| b.is_ascii_graphic());
        if let Some(name) = text.strip_prefix("CN=").filter(|name| !name.is_empty()) {
            return Ok(Self::CommonName(name.to_owned()));
        }
        if let Some(name) = text
            .strip_prefix("DNS:")
            .filter(|name| plain && !name.is_empty())
        {
            return Ok(Self::Dns(name.to_ascii_lowercase()));
        }
        if !plain || !text.contains("://") {
            return Err(right.to_owned());
        }
        match text.strip_suffix('*') {
            Some(start) if start.ends_with('/') && !start.contains('*') => {
                Ok(Self::UriBelow(start.to_owned()))
            }
            None if !text.contains('*') => Ok(Self::Uri(text.to_owned())),
            _ => Err("a `*` stands only at the end, after a `/`".to_owned()),
        }
    }

    fn name_in(&self, certificate: &Certificate) -> Option<String> {
        let found = match self {
            Self::Uri(own) => certificate.uris.iter().find(|uri| *uri == own),
            Self::UriBelow(start) => {
                let mut uris = certificate.uris.iter();
                uris.find(|uri| {
                    uri.strip_prefix(start.as_str())
                        .is_some_and(|rest| !rest.is_empty())
                })
            }
            Self::Dns(own) => certificate
                .dns
                .iter()
                .find(|name| name.eq_ignore_ascii_case(own)),
            Self::CommonName(own) => certificate.common_name.as_ref().filter(|name| *name == own),
        };
        found.cloned()
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uri(uri) => f.write_str(uri),
            Self::UriBelow(start) => write!(f, "{start}*"),
            Self::Dns(name) => write!(f, "DNS:{name}"),
            Self::CommonName(name) => write!(f, "CN={name}"),
        }
    }
}

impl Subjects {
    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &Subject> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn told(field: &str) -> Option<Certificate> {
        let value = HeaderValue::from_bytes(field.as_bytes()).ok()?;
        Certificate::forwarded(&HeaderMap::from_iter([(X_FORWARDED_CLIENT_CERT, value)]))
    }

    #[test]
    fn the_nearest_proxys_word_counts() {
        let field = r#"By=a;URI=spiffe://evil/x,By=spiffe://b;Hash=00ff;Subject="CN=we,O=E;x";URI=spiffe://c/d;DNS=web.example"#;
        let told = told(field).unwrap();
        assert_eq!(told.uris, ["spiffe://c/d"]);
        assert_eq!(told.dns, ["web.example"]);
        assert_eq!(told.hash.as_deref(), Some("00ff"));
        assert_eq!(told.common_name.as_deref(), Some("we"));
    }

    #[test]
    fn what_cannot_be_read_shows_nobody() {
        for field in [
            "",
            "URI",
            "URI=\"a",
            "Subject=\"a\"b",
            "a=b,c",
            "By=\\\"d\";URI=sy=a",
            "Hash=\"00;URI=spiffe://c/d\";URI=a",
        ] {
            let told = told(field).unwrap_or_default();
            assert!(
                told.uris.is_empty() && told.common_name.is_none(),
                "{field}"
            );
        }
    }

    /// Whoever asks for a certificate may choose some of it.
    #[test]
    fn nobody_is_another_by_what_stands_beside_the_name() {
        for (subject, name) in [
            (r"O=x,CN=web", Some("web")),
            (r"CN=web+OU=y, O=x", Some("web")),
            (r"CN=a\,b", Some("a,b")),
            (r"O=x/CN=admin,CN=web", Some("web")),
            (r"O=x\,CN=admin,CN=web", Some("web")),
            (r"O=x\\,CN=admin", None),
            (r"O=x\\\,CN=admin,CN=web", None),
            (r"CN=admin,CN=web", None),
            (r"/O=x/CN=admin", None),
            (r"CN=", None),
            (r"CN=a\", None),
            (r"OCN=a", None),
        ] {
            let told = told(&format!("Subject=\"{subject}\""));
            let told = told.and_then(|told| told.common_name);
            assert_eq!(told.as_deref(), name, "{subject}");
        }
    }

    #[test]
    fn only_who_is_named_is_let_in() {
        let certificate = Certificate {
            uris: vec!["spiffe://c/ns/a/sa/web".to_owned()],
            dns: vec!["Web.example".to_owned()],
            common_name: Some("web".to_owned()),
            hash: None,
        };
        let permits = |subject: &str| {
            Subjects::new(vec![Subject::read(subject).unwrap()])
                .permits(&certificate)
                .is_some()
        };
        for subject in [
            "spiffe://c/ns/a/sa/*",
            "spiffe://c/ns/a/sa/web",
            "DNS:web.example",
            "CN=web",
        ] {
            assert!(permits(subject), "{subject}");
            assert_eq!(Subject::read(subject).unwrap().to_string(), subject);
        }
        for subject in [
            "spiffe://c/ns/b/*",
            "spiffe://c/ns/a/sa/we",
            "spiffe://c/ns/a/sa/web/*",
            "DNS:example",
            "CN=we",
        ] {
            assert!(!permits(subject), "{subject}");
        }
        for bad in [
            "",
            "web",
            "spiffe://a*",
            "spiffe://*/a",
            "spiffe://a/**",
            "CN=",
            "DNS:",
        ] {
            assert!(Subject::read(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        /// What edge tells, it reads again; and nothing makes it panic.
        #[test]
        fn what_is_told_is_read_again(uri in "[ -~]{0,20}", name in "[a-zCN \"\\\\;,+=#/<>]{1,20}", any in ".{0,60}") {
            let certificate = Certificate {
                uris: vec![uri],
                common_name: Some(name.clone()),
                ..Certificate::default()
            };
            let field = certificate.to_field().unwrap();
            let again = Certificate::forwarded(&HeaderMap::from_iter([(X_FORWARDED_CLIENT_CERT, field)]));
            let read = Some(name).filter(|name| !name.contains(['"', '\\']));
            prop_assert_eq!(again, Some(Certificate { common_name: read, ..certificate }));
            let _ = told(&any);
        }
    }
}
