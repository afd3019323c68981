//! The scheduled time of each request.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

const SECOND: u64 = 1_000_000_000;

/// Hands out turns at a steady rate. Idle workers take the next turn. If all are busy, a turn is taken late but keeps
/// its scheduled time.
pub(super) struct Schedule {
    start: Instant,
    rate: u64,
    duration: Duration,
    stop: CancellationToken,
    taken: AtomicU64,
}

/// One request to send.
pub(super) struct Turn {
    /// Its number, from 0.
    pub(super) number: u64,
    /// Its scheduled time.
    pub(super) due: Instant,
}

impl Schedule {
    pub(super) fn new(start: Instant, rate: u32, duration: Duration, stop: CancellationToken) -> Self {
        Self { start, rate: u64::from(rate), duration, stop, taken: AtomicU64::new(0) }
    }

    /// Waits for the next turn. Returns `None` when the load is over.
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
