//! The phases of a process's life: serving, draining, stopping.

use std::sync::Arc;

use tokio::sync::watch;

/// Where a process is in its life; it only moves forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Taking requests.
    Serving,
    /// Told to stop: still taking requests while the cluster takes this pod out of its endpoints.
    Draining,
    /// Taking no more connections, finishing what is in flight.
    Stopping,
}

/// A view of the phase.
#[derive(Debug, Clone)]
pub struct Life(watch::Receiver<Phase>);

impl Life {
    pub(crate) fn new() -> (watch::Sender<Phase>, Self) {
        let (sender, receiver) = watch::channel(Phase::Serving);
        (sender, Self(receiver))
    }

    /// A life that goes on until the process ends.
    pub(crate) fn endless() -> Self {
        Self::new().1
    }

    /// Where it is now.
    #[must_use]
    pub fn phase(&self) -> Phase {
        *self.0.borrow()
    }

    /// Whether new requests are welcome; for a readiness check.
    ///
    /// # Errors
    /// The reason why not.
    pub fn is_serving(&self) -> Result<(), Arc<str>> {
        if self.phase() > Phase::Serving { Err("shutting down".into()) } else { Ok(()) }
    }

    /// Waits until the phase has changed since it was last waited for.
    pub(crate) async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Waits until the phase is this one or a later one.
    pub async fn reached(&self, phase: Phase) {
        if self.0.clone().wait_for(|now| *now >= phase).await.is_err() {
            // Nobody is left to move it on.
            std::future::pending::<()>().await;
        }
    }
}
