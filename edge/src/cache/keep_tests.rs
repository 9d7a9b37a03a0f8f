//! Tests of `keep`.
