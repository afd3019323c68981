//! A service's process and what it has started: a wrapper such as a shell or `npm` passes no signals on.

use std::fs;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::time::{Instant, sleep};

/// The process group of a service, of which it is the leader.
#[derive(Clone, Copy)]
pub struct Group(Pid);

impl Group {
    /// The group of this leader.
    pub fn of(leader: u32) -> Self {
        Self(Pid::from_raw(leader.cast_signed()))
    }

    /// Sends a signal to every process of the group, whose leader has not been waited for yet, or which still runs:
    /// otherwise its id may be another group's by now.
    pub fn signal(self, signal: Signal) {
        let _ = killpg(self.0, signal);
    }

    /// Waits until no process of the group runs. Returns whether that was in time.
    pub async fn has_ended_by(self, deadline: Instant) -> bool {
        while self.is_running() {
            if Instant::now() >= deadline {
                return false;
            }
            sleep(Duration::from_millis(20)).await;
        }
        true
    }

    /// Whether a process of the group runs.
    pub fn is_running(self) -> bool {
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        let mut stats = processes.filter_map(|entry| fs::read(entry.path().join("stat")).ok());
        stats.any(|stat| {
            // State, parent and group follow the name, which is in parentheses (proc(5)) and may be anything.
            let stat = String::from_utf8_lossy(&stat);
            let Some((_, fields)) = stat.rsplit_once(") ") else { return false };
            let group = fields.split(' ').nth(2).and_then(|group| group.parse().ok());
            group == Some(self.0.as_raw()) && !fields.starts_with(['Z', 'X'])
        })
    }
}
