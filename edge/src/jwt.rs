//! JSON Web Tokens: who signed one, for whom, until when (RFC 7519, RFC 8725).
