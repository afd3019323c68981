//! A TCP connection of the server. It detects the HTTP version, aborts if the client stops reading, and closes in a way
//! that lets the client receive the last response.

use std::{
    io::{self, ErrorKind, IoSlice},
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
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

use super::{
    connection_limit::Slot,
    framing::{Framing, Progress},
};

/// How long a closing connection keeps reading while the client pauses. If it were closed at once, the kernel would
/// respond to further bytes with a reset, and the client could lose the response, such as a 413.
pub(super) const LINGER_PAUSE: Duration = Duration::from_secs(1);

/// How long a closing connection keeps reading in total.
const LINGER: Duration = Duration::from_secs(10);

/// The connection preface of HTTP/2 (RFC 9113, section 3.4); no HTTP/1 method starts like it. It is read in full
/// here, under a timeout: hyper has none for it.
const HTTP_2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Up to this many bytes, the buffers of a vectored write are copied into one.
const SHORT_WRITE: usize = 1024;

/// A connection that never waits for its client without a limit.
pub(super) struct Connection {
    stream: TcpStream,
    /// Bytes that [`Connection::sniff`] has read and hyper has not.
    head: Vec<u8>,
    write_timeout: Duration,
    deadline: WriteDeadline,
    /// Runs while a write makes no progress.
    stalled: Option<Pin<Box<Sleep>>>,
    linger: Option<Linger>,
    framing: Option<Framing>,
    upgraded: Upgraded,
    /// Held until the connection is closed, also after an upgrade.
    slot: Slot,
}

/// When the client must have read the response that is being written, if there is a limit.
#[derive(Clone, Default)]
pub(super) struct WriteDeadline(Arc<Mutex<Option<Instant>>>);

impl WriteDeadline {
    pub(super) fn set(&self, deadline: Option<Instant>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = deadline;
    }

    fn get(&self) -> Option<Instant> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the connection was upgraded to a protocol other than HTTP.
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
    pub(super) fn new(stream: TcpStream, slot: Slot, write_timeout: Duration) -> Self {
        Self {
            stream,
            head: Vec::new(),
            write_timeout,
            deadline: WriteDeadline::default(),
            stalled: None,
            linger: None,
            framing: None,
            upgraded: Upgraded::default(),
            slot,
        }
    }

    pub(super) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Counts the connection as one of HTTP/2. Returns whether its client may have it.
    pub(super) fn count_as_http_2(&mut self) -> bool {
        self.slot.count_as_http_2()
    }

    pub(super) fn upgraded(&self) -> Upgraded {
        self.upgraded.clone()
    }

    pub(super) fn write_deadline(&self) -> WriteDeadline {
        self.deadline.clone()
    }

    /// Rejects ambiguous framing from here on.
    pub(super) fn watch_framing(&mut self, progress: Progress) {
        self.framing = Some(Framing::new(progress));
    }

    /// Detects the HTTP version from the first bytes.
    pub(super) async fn sniff(&mut self) -> io::Result<Version> {
        while self.head.len() < HTTP_2.len() && HTTP_2.starts_with(&self.head) {
            let missing = HTTP_2.len() - self.head.len();
            if self.stream.read_buf(&mut (&mut self.head).limit(missing)).await? == 0 {
                break;
            }
        }
        Ok(if self.head == HTTP_2 { Version::HTTP_2 } else { Version::HTTP_11 })
    }

    /// Fails a write that makes no progress within the timeout, or has to wait after the deadline of the response. Any
    /// progress restarts the timeout.
    fn with_timeout<T>(&mut self, cx: &mut Context<'_>, write: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if write.is_ready() {
            self.stalled = None;
            return write;
        }
        let stalled = self.stalled.get_or_insert_with(|| {
            let limit = Instant::now() + self.write_timeout;
            Box::pin(time::sleep_until(self.deadline.get().map_or(limit, |deadline| limit.min(deadline))))
        });
        ready!(stalled.as_mut().poll(cx));
        // Discards what the kernel still holds for this client.
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
        if let Some(framing) = &mut this.framing
            && !this.upgraded.get()
        {
            framing.check(buf, before);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let write = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.with_timeout(cx, write)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length: usize = bufs.iter().map(|buf| buf.len()).sum();
        let write = if length <= SHORT_WRITE {
            // For a head and a short body, a copy costs less than a vectored write in the kernel.
            let mut whole = [0; SHORT_WRITE];
            let mut rest = &mut whole[..];
            for buf in bufs {
                rest.put_slice(buf);
            }
            Pin::new(&mut self.stream).poll_write(cx, &whole[..length])
        } else {
            Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
        };
        self.with_timeout(cx, write)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    // No timeout: a socket has nothing to flush, so only writes can stall.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.upgraded.get() {
            // The other direction stays open.
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
