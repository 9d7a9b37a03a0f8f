//! Which answers are compressed, and how (RFC 9110 8.4 and 12.5.3).
