//! Says what is being done when it takes a while.

use std::pin::pin;
use std::time::Duration;

use tokio::time::timeout;

/// Shorter steps are not mentioned.
const QUIET: Duration = Duration::from_secs(1);

/// Runs `work`, and says `what` it is on standard error if it takes longer than a second.
pub async fn step<T>(what: &str, work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    if let Ok(result) = timeout(QUIET, &mut work).await {
        return result;
    }
    eprintln!("hedgerow: {what} ...");
    work.await
}
