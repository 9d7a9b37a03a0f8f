//! HTTP/1.1 by hand on one connection that stays open, so that nothing is hidden or tried again.

use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::target::{Failure, PATIENCE, Way};

/// A connection that stays open.
pub struct Connection {
    stream: TcpStream,
    /// What has come and is not used yet.
    buffer: Vec<u8>,
    /// That of the last answer.
    body: Vec<u8>,
}

/// What was answered, as far as a load asks.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Does it say when to come back, in seconds?
    pub retry_after: bool,
    /// Does the connection stay open?
    pub stays: bool,
    body: Body,
}

#[derive(Debug, PartialEq, Eq)]
enum Body {
    Length(usize),
    Chunked,
    ToTheEnd,
}

/// More than this is no answer that a load asks for.
const LONGEST: usize = 16 << 20;

impl Connection {
    /// Connects.
    pub async fn open(way: &Way) -> Result<Self, Failure> {
        Ok(Self {
            stream: way.connect().await?,
            buffer: Vec::new(),
            body: Vec::new(),
        })
    }

    /// Asks, and reads the whole answer.
    pub async fn get(&mut self, way: &Way, client: Option<Ipv4Addr>) -> Result<Answer, Failure> {
        self.ask("GET", way, client).await
    }

    /// The same with another method, without a body.
    pub async fn ask(
        &mut self,
        method: &str,
        way: &Way,
        client: Option<Ipv4Addr>,
    ) -> Result<Answer, Failure> {
        let (path, host) = (&way.target.path, &way.target.authority);
        let mut request = format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\n");
        if method != "GET" {
            request.push_str("content-length: 0\r\n");
        }
        if let Some(client) = client {
            request.push_str(&format!("x-forwarded-for: {client}\r\n"));
        }
        for (name, value) in &way.fields {
            request.push_str(name.as_str());
            request.push_str(": ");
            request.push_str(value.to_str().unwrap_or_default());
            request.push_str("\r\n");
        }
        request.push_str("\r\n");
        let answer = timeout(PATIENCE, self.exchange(request.as_bytes())).await;
        answer.map_err(|_| "answer: timeout")?
    }

    /// The body of the last answer.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    async fn exchange(&mut self, request: &[u8]) -> Result<Answer, Failure> {
        let sent = self.stream.write_all(request).await;
        sent.map_err(|error| format!("send: {}", error.kind()))?;
        loop {
            if let Some((length, answer)) = read_head(&self.buffer)? {
                self.buffer.drain(..length);
                self.body.clear();
                self.read_body(&answer.body).await?;
                return Ok(answer);
            }
            self.more().await?;
        }
    }

    async fn read_body(&mut self, body: &Body) -> Result<(), Failure> {
        match *body {
            Body::Length(length) => self.read_bytes(length).await,
            Body::Chunked => loop {
                let size = self.line().await?;
                let size = size.split(';').next().unwrap_or_default().trim();
                let size = usize::from_str_radix(size, 16).map_err(|_| "answer: bad chunk")?;
                if size == 0 {
                    while !self.line().await?.is_empty() {}
                    return Ok(());
                }
                self.read_bytes(size).await?;
                self.line().await?;
            },
            Body::ToTheEnd => {
                while self.more().await.is_ok() {}
                self.body.append(&mut self.buffer);
                Ok(())
            }
        }
    }

    async fn read_bytes(&mut self, length: usize) -> Result<(), Failure> {
        while self.buffer.len() < length {
            self.more().await?;
        }
        self.body.extend(self.buffer.drain(..length));
        Ok(())
    }

    async fn line(&mut self) -> Result<String, Failure> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\r\n") {
                let line: Vec<u8> = self.buffer.drain(..end + 2).take(end).collect();
                return String::from_utf8(line).map_err(|_| "answer: bad chunk".to_owned());
            }
            self.more().await?;
        }
    }

    async fn more(&mut self) -> Result<(), Failure> {
        if self.buffer.len() > LONGEST {
            return Err("answer: too long".to_owned());
        }
        match self.stream.read_buf(&mut self.buffer).await {
            Ok(0) => Err("answer: closed".to_owned()),
            Ok(_) => Ok(()),
            Err(error) => Err(format!("answer: {}", error.kind())),
        }
    }

    /// Is the connection still open, with nothing on it that was not asked for?
    pub async fn is_open(&self) -> bool {
        let quiet = timeout(Duration::from_millis(50), self.stream.peek(&mut [0])).await;
        self.buffer.is_empty() && quiet.is_err()
    }
}

/// The head's length and what it says; `None` while it is not whole.
fn read_head(bytes: &[u8]) -> Result<Option<(usize, Answer)>, Failure> {
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut head = httparse::Response::new(&mut fields);
    let read = head
        .parse(bytes)
        .map_err(|error| format!("answer: {error}"))?;
    let httparse::Status::Complete(length) = read else {
        return Ok(None);
    };
    let field = |name: &str| {
        let field = head
            .headers
            .iter()
            .find(|field| field.name.eq_ignore_ascii_case(name));
        field
            .and_then(|field| std::str::from_utf8(field.value).ok())
            .map(str::trim)
    };
    let status = head.code.unwrap_or_default();
    let body = match (field("transfer-encoding"), field("content-length")) {
        _ if matches!(status, 100..200 | 204 | 304) => Body::Length(0),
        (Some(_), _) => Body::Chunked,
        (None, Some(length)) => Body::Length(length.parse().map_err(|_| "answer: bad length")?),
        (None, None) => Body::ToTheEnd,
    };
    let answer = Answer {
        status,
        retry_after: field("retry-after")
            .is_some_and(|after| after.parse::<u32>().is_ok_and(|after| after > 0)),
        stays: body != Body::ToTheEnd
            && head.version == Some(1)
            && !field("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")),
        body,
    };
    Ok(Some((length, answer)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    fn head(text: &str) -> Answer {
        read_head(text.as_bytes()).unwrap().unwrap().1
    }

    #[test]
    fn a_head_says_how_its_body_ends() {
        let refused = head("HTTP/1.1 429 x\r\nRetry-After: 1\r\ncontent-length: 7\r\n\r\n");
        assert_eq!(
            (refused.status, refused.retry_after, refused.stays),
            (429, true, true)
        );
        assert_eq!(refused.body, Body::Length(7));
        assert_eq!(
            head("HTTP/1.1 200 x\r\ntransfer-encoding: chunked\r\n\r\n").body,
            Body::Chunked
        );
        assert!(!head("HTTP/1.1 200 x\r\n\r\n").stays);
        assert!(!head("HTTP/1.1 200 x\r\ncontent-length: 0\r\nConnection: Close\r\n\r\n").stays);
        assert!(!head("HTTP/1.1 429 x\r\nretry-after: 0\r\ncontent-length: 0\r\n\r\n").retry_after);
        assert_eq!(read_head(b"HTTP/1.1 200 x\r\n"), Ok(None));
    }

    #[tokio::test]
    async fn answers_follow_each_other_on_one_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let answers = "HTTP/1.1 200 a\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n\
                HTTP/1.1 503 b\r\ncontent-length: 3\r\n\r\nbye";
            stream.write_all(answers.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
            stream.read_to_end(&mut Vec::new()).await.unwrap();
        });
        let way = url.parse::<crate::target::Target>().unwrap().into();
        let mut connection = Connection::open(&way).await.unwrap();
        assert_eq!(connection.get(&way, None).await.unwrap().status, 200);
        assert_eq!(connection.body(), b"hello");
        assert_eq!(connection.get(&way, None).await.unwrap().status, 503);
        assert_eq!(connection.body(), b"bye");
        assert!(connection.get(&way, None).await.is_err());
        assert!(!connection.is_open().await);
    }
}
