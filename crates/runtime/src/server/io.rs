//! A TCP connection as the server uses it: its HTTP version found out first, given up when its client takes nothing
//! of what is sent, and closed so that the client gets the last response.

use std::{
    io::{self, ErrorKind, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::BufMut;
use http::Version;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{self, Instant, Sleep},
};

use super::framing::Framing;

/// How long a closing connection goes on reading what the client is still sending: while it sends, without longer
/// pauses than this, and so long in all. Closed at once, the kernel would answer those bytes with a reset, and the
/// client could lose the response: a 413, say.
pub(super) const LINGER_PAUSE: Duration = Duration::from_secs(1);
const LINGER: Duration = Duration::from_secs(10);

/// The connection preface of HTTP/2 (RFC 9113, section 3.4); no HTTP/1 method begins like it. The whole of it is waited
/// for here, under a time limit: hyper has none for it.
const HTTP_2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Up to how many bytes pieces are made one before they are written.
const SHORT: usize = 1024;

/// A connection that does not wait for its client without end.
pub(super) struct Connection {
    stream: TcpStream,
    /// What [`Connection::sniff`] has read and hyper has not.
    head: Vec<u8>,
    write_timeout: Duration,
    /// Runs while the client takes nothing.
    stalled: Option<Pin<Box<Sleep>>>,
    linger: Option<Linger>,
    framing: Option<Framing>,
    upgraded: Upgraded,
}

/// Whether the connection speaks another protocol than HTTP by now.
#[derive(Clone, Default)]
pub(super) struct Upgraded(Arc<AtomicBool>);

impl Upgraded {
    pub(super) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

struct Linger {
    pause: Pin<Box<Sleep>>,
    end: Instant,
}

impl Connection {
    pub(super) fn new(stream: TcpStream, write_timeout: Duration) -> Self {
        Self {
            stream,
            head: Vec::new(),
            write_timeout,
            stalled: None,
            linger: None,
            framing: None,
            upgraded: Upgraded::default(),
        }
    }

    pub(super) fn upgraded(&self) -> Upgraded {
        self.upgraded.clone()
    }

    /// From here on lets nothing through that is not framed as it should be.
    pub(super) fn watch_framing(&mut self) {
        self.framing = Some(Framing::default());
    }

    /// Tells by the first bytes which HTTP it is.
    pub(super) async fn sniff(&mut self) -> io::Result<Version> {
        while self.head.len() < HTTP_2.len() && HTTP_2.starts_with(&self.head) {
            let missing = HTTP_2.len() - self.head.len();
            if self.stream.read_buf(&mut (&mut self.head).limit(missing)).await? == 0 {
                break;
            }
        }
        Ok(if self.head == HTTP_2 { Version::HTTP_2 } else { Version::HTTP_11 })
    }

    /// Turns a write that waits for longer than its limit into an error. Each write that gets anywhere begins anew.
    fn limited<T>(&mut self, cx: &mut Context<'_>, write: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if write.is_ready() {
            self.stalled = None;
            return write;
        }
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(time::sleep(self.write_timeout)));
        ready!(stalled.as_mut().poll(cx));
        // The kernel is not to keep what it has for this client either.
        let _ = self.stream.set_zero_linger();
        Poll::Ready(Err(ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        if self.head.is_empty() {
            ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        } else {
            let length = self.head.len().min(buf.remaining());
            let rest = self.head.split_off(length);
            buf.put_slice(&std::mem::replace(&mut self.head, rest));
        }
        let this = &mut *self;
        match &mut this.framing {
            Some(framing) if !this.upgraded.get() => Poll::Ready(framing.check(buf, before)),
            _ => Poll::Ready(Ok(())),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let write = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.limited(cx, write)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length: usize = bufs.iter().map(|buf| buf.len()).sum();
        let write = if length <= SHORT {
            // A head and a short body: to copy them costs less than what the kernel does for a list of pieces.
            let mut whole = [0; SHORT];
            let mut rest = &mut whole[..];
            for buf in bufs {
                rest.put_slice(buf);
            }
            Pin::new(&mut self.stream).poll_write(cx, &whole[..length])
        } else {
            Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
        };
        self.limited(cx, write)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// A socket has nothing to flush: only its writes can wait.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.upgraded.get() {
            // The other direction goes on.
            return Pin::new(&mut this.stream).poll_shutdown(cx);
        }
        let linger = if let Some(linger) = &mut this.linger {
            linger
        } else {
            ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
            let pause = Box::pin(time::sleep(LINGER_PAUSE));
            this.linger.insert(Linger { pause, end: Instant::now() + LINGER })
        };
        let mut scratch = [0; 4096];
        loop {
            let mut buffer = ReadBuf::new(&mut scratch);
            match Pin::new(&mut this.stream).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() && Instant::now() < linger.end => {
                    linger.pause.as_mut().reset(linger.end.min(Instant::now() + LINGER_PAUSE));
                }
                Poll::Ready(_) => return Poll::Ready(Ok(())),
                Poll::Pending => return linger.pause.as_mut().poll(cx).map(Ok),
            }
        }
    }
}
