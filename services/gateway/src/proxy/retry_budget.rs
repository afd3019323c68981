//! Limits retries. They help against one bad endpoint, but if all endpoints are overloaded they make it worse.
//!
//! All amounts are in fifths of a retry, so that whole numbers suffice.

use std::{
    sync::atomic::{AtomicI64, AtomicU64, Ordering},
    time::Duration,
};

/// The cost of a retry. Each request deposits one, so that retries stay below 20% of requests.
const RETRY: i64 = 5;

/// The maximum balance: a burst of retries when an endpoint dies under load.
const MAX: i64 = 500 * RETRY;

/// The initial balance, because an idle service has had no requests to save up from.
const INITIAL: i64 = 20 * RETRY;

/// The amount added per second, for services with few requests: two retries.
const REFILL: u64 = 10;

/// The retries that a service has left.
pub(super) struct RetryBudget {
    balance: AtomicI64,
    /// When the balance was last refilled, in milliseconds.
    refilled: AtomicU64,
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self { balance: AtomicI64::new(INITIAL), refilled: AtomicU64::new(0) }
    }
}

impl RetryBudget {
    /// Pays in for a request.
    pub(super) fn deposit(&self) {
        // Concurrent deposits may exceed the maximum by one per thread.
        if self.balance.load(Ordering::Relaxed) < MAX {
            self.balance.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Pays for a retry, if the balance allows it. `now` is the time since the start of the proxy.
    pub(super) fn withdraw(&self, now: Duration) -> bool {
        self.refill(now);
        let take = |balance| (balance >= RETRY).then_some(balance - RETRY);
        self.balance.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }

    /// Adds what is due since the last refill, up to the initial balance.
    fn refill(&self, now: Duration) {
        let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let refilled = self.refilled.load(Ordering::Relaxed);
        let due = now.saturating_sub(refilled) * REFILL / 1000;
        if due > 0 && self.refilled.compare_exchange(refilled, now, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            let due = i64::try_from(due).unwrap_or(MAX).min(INITIAL);
            let add = |balance: i64| (balance < INITIAL).then(|| (balance + due).min(INITIAL));
            let _ = self.balance.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spend(budget: &RetryBudget, now: Duration) -> usize {
        (0..10_000).take_while(|_| budget.withdraw(now)).count()
    }

    #[test]
    fn a_fifth_of_the_requests_may_be_retried() {
        let budget = RetryBudget::default();
        assert_eq!(spend(&budget, Duration::ZERO), 20);
        for _ in 0..1000 {
            budget.deposit();
        }
        assert_eq!(spend(&budget, Duration::ZERO), 200);
    }

    #[test]
    fn the_balance_is_limited() {
        let budget = RetryBudget::default();
        for _ in 0..100_000 {
            budget.deposit();
        }
        assert_eq!(spend(&budget, Duration::ZERO), 500);
    }

    #[test]
    fn time_refills_the_budget_up_to_its_initial_balance() {
        let budget = RetryBudget::default();
        spend(&budget, Duration::ZERO);
        assert_eq!(spend(&budget, Duration::from_secs(1)), 2);
        assert_eq!(spend(&budget, Duration::from_secs(1)), 0);
        assert_eq!(spend(&budget, Duration::from_hours(1)), 20);
    }
}
