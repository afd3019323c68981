//! The limits of requests and calls.

use std::time::Duration;

/// How long a request may take, including its body.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);

/// The most requests in flight. More are refused: they would only wait.
pub(crate) const MAX_IN_FLIGHT: i64 = 2048;
