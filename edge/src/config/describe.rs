//! What a configuration amounts to, in words: what `edge check` prints.

mod doors;
mod upstream;

use std::fmt;
use std::time::Duration;

use http::StatusCode;

use super::{Config, Request, Route, Upstream, WebSocket};
use crate::cache::{KeyPart, Policy, PrivateBy};
use crate::limit::Quota;
use crate::route::{DotSegments, DoubleSlashes, EncodedSlashes, Rewrite};
use crate::websocket::Settings;

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let proxies: Vec<String> = self
            .server
            .trust
            .proxies
            .iter()
            .map(ToString::to_string)
            .collect();
        let trusted = if proxies.is_empty() {
            "nobody".to_owned()
        } else {
            proxies.join(", ")
        };
        writeln!(
            f,
            "listens on {}, probes and metrics on {}",
            self.server.listen, self.admin
        )?;
        if let Some(tls) = &self.tls {
            tls.describe(f)?;
        }
        let (connections, client) = (self.server.connections, self.server.connections_per_client);
        let client = client.map_or("off".to_owned(), |most| most.to_string());
        let timeout = &self.timeout;
        let (head, keepalive) = (time(Some(timeout.head)), time(Some(timeout.keepalive)));
        let write = time(timeout.write);
        writeln!(f, "takes {connections} connections, {client} of one client")?;
        writeln!(
            f,
            "lets go after head {head}, write {write}, keepalive {keepalive}"
        )?;
        let speaks = if self.server.http2 {
            format!("HTTP/1.1 and HTTP/2, {} streams", self.server.streams)
        } else {
            "HTTP/1.1".to_owned()
        };
        writeln!(f, "speaks {speaks}")?;
        writeln!(f, "trusts {trusted} to name the client")?;
        self.request.describe(f)?;
        if !self.server.proxy_protocol.is_empty() {
            let networks = words(&self.server.proxy_protocol);
            writeln!(f, "awaits a PROXY header from {networks}")?;
        }
        if !self.upstreams.iter().all(Upstream::is_addresses) {
            self.dns.describe(f)?;
        }
        for upstream in &self.upstreams {
            writeln!(f)?;
            upstream.describe(f)?;
        }
        for route in &self.routes {
            writeln!(f)?;
            self.describe(route, f)?;
        }
        Ok(())
    }
}

impl Config {
    fn describe(&self, route: &Route, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let methods: Vec<&str> = route
            .rule
            .methods
            .iter()
            .map(http::Method::as_str)
            .collect();
        let methods = if methods.is_empty() {
            "any method".to_owned()
        } else {
            methods.join(", ")
        };
        writeln!(f, "route {} ({methods})", route.name)?;
        if !route.rule.hosts.is_empty() {
            let hosts: Vec<String> = route.rule.hosts.iter().map(ToString::to_string).collect();
            writeln!(f, "  host       {}", hosts.join(", "))?;
        }
        let upstream = self
            .upstreams
            .get(route.upstream)
            .map_or("", |upstream| &upstream.name);
        let rewrite = match &route.rewrite {
            Rewrite::Keep => "",
            Rewrite::Strip(_) => ", the prefix stripped",
            Rewrite::Build(_) => ", the path rewritten",
        };
        writeln!(f, "  upstream   {upstream}{rewrite}")?;
        doors::describe(self, route, f)?;
        let limit = &route.limit;
        writeln!(
            f,
            "  per_client {}",
            quota(
                limit.settings.per_client.as_ref(),
                whose(limit.own_per_client)
            )
        )?;
        writeln!(
            f,
            "  global     {}",
            quota(limit.settings.global.as_ref(), whose(limit.own_global))
        )?;
        let timeout = &route.timeout;
        let (connect, attempt) = (time(Some(timeout.connect)), time(timeout.attempt));
        let (response, body) = (time(timeout.response), time(timeout.body));
        let pace = timeout.body_rate.map(|rate| format!(" at {rate}B/s"));
        let pace = pace.unwrap_or_default();
        writeln!(
            f,
            "  timeout    connect {connect}, try {attempt}, response {response}, body {body}{pace}"
        )?;
        writeln!(f, "  body       {}", size(route.body))?;
        match &route.cache {
            Some(policy) => self.describe_cache(policy, f)?,
            None => writeln!(f, "  cache      off")?,
        }
        match &route.websocket {
            Some(websocket) => websocket.describe(f),
            None => writeln!(f, "  websocket  no"),
        }
    }
}

impl Config {
    fn describe_cache(&self, policy: &Policy, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Written out, so that no key of it stays untold.
        let Policy {
            ttl,
            overrides,
            ttl_min,
            heuristic,
            methods,
            statuses,
            negative,
            vary,
            key,
            ignore_query,
            private_by,
            stale_while_revalidate,
            stale_if_error,
            stale_if_unreachable,
            max_object,
        } = policy;
        let (ttl, ttl_min) = (time(*ttl), time(*ttl_min));
        let heuristic = heuristic.map_or("off".to_owned(), |part| format!("{part}%"));
        writeln!(
            f,
            "  cache      ttl {ttl}, override {overrides}, ttl_min {ttl_min}, heuristic {heuristic}"
        )?;
        let statuses = words(statuses.iter().map(StatusCode::as_str));
        writeln!(
            f,
            "             methods {}, statuses {statuses}",
            words(methods)
        )?;
        let own = |(status, ttl): &(StatusCode, Duration)| {
            format!("{} {}", status.as_str(), time(Some(*ttl)))
        };
        writeln!(
            f,
            "             negative {}",
            words(negative.iter().map(own))
        )?;
        let (key, ignored) = (words(key.iter().map(part)), words(ignore_query));
        writeln!(
            f,
            "             key {key}, ignore_query {ignored}, vary {}",
            words(vary)
        )?;
        let private_by = match private_by {
            PrivateBy::Nobody => "off",
            PrivateBy::Identity => "identity",
        };
        let object = max_object.unwrap_or(self.cache.object);
        writeln!(
            f,
            "             private_by {private_by}, max_object {object} B"
        )?;
        let (again, error) = (time(*stale_while_revalidate), time(*stale_if_error));
        let gone = time(*stale_if_unreachable);
        writeln!(
            f,
            "             stale_while_revalidate {again}, stale_if_error {error}, unreachable {gone}"
        )
    }
}

/// A part of the key as the file has it.
fn part(part: &KeyPart) -> String {
    match part {
        KeyPart::Path => "path".to_owned(),
        KeyPart::Query => "query".to_owned(),
        KeyPart::QueryName(name) => format!("query:{name}"),
        KeyPart::Header(name) => format!("header:{name}"),
    }
}

/// Side by side: a comma is for the keys.
fn words(words: impl IntoIterator<Item = impl ToString>) -> String {
    let words: Vec<_> = words.into_iter().map(|word| word.to_string()).collect();
    if words.is_empty() {
        "none".to_owned()
    } else {
        words.join(" ")
    }
}

impl Request {
    fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            target,
            fields,
            fields_size,
            body: _,
            paths,
        } = self;
        writeln!(
            f,
            "takes targets of {target} B, {fields} fields of {fields_size} B"
        )?;
        let dots = match paths.dot_segments {
            DotSegments::Refuse => "refuses dot segments",
            DotSegments::Resolve => "resolves dot segments",
        };
        let double = match paths.double_slashes {
            DoubleSlashes::Keep => "keeps",
            DoubleSlashes::Merge => "merges",
            DoubleSlashes::Refuse => "refuses",
        };
        let encoded = match paths.encoded_slashes {
            EncodedSlashes::Keep => "keeps",
            EncodedSlashes::Refuse => "refuses",
        };
        writeln!(f, "{dots}, {double} double slashes, {encoded} encoded ones")
    }
}

impl WebSocket {
    fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Settings {
            times,
            message,
            frame,
            messages_per_client,
            per_client,
            global,
            origins,
            subprotocols,
        } = &self.settings;
        writeln!(
            f,
            "  websocket  idle {}, ping {}, pong {}, lifetime {}",
            time(times.idle),
            time(times.ping),
            time(times.pong),
            time(times.lifetime)
        )?;
        writeln!(
            f,
            "             message {}, frame {}",
            size(*message),
            size(*frame)
        )?;
        let messages = quota(messages_per_client.as_ref(), whose(self.own_messages));
        writeln!(f, "             messages_per_client {messages}")?;
        for (key, most, own) in [
            ("per_client", per_client, self.own_per_client),
            ("global", global, self.own_global),
        ] {
            match most {
                Some(most) => writeln!(f, "             {key} {most} open, {}", whose(own))?,
                None => writeln!(f, "             {key} off")?,
            }
        }
        writeln!(
            f,
            "             origins {}, subprotocols {}",
            list(origins.as_deref()),
            list(subprotocols.as_deref())
        )
    }
}

fn list(members: Option<&[impl ToString]>) -> String {
    members.map_or_else(
        || "off".to_owned(),
        |members| {
            let members: Vec<_> = members.iter().map(ToString::to_string).collect();
            members.join(", ")
        },
    )
}

fn whose(own: bool) -> &'static str {
    if own {
        "its own"
    } else {
        "shared with other routes"
    }
}

fn time(time: Option<Duration>) -> String {
    time.map_or_else(
        || "off".to_owned(),
        |time| humantime::format_duration(time).to_string(),
    )
}

fn size(size: Option<u64>) -> String {
    size.map_or_else(|| "off".to_owned(), |size| format!("{size} B"))
}

fn quota(quota: Option<&Quota>, whose: &str) -> String {
    quota.map_or_else(|| "off".to_owned(), |quota| format!("{quota}, {whose}"))
}
