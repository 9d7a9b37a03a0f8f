//! The load test kit: HTTP and WebSocket load for a running system, and whether it keeps what it
//! promises. The clients are storm's, too.

pub mod counts;
pub mod http1;
pub mod json;
pub mod machine;
pub mod measured;
pub mod offer;
pub mod own;
pub mod plot;
pub mod process;
pub mod quantile;
pub mod reason;
pub mod requests;
pub mod schedule;
pub mod series;
pub mod sockets;
pub mod svg;
pub mod table;
pub mod talk;
pub mod target;
pub mod verdict;
pub mod websocket;
