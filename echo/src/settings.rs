//! What the operator may choose, by flag or by environment.

use crate::{rate::Rate, secret::Secret, units};
use clap::builder::BoolishValueParser;
use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

/// What may be `off`. By a name of its own, as clap gives `Option` another meaning.
type OrOff<T> = Option<T>;

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

    /// How many messages and pings each WebSocket may send, such as 100/s or 600/m, and as many
    /// at once; past it close code 1008. Or off
    #[arg(long, env = "ECHO_MESSAGE_RATE", default_value = "off", value_parser = rate)]
    pub message_rate: OrOff<Rate>,

    /// Take only text messages that are JSON; any other is answered with what is wrong with it
    #[arg(long, env = "ECHO_JSON_ONLY", value_parser = BoolishValueParser::new())]
    pub json_only: bool,

    /// Begin each WebSocket with a message that says welcome and tells its number in the log
    #[arg(long, env = "ECHO_GREET", value_parser = BoolishValueParser::new())]
    pub greet: bool,

    /// How long a WebSocket may say nothing; past it close code 1001
    #[arg(long, env = "ECHO_IDLE", default_value = "1h", value_parser = units::duration)]
    pub idle: Duration,

    /// After how long a silence a WebSocket is pinged; or off
    #[arg(long, env = "ECHO_PING", default_value = "30s", value_parser = time)]
    pub ping: OrOff<Duration>,

    /// How long a pinged WebSocket may give no sign of life; past it close code 1001. Or off
    #[arg(long, env = "ECHO_PONG", default_value = "10s", value_parser = time)]
    pub pong: OrOff<Duration>,

    /// A file with the secret that tokens are signed with (HS256, 32 bytes or more). With it, or
    /// with the secret itself in `ECHO_JWT_SECRET`, `/ws` asks for a token
    #[arg(long, env = "ECHO_JWT_SECRET_FILE", value_name = "FILE")]
    pub jwt_secret_file: Option<PathBuf>,

    /// The secret itself. Not by flag, as every user of a machine can see those.
    #[arg(skip)]
    pub jwt_secret: Option<Secret>,

    /// The audience (`aud`) that a token must name. Without it, a token that names one is refused
    #[arg(long, env = "ECHO_JWT_AUDIENCE", value_name = "NAME")]
    pub jwt_audience: Option<String>,

    /// A file with the key (16 bytes or more) that lets in who sends it as `X-API-Key`. With it,
    /// or with the key itself in `ECHO_API_KEY`, `/ws` asks for the key, or for a token
    #[arg(long, env = "ECHO_API_KEY_FILE", value_name = "FILE")]
    pub api_key_file: Option<PathBuf>,

    /// The key itself.
    #[arg(skip)]
    pub api_key: Option<Secret>,

    /// How long open connections get to finish at shutdown. Over most of it the WebSockets are
    /// told one after the other, by close code 1012
    #[arg(long, env = "ECHO_DRAIN", default_value = "10s", value_parser = units::duration)]
    pub drain: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8081)),
            max_connections: 10_000,
            max_message: 1 << 20,
            message_rate: None,
            json_only: false,
            greet: false,
            idle: Duration::from_secs(3_600),
            ping: Some(Duration::from_secs(30)),
            pong: Some(Duration::from_secs(10)),
            jwt_secret_file: None,
            jwt_secret: None,
            jwt_audience: None,
            api_key_file: None,
            api_key: None,
            drain: Duration::from_secs(10),
        }
    }
}

fn time(text: &str) -> Result<Option<Duration>, String> {
    units::or_off(text, units::duration)
}

fn rate(text: &str) -> Result<Option<Rate>, String> {
    units::or_off(text, str::parse)
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

    #[test]
    fn what_can_be_off_is_told_so() {
        let chosen = read(&["--ping", "off", "--pong", "off", "--message-rate", "5/s"]);
        assert_eq!((chosen.ping, chosen.pong), (None, None));
        assert_eq!(chosen.message_rate, Some("5/s".parse().unwrap()));
    }

    #[test]
    fn a_switch_needs_no_value() {
        let chosen = read(&["--greet", "--json-only"]);
        assert!(chosen.greet && chosen.json_only);
    }
}
