//! edge: an API gateway that does what its configuration says, refuses what it does not
//! understand, and can tell why it answered as it did.
//!
//! The rooms stand on floors; a module uses only what stands on its own floor or below. See
//! ARCHITECTURE.md.

// 0: words
pub mod units;
// 1: policies
pub mod cache;
pub mod client;
pub mod forward;
pub mod limit;
pub mod refusal;
pub mod route;
pub mod websocket;
// 2: configuration
pub mod config;
// 3: record
pub mod access_log;
pub mod exchange;
pub mod metrics;
// 4: doing
mod admin;
mod alarm;
mod connection;
mod deadline;
mod door;
mod fetch;
mod flight;
mod gateway;
mod handshake;
mod health;
mod life;
mod plan;
mod respond;
mod shares;
mod sketch;
mod sockets;
mod store;
mod tunnel;
mod upstream;
// 5: start
pub mod ask;
#[cfg(feature = "demo")]
pub mod demo;
pub mod log;
mod reload;
pub mod serve;
