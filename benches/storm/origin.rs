//! An upstream of the load's own: it answers everything, tells objects apart and counts.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::Args;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::target::{Failure, loopback};

/// Where the load itself answers.
#[derive(Args, Debug, Clone)]
pub(crate) struct Place {
    /// Where edge finds the route's upstream, which is the load itself: a loopback address.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:19102", value_parser = place)]
    upstream: SocketAddr,
}

/// What is answered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Answers {
    pub(crate) after: Duration,
    /// Bytes in a body.
    pub(crate) size: usize,
    /// May they be kept, for an hour?
    pub(crate) kept: bool,
}

/// Answers until it is dropped.
pub(crate) struct Origin {
    requests: Arc<AtomicU64>,
    accepting: JoinHandle<()>,
}

/// So many tags `t0`, `t1`, ... share the objects.
pub(crate) const TAGS: u64 = 1_000;

/// So many connections may wait to be taken: a herd's, so that none is refused here.
const WAITING: u32 = 16_384;

/// More than this is no head that edge sends.
const LONGEST: usize = 64 << 10;

pub(crate) fn place(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text.parse().map_err(|_| "expected ADDRESS:PORT")?;
    loopback(&address.ip().to_string())?;
    Ok(address)
}

impl Place {
    pub(crate) fn answer(&self, answers: Answers) -> Result<Origin, Failure> {
        Origin::at(self.upstream, answers)
    }
}

impl Origin {
    pub(crate) fn answering(at: &str, answers: Answers) -> Result<Self, Failure> {
        Self::at(place(at)?, answers)
    }

    fn at(address: SocketAddr, answers: Answers) -> Result<Self, Failure> {
        let listener = listen(address);
        let listener = listener.map_err(|error| format!("upstream: {}", error.kind()))?;
        let requests = Arc::new(AtomicU64::new(0));
        let accepting = tokio::spawn(accept(listener, answers, requests.clone()));
        Ok(Self {
            requests,
            accepting,
        })
    }

    /// How many requests have come.
    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(WAITING)
}

async fn accept(listener: TcpListener, answers: Answers, requests: Arc<AtomicU64>) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(serve(stream, answers, requests.clone()));
    }
}

/// Answers on one connection until the other side ends it.
async fn serve(mut stream: TcpStream, answers: Answers, requests: Arc<AtomicU64>) {
    let mut buffer = Vec::new();
    // Where it fails edge sees an end, and its client an error, which is counted there.
    let _ = stream.set_nodelay(true);
    while let Some(path) = read_path(&mut stream, &mut buffer).await {
        requests.fetch_add(1, Ordering::Relaxed);
        if !answers.after.is_zero() {
            sleep(answers.after).await;
        }
        if stream.write_all(&answers.to(&path)).await.is_err() {
            return;
        }
    }
}

/// The path of the next request, which has no body.
pub(crate) async fn read_path(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<String> {
    loop {
        if let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
            let head: Vec<u8> = buffer.drain(..end + 4).collect();
            let head = std::str::from_utf8(&head).ok()?;
            return Some(head.split(' ').nth(1)?.to_owned());
        }
        if buffer.len() > LONGEST || stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
}

impl Answers {
    fn to(&self, path: &str) -> Vec<u8> {
        let control = if self.kept {
            "max-age=3600"
        } else {
            "no-store"
        };
        let tag = number(path) % TAGS;
        let size = self.size.max(path.len());
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncache-control: {control}\r\n\
             surrogate-key: all t{tag}\r\ncontent-length: {size}\r\n\r\n"
        );
        let mut answer = Vec::with_capacity(head.len() + size);
        answer.extend_from_slice(head.as_bytes());
        answer.extend_from_slice(path.as_bytes());
        answer.resize(head.len() + size, b'.');
        answer
    }
}

/// Is this the whole body of this path, and of no other?
pub(crate) fn is_of(body: &[u8], path: &str, size: usize) -> bool {
    let rest = body.strip_prefix(path.as_bytes());
    let whole = body.len() == size.max(path.len());
    whole && rest.is_some_and(|rest| rest.first().is_none_or(|next| *next == b'.'))
}

/// The object's number: what its path ends with.
fn number(path: &str) -> u64 {
    let end = path.rsplit('/').next();
    end.and_then(|number| number.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_tells_whose_it_is() {
        let answers = |kept| Answers {
            after: Duration::ZERO,
            size: 16,
            kept,
        };
        let answer = answers(true).to("/a/1007");
        let text = String::from_utf8(answer).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains("max-age=3600") && head.contains("surrogate-key: all t7\r\n"));
        assert!(is_of(body.as_bytes(), "/a/1007", 16));
        assert!(!is_of(body.as_bytes(), "/a/100", 16));
        assert!(!is_of(&body.as_bytes()[..15], "/a/1007", 16));
        let refused = String::from_utf8(answers(false).to("/")).unwrap();
        assert!(refused.contains("cache-control: no-store\r\n"));
    }

    #[test]
    fn only_this_machine_asks() {
        assert!(place("127.0.0.1:1").is_ok() && place("[::1]:1").is_ok());
        assert!(place("0.0.0.0:1").is_err() && place("127.0.0.1").is_err());
    }

    #[tokio::test]
    async fn each_request_is_counted() {
        let listener = listen(place("127.0.0.1:0").unwrap()).unwrap();
        let url = format!("http://{}/a", listener.local_addr().unwrap());
        let answers = Answers {
            after: Duration::ZERO,
            size: 100,
            kept: true,
        };
        let requests = Arc::new(AtomicU64::new(0));
        tokio::spawn(accept(listener, answers, requests.clone()));
        let way = url.parse::<crate::target::Target>().unwrap().into();
        let mut connection = crate::http1::Connection::open(&way).await.unwrap();
        for number in 1..=3 {
            assert_eq!(connection.get(&way, None).await.unwrap().status, 200);
            assert!(is_of(connection.body(), "/a", 100));
            assert_eq!(requests.load(Ordering::Relaxed), number);
        }
    }
}
