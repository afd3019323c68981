//! When a task that passes rows in order, in steps, starts with the first row again.

use std::time::Duration;

/// How often to start over, to find rows that were skipped. While a long transaction keeps the index entries of deleted
/// rows, that can take long, and fail. It is then done less often.
const START_OVER: Duration = Duration::from_secs(10);

/// How many times longer than starting over the pause after it is at least.
const REST: u32 = 20;

/// The pause after starting over has taken this long.
#[must_use]
pub fn until_start_over(taken: Duration) -> Duration {
    START_OVER.max(REST * taken)
}
