//! Which path gets which answer.

use crate::{
    answer::{self, Body},
    fault,
    handshake::{self, Opening},
    refusal::Refusal,
    shared::Shared,
};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode, Uri,
    body::Incoming,
    header::{CONTENT_SECURITY_POLICY, X_CONTENT_TYPE_OPTIONS},
};
use serde::Serialize;
use std::{net::SocketAddr, sync::OnceLock, time::Duration};

const PAGE: &str = include_str!("page.html");

/// The page brings its own style and script, and talks to WebSockets; nothing else.
const PAGE_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; \
    script-src 'unsafe-inline'; connect-src 'self' ws: wss:; img-src data:; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// What a path asks for, with its numbers read and within bounds.
#[derive(Debug, PartialEq, Eq)]
enum Route {
    Page,
    Socket,
    Health,
    Info,
    Metrics,
    Delay(Duration),
    Status(StatusCode),
    Headers,
    Bytes(usize),
    Drip(u64, Duration),
    Echo,
}

/// Answers one request, and counts it. A WebSocket's opening is left in `opening`, to be lived
/// once the 101 is written.
pub(crate) async fn answer(
    shared: &Shared,
    peer: SocketAddr,
    opening: &OnceLock<Opening>,
    request: Request<Incoming>,
) -> Response<Body> {
    let (path, route) = find(request.uri().path());
    let answer = match route.and_then(|route| route.permit(request.method())) {
        Ok(Route::Socket) => handshake::open(shared, peer, request).map(|(answer, opened)| {
            // One connection is upgraded at most once: after the 101 it speaks HTTP no more.
            drop(opening.set(opened));
            answer
        }),
        Ok(Route::Echo) => Ok(fault::echo(request)),
        Ok(route) => {
            let (head, body) = request.into_parts();
            fault::ignore(body).await;
            Ok(tell(shared, route, &head.method, &head.uri, &head.headers).await)
        }
        Err(refusal) => {
            fault::ignore(request.into_body()).await;
            Err(refusal)
        }
    };
    let answer = answer.unwrap_or_else(|refusal| {
        shared.metrics.refused(refusal.label());
        refusal.answer()
    });
    shared.metrics.answered(path, answer.status());
    answer
}

/// The label under which a path is counted, and what it asks for.
fn find(path: &str) -> (&'static str, Result<Route, Refusal>) {
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    match parts.as_slice() {
        [""] => ("/", Ok(Route::Page)),
        ["ws"] => ("/ws", Ok(Route::Socket)),
        ["health"] => ("/health", Ok(Route::Health)),
        ["info"] => ("/info", Ok(Route::Info)),
        ["metrics"] => ("/metrics", Ok(Route::Metrics)),
        ["headers"] => ("/headers", Ok(Route::Headers)),
        ["echo"] => ("/echo", Ok(Route::Echo)),
        ["delay", time] => ("/delay", delay(time)),
        ["status", code] => ("/status", status(code)),
        ["bytes", count] => ("/bytes", bytes(count)),
        ["drip", count, every] => ("/drip", drip(count, every)),
        _ => ("other", Err(Refusal::Unknown)),
    }
}

fn delay(time: &str) -> Result<Route, Refusal> {
    match time.parse() {
        Ok(time) if time <= fault::LONGEST => Ok(Route::Delay(Duration::from_millis(time))),
        _ => Err(Refusal::Number("/delay/{ms} takes 0 to 60000 milliseconds")),
    }
}

fn status(code: &str) -> Result<Route, Refusal> {
    match code.parse().map(StatusCode::from_u16) {
        Ok(Ok(code)) if (200..=599).contains(&code.as_u16()) => Ok(Route::Status(code)),
        _ => Err(Refusal::Number("/status/{code} takes 200 to 599")),
    }
}

fn bytes(count: &str) -> Result<Route, Refusal> {
    match count.parse() {
        Ok(count) if count <= fault::LARGEST => Ok(Route::Bytes(count)),
        _ => Err(Refusal::Number("/bytes/{n} takes 0 to 10485760")),
    }
}

fn drip(count: &str, every: &str) -> Result<Route, Refusal> {
    match (count.parse::<u64>(), every.parse::<u64>()) {
        // A pause of nothing still takes a turn of the clock: hence at least one millisecond.
        (Ok(count), Ok(every)) if count.saturating_mul(every.max(1)) <= fault::LONGEST => {
            Ok(Route::Drip(count, Duration::from_millis(every)))
        }
        _ => Err(Refusal::Number(
            "/drip/{count}/{ms} takes at most 60000 milliseconds in all",
        )),
    }
}

impl Route {
    /// The route again, if it takes this method.
    fn permit(self, method: &Method) -> Result<Self, Refusal> {
        let allow = match self {
            Self::Delay(_) | Self::Status(_) | Self::Headers => return Ok(self),
            Self::Socket => "GET",
            Self::Echo => "POST",
            _ => "GET, HEAD",
        };
        if allow.split(", ").any(|one| one == method.as_str()) {
            Ok(self)
        } else {
            Err(Refusal::Method(allow))
        }
    }
}

/// The answer of a route that needs no more than the request's head.
async fn tell(
    shared: &Shared,
    route: Route,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
) -> Response<Body> {
    match route {
        Route::Page => page(),
        Route::Health => health(shared),
        Route::Info => info(shared),
        Route::Metrics => metrics(shared),
        Route::Delay(time) => fault::delay(time).await,
        Route::Status(code) => fault::status(code),
        Route::Headers => fault::head(method, uri, headers),
        Route::Bytes(count) => fault::bytes(count),
        Route::Drip(count, every) => fault::drip(count, every),
        // Answered above, as they need more than the head.
        Route::Socket | Route::Echo => Refusal::Unknown.answer(),
    }
}

fn page() -> Response<Body> {
    let page = answer::whole(StatusCode::OK, "text/html; charset=utf-8", PAGE);
    let page = answer::with(page, CONTENT_SECURITY_POLICY, PAGE_POLICY);
    answer::with(page, X_CONTENT_TYPE_OPTIONS, "nosniff")
}

fn health(shared: &Shared) -> Response<Body> {
    #[derive(Serialize)]
    struct Health {
        status: &'static str,
        uptime_seconds: u64,
        connections: i64,
        messages: u64,
    }
    let (code, status) = if shared.is_draining() {
        (StatusCode::SERVICE_UNAVAILABLE, "draining")
    } else {
        (StatusCode::OK, "ok")
    };
    let health = Health {
        status,
        uptime_seconds: shared.metrics.uptime().as_secs(),
        connections: shared.metrics.connections(),
        messages: shared.metrics.messages(),
    };
    answer::fresh(answer::json(code, &health))
}

/// What does not change while the server runs. Without a cache header: how long to keep it is
/// the gateway's choice.
fn info(shared: &Shared) -> Response<Body> {
    #[derive(Serialize)]
    struct Info {
        name: &'static str,
        version: &'static str,
        limits: Limits,
    }
    #[derive(Serialize)]
    struct Limits {
        max_connections: usize,
        max_message: usize,
    }
    let info = Info {
        name: env!("CARGO_PKG_NAME"),
        version: env!("CARGO_PKG_VERSION"),
        limits: Limits {
            max_connections: shared.settings.max_connections,
            max_message: shared.settings.max_message,
        },
    };
    answer::json(StatusCode::OK, &info)
}

fn metrics(shared: &Shared) -> Response<Body> {
    let answer = match shared.metrics.render() {
        Ok(text) => answer::whole(StatusCode::OK, prometheus::TEXT_FORMAT, text),
        Err(error) => answer::text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    };
    answer::fresh(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_in_the_path_has_bounds() {
        let ms = Duration::from_millis;
        assert_eq!(find("/delay/60000").1, Ok(Route::Delay(ms(60_000))));
        assert_eq!(find("/bytes/10485760").1, Ok(Route::Bytes(10_485_760)));
        assert_eq!(find("/drip/600/100").1, Ok(Route::Drip(600, ms(100))));
        for path in [
            "/delay/60001",
            "/delay/-1",
            "/delay/soon",
            "/status/199",
            "/status/600",
            "/status/",
            "/bytes/10485761",
            "/drip/601/100",
            "/drip/60001/0",
            "/drip/18446744073709551615/2",
        ] {
            assert!(matches!(find(path).1, Err(Refusal::Number(_))), "{path}");
        }
    }

    #[test]
    fn an_unknown_path_is_counted_as_other() {
        for path in ["/nowhere", "/ws/", "/health/x", "*", "", "//", "/drip/1"] {
            assert_eq!(find(path), ("other", Err(Refusal::Unknown)), "{path}");
        }
    }
}
