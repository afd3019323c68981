//! How long a connection or stream may go on that was let in because of a token.

use std::{future, pin::Pin, sync::Arc, time::SystemTime};

use identity::{Caller, Reason, Refusal};
use tokio::{
    select,
    time::{self, Instant},
};

use super::revoked::RevokedSessions;

/// Ends with the token of a request: when it expires, or when its session does.
#[derive(Clone)]
pub(crate) struct Lease {
    caller: Arc<Caller>,
    revoked: RevokedSessions,
    /// It does not end before.
    earliest: Instant,
}

/// Waits until a lease has ended.
pub(crate) type LeaseEnd = Pin<Box<dyn Future<Output = Refusal> + Send>>;

/// Waits until a lease has ended; for ever if there is none.
pub(crate) async fn end_of(lease: Option<&mut LeaseEnd>) -> Refusal {
    match lease {
        Some(end) => end.await,
        None => future::pending().await,
    }
}

impl Lease {
    pub(super) fn new(caller: Arc<Caller>, revoked: RevokedSessions, earliest: Instant) -> Self {
        Self { caller, revoked, earliest }
    }

    /// Whether it still lasts.
    ///
    /// # Errors
    /// Returns why the token is no longer accepted.
    pub(crate) fn check(&self) -> Result<(), Reason> {
        if Instant::now() < self.earliest {
            return Ok(());
        }
        if SystemTime::now() >= self.caller.accepted_until() {
            return Err(Reason::Expired);
        }
        match self.caller.session() {
            Some(session) if self.revoked.contains(session) => Err(Reason::Revoked),
            _ => Ok(()),
        }
    }

    /// Waits until it has ended. Returns why.
    pub(crate) fn end(self) -> LeaseEnd {
        Box::pin(async move {
            time::sleep_until(self.earliest).await;
            loop {
                // Before the check, so that no change is missed.
                let changed = self.revoked.changed();
                if let Err(reason) = self.check() {
                    return Refusal::InvalidToken(reason);
                }
                let left = self.caller.accepted_until().duration_since(SystemTime::now()).unwrap_or_default();
                select! {
                    () = time::sleep(left) => {}
                    () = changed, if self.caller.session().is_some() => {}
                }
            }
        })
    }
}
