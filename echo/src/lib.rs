//! echo: a WebSocket server that answers what it hears, and an upstream to try a gateway on.
//!
//! `/ws` echoes; `/health`, `/info`, `/metrics` and `/` tell about it; `/delay`, `/status`,
//! `/headers`, `/bytes`, `/drip` and `POST /echo` misbehave on demand.
//!
//! ```no_run
//! # async fn demo() -> std::io::Result<()> {
//! let echo = echo::Echo::bind(echo::Settings::default()).await?;
//! println!("http://{}", echo.address());
//! echo.run(async { tokio::signal::ctrl_c().await.unwrap_or_default() }).await;
//! # Ok(()) }
//! ```
//!
//! The library installs no runtime, no signal handler and no subscriber: the caller does.

mod answer;
mod auth;
mod connection;
mod credential;
mod ending;
mod fault;
mod handshake;
mod hs256;
mod json;
mod metrics;
mod rate;
mod record;
mod refusal;
mod router;
mod secret;
mod server;
mod settings;
mod shared;
mod socket;
mod stream;
mod units;
mod vigil;

pub use rate::Rate;
pub use secret::Secret;
pub use server::Echo;
pub use settings::Settings;
