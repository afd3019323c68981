//! The generic cell rate algorithm: a bucket that leaks, kept as one point in time.
//!
//! `governor` has it too, but tells what is left only through a snapshot of a type of its own, and has no bound for the
//! number of its keys; the algorithm itself is these few lines.

use std::{num::NonZeroU32, time::Duration};

/// A rate and a burst.
#[derive(Debug, Clone, Copy)]
pub(super) struct Gcra {
    /// Nanoseconds after which one request more is allowed.
    period: u64,
    burst: NonZeroU32,
}

/// What became of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) allowed: bool,
    /// How many more could come at once.
    pub(super) remaining: u32,
    /// When the next one is allowed.
    pub(super) next_after: Duration,
    /// When as many as in a burst are allowed again.
    pub(super) whole_after: Duration,
}

impl Gcra {
    pub(super) fn new(period: Duration, burst: NonZeroU32) -> Self {
        Self { period: u64::try_from(period.as_nanos()).unwrap_or(u64::MAX).max(1), burst }
    }

    pub(super) fn burst(&self) -> u32 {
        self.burst.get()
    }

    /// How long an empty quota takes to be whole.
    pub(super) fn whole(&self) -> Duration {
        Duration::from_nanos(self.period.saturating_mul(self.burst.get().into()))
    }

    /// Takes one request at the time `now`, in nanoseconds; `cell` is the time at which the quota would be whole again
    /// if none came. One that is refused takes nothing.
    pub(super) fn take(&self, now: u64, cell: &mut u64) -> Verdict {
        let capacity = self.period.saturating_mul(self.burst.get().into());
        let owed = cell.saturating_sub(now);
        let after = owed.saturating_add(self.period);
        let allowed = after <= capacity;
        let owed = if allowed { after } else { owed };
        if allowed {
            *cell = now.saturating_add(owed);
        }
        let free = capacity.saturating_sub(owed);
        let missing = self.period.saturating_sub(free);
        Verdict {
            allowed,
            remaining: u32::try_from(free / self.period).unwrap_or(u32::MAX),
            next_after: Duration::from_nanos(missing),
            whole_after: Duration::from_nanos(owed),
        }
    }
}
