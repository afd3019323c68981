//! An HTTP/1 client for tests at the level of bytes and connections.

use std::{io, net::SocketAddr};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time,
};

use crate::process::TIMEOUT;

/// A connection.
#[derive(Debug)]
pub struct Raw {
    stream: TcpStream,
    received: Vec<u8>,
}

/// A response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The status line and the headers, as received.
    pub head: String,
    /// The body.
    pub body: String,
}

impl Response {
    /// Returns the value of a header. `name` is in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let fields = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        fields.into_iter().find_map(|(field, value)| (field.to_lowercase() == name).then_some(value.trim()))
    }

    /// Returns whether the server announces that it closes the connection after this response.
    #[must_use]
    pub fn closes(&self) -> bool {
        self.header("connection") == Some("close")
    }
}

/// Builds a GET request without a body.
#[must_use]
pub fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n")
}

/// Builds a request with a JSON body and `Connection: close`. `line` is its method and path.
#[must_use]
pub fn whole(line: &str, body: &[u8]) -> Vec<u8> {
    [head(line, &format!("content-length: {}", body.len())).as_bytes(), body].concat()
}

/// The same, with the body in chunks of 1 KiB.
#[must_use]
pub fn chunked(line: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = head(line, "transfer-encoding: chunked").into_bytes();
    for chunk in body.chunks(1024) {
        bytes.extend(format!("{:x}\r\n", chunk.len()).bytes());
        bytes.extend(chunk);
        bytes.extend(b"\r\n");
    }
    bytes.extend(b"0\r\n\r\n");
    bytes
}

fn head(line: &str, length: &str) -> String {
    format!("{line} HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\nconnection: close\r\n{length}\r\n\r\n")
}

impl Raw {
    /// Connects.
    ///
    /// # Errors
    /// Returns an error if the connection fails.
    pub async fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, received: Vec::new() })
    }

    /// Sends bytes.
    ///
    /// # Errors
    /// Returns an error if the connection fails.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref()).await
    }

    /// Closes the sending side of the connection.
    ///
    /// # Errors
    /// Returns an error if the connection fails.
    pub async fn finish_sending(&mut self) -> io::Result<()> {
        self.stream.shutdown().await
    }

    /// Reads one whole response that has a `Content-Length`.
    ///
    /// # Errors
    /// Returns `UnexpectedEof` if the connection is closed before that, and `TimedOut` if nothing arrives.
    pub async fn response(&mut self) -> io::Result<Response> {
        loop {
            if let Some((response, length)) = parse(&self.received) {
                self.received.drain(..length);
                return Ok(response);
            }
            if !self.receive().await? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Waits until the server closes the connection. What it sends until then is kept for [`Raw::response`].
    ///
    /// # Errors
    /// Returns `TimedOut` if the connection stays open.
    pub async fn closed(&mut self) -> io::Result<()> {
        while self.receive().await? {}
        Ok(())
    }

    /// Returns the bytes that were received and not read as a response.
    #[must_use]
    pub fn rest(&self) -> &[u8] {
        &self.received
    }

    /// Returns the stream, for use in both directions at once.
    #[must_use]
    pub fn into_stream(self) -> TcpStream {
        self.stream
    }

    async fn receive(&mut self) -> io::Result<bool> {
        Ok(time::timeout(TIMEOUT, self.stream.read_buf(&mut self.received)).await?? > 0)
    }
}

/// Parses the response at the start of the bytes. Returns it with its length.
fn parse(bytes: &[u8]) -> Option<(Response, usize)> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let mut response = Response { status, head, body: String::new() };
    let length = response.header("content-length").map_or(0, |length| length.parse().unwrap_or(0));
    let body = bytes.get(end..end + length)?;
    response.body = String::from_utf8_lossy(body).into_owned();
    Some((response, end + length))
}
