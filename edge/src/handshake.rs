//! How a request becomes a WebSocket: edge asks the peer itself, and answers 101 only after the
//! peer has.
//!
//! Connecting, choosing among peers and the deadline are those of every other request.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use http::{StatusCode, header};
use pingora::connectors::TransportConnector;
use pingora::connectors::l4::Connect as L4Connect;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::http::v1::client::HttpSession;
use pingora::protocols::l4::socket::SocketAddr as L4Address;
use pingora::protocols::l4::stream::Stream as L4Stream;
use pingora::protocols::{ALPN, Stream};
use pingora::{Error, ErrorType, OrErr};
use tokio::net::TcpStream;
use tokio::time::{timeout, timeout_at};

use crate::metrics::Metrics;
use crate::refusal::Refusal;
use crate::retry::{Failed, Sent};
use crate::upstream::{self, Attempt, Peer, Upstream, Verdict};
use crate::websocket::Offers;

/// What the peer said to the handshake.
pub(crate) enum Answer {
    /// 101: the streams belong to the two sides from now on.
    Switched {
        head: Box<ResponseHeader>,
        opened: Opened,
    },
    /// Anything else, which passes through like every answer.
    Other {
        head: Box<ResponseHeader>,
        session: Box<HttpSession>,
    },
}

/// A connection to a peer that has become a WebSocket.
pub(crate) struct Opened {
    pub(crate) peer: Stream,
    /// What the peer sent together with its 101.
    pub(crate) early: Bytes,
    /// Was permessage-deflate agreed on?
    pub(crate) compressed: bool,
}

/// Asks the peers of `upstream`, one after the other, until one answers. A handshake is a GET:
/// it may be repeated as any other (RFC 9110 9.2.2).
pub(crate) async fn ask(
    connector: &TransportConnector,
    upstream: &Arc<Upstream>,
    asked: &mut Asked<'_>,
    request: &RequestHeader,
    offers: &Offers,
) -> Result<(Attempt, Answer), Refusal> {
    upstream.budget.request(Instant::now());
    loop {
        let mut attempt = upstream.begin(asked.tried, asked.key).await?;
        asked.tried.push(attempt.peer.address);
        let asking = ask_peer(connector, &attempt, request, offers, asked.connect);
        let (failed, refusal) = match asked.within(asking).await {
            Ok(answer) => {
                let status = answer.status();
                attempt.judge(Verdict::of(status));
                let failed = Failed::Status(status.as_u16());
                if !upstream.may_repeat(failed, &sent(failed), asked.tried) {
                    return Ok((attempt, answer));
                }
                continue;
            }
            Err(failure) => failure,
        };
        attempt.judge(Verdict::without_answer(&refusal));
        drop(attempt);
        asked.metrics.count_failure(&upstream.name, &refusal);
        if !upstream.may_repeat(failed, &sent(failed), asked.tried) {
            return Err(refusal);
        }
    }
}

/// A handshake has no body.
fn sent(failed: Failed) -> Sent {
    Sent {
        idempotent: true,
        anything: failed != Failed::Connect,
        body_kept: true,
        answered: false,
    }
}

/// How peers are asked, and who has been.
pub(crate) struct Asked<'a> {
    pub(crate) tried: &'a mut Vec<SocketAddr>,
    /// The key by which the request belongs to a peer.
    pub(crate) key: Option<&'a [u8]>,
    /// How long a connection may take.
    pub(crate) connect: Duration,
    /// How long one try may take.
    pub(crate) attempt: Option<Duration>,
    /// By when there must be an answer.
    pub(crate) by: Option<Instant>,
    pub(crate) metrics: &'a Metrics,
}

impl Asked<'_> {
    /// What one try comes to, in its time and in that for the answer.
    async fn within(
        &self,
        asking: impl Future<Output = Result<Answer, (Failed, Refusal)>>,
    ) -> Result<Answer, (Failed, Refusal)> {
        let try_by = self.attempt.map(|time| Instant::now() + time);
        let Some(by) = try_by.into_iter().chain(self.by).min() else {
            return asking.await;
        };
        let late = |_| match self.by.is_some_and(|by| by <= Instant::now()) {
            true => Err((Failed::Other, Refusal::ResponseTimeout)),
            false => Err((Failed::Timeout, Refusal::TryTimeout)),
        };
        timeout_at(by.into(), asking).await.unwrap_or_else(late)
    }
}

impl Answer {
    fn status(&self) -> StatusCode {
        match self {
            Self::Switched { head, .. } | Self::Other { head, .. } => head.status,
        }
    }
}

async fn ask_peer(
    connector: &TransportConnector,
    attempt: &Attempt,
    request: &RequestHeader,
    offers: &Offers,
    connect: Duration,
) -> Result<Answer, (Failed, Refusal)> {
    let stream = self::connect(connector, &attempt.peer, connect).await;
    let stream = stream.map_err(|refusal| (Failed::Connect, refusal))?;
    let mut session = Box::new(HttpSession::new(stream));
    let broken = |error: Box<Error>| (Failed::Closed, upstream::refusal(&error));
    session
        .write_request_header(Box::new(request.clone()))
        .await
        .map_err(broken)?;
    loop {
        session.read_response().await.map_err(broken)?;
        let invalid = (Failed::Closed, Refusal::UpstreamInvalid);
        let head = session.resp_header().ok_or(invalid)?;
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            let head = Box::new(head.clone());
            let switched = switch(session, head, offers).await;
            return switched.map_err(|refusal| (Failed::Other, refusal));
        }
        // Other interim answers concern the peer and edge only.
        if !head.status.is_informational() {
            let head = Box::new(head.clone());
            return Ok(Answer::Other { head, session });
        }
    }
}

async fn connect(
    connector: &TransportConnector,
    peer: &Peer,
    within: Duration,
) -> Result<Stream, Refusal> {
    let mut http = peer.http.clone();
    // A WebSocket begins as HTTP/1.1 (RFC 6455 4.1).
    http.options.alpn = ALPN::H1;
    http.options.custom_l4 = Some(Arc::new(Unbuffered));
    match timeout(within, connector.new_stream(&http)).await {
        Ok(stream) => stream.map_err(|error| upstream::refusal(&error)),
        Err(_) => Err(Refusal::ConnectTimeout),
    }
}

/// Connects without Pingora's 64 KiB read buffer, which a silent WebSocket would hold for life.
#[derive(Debug)]
struct Unbuffered;

#[async_trait]
impl L4Connect for Unbuffered {
    async fn connect(&self, address: &L4Address) -> pingora::Result<L4Stream> {
        let address = address.as_inet();
        let address =
            address.ok_or_else(|| Error::explain(ErrorType::ConnectError, "no address"))?;
        let stream = TcpStream::connect(address).await;
        let stream = stream.or_err(ErrorType::ConnectRefused, "connecting")?;
        Ok(L4Stream::from(stream))
    }
}

async fn switch(
    mut session: Box<HttpSession>,
    head: Box<ResponseHeader>,
    offers: &Offers,
) -> Result<Answer, Refusal> {
    let websocket = head
        .headers
        .get(header::UPGRADE)
        .is_some_and(|to| to.as_bytes().eq_ignore_ascii_case(b"websocket"));
    if !websocket || !head.headers.contains_key(header::SEC_WEBSOCKET_ACCEPT) {
        return Err(Refusal::UpstreamInvalid);
    }
    let compressed = offers.agreed(&head.headers);
    let compressed = compressed.ok_or(Refusal::UpstreamInvalid)?;
    let early = if_ready(session.read_body_bytes()).await;
    let early = match early {
        None => Bytes::new(),
        Some(Ok(Some(early))) => early,
        Some(Ok(None) | Err(_)) => return Err(Refusal::UpstreamClosed),
    };
    Ok(Answer::Switched {
        head,
        opened: Opened {
            peer: session.into_inner(),
            early,
            compressed,
        },
    })
}

/// What the future has ready now; `None` if it would have to wait.
pub(crate) async fn if_ready<F: Future>(future: F) -> Option<F::Output> {
    let future = std::pin::pin!(future);
    tokio::select! {
        biased;
        output = future => Some(output),
        () = std::future::ready(()) => None,
    }
}
