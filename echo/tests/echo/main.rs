//! echo as its clients meet it: over real sockets, ended as production ends it.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "what goes wrong in a test's helpers ends the test"
)]

mod auth;
mod binary;
mod close;
mod drain;
mod fixture;
mod http;
mod json;
mod lifecycle;
mod messages;
