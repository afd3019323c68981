//! What comes after an answer of 101: bytes both ways, of which the gateway knows nothing.

use std::{
    pin::Pin,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use nix::sys::socket::{setsockopt, sockopt};
use runtime::{Lifecycle, Phase};
use tokio::{
    io::{self, AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
    select, time,
};

use super::{endpoint::Lease, record::Record};

/// How long nothing at all may come from either side: one that is there says so now and then, by pings for instance.
const IDLE: Duration = Duration::from_mins(10);

/// How long what was sent to a service may go unacknowledged, or unread with its buffers full, in milliseconds. A machine
/// that is gone says nothing, and the kernel itself would send again for a quarter of an hour; nothing else limits the
/// time of a tunnel whose client goes on sending. Long, as one who does not read for a while may be there.
const UNACKNOWLEDGED: u32 = 60_000;

/// Once the process stops, how long a tunnel may go on. Its ends cannot be told to finish: they see it close, and connect
/// again, to another replica.
const GRACE: Duration = Duration::from_secs(5);

/// The service's end of a tunnel.
pub(super) struct Tunnel {
    pub(super) client: OnUpgrade,
    pub(super) service: TcpStream,
    /// What the service has sent right after its answer.
    pub(super) early: Bytes,
    pub(super) lease: Lease,
}

impl Tunnel {
    /// Copies until both ends have ended, or one is lost.
    pub(super) async fn run(self, life: Lifecycle, mut record: Box<Record>) {
        let Self { client, mut service, early, lease: _lease } = self;
        // It comes once the answer was written.
        let Ok(client) = client.await else { return };
        record.leave_flight();
        // Without it a service that is gone is only noticed later.
        let _ = setsockopt(&service, sockopt::TcpUserTimeout, &UNACKNOWLEDGED);
        let mut client = TokioIo::new(client);
        let (sent, active) = (AtomicU64::new(0), AtomicBool::new(false));
        let copy = async {
            client.write_all(&early).await?;
            let mut service = Watched { stream: &mut service, read: Some(&sent), active: &active };
            let mut client = Watched { stream: &mut client, read: None, active: &active };
            io::copy_bidirectional(&mut client, &mut service).await
        };
        let idle = async {
            loop {
                time::sleep(IDLE).await;
                if !active.swap(false, Ordering::Relaxed) {
                    return;
                }
            }
        };
        let stopped = async {
            life.reached(Phase::Stopping).await;
            time::sleep(GRACE).await;
        };
        let copied = select! {
            copied = copy => copied.is_ok(),
            () = idle => false,
            () = stopped => false,
        };
        record.sent(early.len() as u64 + sent.load(Ordering::Relaxed));
        if copied {
            record.complete();
        }
    }
}

/// A stream that notes when something comes, and how much.
struct Watched<'a, S> {
    stream: &'a mut S,
    read: Option<&'a AtomicU64>,
    active: &'a AtomicBool,
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<'_, S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut *self.stream).poll_read(cx, buffer))?;
        self.active.store(true, Ordering::Relaxed);
        if let Some(read) = self.read {
            read.fetch_add((buffer.filled().len() - before) as u64, Ordering::Relaxed);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<'_, S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream).poll_shutdown(cx)
    }
}
