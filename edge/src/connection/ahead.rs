//! A stream of which some bytes have been read already: they are read again first.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use pingora::protocols::l4::socket;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::tls::{SslDigest, TlsRef};
use pingora::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl,
    Stream, TimingDigest, UniqueID, UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// See above; and the client may be another one than whoever has connected.
pub(crate) struct Ahead {
    bytes: Bytes,
    stream: Stream,
    socket: Option<Arc<SocketDigest>>,
}

/// What has been read and is still to be.
#[derive(Default)]
pub(super) struct Bytes(Vec<u8>);

impl Bytes {
    pub(super) fn new(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }

    pub(super) fn add(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    pub(super) fn get(&self) -> &[u8] {
        &self.0
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Gives out as many as fit.
    pub(super) fn put(&mut self, buffer: &mut ReadBuf<'_>) {
        let length = self.0.len().min(buffer.remaining());
        buffer.put_slice(self.0.get(..length).unwrap_or_default());
        match length == self.0.len() {
            // Their place is given back.
            true => self.0 = Vec::new(),
            false => drop(self.0.drain(..length)),
        }
    }
}

impl Ahead {
    /// `client` is who has connected in truth, if somebody else has said so.
    pub(crate) fn new(stream: Stream, bytes: &[u8], client: Option<SocketAddr>) -> Self {
        let socket = match client {
            None => stream.get_socket_digest(),
            Some(client) => {
                let socket = SocketDigest::from_raw_fd(stream.id());
                // It is new: nothing is in it yet.
                let _ = socket.peer_addr.set(Some(socket::SocketAddr::Inet(client)));
                Some(Arc::new(socket))
            }
        };
        Self {
            bytes: Bytes::new(bytes),
            stream,
            socket,
        }
    }
}

impl AsyncRead for Ahead {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.bytes.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        }
        self.bytes.put(buffer);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Ahead {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

impl fmt::Debug for Ahead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ahead")
            .field("stream", &self.stream)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Shutdown for Ahead {
    async fn shutdown(&mut self) {
        self.stream.shutdown().await;
    }
}

impl UniqueID for Ahead {
    fn id(&self) -> UniqueIDType {
        self.stream.id()
    }
}

impl Ssl for Ahead {
    fn get_ssl(&self) -> Option<&TlsRef> {
        self.stream.get_ssl()
    }

    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.stream.get_ssl_digest()
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.stream.selected_alpn_proto()
    }
}

impl GetTimingDigest for Ahead {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.stream.get_timing_digest()
    }

    fn get_read_pending_time(&self) -> Duration {
        self.stream.get_read_pending_time()
    }

    fn get_write_pending_time(&self) -> Duration {
        self.stream.get_write_pending_time()
    }
}

impl GetProxyDigest for Ahead {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.stream.get_proxy_digest()
    }
}

impl GetSocketDigest for Ahead {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.socket.clone()
    }
}

impl Peek for Ahead {}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn what_was_read_is_read_again_before_the_rest() {
        let (mut client, stream) = tokio::io::duplex(64);
        client.write_all(b"d rest").await.unwrap();
        drop(client);
        let mut ahead = Ahead::new(Box::new(stream), b"the hea", None);
        let mut three = [0; 3];
        ahead.read_exact(&mut three).await.unwrap();
        assert_eq!(&three, b"the");
        let mut rest = Vec::new();
        ahead.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b" head rest");
    }

    #[tokio::test]
    async fn the_client_is_who_was_named() {
        let (_, stream) = tokio::io::duplex(64);
        let named: SocketAddr = "198.51.100.1:4711".parse().unwrap();
        let ahead = Ahead::new(Box::new(stream), b"", Some(named));
        let socket = ahead.get_socket_digest().unwrap();
        assert_eq!(
            socket.peer_addr().and_then(|peer| peer.as_inet()),
            Some(&named)
        );
    }
}
