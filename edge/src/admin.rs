//! Probes and figures, on a listener of their own: no limit ever meets a probe, and no upstream
//! decides whether edge is alive.

use std::sync::Arc;

use async_trait::async_trait;
use http::{Method, Response, StatusCode, header};
use pingora::apps::http_app::ServeHttp;
use pingora::protocols::http::ServerSession;
use prometheus::IntCounter;
use tracing_appender::non_blocking::ErrorCounter;

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

impl Admin {
    fn answer(&self, method: &Method, path: &str) -> Response<Vec<u8>> {
        let probe = |well: bool, yes: &str, no: &str| {
            let status = if well {
                StatusCode::OK
            } else {
                StatusCode::SERVICE_UNAVAILABLE
            };
            text(
                status,
                "text/plain; charset=utf-8",
                format!("{}\n", if well { yes } else { no }).into_bytes(),
            )
        };
        if !matches!(*method, Method::GET | Method::HEAD) {
            let mut refused = text(
                StatusCode::METHOD_NOT_ALLOWED,
                "text/plain; charset=utf-8",
                b"GET or HEAD\n".to_vec(),
            );
            refused
                .headers_mut()
                .insert(header::ALLOW, header::HeaderValue::from_static("GET, HEAD"));
            return refused;
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
            "/" => text(
                StatusCode::OK,
                "text/plain; charset=utf-8",
                b"/livez\n/readyz\n/startupz\n/metrics\n".to_vec(),
            ),
            _ => text(
                StatusCode::NOT_FOUND,
                "text/plain; charset=utf-8",
                b"try /livez /readyz /startupz /metrics\n".to_vec(),
            ),
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
        let clients = self.plan.load().shares.clients();
        self.metrics.limit_clients.set(gauge(clients));
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
        self.answer(&request.method, request.uri.path())
    }
}
