//! What the log says about failed and refused requests.

use std::{
    error::Error,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// The shortest time between two log lines about requests. A metric counts all requests; one line for each would flood
/// the log exactly when the process is overloaded or its database is unavailable.
const INTERVAL: Duration = Duration::from_secs(1);

/// Limits the log lines of one kind.
#[derive(Debug)]
pub struct LogLimit {
    /// The shortest time between two lines.
    interval: Duration,
    /// When the last line was logged, and how many were omitted since then.
    state: Mutex<(Option<Instant>, u64)>,
}

impl LogLimit {
    /// Creates a limit of one line in this time.
    #[must_use]
    pub const fn new(interval: Duration) -> Self {
        Self { interval, state: Mutex::new((None, 0)) }
    }

    /// Returns how many lines were omitted before this one, or `None` if this one is to be omitted too.
    pub fn due(&self) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, omitted) = &mut *state;
        if last.is_some_and(|last| last.elapsed() < self.interval) {
            *omitted += 1;
            return None;
        }
        *last = Some(Instant::now());
        Some(std::mem::take(omitted))
    }
}

/// Returns whether to log a refused request. If so, the next ones are not logged for a second.
#[must_use]
pub fn should_log_refusal() -> bool {
    static REFUSALS: LogLimit = LogLimit::new(INTERVAL);
    REFUSALS.due().is_some()
}

/// Returns how many failures were not logged before this one, or `None` if this one is not to be logged either. It is
/// for failures that an unavailable database or peer causes: then every request fails. The first is logged, and then at
/// most one per second.
#[must_use]
pub fn unavailability_log_due() -> Option<u64> {
    static FAILURES: LogLimit = LogLimit::new(INTERVAL);
    FAILURES.due()
}

/// Formats an error and its sources in one line.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let reason = error.to_string();
        if !text.contains(&reason) {
            text = format!("{text}: {reason}");
        }
        source = error.source();
    }
    text
}
