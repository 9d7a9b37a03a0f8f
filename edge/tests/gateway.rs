//! What edge promises, shown on a gateway that runs: real sockets on loopback, upstreams that do
//! as they are told, and a client that sees every byte.
#![cfg(test)]

#[path = "gateway/addresses.rs"]
mod addresses;
#[path = "gateway/admin.rs"]
mod admin;
#[path = "gateway/authentication.rs"]
mod authentication;
#[path = "gateway/balancing.rs"]
mod balancing;
#[path = "gateway/blame.rs"]
mod blame;
#[path = "gateway/bodies.rs"]
mod bodies;
#[path = "gateway/caching.rs"]
mod caching;
#[path = "gateway/clauses.rs"]
mod clauses;
#[path = "gateway/collapsing.rs"]
mod collapsing;
#[path = "gateway/compression.rs"]
mod compression;
#[path = "gateway/corpus.rs"]
mod corpus;
#[path = "corpus/read.rs"]
mod corpus_file;
#[path = "gateway/cors.rs"]
mod cors;
#[path = "gateway/deadlines.rs"]
mod deadlines;
#[path = "gateway/discovery.rs"]
mod discovery;
#[path = "gateway/dns.rs"]
mod dns;
#[path = "gateway/downgrade.rs"]
mod downgrade;
#[path = "gateway/ending.rs"]
mod ending;
#[path = "gateway/failures.rs"]
mod failures;
#[path = "gateway/floods.rs"]
mod floods;
#[path = "gateway/forwarding.rs"]
mod forwarding;
#[path = "gateway/frames.rs"]
mod frames;
#[path = "gateway/hostile.rs"]
mod hostile;
#[path = "gateway/http2.rs"]
mod http2;
#[path = "gateway/http2_client.rs"]
mod http2_client;
#[path = "gateway/identities.rs"]
mod identities;
#[path = "gateway/limits.rs"]
mod limits;
#[path = "gateway/probes.rs"]
mod probes;
#[path = "gateway/proxy_protocol.rs"]
mod proxy_protocol;
#[path = "gateway/purging.rs"]
mod purging;
#[path = "gateway/relay.rs"]
mod relay;
#[path = "gateway/reload.rs"]
mod reload;
#[path = "gateway/repeating.rs"]
mod repeating;
#[path = "gateway/routes.rs"]
mod routes;
#[path = "gateway/slow.rs"]
mod slow;
#[path = "gateway/stale.rs"]
mod stale;
#[path = "gateway/strangers.rs"]
mod strangers;
#[path = "gateway/strict.rs"]
mod strict;
#[path = "gateway/support.rs"]
mod support;
#[path = "gateway/tls.rs"]
mod tls;
#[path = "gateway/tokens.rs"]
mod tokens;
#[path = "gateway/validating.rs"]
mod validating;
#[path = "gateway/websockets.rs"]
mod websockets;
