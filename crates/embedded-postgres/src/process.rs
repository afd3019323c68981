//! Postgres processes, including those that this process did not start.

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};
use std::{fs, io};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::Error;
use crate::folder::Folder;

const PID_FILE: &str = "postmaster.pid";

/// How often a condition is polled.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// The contents of `postmaster.pid`.
#[derive(Debug, PartialEq, Eq)]
pub struct PidFile {
    pub pid: i32,
    pub ready: bool,
}

impl PidFile {
    /// Reads the file of the server on `cluster`. Returns `None` if it is missing or incomplete.
    pub fn read(cluster: &Folder) -> Option<Self> {
        let mut text = String::new();
        cluster.open_file(PID_FILE, OpenOptions::new().read(true)).ok()?.read_to_string(&mut text).ok()?;
        Self::parse(&text)
    }

    /// Line 1 is the pid; line 8 is the state, since Postgres 10.
    fn parse(text: &str) -> Option<Self> {
        let pid = text.lines().next()?.trim().parse().ok().filter(|pid| *pid > 0)?;
        Some(Self { pid, ready: text.lines().nth(7).is_some_and(|state| state.trim() == "ready") })
    }
}

/// Stops a server that an earlier supervisor left running on `cluster`, and removes a stale pid file.
pub fn stop_orphan(cluster: &Folder) -> Result<(), Error> {
    let Some(PidFile { pid, .. }) = PidFile::read(cluster) else { return Ok(()) };
    let path = cluster.path();
    if serves(pid, path) {
        let gone = || (!serves(pid, path)).then_some(());
        return shut_down(pid, gone).ok_or(Error::Orphan(pid));
    }
    if kill(Pid::from_raw(pid), None).is_ok() {
        // The pid has been reused by another process, which Postgres would take for a running server. If the pid is
        // unused, keep the file: Postgres uses it to check for remaining children of the dead server.
        fs::remove_file(cluster.at(PID_FILE))
            .map_err(Error::io(format!("remove {}", path.join(PID_FILE).display())))?;
    }
    Ok(())
}

/// Whether `pid` is the Postgres server of `cluster`, by its arguments or its working folder. Everyone can read the
/// arguments; in a container, not even root may be able to read the working folder.
fn serves(pid: i32, cluster: &Path) -> bool {
    let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let mut arguments = arguments.split(|byte| *byte == 0);
    let program = arguments.next().unwrap_or_default();
    (program == b"postgres" || program.ends_with(b"/postgres"))
        && (arguments.any(|argument| argument == cluster.as_os_str().as_bytes())
            || fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|folder| folder == cluster))
}

/// Stops a server by a fast shutdown, then an immediate one, then SIGKILL, until `gone` returns a value.
pub fn shut_down<T>(pid: i32, mut gone: impl FnMut() -> Option<T>) -> Option<T> {
    let steps = [(Signal::SIGINT, 30), (Signal::SIGQUIT, 5), (Signal::SIGKILL, 5)];
    steps.into_iter().find_map(|(signal, seconds)| {
        let _ = kill(Pid::from_raw(pid), signal);
        wait_for(Duration::from_secs(seconds), &mut gone)
    })
}

/// Polls until `poll` returns a value or the timeout expires.
pub fn wait_for<T>(timeout: Duration, mut poll: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(value) = poll() {
            return Some(value);
        }
        if Instant::now() >= deadline {
            return None;
        }
        thread::sleep(POLL_INTERVAL);
    }
}

/// Signals a server and all its children, each of which has its own process group.
pub fn signal_all(server: i32, signal: Signal) {
    let children = children(server).unwrap_or_default();
    // The server first, so that it forks no more children; one that it just forked exits by itself.
    for pid in std::iter::once(server).chain(children) {
        let _ = kill(Pid::from_raw(pid), signal);
    }
}

fn children(parent: i32) -> io::Result<Vec<i32>> {
    let pids = fs::read_dir("/proc")?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    Ok(pids.filter(|pid| parent_of(*pid) == Some(parent)).collect())
}

fn parent_of(pid: i32) -> Option<i32> {
    parse_parent(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Parses `PID (NAME) STATE PPID ...`, where NAME may contain spaces and parentheses.
fn parse_parent(stat: &str) -> Option<i32> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_file_says_whether_its_server_is_ready() {
        let text = |state| format!("17\n/d\n1700000000\n5432\n/d/run\n\n  123  4\n{state}");
        assert_eq!(PidFile::parse(&text("ready   \n")), Some(PidFile { pid: 17, ready: true }));
        assert_eq!(PidFile::parse(&text("starting\n")), Some(PidFile { pid: 17, ready: false }));
        assert_eq!(PidFile::parse("17\n"), Some(PidFile { pid: 17, ready: false }));
        assert_eq!(PidFile::parse(""), None);
        assert_eq!(PidFile::parse("-17\n"), None);
    }

    #[test]
    fn children_are_found_by_their_parent_pid() {
        assert_eq!(parse_parent("9 (a) b) S 7 1 1"), Some(7));
        let me = i32::try_from(std::process::id()).unwrap();
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        assert!(children(me).unwrap().contains(&i32::try_from(child.id()).unwrap()));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
