//! When each request is due.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

const SECOND: u64 = 1_000_000_000;

/// Gives out turns at a steady rate. Whoever is free takes the next; one that nobody could take in time is still due
/// at its moment, and is taken late.
pub(super) struct Schedule {
    start: Instant,
    rate: u64,
    duration: Duration,
    stop: CancellationToken,
    taken: AtomicU64,
}

/// The right, and the duty, to send one request.
pub(super) struct Turn {
    /// Counted from 0.
    pub(super) number: u64,
    /// When it is due.
    pub(super) due: Instant,
}

impl Schedule {
    pub(super) fn new(start: Instant, rate: u32, duration: Duration, stop: CancellationToken) -> Self {
        Self { start, rate: u64::from(rate), duration, stop, taken: AtomicU64::new(0) }
    }

    /// Waits for the next turn; none when the time is over.
    pub(super) async fn next(&self) -> Option<Turn> {
        let number = self.taken.fetch_add(1, Ordering::Relaxed);
        let offset = Duration::from_nanos(number.saturating_mul(SECOND) / self.rate);
        let due = self.start + offset;
        if offset >= self.duration {
            return None;
        }
        tokio::select! {
            biased;
            () = self.stop.cancelled() => None,
            () = sleep_until(due) => Some(Turn { number, due }),
        }
    }
}
