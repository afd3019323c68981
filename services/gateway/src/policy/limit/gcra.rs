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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn gcra(period: u64, burst: u32) -> Gcra {
        Gcra::new(Duration::from_nanos(period), NonZeroU32::new(burst).expect("not zero"))
    }

    #[test]
    fn a_burst_passes_and_then_one_each_period() {
        let gcra = gcra(10, 3);
        let mut cell = 0;
        let mut take = |now| {
            let verdict = gcra.take(now, &mut cell);
            (verdict.allowed, verdict.remaining, verdict.next_after.as_nanos(), verdict.whole_after.as_nanos())
        };
        assert_eq!(take(1000), (true, 2, 0, 10));
        assert_eq!(take(1000), (true, 1, 0, 20));
        assert_eq!(take(1000), (true, 0, 10, 30));
        assert_eq!(take(1004), (false, 0, 6, 26));
        assert_eq!(take(1009), (false, 0, 1, 21));
        assert_eq!(take(1010), (true, 0, 10, 30));
        assert_eq!(take(1035), (true, 1, 0, 15));
        // However long nothing comes, no more than a burst is saved up.
        assert_eq!(take(u64::MAX / 2), (true, 2, 0, 10));
    }

    /// A bucket that tokens drip into, counted one by one: slow, and with nothing to get wrong.
    struct Bucket {
        period: u64,
        burst: u64,
        /// Times at which the tokens that are missing come back.
        missing: Vec<u64>,
    }

    impl Bucket {
        fn take(&mut self, now: u64) -> (bool, u64) {
            self.missing.retain(|back| *back > now);
            let allowed = (self.missing.len() as u64) < self.burst;
            if allowed {
                let last = self.missing.last().copied().unwrap_or(now);
                self.missing.push(last + self.period);
            }
            (allowed, self.burst - self.missing.len() as u64)
        }
    }

    proptest! {
        #[test]
        fn it_decides_as_a_bucket_of_tokens_does(
            period in 1_u64..50,
            burst in 1_u32..8,
            pauses in proptest::collection::vec(0_u64..100, 1..200),
        ) {
            let gcra = gcra(period, burst);
            let mut bucket = Bucket { period, burst: burst.into(), missing: Vec::new() };
            let (mut cell, mut now) = (0, 0);
            for pause in pauses {
                now += pause;
                let verdict = gcra.take(now, &mut cell);
                let (allowed, remaining) = bucket.take(now);
                prop_assert_eq!((verdict.allowed, u64::from(verdict.remaining)), (allowed, remaining), "at {}", now);
                // What it tells is what a client finds that acts on it.
                let later = |after: Duration| {
                    let mut cell = cell;
                    let at = now + u64::try_from(after.as_nanos()).expect("short");
                    (0..=burst).take_while(|_| gcra.take(at, &mut cell).allowed).count()
                };
                prop_assert_eq!(later(Duration::ZERO), verdict.remaining as usize);
                prop_assert!(later(verdict.next_after) >= 1);
                if verdict.next_after > Duration::ZERO {
                    prop_assert_eq!(later(verdict.next_after.saturating_sub(Duration::from_nanos(1))), 0);
                }
                prop_assert_eq!(later(verdict.whole_after), burst as usize);
            }
        }
    }
}
