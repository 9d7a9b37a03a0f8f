//! A message's form: what could be read in two ways is refused (RFC 9112).
