//! Bounds what the gateway holds of requests: what clients have sent and no service has read, and what is kept for
//! another attempt. The gateway receives up to 64 KiB of a request before it reads on, which is memory for as long as
//! the service does not read.

use std::{
    mem,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

/// How much may be unread in all, and of one client, in bytes.
const MAX: usize = 64 * 1024 * 1024;
const MAX_PER_CLIENT: usize = MAX / 4;

/// How much may be unread of one request, in bytes.
const MAX_PER_REQUEST: u64 = 64 * 1024;

/// How much counts of a request before any of it is read, in bytes: at the default limits, no client has so many
/// requests in flight that one is refused. A body is read once there is a connection, which is soon.
const BEFORE_READ: usize = 16 * 1024;

/// How much may be kept for other attempts in all, and of one client, in bytes.
const MAX_KEPT: usize = 32 * 1024 * 1024;
const MAX_KEPT_PER_CLIENT: usize = MAX_KEPT / 4;

/// How much of a request is kept without being counted, in bytes.
const UNCOUNTED: usize = 4 * 1024;

/// What is held of the requests of one client, or of all.
#[derive(Default)]
pub(super) struct Held {
    unread: AtomicUsize,
    kept: AtomicUsize,
}

/// What is held of one request. What may be unread counts from the moment something was read of it until the next one
/// is awaited.
pub(super) struct Unread {
    client: Arc<Held>,
    all: Arc<Held>,
    size: usize,
    counted: usize,
    is_read: bool,
    kept: usize,
}

impl Unread {
    /// `client` and `all` are the counts of its client and of all, and `length` is that of the body, if it is known.
    pub(super) fn new(client: Arc<Held>, all: Arc<Held>, length: Option<u64>) -> Self {
        let size = length.unwrap_or(MAX_PER_REQUEST).min(MAX_PER_REQUEST);
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        Self { client, all, size, counted: 0, is_read: false, kept: 0 }
    }

    /// Counts what may be received now. Returns whether it is not too much.
    pub(super) fn count(&mut self) -> bool {
        if self.counted > 0 {
            return true;
        }
        let size = if self.is_read { self.size } else { self.size.min(BEFORE_READ) };
        self.counted = size;
        let add = |held: &Held| held.unread.fetch_add(size, Ordering::Relaxed) + size;
        let (client, all) = (add(&self.client), add(&self.all));
        let fits = client <= MAX_PER_CLIENT && all <= MAX;
        if !fits {
            self.clear();
        }
        fits
    }

    /// Records that everything received is read.
    pub(super) fn clear(&mut self) {
        self.is_read = true;
        let counted = mem::take(&mut self.counted);
        if counted > 0 {
            self.client.unread.fetch_sub(counted, Ordering::Relaxed);
            self.all.unread.fetch_sub(counted, Ordering::Relaxed);
        }
    }

    /// Counts that this many bytes are kept in all. Returns whether it is not too much.
    pub(super) fn keep(&mut self, size: usize) -> bool {
        if size <= UNCOUNTED {
            return true;
        }
        let more = size.saturating_sub(self.kept);
        self.kept += more;
        let add = |held: &Held| held.kept.fetch_add(more, Ordering::Relaxed) + more;
        let (client, all) = (add(&self.client), add(&self.all));
        client <= MAX_KEPT_PER_CLIENT && all <= MAX_KEPT
    }

    /// Records that nothing is kept anymore.
    pub(super) fn release(&mut self) {
        let kept = mem::take(&mut self.kept);
        if kept > 0 {
            self.client.kept.fetch_sub(kept, Ordering::Relaxed);
            self.all.kept.fetch_sub(kept, Ordering::Relaxed);
        }
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        self.clear();
        self.release();
    }
}
