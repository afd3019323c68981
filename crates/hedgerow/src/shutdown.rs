//! Ctrl-C and SIGTERM: the first requests an orderly shutdown, the second forces it.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Request {
    None,
    Orderly,
    Forced,
}

/// Whether the user has requested shutdown.
#[derive(Clone, Debug)]
pub struct Shutdown(watch::Receiver<Request>);

impl Shutdown {
    /// Handles the signals from now on: they no longer end the process by themselves.
    pub fn on_signals() -> io::Result<Self> {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hang_up = signal(SignalKind::hangup())?;
        let (sender, receiver) = watch::channel(Request::None);
        tokio::spawn(async move {
            for next in [Request::Orderly, Request::Forced] {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                    _ = hang_up.recv() => {}
                }
                sender.send_replace(next);
            }
        });
        Ok(Self(receiver))
    }

    /// Returns once shutdown is requested.
    pub async fn requested(&mut self) {
        self.reached(Request::Orderly).await;
    }

    /// Returns once immediate shutdown is requested.
    pub async fn forced(&mut self) {
        self.reached(Request::Forced).await;
    }

    async fn reached(&mut self, request: Request) {
        if self.0.wait_for(|current| *current >= request).await.is_err() {
            // The sender is gone: there will be no further request.
            std::future::pending::<()>().await;
        }
    }
}
