//! Passive health: an endpoint whose requests fail is left out for a while.
//!
//! A connection that cannot be made is enough: no process is there. Of requests that were sent and got no answer, or one
//! that says that there is none (502, 504), it takes three in a row. 503 does not count: a service says that when it has
//! too much to do, or waits for its database, and to leave one such endpoint out would only bury the others. When its
//! time is over, an endpoint gets one request at a time until one succeeds; one that fails doubles the time.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::Duration,
};

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(30);

/// Failures in a row before an endpoint is left out.
const FAILURES: u32 = 3;

/// What is known of an endpoint. All times are since the start of the process, in milliseconds.
#[derive(Default)]
pub(super) struct Health {
    failures: AtomicU32,
    /// How often it was left out without getting well for long.
    ejections: AtomicU32,
    /// Until when it is left out; 0: it is well.
    until: AtomicU64,
    /// When the last ejection ended.
    ended: AtomicU64,
}

/// Whether an endpoint is to be sent requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Well,
    /// One at a time, to see whether it is well again.
    OnTrial,
    Ejected,
}

impl Health {
    pub(super) fn state(&self, now: Duration) -> State {
        match self.until.load(Ordering::Relaxed) {
            0 => State::Well,
            until if until > millis(now) => State::Ejected,
            _ => State::OnTrial,
        }
    }

    /// Notes an answer; returns whether the endpoint is well again.
    pub(super) fn succeeded(&self, now: Duration) -> bool {
        // Read first: this is the way of every request.
        if self.failures.load(Ordering::Relaxed) == 0 && self.until.load(Ordering::Relaxed) == 0 {
            return false;
        }
        self.failures.store(0, Ordering::Relaxed);
        // While it is left out, only requests from before end.
        if self.state(now) != State::OnTrial {
            return false;
        }
        self.ended.store(millis(now), Ordering::Relaxed);
        self.until.store(0, Ordering::Relaxed);
        true
    }

    /// Notes a failure; returns for how long the endpoint should be left out from now on, if it should.
    pub(super) fn failed(&self, certain: bool, now: Duration) -> Option<Duration> {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let state = self.state(now);
        let due = match state {
            State::Well => certain || failures >= FAILURES,
            State::OnTrial => true,
            State::Ejected => false,
        };
        due.then(|| {
            let well_since = self.ended.load(Ordering::Relaxed);
            let sound = state == State::Well && well_since.saturating_add(millis(LONGEST)) <= millis(now);
            let before = if sound { 0 } else { self.ejections.load(Ordering::Relaxed) };
            (FIRST * 2_u32.saturating_pow(before.min(16))).min(LONGEST)
        })
    }

    /// Leaves it out for this long.
    pub(super) fn eject(&self, time: Duration, now: Duration) {
        if time == FIRST {
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
    fn three_failures_in_a_row_are_needed_and_one_where_nothing_listens() {
        let health = Health::default();
        assert_eq!([health.failed(false, at(1.0)), health.failed(false, at(1.0))], [None, None]);
        health.succeeded(at(1.0));
        assert_eq!([health.failed(false, at(1.0)), health.failed(false, at(1.0))], [None, None]);
        assert_eq!(health.failed(false, at(1.0)), Some(FIRST));
        assert_eq!(Health::default().failed(true, at(1.0)), Some(FIRST));
    }

    #[test]
    fn the_time_doubles_with_each_trial_that_fails_up_to_the_longest() {
        let health = Health::default();
        let mut now = at(1.0);
        let mut times = Vec::new();
        for _ in 0..7 {
            let time = health.failed(true, now).expect("it is ejected");
            health.eject(time, now);
            assert_eq!(health.state(now + time.mul_f64(0.99)), State::Ejected);
            assert_eq!(health.failed(true, now), None, "it is left out already");
            now += time;
            assert_eq!(health.state(now), State::OnTrial);
            times.push(time.as_secs());
        }
        assert_eq!(times, [1, 2, 4, 8, 16, 30, 30]);
    }

    #[test]
    fn an_answer_to_the_trial_makes_it_well_and_one_from_before_does_not() {
        let health = Health::default();
        health.failed(true, at(1.0));
        health.eject(FIRST, at(1.0));
        assert!(!health.succeeded(at(1.5)));
        assert_eq!(health.state(at(1.5)), State::Ejected);
        assert!(health.succeeded(at(2.0)));
        assert_eq!(health.state(at(2.0)), State::Well);
    }

    #[test]
    fn an_endpoint_that_was_well_for_long_begins_anew() {
        let health = Health::default();
        for now in [1.0, 3.0] {
            let time = health.failed(true, at(now)).expect("it is ejected");
            health.eject(time, at(now));
        }
        health.failed(false, at(4.0));
        assert!(health.succeeded(at(5.0)));
        assert_eq!(health.failed(true, at(6.0)), Some(FIRST * 4), "not yet");
        health.succeeded(at(6.0));
        assert_eq!(health.failed(true, at(36.0)), Some(FIRST));
    }
}
