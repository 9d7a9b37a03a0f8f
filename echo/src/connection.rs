//! One TCP connection: HTTP requests, and perhaps a WebSocket after them.

use crate::{handshake::Opening, router, shared::Shared, socket};
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{convert::Infallible, net::SocketAddr, pin::pin, sync::OnceLock, time::Duration};
use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};
use tracing::debug;

/// How long a request's head may take; also how long a kept connection may wait for its next one.
const HEAD_WAIT: Duration = Duration::from_secs(30);
/// How large a request's head may be, and how much of an answer waits for the client to read.
const HEAD_SIZE: usize = 16 << 10;
/// After this the request at hand is the connection's last.
const AGE: Duration = Duration::from_secs(600);
/// How long that last request may take: longer than the longest answer.
const LAST: Duration = Duration::from_secs(120);

/// Serves a connection to its end.
pub(crate) async fn serve(stream: TcpStream, peer: SocketAddr, shared: &Shared) {
    // An echo is one small segment: Nagle's algorithm would hold it back.
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%peer, %error, "nodelay_failed");
    }
    let Some(opening) = http(stream, peer, shared).await else {
        return;
    };
    let Opening {
        upgrade,
        visitor,
        place,
        expires,
    } = opening;
    match upgrade.await.map(|io| io.downcast::<TokioIo<TcpStream>>()) {
        Ok(Ok(parts)) => {
            let stream = parts.io.into_inner();
            socket::live(stream, &parts.read_buf, visitor, expires, shared).await;
        }
        // The client left between its request and our 101.
        Ok(Err(_)) | Err(_) => debug!(%peer, "upgrade_failed"),
    }
    drop(place);
}

/// Answers requests until the connection ends, or becomes a WebSocket.
async fn http(stream: TcpStream, peer: SocketAddr, shared: &Shared) -> Option<Opening> {
    let opening = OnceLock::new();
    {
        let opening = &opening;
        let service = service_fn(move |request| async move {
            Ok::<_, Infallible>(router::answer(shared, peer, opening, request).await)
        });
        let serving = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_WAIT)
            .max_buf_size(HEAD_SIZE)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        let mut serving = pin!(serving);
        let ended = tokio::select! {
            ended = serving.as_mut() => Some(ended),
            () = shared.draining() => None,
            () = sleep(AGE) => None,
        };
        let ended = match ended {
            Some(ended) => ended,
            None => {
                serving.as_mut().graceful_shutdown();
                // A client that does not take its last answer is let go.
                timeout(LAST, serving).await.unwrap_or(Ok(()))
            }
        };
        if let Err(error) = ended {
            debug!(%peer, %error, "http_failed");
        }
    }
    opening.into_inner()
}
