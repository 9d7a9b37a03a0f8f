//! Who a client has been shown to be.

use http::{HeaderName, HeaderValue};

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
