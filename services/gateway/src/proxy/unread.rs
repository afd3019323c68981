//! Bounds what clients have sent and no service has read. The gateway receives up to 64 KiB of a request before it reads
//! on, which is memory for as long as the service does not read.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// How much may be unread in all, and of one client, in bytes.
const MAX: usize = 64 * 1024 * 1024;
const MAX_PER_CLIENT: usize = MAX / 4;

/// How much may be unread of one request, in bytes.
const MAX_PER_REQUEST: u64 = 64 * 1024;

/// What may be unread of one request. It counts from the moment something was read of it until the next one is awaited.
pub(super) struct Unread {
    client: Arc<AtomicUsize>,
    all: Arc<AtomicUsize>,
    size: usize,
    is_counted: bool,
}

impl Unread {
    /// `client` and `all` are the counts of its client and of all, and `length` is that of the body, if it is known.
    pub(super) fn new(client: Arc<AtomicUsize>, all: Arc<AtomicUsize>, length: Option<u64>) -> Self {
        let size = length.unwrap_or(MAX_PER_REQUEST).min(MAX_PER_REQUEST);
        Self { client, all, size: usize::try_from(size).unwrap_or(usize::MAX), is_counted: false }
    }

    /// Counts what may be received now. Returns whether it is not too much.
    pub(super) fn count(&mut self) -> bool {
        if self.is_counted {
            return true;
        }
        self.is_counted = true;
        let add = |count: &AtomicUsize| count.fetch_add(self.size, Ordering::Relaxed) + self.size;
        let (client, all) = (add(&self.client), add(&self.all));
        let fits = client <= MAX_PER_CLIENT && all <= MAX;
        if !fits {
            self.clear();
        }
        fits
    }

    /// Records that everything received is read.
    pub(super) fn clear(&mut self) {
        if std::mem::take(&mut self.is_counted) {
            self.client.fetch_sub(self.size, Ordering::Relaxed);
            self.all.fetch_sub(self.size, Ordering::Relaxed);
        }
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        self.clear();
    }
}
