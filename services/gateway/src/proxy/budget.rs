//! A limit on retries: they help against one bad endpoint, and make it worse where all have too much to do.

use std::{
    sync::atomic::{AtomicI64, AtomicU64, Ordering},
    time::Duration,
};

/// In fifths of a retry: each request brings one, so that retries stay at 20 % of requests.
const RETRY: i64 = 5;

/// What may be saved up: a burst of retries when an endpoint dies under load.
const MOST: i64 = 500 * RETRY;

/// With which a service begins, as an idle one has saved nothing.
const FIRST: i64 = 20 * RETRY;

/// What a service with few requests has besides: in fifths a second, so two retries.
const FLOOR: u64 = 10;

/// The retries that a service's requests have left.
pub(super) struct Budget {
    tokens: AtomicI64,
    /// Until when the floor was given, in milliseconds.
    filled: AtomicU64,
}

impl Default for Budget {
    fn default() -> Self {
        Self { tokens: AtomicI64::new(FIRST), filled: AtomicU64::new(0) }
    }
}

impl Budget {
    /// Counts a request.
    pub(super) fn request(&self) {
        // Not exact where several come at once: by at most one a thread.
        if self.tokens.load(Ordering::Relaxed) < MOST {
            self.tokens.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Takes a retry out, if there is one. `now` is the time since the start.
    pub(super) fn retry(&self, now: Duration) -> bool {
        self.fill(now);
        let take = |tokens| (tokens >= RETRY).then_some(tokens - RETRY);
        self.tokens.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }

    /// Gives what the time since the last one brings.
    fn fill(&self, now: Duration) {
        let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let filled = self.filled.load(Ordering::Relaxed);
        let tokens = now.saturating_sub(filled) * FLOOR / 1000;
        if tokens > 0 && self.filled.compare_exchange(filled, now, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            let tokens = i64::try_from(tokens).unwrap_or(MOST).min(FIRST);
            let add = |held: i64| (held < FIRST).then(|| (held + tokens).min(FIRST));
            let _ = self.tokens.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spend(budget: &Budget, now: Duration) -> usize {
        (0..10_000).take_while(|_| budget.retry(now)).count()
    }

    #[test]
    fn retries_are_a_fifth_of_the_requests() {
        let budget = Budget::default();
        assert_eq!(spend(&budget, Duration::ZERO), 20);
        for _ in 0..1000 {
            budget.request();
        }
        assert_eq!(spend(&budget, Duration::ZERO), 200);
    }

    #[test]
    fn what_is_saved_up_has_an_end() {
        let budget = Budget::default();
        for _ in 0..100_000 {
            budget.request();
        }
        assert_eq!(spend(&budget, Duration::ZERO), 500);
    }

    #[test]
    fn time_brings_a_few_and_not_more_than_a_service_begins_with() {
        let budget = Budget::default();
        spend(&budget, Duration::ZERO);
        assert_eq!(spend(&budget, Duration::from_secs(1)), 2);
        assert_eq!(spend(&budget, Duration::from_secs(1)), 0);
        assert_eq!(spend(&budget, Duration::from_hours(1)), 20);
    }
}
