//! A client's connection that speaks HTTP/2 (RFC 9113): its streams, each served like a connection
//! of its own, and its end.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http::{HeaderValue, Method, header};
use parking_lot::Mutex;
use pingora::apps::{HttpServerApp, ReusedHttpStream, ServerApp};
use pingora::http::RequestHeader;
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v2::server::{H2Options, default_h2_options};
use pingora::proxy::HttpProxy;
use pingora::server::ShutdownWatch;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until};

use crate::connection::{Connection, Guarded, Times};
use crate::gateway::Gateway;
use crate::metrics::Metrics;
use crate::refusal::Refusal;

/// What a client may send of one body before edge has read it, and of all bodies together.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;
/// What waits of one answer for a client that does not read.
const SEND_BUFFER: usize = 64 << 10;
/// A client has so long to go once it was told to, and no stream is open.
const FAREWELL: Duration = Duration::from_secs(1);
/// A stream that has been cut has so long to end by itself, and to be recorded.
const CUT: Duration = Duration::from_secs(1);
/// A write that has no clock of its own may take so long.
const WRITE: Duration = Duration::from_secs(10);

/// One connection, as Pingora serves it.
pub(crate) struct Http2 {
    proxy: Arc<HttpProxy<Gateway>>,
    metrics: Arc<Metrics>,
    /// The connection that its streams share.
    whole: Arc<Connection>,
    /// Streams that may be open at once.
    most: u32,
    streams: Streams,
}

impl Http2 {
    pub(crate) fn new(
        proxy: Arc<HttpProxy<Gateway>>,
        metrics: Arc<Metrics>,
        whole: Arc<Connection>,
        most: u32,
    ) -> Arc<Self> {
        Arc::new(Self {
            proxy,
            metrics,
            whole,
            most,
            streams: Streams::default(),
        })
    }

    /// Serves the connection to its end. A client that has sent no whole request `by` then is let
    /// go; so is one with no stream open for as long as `times` say, and everybody once `shutdown`
    /// says so: they are told first (GOAWAY), and what is open is finished.
    pub(crate) async fn serve(
        self: &Arc<Self>,
        guarded: Guarded,
        times: Times,
        by: Instant,
        shutdown: &ShutdownWatch,
    ) {
        let mut shutdown = shutdown.clone();
        let (let_go, told) = watch::channel(false);
        let mut serving = pin!(ServerApp::process_new(self, Box::new(guarded), &told));
        let (mut patience, mut ending) = (times.keepalive, false);
        let mut look_at = by.min(Instant::now() + patience);
        loop {
            tokio::select! {
                biased;
                _ = &mut serving => return,
                _ = shutdown.changed(), if !ending => ending = true,
                () = sleep_until(look_at) => match self.streams.idle_for() {
                    Idle::Never if !ending && Instant::now() < by => {
                        look_at = by;
                        continue;
                    }
                    Idle::Never => return,
                    Idle::For(time) if time < patience => {
                        look_at = Instant::now() + (patience - time);
                        continue;
                    }
                    Idle::For(_) if ending => return,
                    Idle::For(_) => ending = true,
                    Idle::Not => {
                        look_at = Instant::now() + patience;
                        continue;
                    }
                },
            }
            let_go.send_replace(true);
            patience = FAREWELL;
            look_at = Instant::now() + patience;
        }
    }

    /// One request.
    async fn serve_stream(&self, session: ServerSession, shutdown: &ShutdownWatch) {
        let connection = self.whole.stream();
        let cut = Notify::new();
        let serving = connection.serving(self.proxy.process_new_http(session, shutdown));
        let serving = connection.deadline.keep(|| cut.notify_one(), serving);
        let cut = async {
            cut.notified().await;
            sleep(CUT).await;
        };
        tokio::select! {
            biased;
            _ = serving => {}
            // What is dropped is reset (RFC 9113 6.4).
            () = cut => {}
        }
    }
}

#[async_trait]
impl HttpServerApp for Http2 {
    async fn process_new_http(
        self: &Arc<Self>,
        mut session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        let _open = self.streams.open();
        session.set_write_timeout(Some(WRITE));
        let request = session.req_header_mut();
        as_over_http1(request);
        if request.method == Method::CONNECT {
            // Pingora says no by itself, and no hook sees it.
            let allow = String::new();
            let refusal = Refusal::MethodNotAllowed { allow };
            self.metrics.count_malformed(&refusal);
            let client = session.client_addr().map(ToString::to_string);
            tracing::info!(reason = refusal.reason(), client, "request_malformed");
        }
        self.serve_stream(session, shutdown).await;
        None
    }

    fn h2_options(&self) -> Option<H2Options> {
        // With these come the bound of a head (64 KiB) and those of streams that are reset, of
        // CONTINUATION frames and of empty ones.
        let mut options = default_h2_options();
        options
            .max_concurrent_streams(self.most)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buffer_size(SEND_BUFFER);
        Some(options)
    }
}

/// What HTTP/1.1 says otherwise, said as there: all that comes after reads it in one way.
fn as_over_http1(request: &mut RequestHeader) {
    // `:authority` is `Host` (RFC 9113 8.3.1); Pingora has refused two that differ.
    let host = request.uri.authority().map(|host| host.as_str().to_owned());
    let missing = host.filter(|_| !request.headers.contains_key(header::HOST));
    let cookie = one_cookie(request.headers.get_all(header::COOKIE).iter());
    // What was a valid field stays one when it is joined, and a host is one.
    if let Some(host) = missing {
        let _ = request.insert_header(header::HOST, host);
    }
    if let Some(cookie) = cookie {
        let _ = request.insert_header(header::COOKIE, cookie);
    }
}

/// Cookies that came in several fields, in one as HTTP/1.1 wants them (RFC 9113 8.2.3).
fn one_cookie<'a>(mut fields: impl Iterator<Item = &'a HeaderValue>) -> Option<Vec<u8>> {
    let mut all = fields.next()?.as_bytes().to_vec();
    let mut several = false;
    for field in fields {
        all.extend_from_slice(b"; ");
        all.extend_from_slice(field.as_bytes());
        several = true;
    }
    several.then_some(all)
}

/// The streams open on a connection.
#[derive(Default)]
struct Streams(Mutex<Count>);

#[derive(Default)]
struct Count {
    open: usize,
    /// When the last one was closed; `None`: none has been.
    closed: Option<Instant>,
}

/// Since when no stream is open.
#[derive(Debug, PartialEq, Eq)]
enum Idle {
    /// There has been none.
    Never,
    /// One is open.
    Not,
    For(Duration),
}

impl Streams {
    /// One more, until this is dropped.
    fn open(&self) -> Open<'_> {
        self.0.lock().open += 1;
        Open(self)
    }

    fn idle_for(&self) -> Idle {
        let count = self.0.lock();
        match (count.open, count.closed) {
            (0, None) => Idle::Never,
            (0, Some(closed)) => Idle::For(closed.elapsed()),
            _ => Idle::Not,
        }
    }
}

struct Open<'a>(&'a Streams);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        let mut count = self.0.0.lock();
        count.open -= 1;
        count.closed = Some(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies_in_several_fields_become_one() {
        let joined = |fields: &[&'static str]| {
            let fields: Vec<_> = fields
                .iter()
                .map(|field| HeaderValue::from_static(field))
                .collect();
            one_cookie(fields.iter()).map(|all| String::from_utf8(all).unwrap())
        };
        assert_eq!(joined(&[]), None);
        assert_eq!(joined(&["a=1"]), None, "one is left as it is");
        assert_eq!(
            joined(&["a=1", "b=2", "c=3"]).as_deref(),
            Some("a=1; b=2; c=3")
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_from_its_last_streams_end() {
        let streams = Streams::default();
        assert_eq!(streams.idle_for(), Idle::Never);
        let (one, two) = (streams.open(), streams.open());
        drop(one);
        assert_eq!(streams.idle_for(), Idle::Not);
        drop(two);
        sleep(Duration::from_secs(3)).await;
        assert_eq!(streams.idle_for(), Idle::For(Duration::from_secs(3)));
    }
}
