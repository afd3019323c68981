//! The generic cell rate algorithm: a leaky bucket whose whole state is one timestamp.
//!
//! The `governor` crate implements it too, but it does not limit the number of keys, and reports the remaining quota
//! only through its own snapshot type. The algorithm itself takes only a few lines.

use std::{num::NonZeroU32, time::Duration};

/// A rate and a burst.
#[derive(Debug, Clone, Copy)]
pub(super) struct Gcra {
    /// The nanoseconds after which one more request is allowed.
    period: u64,
    burst: NonZeroU32,
}

/// The decision about one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Decision {
    pub(super) allowed: bool,
    /// How many more requests are allowed at once.
    pub(super) remaining: u32,
    /// The time until the next request is allowed.
    pub(super) retry_after: Duration,
    /// The time until a whole burst is allowed again.
    pub(super) full_after: Duration,
}

impl Gcra {
    pub(super) fn new(period: Duration, burst: NonZeroU32) -> Self {
        Self { period: u64::try_from(period.as_nanos()).unwrap_or(u64::MAX).max(1), burst }
    }

    pub(super) fn burst(&self) -> u32 {
        self.burst.get()
    }

    /// The time after which an empty quota is full again.
    pub(super) fn time_to_full(&self) -> Duration {
        Duration::from_nanos(self.period.saturating_mul(self.burst.get().into()))
    }

    /// Decides about a request at the time `now`. `tat` is the theoretical arrival time: when the quota would be full
    /// again without further requests. Both are in nanoseconds. A refused request does not count against the quota.
    pub(super) fn take(&self, now: u64, tat: &mut u64) -> Decision {
        let capacity = self.period.saturating_mul(self.burst.get().into());
        let owed = tat.saturating_sub(now);
        let after = owed.saturating_add(self.period);
        let allowed = after <= capacity;
        let owed = if allowed { after } else { owed };
        if allowed {
            *tat = now.saturating_add(owed);
        }
        let free = capacity.saturating_sub(owed);
        let missing = self.period.saturating_sub(free);
        Decision {
            allowed,
            remaining: u32::try_from(free / self.period).unwrap_or(u32::MAX),
            retry_after: Duration::from_nanos(missing),
            full_after: Duration::from_nanos(owed),
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
    fn a_burst_is_allowed_and_then_one_request_per_period() {
        let gcra = gcra(10, 3);
        let mut tat = 0;
        let mut take = |now| {
            let decision = gcra.take(now, &mut tat);
            (decision.allowed, decision.remaining, decision.retry_after.as_nanos(), decision.full_after.as_nanos())
        };
        assert_eq!(take(1000), (true, 2, 0, 10));
        assert_eq!(take(1000), (true, 1, 0, 20));
        assert_eq!(take(1000), (true, 0, 10, 30));
        assert_eq!(take(1004), (false, 0, 6, 26));
        assert_eq!(take(1009), (false, 0, 1, 21));
        assert_eq!(take(1010), (true, 0, 10, 30));
        assert_eq!(take(1035), (true, 1, 0, 15));
        // However long the pause, no more than a burst accumulates.
        assert_eq!(take(u64::MAX / 2), (true, 2, 0, 10));
    }

    /// A token bucket that tracks every token: slow, but obviously correct.
    struct Bucket {
        period: u64,
        burst: u64,
        /// When each missing token is refilled.
        missing: Vec<u64>,
    }

    impl Bucket {
        fn take(&mut self, now: u64) -> (bool, u64) {
            self.missing.retain(|refill| *refill > now);
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
        fn decisions_equal_those_of_a_token_bucket(
            period in 1_u64..50,
            burst in 1_u32..8,
            pauses in proptest::collection::vec(0_u64..100, 1..200),
        ) {
            let gcra = gcra(period, burst);
            let mut bucket = Bucket { period, burst: burst.into(), missing: Vec::new() };
            let (mut tat, mut now) = (0, 0);
            for pause in pauses {
                now += pause;
                let decision = gcra.take(now, &mut tat);
                let (allowed, remaining) = bucket.take(now);
                prop_assert_eq!((decision.allowed, u64::from(decision.remaining)), (allowed, remaining), "at {}", now);
                // A client that follows the decision finds it to be true.
                let allowed_after = |after: Duration| {
                    let mut tat = tat;
                    let at = now + u64::try_from(after.as_nanos()).expect("short");
                    (0..=burst).take_while(|_| gcra.take(at, &mut tat).allowed).count()
                };
                prop_assert_eq!(allowed_after(Duration::ZERO), decision.remaining as usize);
                prop_assert!(allowed_after(decision.retry_after) >= 1);
                if decision.retry_after > Duration::ZERO {
                    prop_assert_eq!(allowed_after(decision.retry_after.saturating_sub(Duration::from_nanos(1))), 0);
                }
                prop_assert_eq!(allowed_after(decision.full_after), burst as usize);
            }
        }
    }
}
