//! A limit on repetitions: they help against one bad address, and make it worse where all have too much to do.

use std::sync::atomic::{AtomicI32, Ordering};

/// As gRPC's retry throttling (proposal A6): a repetition costs ten tokens and a success brings one back; below half,
/// nothing is repeated.
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

    pub(super) fn repeated(&self) {
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
    fn is_used_up_by_repetitions_and_filled_by_successes() {
        let budget = Budget::default();
        for _ in 0..10 {
            assert!(budget.allows());
            budget.repeated();
        }
        assert!(!budget.allows());
        budget.succeeded();
        assert!(budget.allows());
    }
}
