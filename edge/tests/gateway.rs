//! What edge promises, shown on a gateway that runs: real sockets on loopback, upstreams that do
//! as they are told, and a client that sees every byte.
#![cfg(test)]

#[path = "gateway/admin.rs"]
mod admin;
#[path = "gateway/caching.rs"]
mod caching;
#[path = "gateway/deadlines.rs"]
mod deadlines;
#[path = "gateway/ending.rs"]
mod ending;
#[path = "gateway/forwarding.rs"]
mod forwarding;
#[path = "gateway/frames.rs"]
mod frames;
#[path = "gateway/hostile.rs"]
mod hostile;
#[path = "gateway/limits.rs"]
mod limits;
#[path = "gateway/relay.rs"]
mod relay;
#[path = "gateway/reload.rs"]
mod reload;
#[path = "gateway/routes.rs"]
mod routes;
#[path = "gateway/support.rs"]
mod support;
#[path = "gateway/websockets.rs"]
mod websockets;
