//! How a request becomes a WebSocket: edge asks the peer itself, and answers 101 only after the
//! peer has.
//!
//! Connecting, choosing among peers and the deadline are those of every other request.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{StatusCode, header};
use pingora::connectors::TransportConnector;
use pingora::connectors::l4::Connect as L4Connect;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::Stream;
use pingora::protocols::http::v1::client::HttpSession;
use pingora::protocols::l4::socket::SocketAddr;
use pingora::protocols::l4::stream::Stream as L4Stream;
use pingora::{Error, ErrorType};
use tokio::net::TcpStream;

use crate::refusal::Refusal;
use crate::upstream::{self, Upstream, http_peer};
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

/// Asks the peers of `upstream`, one after the other, until one can be reached.
pub(crate) async fn ask(
    connector: &TransportConnector,
    upstream: &Upstream,
    tried: &mut Vec<usize>,
    request: Box<RequestHeader>,
    offers: &Offers,
    connect_timeout: Duration,
) -> Result<Answer, Refusal> {
    let stream = connect(connector, upstream, tried, connect_timeout).await?;
    let mut session = Box::new(HttpSession::new(stream));
    session
        .write_request_header(request)
        .await
        .map_err(|error| upstream::refusal(&error))?;
    loop {
        session
            .read_response()
            .await
            .map_err(|error| upstream::refusal(&error))?;
        let head = session.resp_header().ok_or(Refusal::UpstreamInvalid)?;
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            let head = Box::new(head.clone());
            return switch(session, head, offers).await;
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
    upstream: &Upstream,
    tried: &mut Vec<usize>,
    connect_timeout: Duration,
) -> Result<Stream, Refusal> {
    let mut last = Refusal::NoPeer;
    while let Some((place, address)) = upstream.choose(tried) {
        tried.push(place);
        let mut peer = http_peer(address, connect_timeout);
        peer.options.custom_l4 = Some(Arc::new(Unbuffered(connect_timeout)));
        match connector.new_stream(&peer).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = upstream::refusal(&error),
        }
    }
    Err(last)
}

/// Connects without Pingora's 64 KiB read buffer, which a silent WebSocket would hold for life.
#[derive(Debug)]
struct Unbuffered(Duration);

#[async_trait]
impl L4Connect for Unbuffered {
    async fn connect(&self, address: &SocketAddr) -> pingora::Result<L4Stream> {
        let address = address.as_inet();
        let address =
            address.ok_or_else(|| Error::explain(ErrorType::ConnectError, "no address"))?;
        match tokio::time::timeout(self.0, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => Ok(L4Stream::from(stream)),
            Ok(Err(error)) => Error::e_because(ErrorType::ConnectRefused, "connecting", error),
            Err(_) => Error::e_explain(ErrorType::ConnectTimedout, "connecting"),
        }
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
