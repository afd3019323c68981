//! The wait before an object that is not ready is reconciled again. It grows with the time that the same reason has
//! persisted.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use rand::Rng;

const MIN_WAIT: Duration = Duration::from_secs(1);
const MAX_WAIT: Duration = Duration::from_secs(30);
/// The wait is this fraction of the time that the reason has persisted.
const DIVISOR: u32 = 4;

/// The current reason of each object and when it began.
#[derive(Default)]
pub(crate) struct Backoff(Mutex<HashMap<String, (String, Instant)>>);

impl Backoff {
    /// The wait for an object that is not ready for `reason`.
    pub(crate) fn wait(&self, object: &str, reason: &str) -> Duration {
        self.wait_at(object, reason, Instant::now())
    }

    fn wait_at(&self, object: &str, reason: &str, now: Instant) -> Duration {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (known, since) = all.entry(object.to_owned()).or_insert_with(|| (reason.to_owned(), now));
        if known != reason {
            (*known, *since) = (reason.to_owned(), now);
        }
        jittered((now.duration_since(*since) / DIVISOR).clamp(MIN_WAIT, MAX_WAIT))
    }

    /// Resets the wait of an object.
    pub(crate) fn forget(&self, object: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(object);
    }
}

/// Varies `wait` by up to a fifth, so that many objects are not reconciled at the same time.
pub(crate) fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(rand::rng().random_range(0.8..=1.2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_limit_and_reset_with_the_reason() {
        let (backoff, begin) = (Backoff::default(), Instant::now());
        let wait = |object, reason, after| backoff.wait_at(object, reason, begin + Duration::from_secs(after));
        assert!(wait("a", "ServerUnreachable", 0) <= MIN_WAIT.mul_f64(1.2));
        let later = wait("a", "ServerUnreachable", 40);
        assert!(later >= Duration::from_secs(8) && later <= Duration::from_secs(12), "{later:?}");
        assert!(wait("a", "ServerUnreachable", 4000) <= MAX_WAIT.mul_f64(1.2));
        assert!(wait("b", "ServerUnreachable", 4000) <= MIN_WAIT.mul_f64(1.2), "objects are independent");
        assert!(wait("a", "Migrating", 4000) <= MIN_WAIT.mul_f64(1.2));
    }
}
