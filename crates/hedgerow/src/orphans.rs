//! Finds the processes of a run by their environment, which whatever they start inherits, to end them with the run.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use anyhow::ensure;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::{Instant, sleep};

use crate::environment::SHUTDOWN_TIMEOUT;
use crate::program::GRACE_PERIOD;

/// The variable that marks the processes of a run. Its value is the data folder, which only one run can use.
pub const RUN: &str = "HEDGEROW_RUN";

/// How long a killed process may take to disappear.
const KILLED_TIMEOUT: Duration = Duration::from_secs(5);

/// Ends the services that a killed run on the data folder `data` has left behind.
pub async fn end(data: &Path) -> anyhow::Result<()> {
    let mut left = BTreeSet::from_iter(find(data));
    for (signal, timeout) in [(Signal::SIGTERM, SHUTDOWN_TIMEOUT + GRACE_PERIOD), (Signal::SIGKILL, KILLED_TIMEOUT)] {
        send(signal, data);
        let deadline = Instant::now() + timeout;
        loop {
            left.extend(find(data));
            left.retain(|pid| is_running(*pid));
            if left.is_empty() || Instant::now() >= deadline {
                break;
            }
            sleep(Duration::from_millis(20)).await;
        }
    }
    let left: Vec<_> = left.iter().map(ToString::to_string).collect();
    ensure!(left.is_empty(), "processes of the previous run do not exit: kill {}", left.join(" "));
    Ok(())
}

/// Sends a signal to every service of the run on `data`, and to what these have started.
pub fn send(signal: Signal, data: &Path) {
    for pid in find(data) {
        let _ = kill(pid, signal);
    }
}

fn find(data: &Path) -> Vec<Pid> {
    let marked = [RUN.as_bytes(), b"=", data.as_os_str().as_bytes()].concat();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| *pid != std::process::id().cast_signed() && has(*pid, &marked)).map(Pid::from_raw).collect()
}

/// Whether a thread of the process has not exited. The process loses its environment before it closes its sockets, and
/// closes them only when its last thread exits.
fn is_running(pid: Pid) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    threads.map(|thread| fs::read_to_string(thread.path().join("stat")).unwrap_or_default()).any(|stat| {
        // The state follows the name, which is in parentheses (proc(5)).
        stat.rsplit_once(") ").is_some_and(|(_, fields)| !fields.starts_with(['Z', 'X']))
    })
}

/// Whether the process was started with this variable. A process that exits has none.
fn has(pid: i32, variable: &[u8]) -> bool {
    fs::read(format!("/proc/{pid}/environ")).is_ok_and(|all| all.split(|byte| *byte == 0).any(|one| one == variable))
}
