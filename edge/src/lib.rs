//! edge: an API gateway that does what its configuration says, refuses what it does not
//! understand, and can tell why it answered as it did.
//!
//! The rooms stand on floors; a module uses only what stands on its own floor or below. See
//! ARCHITECTURE.md.

// 0: words
pub mod units;
// 1: policies
pub mod api_key;
pub mod balance;
pub mod breaker;
pub mod cache;
pub mod certificate;
pub mod client;
pub mod compression;
pub mod cors;
pub mod credentials;
pub mod forward;
pub mod grpc;
pub mod headers;
pub mod identity;
pub mod jwt;
pub mod limit;
pub mod message;
pub mod proxy_protocol;
pub mod refusal;
pub mod retry;
pub mod route;
pub mod standing;
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
mod authenticator;
mod connection;
mod conversation;
mod deadline;
mod discovery;
mod door;
mod encoder;
mod fetch;
mod flight;
mod gateway;
mod handshake;
mod health;
mod http2;
mod issuer;
mod keyring;
mod life;
mod plan;
mod resolver;
mod respond;
mod shares;
mod sketch;
mod sockets;
mod store;
mod tls;
mod tunnel;
mod upstream;
// 5: start
pub mod ask;
#[cfg(feature = "demo")]
pub mod demo;
pub mod log;
mod reload;
pub mod serve;
