//! Ctrl-C and SIGTERM: the first asks for an orderly end, the second for an immediate one.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Wish {
    Run,
    Stop,
    StopNow,
}

/// What the user wishes; each clone sees all of it.
#[derive(Clone, Debug)]
pub struct Stop(watch::Receiver<Wish>);

impl Stop {
    /// From here on the signals no longer end the process by themselves.
    pub fn on_signals() -> io::Result<Self> {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hang_up = signal(SignalKind::hangup())?;
        let (tell, wish) = watch::channel(Wish::Run);
        tokio::spawn(async move {
            for next in [Wish::Stop, Wish::StopNow] {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                    _ = hang_up.recv() => {}
                }
                tell.send_replace(next);
            }
        });
        Ok(Self(wish))
    }

    /// Returns once an end is wished for.
    pub async fn asked(&mut self) {
        self.reached(Wish::Stop).await;
    }

    /// Returns once it is wished for immediately.
    pub async fn urged(&mut self) {
        self.reached(Wish::StopNow).await;
    }

    async fn reached(&mut self, wish: Wish) {
        if self.0.wait_for(|now| *now >= wish).await.is_err() {
            // The teller has said all it had to say.
            std::future::pending::<()>().await;
        }
    }
}
