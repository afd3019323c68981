//! What the log says about failed and refused requests.

use std::{
    error::Error,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// The shortest time between two log lines about refused requests. A metric counts all of them; one line for each would
/// flood the log exactly when the process is overloaded.
const REFUSAL_INTERVAL: Duration = Duration::from_secs(1);

/// Returns whether to log a refused request. If so, the next ones are not logged for a second.
pub fn should_log_refusal() -> bool {
    static LAST: Mutex<Option<Instant>> = Mutex::new(None);
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    let due = last.is_none_or(|last| last.elapsed() >= REFUSAL_INTERVAL);
    if due {
        *last = Some(Instant::now());
    }
    due
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
