//! Ctrl-C and SIGTERM: the first requests an orderly shutdown, the second ends everything at once.

use std::io;
use std::path::PathBuf;
use std::process::exit;
use std::sync::{Arc, OnceLock};
use std::thread;

use nix::sys::signal::Signal;
use tokio::runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::orphans;

/// The exit status of a program that was ended by Ctrl-C.
const INTERRUPTED: i32 = 130;

/// Whether the user has requested shutdown.
#[derive(Clone, Debug)]
pub struct Shutdown {
    requested: watch::Receiver<bool>,
    data: Arc<OnceLock<PathBuf>>,
}

impl Shutdown {
    /// Handles the signals from now on, on a thread of its own: whatever the rest of the process waits for, such as a
    /// start of Postgres or a terminal that is stopped, the second signal works.
    pub fn on_signals() -> io::Result<Self> {
        let runtime = runtime::Builder::new_current_thread().enable_io().build()?;
        let (sender, requested) = watch::channel(false);
        let shutdown = Self { requested, data: Arc::default() };
        let data = Arc::clone(&shutdown.data);
        let (mut interrupt, mut terminate, mut hang_up) = {
            let _entered = runtime.enter();
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?)
        };
        let wait = async move {
            for first in [true, false] {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                    _ = hang_up.recv() => {}
                }
                if first {
                    sender.send_replace(true);
                }
            }
        };
        let handle = move || {
            runtime.block_on(wait);
            end(&data);
        };
        thread::Builder::new().name("signals".to_owned()).spawn(handle)?;
        Ok(shutdown)
    }

    /// From now on the second signal kills the services of the run on this data folder.
    pub fn kills(&self, data: PathBuf) {
        let _ = self.data.set(data);
    }

    /// Returns once shutdown is requested.
    pub async fn requested(&mut self) {
        if self.requested.wait_for(|requested| *requested).await.is_err() {
            // The sender is gone: there will be no further request.
            std::future::pending::<()>().await;
        }
    }
}

/// Kills the services of the run on this data folder, and exits. Postgres stops by itself, by its parent-death signal;
/// a service could ignore its own.
fn end(data: &OnceLock<PathBuf>) {
    if let Some(data) = data.get() {
        orphans::send(Signal::SIGKILL, data);
    }
    exit(INTERRUPTED)
}
