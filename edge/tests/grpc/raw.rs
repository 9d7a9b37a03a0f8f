//! A client and a server of gRPC without clocks of their own: tonic's keep the deadline themselves.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use h2::server::SendResponse;
use http::{HeaderMap, Request};
use tokio::net::{TcpListener, TcpStream};

/// A server that takes calls and never answers.
pub(crate) struct Silent {
    pub(crate) address: SocketAddr,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    timeout: Mutex<String>,
    cancelled: AtomicUsize,
}

impl Silent {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Seen::default());
        let own = seen.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, own.clone()));
            }
        });
        Self { address, seen }
    }

    /// How many calls were cancelled.
    pub(crate) fn cancelled(&self) -> usize {
        self.seen.cancelled.load(Ordering::SeqCst)
    }

    /// What the last call said of its deadline.
    pub(crate) fn timeout(&self) -> String {
        self.seen.timeout.lock().unwrap().clone()
    }
}

async fn serve(stream: TcpStream, seen: Arc<Seen>) {
    let mut connection = h2::server::handshake(stream).await.unwrap();
    while let Some(Ok((request, answer))) = connection.accept().await {
        let said = request.headers().get("grpc-timeout");
        let said = said.map_or("", |said| said.to_str().unwrap());
        said.clone_into(&mut seen.timeout.lock().unwrap());
        tokio::spawn(wait(request, answer, seen.clone()));
    }
}

async fn wait(request: Request<h2::RecvStream>, mut answer: SendResponse<Bytes>, seen: Arc<Seen>) {
    let reset = std::future::poll_fn(|context| answer.poll_reset(context)).await;
    assert_eq!(reset.unwrap(), h2::Reason::CANCEL);
    seen.cancelled.fetch_add(1, Ordering::SeqCst);
    drop(request);
}

/// A call that waits for so long as it says, and what its answer's head says.
pub(crate) async fn call(to: SocketAddr, timeout: &str) -> (u16, HeaderMap) {
    let stream = TcpStream::connect(to).await.unwrap();
    let (send, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let request = Request::post(format!("http://{to}/test.Calls/Silent"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", timeout)
        .body(())
        .unwrap();
    let mut send = send.ready().await.unwrap();
    let (answer, mut body) = send.send_request(request, false).unwrap();
    body.send_data(Bytes::from_static(&[0; 5]), true).unwrap();
    let (head, _) = answer.await.unwrap().into_parts();
    (head.status.as_u16(), head.headers)
}
