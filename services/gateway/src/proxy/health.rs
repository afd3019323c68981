//! Passive health checks: an endpoint whose requests fail is ejected for a while.
//!
//! One failed connection is enough, because no request could succeed. Otherwise it takes three failures in a row:
//! requests that were sent and got no response, or one of 502 or 504. 503 does not count, because a service responds
//! with it when it is overloaded or waits for its database, and ejecting one such endpoint would only overload the
//! others. After the ejection, an endpoint gets one request at a time until one succeeds, not counting those that wait
//! for their client. If that request fails, the next ejection takes twice as long.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::Duration,
};

const MIN_EJECTION: Duration = Duration::from_secs(1);
const MAX_EJECTION: Duration = Duration::from_secs(30);

/// How long a probe keeps other requests away. The response to a gRPC call may start only after hours.
const MAX_PROBE: Duration = Duration::from_secs(30);

/// Consecutive failures after which an endpoint is ejected.
const MAX_FAILURES: u32 = 3;

/// The health of an endpoint. All times are in milliseconds since the start of the proxy.
#[derive(Default)]
pub(super) struct Health {
    failures: AtomicU32,
    /// Ejections since the endpoint was last healthy for a long time.
    ejections: AtomicU32,
    /// The end of the ejection; 0 if the endpoint is healthy.
    until: AtomicU64,
    /// When the endpoint last recovered.
    recovered: AtomicU64,
    /// Until when a probe keeps other requests away; 0 if there is none.
    probe_end: AtomicU64,
}

/// Whether an endpoint gets requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Healthy,
    /// One at a time, to find out whether it has recovered.
    Probing,
    Ejected,
}

impl Health {
    pub(super) fn state(&self, now: Duration) -> State {
        match self.until.load(Ordering::Relaxed) {
            0 => State::Healthy,
            until if until > millis(now) => State::Ejected,
            _ => State::Probing,
        }
    }

    /// Whether a request may probe the endpoint: its ejection has ended, and no other request probes it.
    pub(super) fn is_due_for_probe(&self, now: Duration) -> bool {
        self.state(now) == State::Probing && self.probe_end.load(Ordering::Relaxed) <= millis(now)
    }

    /// Starts a probe, unless another request has just started one. Returns a value for [`Self::end_probe`].
    pub(super) fn start_probe(&self, now: Duration) -> Option<u64> {
        let (before, end) = (self.probe_end.load(Ordering::Relaxed), millis(now + MAX_PROBE));
        let is_free = before <= millis(now);
        let claim = || self.probe_end.compare_exchange(before, end, Ordering::Relaxed, Ordering::Relaxed);
        (is_free && claim().is_ok()).then_some(end)
    }

    /// Ends a probe, unless it took so long that another one may have started.
    pub(super) fn end_probe(&self, probe: u64) {
        let _ = self.probe_end.compare_exchange(probe, 0, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Records a successful request; returns whether the endpoint has just recovered.
    pub(super) fn succeeded(&self, now: Duration) -> bool {
        // The common case only reads.
        if self.failures.load(Ordering::Relaxed) == 0 && self.until.load(Ordering::Relaxed) == 0 {
            return false;
        }
        self.failures.store(0, Ordering::Relaxed);
        // During an ejection only requests from before it end, which prove nothing.
        if self.state(now) != State::Probing {
            return false;
        }
        self.recovered.store(millis(now), Ordering::Relaxed);
        self.until.store(0, Ordering::Relaxed);
        true
    }

    /// Records a failure; returns how long to eject the endpoint for, if an ejection is due. `is_certain` means that no
    /// connection could be made.
    pub(super) fn failed(&self, is_certain: bool, now: Duration) -> Option<Duration> {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let state = self.state(now);
        let due = match state {
            State::Healthy => is_certain || failures >= MAX_FAILURES,
            State::Probing => true,
            State::Ejected => false,
        };
        due.then(|| {
            let recovered = self.recovered.load(Ordering::Relaxed);
            let is_stable = state == State::Healthy && recovered.saturating_add(millis(MAX_EJECTION)) <= millis(now);
            let before = if is_stable { 0 } else { self.ejections.load(Ordering::Relaxed) };
            (MIN_EJECTION * 2_u32.saturating_pow(before.min(16))).min(MAX_EJECTION)
        })
    }

    pub(super) fn eject(&self, time: Duration, now: Duration) {
        if time == MIN_EJECTION {
            self.ejections.store(0, Ordering::Relaxed);
        }
        self.ejections.fetch_add(1, Ordering::Relaxed);
        self.until.store(millis(now + time).max(1), Ordering::Relaxed);
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[test]
    fn three_failures_in_a_row_or_one_failed_connection_eject() {
        let health = Health::default();
        assert_eq!([health.failed(false, at(1.0)), health.failed(false, at(1.0))], [None, None]);
        health.succeeded(at(1.0));
        assert_eq!([health.failed(false, at(1.0)), health.failed(false, at(1.0))], [None, None]);
        assert_eq!(health.failed(false, at(1.0)), Some(MIN_EJECTION));
        assert_eq!(Health::default().failed(true, at(1.0)), Some(MIN_EJECTION));
    }

    #[test]
    fn each_failed_probe_doubles_the_ejection_up_to_a_limit() {
        let health = Health::default();
        let mut now = at(1.0);
        let mut times = Vec::new();
        for _ in 0..7 {
            let time = health.failed(true, now).expect("an ejection");
            health.eject(time, now);
            assert_eq!(health.state(now + time.mul_f64(0.99)), State::Ejected);
            assert_eq!(health.failed(true, now), None, "already ejected");
            now += time;
            assert_eq!(health.state(now), State::Probing);
            times.push(time.as_secs());
        }
        assert_eq!(times, [1, 2, 4, 8, 16, 30, 30]);
    }

    #[test]
    fn only_a_successful_probe_ends_an_ejection() {
        let health = Health::default();
        health.failed(true, at(1.0));
        health.eject(MIN_EJECTION, at(1.0));
        assert!(!health.succeeded(at(1.5)));
        assert_eq!(health.state(at(1.5)), State::Ejected);
        assert!(health.succeeded(at(2.0)));
        assert_eq!(health.state(at(2.0)), State::Healthy);
    }

    #[test]
    fn an_endpoint_that_stays_healthy_starts_over() {
        let health = Health::default();
        for now in [1.0, 3.0] {
            let time = health.failed(true, at(now)).expect("an ejection");
            health.eject(time, at(now));
        }
        health.failed(false, at(4.0));
        assert!(health.succeeded(at(5.0)));
        assert_eq!(health.failed(true, at(6.0)), Some(MIN_EJECTION * 4), "not yet");
        health.succeeded(at(6.0));
        assert_eq!(health.failed(true, at(36.0)), Some(MIN_EJECTION));
    }
}
