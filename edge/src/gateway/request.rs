//! The request's head: what it names, and how the peer gets it.

use http::{HeaderMap, HeaderName, HeaderValue, Version, header};
use pingora::Result;
use pingora::http::RequestHeader;
use pingora::proxy::Session;

use super::Held;
use crate::forward;
use crate::headers::Variable;
use crate::identity::X_FORWARDED_CLIENT_CERT;
use crate::route::Rewrite;
use crate::websocket::Site;

/// What a trusted proxy says of the host and scheme that the client asked for.
#[derive(Default)]
pub(super) struct Forwarded<'a> {
    pub(super) proto: Option<&'a str>,
    pub(super) host: Option<&'a HeaderValue>,
}

pub(super) fn forwarded<'a>(headers: &'a HeaderMap, context: &Held) -> Forwarded<'a> {
    let trust = &context.plan.config.server.trust;
    if !trust.trusts(context.exchange.peer) {
        return Forwarded::default();
    }
    let proto = headers.get(forward::X_FORWARDED_PROTO);
    Forwarded {
        proto: proto.and_then(|proto| proto.to_str().ok()),
        host: headers.get(forward::X_FORWARDED_HOST),
    }
}

/// Whom a page asks.
pub(super) fn site<'a>(request: &'a RequestHeader, context: &'a Held) -> Site<'a> {
    let told = forwarded(&request.headers, context).proto;
    Site {
        host: host_and_port(request).unwrap_or_default(),
        secure: told.unwrap_or(context.exchange.scheme) == "https",
    }
}

/// What speaks of a connection of HTTP/2 that nobody upgrades to (RFC 9113 3.1).
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// The head that a peer gets, in the words of HTTP/1.1.
pub(super) fn outgoing(session: &mut Session, context: &Held) -> Result<Box<RequestHeader>> {
    let bodiless = session.downstream_session.is_body_empty();
    let mut request = Box::new(session.req_header().clone());
    let trailers = takes_trailers(&request.headers);
    for name in forward::hop_by_hop(&request.headers) {
        request.remove_header(&name);
    }
    request.remove_header(&HTTP2_SETTINGS);
    if trailers && request.version == Version::HTTP_2 {
        // Only an answer over HTTP/2 has some that pass.
        request.insert_header(header::TE, "trailers")?;
    }
    if request.version == Version::HTTP_2 {
        // Pingora could not tell the client to go on.
        request.remove_header(&header::EXPECT);
    }
    forward(&mut request, context)?;
    request.set_version(Version::HTTP_11);
    // The body is framed anew: by its length, or in chunks.
    let framed = request.headers.contains_key(header::CONTENT_LENGTH);
    let chunked = request.remove_header(&header::TRANSFER_ENCODING).is_some();
    if chunked || !(bodiless || framed) {
        request.insert_header(header::TRANSFER_ENCODING, "chunked")?;
    }
    Ok(request)
}

/// Does the client take what follows a body (RFC 9110 6.5.1)?
fn takes_trailers(headers: &HeaderMap) -> bool {
    let fields = headers.get_all(header::TE).iter();
    let mut words = fields.flat_map(|field| field.as_bytes().split(|&b| b == b','));
    words.any(|word| word.trim_ascii().eq_ignore_ascii_case(b"trailers"))
}

/// The head as the peer sees it.
pub(super) fn forward(request: &mut RequestHeader, context: &Held) -> Result<()> {
    let exchange = &context.exchange;
    let chain = forward::forwarded_for(&request.headers, exchange.peer);
    let forwarded = forwarded(&request.headers, context);
    // One value each, whatever came: what the peer reads is what the cache's key holds.
    let proto = match forwarded.proto {
        Some(proto) => HeaderValue::from_str(proto).ok(),
        None => Some(HeaderValue::from_static(exchange.scheme)),
    };
    let host = forwarded
        .host
        .or_else(|| request.headers.get(header::HOST))
        .cloned();
    request.insert_header(forward::X_FORWARDED_FOR, chain)?;
    for (name, value) in [
        (forward::X_FORWARDED_PROTO, proto),
        (forward::X_FORWARDED_HOST, host),
    ] {
        match value {
            Some(value) => request.insert_header(name, value)?,
            None => drop(request.remove_header(&name)),
        }
    }
    // Of its certificate only who has seen it may speak.
    if !context.plan.config.server.trust.trusts(exchange.peer) {
        let shown = context.connection.certificate.as_ref();
        match shown.and_then(|certificate| certificate.to_field()) {
            Some(field) => request.insert_header(X_FORWARDED_CLIENT_CERT, field)?,
            None => drop(request.remove_header(&X_FORWARDED_CLIENT_CERT)),
        }
        for name in &forward::HEARSAY {
            request.remove_header(name);
        }
    }
    request.insert_header(forward::X_REQUEST_ID, exchange.id.as_str())?;
    request.insert_header(header::VIA, forward::via(&request.headers, request.version))?;
    change_request(request, context)?;
    let rewrite = context.rule().map_or(&Rewrite::Keep, |rule| &rule.rewrite);
    // A target may come with scheme and host, of which Pingora has checked the host: the peer
    // gets the path that was routed (RFC 9112 3.2.2).
    if *rewrite != Rewrite::Keep || !request.raw_path().starts_with(b"/") {
        let path = rewrite.apply(request.uri.path());
        let target = match request.uri.query() {
            Some(query) => format!("{path}?{query}"),
            None => path.into_owned(),
        };
        request.set_raw_path(target.as_bytes())?;
    }
    Ok(())
}

/// The fields that the peer gets beside those of the client, or in their place.
fn change_request(request: &mut RequestHeader, context: &Held) -> Result<()> {
    let Some(rule) = context.rule().filter(|rule| !rule.headers.is_empty()) else {
        return Ok(());
    };
    for changes in rule.headers.iter().map(|rules| &rules.request) {
        for name in &changes.remove {
            remove(request, name);
        }
        for (name, template) in &changes.set {
            let value = template.fill(|variable| value(variable, request, context));
            // A client's own must not stand where the route's was to be, even if that is none.
            remove(request, name);
            if let Some(value) = value {
                request.insert_header(name.clone(), value)?;
            }
        }
        for (name, template) in &changes.add {
            if let Some(value) = template.fill(|variable| value(variable, request, context)) {
                request.append_header(name.clone(), value)?;
            }
        }
    }
    Ok(())
}

/// Removes a field, however a peer may read its name.
fn remove(request: &mut RequestHeader, name: &HeaderName) {
    let names = request.headers.keys();
    let same = names.filter(|own| forward::reads_as(own, name));
    let same: Vec<_> = same.cloned().collect();
    for name in same {
        request.remove_header(&name);
    }
}

/// What a variable stands for.
pub(super) fn value(variable: Variable, request: &RequestHeader, context: &Held) -> String {
    let exchange = &context.exchange;
    let rule = context.rule();
    match variable {
        Variable::Client => exchange.client.address.to_string(),
        Variable::Id => exchange.id.clone(),
        Variable::Route => rule.map(|rule| rule.name.clone()).unwrap_or_default(),
        Variable::Host => host_of(request).unwrap_or_default().to_owned(),
        Variable::Scheme => {
            let told = forwarded(&request.headers, context).proto;
            told.unwrap_or(exchange.scheme).to_owned()
        }
        Variable::Upstream => rule
            .map(|rule| rule.upstream.name.clone())
            .unwrap_or_default(),
    }
}

/// The path that a request names: its target, or the path of a target with scheme and host. What
/// is neither is none: Pingora would take it for `/`, and the peer for something else.
pub(super) fn path_of(request: &RequestHeader) -> Option<&str> {
    let target = request.raw_path();
    let with = |scheme: &[u8]| {
        target
            .get(..scheme.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(scheme))
    };
    let known = target.starts_with(b"/") || with(b"http://") || with(b"https://");
    known.then(|| request.uri.path())
}

/// The host and port that a request names: the authority of its target, or `Host`.
pub(super) fn host_and_port(request: &RequestHeader) -> Option<&str> {
    let authority = request.uri.authority().map(http::uri::Authority::as_str);
    authority.or_else(|| request.headers.get(header::HOST)?.to_str().ok())
}

pub(super) fn host_of(request: &RequestHeader) -> Option<&str> {
    if request.version != Version::HTTP_2 && !request.headers.contains_key(header::HOST) {
        return None;
    }
    host_and_port(request).and_then(forward::host)
}
