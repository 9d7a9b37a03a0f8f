//! A bounded load for a gateway on this machine: many upgrades, sockets, clients, all at once,
//! what happens to open sockets when something ends or nobody reads, what the cache keeps, or what
//! becomes of requests when peers fail.

mod admin;
mod bodies;
mod burst;
mod certificates;
mod child;
mod churn;
mod clients;
mod drain;
mod ends;
mod events;
mod fill;
mod flood;
mod herd;
mod hits;
mod mixed;
mod objects;
mod opening;
mod origin;
mod peer;
mod report;
mod signals;
mod slow;
mod sockets;
mod tally;
mod units;
mod upgrades;
mod widow;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use load::{http1, process, talk, target, websocket};

/// A bounded load for a gateway on this machine.
///
/// Exits with 1 where anything was lost, or took or held more than it may.
#[derive(Parser)]
#[command(version)]
struct Storm {
    /// One JSON object instead of a table.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    load: Load,
}

#[derive(Subcommand)]
enum Load {
    /// Opens WebSockets, each for one message and its echo.
    Upgrades(upgrades::Upgrades),
    /// Keeps WebSockets open and paces messages over them.
    Sockets(sockets::Sockets),
    /// Sends the requests of many clients, named in `X-Forwarded-For`, over a few connections.
    Clients(clients::Clients),
    /// Sends requests all at once over connections that are open already.
    Burst(burst::Burst),
    /// Opens WebSockets and tells edge to end: are they closed well, evenly and in time?
    Drain(drain::Drain),
    /// Opens WebSockets and kills their upstream: do the clients get to know?
    Widow(widow::Widow),
    /// Sends over WebSockets without reading, then reads: does edge hold back what is sent?
    Flood(flood::Flood),
    /// Asks many times at once for what the cache does not have: is it fetched once?
    Herd(herd::Herd),
    /// Reads more objects than the cache has room for: does memory stay within the bound?
    Objects(objects::Many),
    /// Reads kept objects at random: does a hit among many cost what one among few does?
    Hits(hits::Hits),
    /// Has one peer after the other fail: what becomes of the requests?
    Churn(churn::Churn),
    /// Passes large bodies: does edge hold them back, or hold them?
    Bodies(bodies::Bodies),
    /// Passes server-sent events: how much later do they arrive?
    Events(events::Events),
    /// Connects through TLS while the certificates change: does every handshake succeed?
    Certificates(certificates::Certificates),
    /// Sends and reads slowly, in every way: is each cut in time, and nobody else harmed?
    Slow(slow::Slow),
    /// Serves good clients among all that is hostile: do they, memory and files stay as they were?
    Mixed(mixed::Mixed),
    /// A peer, as the other loads start it.
    #[command(hide = true)]
    Peer(peer::Peer),
}

#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    let storm = Storm::parse();
    let report = match storm.load {
        Load::Upgrades(load) => load.run().await,
        Load::Sockets(load) => load.run().await,
        Load::Clients(load) => load.run().await,
        Load::Burst(load) => load.run().await,
        Load::Drain(load) => load.run().await,
        Load::Widow(load) => load.run().await,
        Load::Flood(load) => load.run().await,
        Load::Herd(load) => load.run().await,
        Load::Objects(load) => load.run().await,
        Load::Hits(load) => load.run().await,
        Load::Churn(load) => load.run().await,
        Load::Bodies(load) => load.run().await,
        Load::Events(load) => load.run().await,
        Load::Certificates(load) => load.run().await,
        Load::Slow(load) => load.run().await,
        Load::Mixed(load) => load.run().await,
        Load::Peer(peer) => peer.run().await,
    };
    match report.write(storm.json) {
        Ok(()) if report.is_good() => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use clap::error::ErrorKind;

    #[test]
    fn no_load_is_kept_from_beginning_by_its_own_defaults() {
        for load in Storm::command().get_subcommands() {
            let asked = Storm::try_parse_from(["storm", load.get_name()]);
            let refused = asked.err().map(|error| error.kind());
            let missing = [None, Some(ErrorKind::MissingRequiredArgument)];
            assert!(
                missing.contains(&refused),
                "{}: {refused:?}",
                load.get_name()
            );
        }
    }
}
