//! How long to wait before an object that is not as it should be is looked at again: the longer it has been so for one
//! and the same reason, the longer.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use rand::Rng;

/// The shortest wait, and the longest.
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(30);
/// The wait as a part of the time it has been so.
const PART: u32 = 4;

/// By object: what is in its way, and since when.
#[derive(Default)]
pub(crate) struct Backoff(Mutex<HashMap<String, (String, Instant)>>);

impl Backoff {
    /// How long to wait with an object that `reason` is in the way of.
    pub(crate) fn wait(&self, object: &str, reason: &str) -> Duration {
        self.wait_at(object, reason, Instant::now())
    }

    fn wait_at(&self, object: &str, reason: &str, now: Instant) -> Duration {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (known, since) = all.entry(object.to_owned()).or_insert_with(|| (reason.to_owned(), now));
        if known != reason {
            (*known, *since) = (reason.to_owned(), now);
        }
        jittered((now.duration_since(*since) / PART).clamp(SHORTEST, LONGEST))
    }

    /// Forgets what was in the way.
    pub(crate) fn forget(&self, object: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(object);
    }
}

/// `wait`, give or take a fifth, so that many objects do not come back at once.
pub(crate) fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(rand::rng().random_range(0.8..=1.2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_up_to_a_bound_and_start_again_when_the_reason_changes() {
        let (backoff, begin) = (Backoff::default(), Instant::now());
        let wait = |object, reason, after| backoff.wait_at(object, reason, begin + Duration::from_secs(after));
        assert!(wait("a", "ServerUnreachable", 0) <= SHORTEST.mul_f64(1.2));
        let later = wait("a", "ServerUnreachable", 40);
        assert!(later >= Duration::from_secs(8) && later <= Duration::from_secs(12), "{later:?}");
        assert!(wait("a", "ServerUnreachable", 4000) <= LONGEST.mul_f64(1.2));
        assert!(wait("b", "ServerUnreachable", 4000) <= SHORTEST.mul_f64(1.2), "each object apart");
        assert!(wait("a", "Migrating", 4000) <= SHORTEST.mul_f64(1.2));
    }
}
