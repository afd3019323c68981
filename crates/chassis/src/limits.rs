//! Limits that HTTP requests and gRPC calls share.

use std::time::Duration;

/// How long a request or a call may take, including its body.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);

/// The shortest time between two log lines about refused callers.
pub(crate) const REFUSAL_LOG_INTERVAL: Duration = Duration::from_secs(1);

/// The maximum number of requests, or of calls, that are handled at a time. More are refused: they would only wait. An
/// HTTP request that waits for its body does not count.
pub(crate) const MAX_IN_FLIGHT: i64 = 2048;
