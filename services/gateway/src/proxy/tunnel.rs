//! Connections after a response of 101: the gateway copies bytes both ways without looking at them.

use std::{
    pin::Pin,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    task::{Context, Poll, ready},
    time::Duration,
};

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use nix::sys::socket::{setsockopt, sockopt};
use runtime::{Lifecycle, Phase};
use tokio::{
    io::{self, AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf},
    select, time,
};

use super::{access_record::AccessRecord, endpoint::InFlightGuard, http1::Connection};
use crate::auth::{LeaseEnd, end_of};

/// How long both sides may be silent. Protocols that keep connections open for longer send pings.
const IDLE_TIMEOUT: Duration = Duration::from_mins(10);

/// How long bytes sent to a service may stay unacknowledged, or unread while its buffers are full, in milliseconds.
/// Without it the kernel would retransmit for a quarter of an hour to a host that is gone, and a client that keeps
/// sending would keep the tunnel from becoming idle. It is long because a live service may not read for a while.
const UNACKNOWLEDGED_TIMEOUT: u32 = 60_000;

/// How long a tunnel may go on during shutdown. Its ends cannot be asked to finish: they see the connection close, and
/// reconnect to another replica.
const GRACE: Duration = Duration::from_secs(5);

/// Both ends of a tunnel.
pub(super) struct Tunnel {
    pub(super) client: OnUpgrade,
    pub(super) service: Box<Connection>,
    pub(super) guard: InFlightGuard,
}

impl Tunnel {
    /// Copies until both ends are closed, one fails, the tunnel is idle for too long, or the token that it was opened
    /// with is no longer accepted.
    pub(super) async fn run(self, lifecycle: Lifecycle, mut lease: Option<LeaseEnd>, mut record: Box<AccessRecord>) {
        let Self { client, mut service, guard: _guard } = self;
        // The connection is available once the response is written.
        let Ok(client) = client.await else { return };
        record.become_tunnel();
        // What it sent right after its response comes first.
        let (service, early) = service.upgrade();
        // If this fails, a service that is gone is noticed later.
        let _ = setsockopt(&*service, sockopt::TcpUserTimeout, &UNACKNOWLEDGED_TIMEOUT);
        let mut client = TokioIo::new(client);
        let (sent, active) = (AtomicU64::new(0), AtomicBool::new(false));
        let copy = async {
            client.write_all(&early).await?;
            let mut service = Watched { stream: &mut *service, read: Some(&sent), active: &active };
            let mut client = Watched { stream: &mut client, read: None, active: &active };
            io::copy_bidirectional(&mut client, &mut service).await
        };
        let idle = async {
            loop {
                time::sleep(IDLE_TIMEOUT).await;
                if !active.swap(false, Ordering::Relaxed) {
                    return;
                }
            }
        };
        let stopped = async {
            lifecycle.reached(Phase::Stopping).await;
            time::sleep(GRACE).await;
        };
        let (copied, refusal) = select! {
            copied = copy => (copied.is_ok(), None),
            () = idle => (false, None),
            () = stopped => (false, None),
            refusal = end_of(lease.as_mut()) => (false, Some(refusal)),
        };
        if let Some(refusal) = refusal {
            record.deny(refusal.into());
        }
        record.add_bytes(early.len() as u64 + sent.load(Ordering::Relaxed));
        if copied {
            record.set_complete();
        }
    }
}

/// A stream that counts what is read from it.
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
