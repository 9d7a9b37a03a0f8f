//! A client that speaks HTTP/2 and sees every frame that matters.

use std::net::SocketAddr;

use bytes::Bytes;
use h2::client::{self, ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Method, Request};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::support::soon;

/// A connection.
pub(crate) struct Http2 {
    pub(crate) send: SendRequest<Bytes>,
    /// Ends with the connection, and tells how.
    pub(crate) ended: JoinHandle<Result<(), h2::Error>>,
}

/// An answer as it came.
#[derive(Debug)]
pub(crate) struct Got {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
    /// Why it was cut off.
    pub(crate) reset: Option<Reason>,
}

impl Http2 {
    /// In the clear, by prior knowledge.
    pub(crate) async fn connect(to: SocketAddr) -> Self {
        let stream = soon(TcpStream::connect(to)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self::on(stream).await
    }

    pub(crate) async fn on(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Self {
        Self::with(client::Builder::new().initial_max_send_streams(1), stream).await
    }

    pub(crate) async fn with(
        builder: &client::Builder,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ) -> Self {
        let (send, connection) = soon(builder.handshake(stream)).await.unwrap();
        Self {
            send,
            ended: tokio::spawn(connection),
        }
    }

    /// Begins a request; the body, if there is one, is still to be sent.
    pub(crate) async fn begin(
        &self,
        request: Request<()>,
        end: bool,
    ) -> (ResponseFuture, SendStream<Bytes>) {
        let mut send = soon(self.send.clone().ready()).await.unwrap();
        send.send_request(request, end).unwrap()
    }

    /// A request without a body and its answer.
    pub(crate) async fn ask(&self, request: Request<()>) -> Got {
        let (answer, _) = self.begin(request, true).await;
        got(answer).await.unwrap()
    }

    pub(crate) async fn get(&self, path: &str) -> Got {
        self.ask(to("GET", path)).await
    }

    /// A request with this body and its answer.
    pub(crate) async fn send(&self, request: Request<()>, body: &[u8]) -> Got {
        let (answer, stream) = self.begin(request, false).await;
        let body = Bytes::copy_from_slice(body);
        let sending = tokio::spawn(async move { upload(stream, body, true).await });
        let got = got(answer).await.unwrap();
        sending.await.unwrap();
        got
    }
}

/// Sends all of it as the window allows; stops where nobody wants more.
pub(crate) async fn upload(
    mut stream: SendStream<Bytes>,
    mut body: Bytes,
    end: bool,
) -> SendStream<Bytes> {
    while !body.is_empty() {
        stream.reserve_capacity(body.len());
        let room = soon(std::future::poll_fn(|context| {
            stream.poll_capacity(context)
        }))
        .await;
        let Some(Ok(room)) = room else { return stream };
        let part = body.split_to(room.min(body.len()));
        let last = end && body.is_empty();
        if stream.send_data(part, last).is_err() {
            return stream;
        }
    }
    stream
}

/// The whole answer; an error where there is none.
pub(crate) async fn got(answer: ResponseFuture) -> Result<Got, h2::Error> {
    let (head, body) = soon(answer).await?.into_parts();
    let (body, reset) = read(body).await;
    Ok(Got {
        status: head.status.as_u16(),
        headers: head.headers,
        body,
        reset,
    })
}

async fn read(mut stream: RecvStream) -> (Vec<u8>, Option<Reason>) {
    let mut body = Vec::new();
    while let Some(data) = soon(stream.data()).await {
        match data {
            Ok(data) => {
                body.extend_from_slice(&data);
                stream.flow_control().release_capacity(data.len()).unwrap();
            }
            Err(error) => return (body, Some(error.reason().unwrap_or(Reason::CANCEL))),
        }
    }
    (body, None)
}

impl Got {
    /// The field's only value.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut all = self.headers.get_all(name).iter();
        let first = all.next()?;
        assert!(all.next().is_none(), "{name} stands twice: {self:?}");
        Some(first.to_str().unwrap())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    /// Status and reason of a problem body.
    pub(crate) fn refusal(&self) -> (u16, String) {
        let kind = self.header("content-type");
        assert_eq!(kind, Some("application/problem+json"), "{self:?}");
        let problem: Value = serde_json::from_slice(&self.body).unwrap();
        assert_eq!(problem["status"], self.status);
        assert_eq!(problem["instance"], self.header("x-request-id").unwrap());
        (self.status, problem["reason"].as_str().unwrap().to_owned())
    }
}

/// A request's head for `edge.test`.
pub(crate) fn to(method: &str, path: &str) -> Request<()> {
    Request::builder()
        .method(Method::from_bytes(method.as_bytes()).unwrap())
        .uri(format!("http://edge.test{path}"))
        .version(http::Version::HTTP_2)
        .body(())
        .unwrap()
}

/// The same with these fields.
pub(crate) fn with(method: &str, path: &str, fields: &[(&'static str, &str)]) -> Request<()> {
    let mut request = to(method, path);
    for (name, value) in fields {
        let value = value.parse().unwrap();
        request.headers_mut().append(*name, value);
    }
    request
}
