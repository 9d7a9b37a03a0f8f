//! A client's stream inside TLS, as Pingora reads and writes it.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::tls::SslDigest;
use pingora::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl,
    Stream, TimingDigest, UniqueID, UniqueIDType,
};
use ring::digest;
use rustls::{ProtocolVersion, ServerConnection};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;

use crate::certificate;
use crate::identity::Certificate;

/// A client that is let go has so long to take the farewell.
const FAREWELL: Duration = Duration::from_secs(1);

/// See above.
pub(crate) struct Secured {
    stream: TlsStream<Stream>,
    digest: Arc<SslDigest>,
}

impl Secured {
    pub(super) fn new(stream: TlsStream<Stream>) -> Self {
        let digest = Arc::new(digest(stream.get_ref().1));
        Self { stream, digest }
    }

    /// Was HTTP/2 agreed upon?
    pub(crate) fn speaks_http2(&self) -> bool {
        self.stream.get_ref().1.alpn_protocol() == Some(b"h2")
    }

    /// The certificate that the client has shown.
    pub(crate) fn certificate(&self) -> Option<Certificate> {
        let chain = self.stream.get_ref().1.peer_certificates()?;
        certificate::shown(chain.first()?)
    }

    fn inner(&self) -> &Stream {
        self.stream.get_ref().0
    }
}

/// What of the handshake Pingora's log may tell.
fn digest(session: &ServerConnection) -> SslDigest {
    let version = match session.protocol_version() {
        Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
        Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
        _ => "",
    };
    let cipher = session.negotiated_cipher_suite();
    let cipher = cipher
        .and_then(|cipher| cipher.suite().as_str())
        .unwrap_or_default();
    let client = session.peer_certificates().and_then(<[_]>::first);
    let client = client.map(|client| digest::digest(&digest::SHA256, client));
    let client = client.map(|digest| digest.as_ref().to_vec());
    SslDigest::new(cipher, version, None, None, client.unwrap_or_default())
}

impl AsyncRead for Secured {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_read(context, buffer) {
            // Many clients end without saying so. What HTTP and WebSockets say is framed: nothing
            // cut off looks complete.
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Poll::Ready(Ok(()))
            }
            read => read,
        }
    }
}

impl AsyncWrite for Secured {
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

impl fmt::Debug for Secured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secured")
            .field("stream", self.inner())
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Shutdown for Secured {
    async fn shutdown(&mut self) {
        // Whoever does not read the farewell is not waited for.
        let _ = timeout(FAREWELL, AsyncWriteExt::shutdown(&mut self.stream)).await;
    }
}

impl UniqueID for Secured {
    fn id(&self) -> UniqueIDType {
        self.inner().id()
    }
}

impl Ssl for Secured {
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        Some(self.digest.clone())
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.speaks_http2().then_some(ALPN::H2)
    }
}

impl GetTimingDigest for Secured {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.inner().get_timing_digest()
    }

    fn get_read_pending_time(&self) -> Duration {
        self.inner().get_read_pending_time()
    }

    fn get_write_pending_time(&self) -> Duration {
        self.inner().get_write_pending_time()
    }
}

impl GetProxyDigest for Secured {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.inner().get_proxy_digest()
    }
}

impl GetSocketDigest for Secured {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.inner().get_socket_digest()
    }
}

impl Peek for Secured {}
