//! What the operator may choose, by flag or by environment.

use crate::units;
use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

/// What the operator may choose. A flag wins over the environment, which wins over the default.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub struct Settings {
    /// Where to listen; port 0 lets the system choose
    #[arg(long, env = "ECHO_LISTEN", default_value = "127.0.0.1:8081")]
    pub listen: SocketAddr,

    /// How many WebSockets may be open at once; past it 503
    #[arg(long, env = "ECHO_MAX_CONNECTIONS", default_value = "10000")]
    pub max_connections: usize,

    /// How many bytes one message may have, such as 64KiB; past it close code 1009
    #[arg(long, env = "ECHO_MAX_MESSAGE", default_value = "1MiB", value_parser = units::size)]
    pub max_message: usize,

    /// How long a WebSocket may say nothing; past it close code 1001
    #[arg(long, env = "ECHO_IDLE", default_value = "1h", value_parser = units::duration)]
    pub idle: Duration,

    /// How long open connections get to finish at shutdown
    #[arg(long, env = "ECHO_DRAIN", default_value = "10s", value_parser = units::duration)]
    pub drain: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8081)),
            max_connections: 10_000,
            max_message: 1 << 20,
            idle: Duration::from_secs(3_600),
            drain: Duration::from_secs(10),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Args, Command, FromArgMatches};

    fn read(arguments: &[&str]) -> Settings {
        let command = Settings::augment_args(Command::new("echo").no_binary_name(true));
        Settings::from_arg_matches(&command.get_matches_from(arguments)).unwrap()
    }

    #[test]
    fn no_flags_mean_the_defaults() {
        assert_eq!(read(&[]), Settings::default());
    }

    #[test]
    fn flags_carry_units() {
        let chosen = read(&["--max-message", "64KiB", "--idle", "5m", "--drain", "250ms"]);
        assert_eq!(chosen.max_message, 65_536);
        assert_eq!(chosen.idle, Duration::from_secs(300));
        assert_eq!(chosen.drain, Duration::from_millis(250));
    }
}
