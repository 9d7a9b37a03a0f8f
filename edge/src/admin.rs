//! Probes, figures and the operator's side of the cache, on a listener of their own: no limit ever
//! meets a probe, and no upstream decides whether edge is alive.

mod cache;
mod order;
mod upstreams;

use std::sync::Arc;

use async_trait::async_trait;
use http::{Method, Response, StatusCode, Uri, header};
use pingora::apps::http_app::ServeHttp;
use pingora::protocols::http::ServerSession;
use prometheus::IntCounter;
use serde::Serialize;
use tracing_appender::non_blocking::ErrorCounter;

pub(crate) use cache::{Purged, Status};
pub(crate) use order::{Named, Order};

use crate::life::Life;
use crate::metrics::Metrics;
use crate::plan::InForce;
use crate::store::Store;

/// Answers on the admin listener.
pub(crate) struct Admin {
    pub(crate) life: Arc<Life>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) store: &'static Store,
    pub(crate) plan: Arc<InForce>,
    /// Log lines that were lost.
    pub(crate) lost: Option<ErrorCounter>,
}

/// The only path that changes something.
const PURGE: &str = "/cache/purge";
/// All that can be asked.
const PATHS: [&str; 8] = [
    "/livez",
    "/readyz",
    "/startupz",
    "/metrics",
    "/upstreams",
    "/cache",
    "/cache/top",
    PURGE,
];
const PLAIN: &str = "text/plain; charset=utf-8";

impl Admin {
    async fn answer(&self, method: &Method, uri: &Uri) -> Response<Vec<u8>> {
        let (path, query) = (uri.path(), uri.query().unwrap_or_default());
        let allowed = if path == PURGE { "POST" } else { "GET, HEAD" };
        if !allowed.split(", ").any(|allowed| allowed == method) {
            return not_allowed(allowed);
        }
        let mut answer = match path {
            "/livez" => probe(true, "alive", ""),
            "/readyz" => probe(self.life.is_ready(), "ready", "starting or draining"),
            "/startupz" => probe(self.life.has_started(), "started", "starting"),
            "/metrics" => text(
                StatusCode::OK,
                "text/plain; version=0.0.4; charset=utf-8",
                self.figures(),
            ),
            "/upstreams" => upstreams::upstreams(&self.plan.load()),
            "/cache" => cache::status(self.store, &self.metrics),
            "/cache/top" => cache::top(self.store, query).await,
            PURGE => cache::purge(self.store, &self.metrics, query),
            "/" => line(StatusCode::OK, &PATHS.join("\n")),
            _ => line(StatusCode::NOT_FOUND, &format!("try {}", PATHS.join(" "))),
        };
        if method == Method::HEAD {
            answer.body_mut().clear();
        }
        answer
    }

    /// What has a size now is measured when somebody asks.
    fn figures(&self) -> Vec<u8> {
        let gauge = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        self.metrics
            .cache_bytes
            .set(i64::try_from(self.store.bytes()).unwrap_or(i64::MAX));
        self.metrics.cache_entries.set(gauge(self.store.entries()));
        catch_up(&self.metrics.cache_evictions, self.store.evictions());
        let plan = self.plan.load();
        self.metrics.limit_clients.set(gauge(plan.shares.clients()));
        for upstream in &plan.upstreams {
            upstream.measure();
        }
        if let Some(lost) = &self.lost {
            catch_up(&self.metrics.log_lines_lost, lost.dropped_lines() as u64);
        }
        self.metrics.text()
    }
}

/// Brings a counter up to what was counted elsewhere.
fn catch_up(counter: &IntCounter, total: u64) {
    counter.inc_by(total.saturating_sub(counter.get()));
}

fn probe(well: bool, yes: &str, no: &str) -> Response<Vec<u8>> {
    if well {
        line(StatusCode::OK, yes)
    } else {
        line(StatusCode::SERVICE_UNAVAILABLE, no)
    }
}

fn not_allowed(allowed: &'static str) -> Response<Vec<u8>> {
    let mut answer = line(
        StatusCode::METHOD_NOT_ALLOWED,
        &allowed.replace(", ", " or "),
    );
    let allowed = header::HeaderValue::from_static(allowed);
    answer.headers_mut().insert(header::ALLOW, allowed);
    answer
}

fn line(status: StatusCode, said: &str) -> Response<Vec<u8>> {
    text(status, PLAIN, format!("{said}\n").into_bytes())
}

fn json(told: &impl Serialize) -> Response<Vec<u8>> {
    match serde_json::to_vec(told) {
        Ok(body) => text(StatusCode::OK, "application/json", body),
        Err(error) => line(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

fn text(status: StatusCode, kind: &'static str, body: Vec<u8>) -> Response<Vec<u8>> {
    let length = body.len();
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    answer
        .headers_mut()
        .insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    answer
        .headers_mut()
        .insert(header::CONTENT_LENGTH, header::HeaderValue::from(length));
    answer.headers_mut().insert(
        header::CACHE_CONTROL,
        header::HeaderValue::from_static("no-store"),
    );
    answer
}

#[async_trait]
impl ServeHttp for Admin {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        let request = session.req_header();
        let (method, uri) = (request.method.clone(), request.uri.clone());
        if uri.path() == PURGE && request.headers.contains_key(header::ORIGIN) {
            return line(StatusCode::FORBIDDEN, "no web page may purge");
        }
        self.answer(&method, &uri).await
    }
}
