//! The phases of a process: serving, draining, stopping. [`process`](crate::process) advances them.

use std::{future, sync::Arc};

use tokio::sync::watch;

/// The phase of a process. It only moves forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Accepting requests.
    Serving,
    /// Asked to stop. Requests are still accepted while the cluster removes this pod from its endpoints.
    Draining,
    /// Accepting no new connections, and finishing the requests in flight.
    Stopping,
}

/// A handle that observes the phase of a process.
#[derive(Debug, Clone)]
pub struct Lifecycle(watch::Receiver<Phase>);

impl Lifecycle {
    /// Creates a lifecycle in the first phase, and the sender that advances it.
    pub(crate) fn new() -> (watch::Sender<Phase>, Self) {
        let (sender, receiver) = watch::channel(Phase::Serving);
        (sender, Self(receiver))
    }

    /// Creates a lifecycle that serves until the process exits.
    pub(crate) fn endless() -> Self {
        Self::new().1
    }

    /// Returns the current phase.
    #[must_use]
    pub fn phase(&self) -> Phase {
        *self.0.borrow()
    }

    /// Checks that the process is not shutting down, for a readiness check.
    ///
    /// # Errors
    /// Returns the reason if the process is shutting down.
    pub fn is_serving(&self) -> Result<(), Arc<str>> {
        if self.phase() > Phase::Serving { Err("shutting down".into()) } else { Ok(()) }
    }

    /// Waits until the phase changes.
    pub async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            future::pending::<()>().await;
        }
    }

    /// Waits until the process is in this phase or a later one.
    pub async fn reached(&self, phase: Phase) {
        if self.0.clone().wait_for(|now| *now >= phase).await.is_err() {
            // The sender is gone, so the phase stays as it is.
            future::pending::<()>().await;
        }
    }
}
