//! The retry budget. Retries help if one address fails, but make things worse if all of them are overloaded.

use std::sync::atomic::{AtomicI32, Ordering};

/// Works like gRPC's retry throttling (proposal A6): a retry costs ten tokens, a success returns one, and at half the
/// tokens or fewer there are no retries.
const FULL: i32 = 200;
const COST: i32 = 10;

#[derive(Debug)]
pub(super) struct Budget(AtomicI32);

impl Default for Budget {
    fn default() -> Self {
        Self(AtomicI32::new(FULL))
    }
}

impl Budget {
    pub(super) fn allows(&self) -> bool {
        self.0.load(Ordering::Relaxed) > FULL / 2
    }

    pub(super) fn retried(&self) {
        self.change(-COST);
    }

    pub(super) fn succeeded(&self) {
        if self.0.load(Ordering::Relaxed) < FULL {
            self.change(1);
        }
    }

    fn change(&self, by: i32) {
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |tokens| Some((tokens + by).clamp(0, FULL)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_use_up_the_budget_and_successes_refill_it() {
        let budget = Budget::default();
        for _ in 0..10 {
            assert!(budget.allows());
            budget.retried();
        }
        assert!(!budget.allows());
        budget.succeeded();
        assert!(budget.allows());
    }
}
