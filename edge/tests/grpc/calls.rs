//! A service without generated code: its messages are bytes, as they come.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::{Buf, BufMut, Bytes};
use futures_util::StreamExt;
use http::uri::PathAndQuery;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::{BoxFuture, Service};
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::server::{NamedService, StreamingService};
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status, Streaming};

/// A message is a text of bytes.
#[derive(Clone, Copy)]
pub(crate) struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

/// The message of this number, so long at least.
pub(crate) fn message(number: u32, length: usize) -> Bytes {
    let mut message = number.to_string().into_bytes();
    message.resize(length.max(message.len()), b'.');
    message.into()
}

// ---- the client

pub(crate) type Client = tonic::client::Grpc<Channel>;

/// The largest message.
const LARGEST: usize = 8 << 20;

pub(crate) async fn client(to: SocketAddr) -> Client {
    let endpoint = Endpoint::from_shared(format!("http://{to}")).unwrap();
    let channel = endpoint.connect().await.unwrap();
    tonic::client::Grpc::new(channel)
        .max_decoding_message_size(LARGEST)
        .max_encoding_message_size(LARGEST)
}

pub(crate) fn path(method: &str) -> PathAndQuery {
    format!("/test.Calls/{method}").parse().unwrap()
}

/// A call over which messages go both ways.
pub(crate) async fn both_ways(
    client: &mut Client,
    method: &str,
) -> Result<(mpsc::Sender<Bytes>, Streaming<Bytes>), Status> {
    let (to, messages) = mpsc::channel(16);
    client.ready().await.unwrap();
    let request = Request::new(ReceiverStream::new(messages));
    let answer = client.streaming(request, path(method), Raw).await?;
    Ok((to, answer.into_inner()))
}

// ---- the server

/// What has come to the server.
#[derive(Default)]
struct Seen {
    connections: AtomicUsize,
    open: AtomicUsize,
}

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    seen: Arc<Seen>,
}

impl Server {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Seen::default());
        let own = seen.clone();
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let incoming = incoming.inspect(move |_| {
            own.connections.fetch_add(1, Ordering::SeqCst);
        });
        let mut builder = tonic::transport::Server::builder();
        let serving = builder.add_service(Calls(seen.clone()));
        tokio::spawn(serving.serve_with_incoming(incoming));
        Self { address, seen }
    }

    /// How many connections have come.
    pub(crate) fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::SeqCst)
    }

    /// How many calls are open.
    pub(crate) fn open(&self) -> usize {
        self.seen.open.load(Ordering::SeqCst)
    }
}

#[derive(Clone)]
struct Calls(Arc<Seen>);

impl NamedService for Calls {
    const NAME: &'static str = "test.Calls";
}

impl Service<http::Request<Body>> for Calls {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<http::Response<Body>, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let seen = self.0.clone();
        Box::pin(async move {
            let method = request.uri().path().rsplit('/').next().unwrap().to_owned();
            let mut grpc = tonic::server::Grpc::new(Raw)
                .max_decoding_message_size(LARGEST)
                .max_encoding_message_size(LARGEST);
            Ok(grpc.streaming(Method { method, seen }, request).await)
        })
    }
}

/// On the wire every shape of call is a stream each way.
struct Method {
    method: String,
    seen: Arc<Seen>,
}

/// A call that is open.
struct Open(Arc<Seen>);

impl Open {
    fn new(seen: &Arc<Seen>) -> Self {
        seen.open.fetch_add(1, Ordering::SeqCst);
        Self(seen.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

type To = mpsc::Sender<Result<Bytes, Status>>;

impl StreamingService<Bytes> for Method {
    type Response = Bytes;
    type ResponseStream = ReceiverStream<Result<Bytes, Status>>;
    type Future = BoxFuture<Response<Self::ResponseStream>, Status>;

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        let method = self.method.clone();
        let open = Open::new(&self.seen);
        Box::pin(async move {
            let _open = &open;
            match method.as_str() {
                "Fail" => return Err(not_now()),
                "Silent" => return std::future::pending().await,
                _ => {}
            }
            let (to, answers) = mpsc::channel(4);
            let mut answer = Response::new(ReceiverStream::new(answers));
            let said = request.metadata();
            if let Some(text) = said.get("x-said") {
                answer.metadata_mut().insert("x-heard", text.clone());
            }
            if let Some(bytes) = said.get_bin("x-said-bin") {
                answer
                    .metadata_mut()
                    .insert_bin("x-heard-bin", bytes.clone());
            }
            tokio::spawn(async move {
                tokio::select! {
                    _ = serve(&method, request.into_inner(), &to) => {}
                    // Nobody listens any more.
                    () = to.closed() => {}
                }
                drop(open);
            });
            Ok(answer)
        })
    }
}

async fn serve(method: &str, mut messages: Streaming<Bytes>, to: &To) -> Option<()> {
    match method {
        "Echo" => {
            while let Some(message) = messages.message().await.ok()? {
                to.send(Ok(message)).await.ok()?;
            }
        }
        "Count" => {
            let count = messages.message().await.ok()??;
            let count: u32 = std::str::from_utf8(&count).unwrap().parse().unwrap();
            for number in 0..count {
                to.send(Ok(message(number, 64))).await.ok()?;
            }
        }
        "Sum" => {
            let (mut count, mut bytes) = (0, 0);
            while let Some(message) = messages.message().await.ok()? {
                count += 1;
                bytes += message.len();
            }
            let sum = format!("{count} messages, {bytes} bytes");
            to.send(Ok(sum.into())).await.ok()?;
        }
        "FailLate" => {
            for number in 0..3 {
                to.send(Ok(message(number, 64))).await.ok()?;
            }
            to.send(Err(not_now())).await.ok()?;
        }
        "Hang" => {
            to.send(Ok(Bytes::from_static(b"hello"))).await.ok()?;
            std::future::pending::<()>().await;
        }
        _ => to
            .send(Err(Status::unimplemented("no such method")))
            .await
            .ok()?,
    }
    Some(())
}

fn not_now() -> Status {
    let mut metadata = MetadataMap::new();
    metadata.insert("x-why", MetadataValue::from_static("a reason"));
    let details = Bytes::from_static(&[1, 2, 3]);
    Status::with_details_and_metadata(
        Code::FailedPrecondition,
        "not now: 10% \u{e4}",
        details,
        metadata,
    )
}
