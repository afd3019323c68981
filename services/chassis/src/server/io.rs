//! A TCP connection as the server uses it: its HTTP version found out first, and closed so that the client gets the
//! last response.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use http::Version;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{self, Sleep},
};

/// How long, and how much, a closing connection goes on reading what the client is still sending. Closed at once, the
/// kernel would answer those bytes with a reset, and the client could lose the response: a 413, say.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 16 * 1024 * 1024;

/// The connection preface of HTTP/2 (RFC 9113, section 3.4); no HTTP/1 method begins like it. The whole of it is waited
/// for here, under a time limit: hyper has none for it.
const HTTP_2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Tells by the first bytes, without taking them, which HTTP it is.
pub(super) async fn sniff(stream: &TcpStream) -> io::Result<Version> {
    let mut buffer = [0; HTTP_2.len()];
    loop {
        let length = stream.peek(&mut buffer).await?;
        if length == HTTP_2.len() && buffer == HTTP_2 {
            return Ok(Version::HTTP_2);
        }
        if length == 0 || buffer[..length] != HTTP_2[..length] {
            return Ok(Version::HTTP_11);
        }
        // A part of the preface: peek would return it again at once.
        time::sleep(Duration::from_millis(5)).await;
    }
}

/// A connection that lingers when it is shut down.
pub(super) struct Connection {
    stream: TcpStream,
    linger: Option<Pin<Box<Sleep>>>,
    lingered: usize,
}

impl Connection {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self { stream, linger: None, lingered: 0 }
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let linger = if let Some(linger) = &mut this.linger {
            linger
        } else {
            ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
            this.linger.insert(Box::pin(time::sleep(LINGER)))
        };
        let mut scratch = [0; 4096];
        loop {
            let mut buffer = ReadBuf::new(&mut scratch);
            match Pin::new(&mut this.stream).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() && this.lingered < LINGER_BYTES => {
                    this.lingered += buffer.filled().len();
                }
                Poll::Ready(_) => return Poll::Ready(Ok(())),
                Poll::Pending => return linger.as_mut().poll(cx).map(Ok),
            }
        }
    }
}
