//! Ties a child process to its parent, so that it does not outlive a killed supervisor.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use nix::unistd::{Gid, Uid};

/// Whether `setpriv` supports `--pdeathsig`: that of util-linux does, that of `busybox` does not.
static SETPRIV: LazyLock<bool> = LazyLock::new(|| {
    let mut probe = Command::new("setpriv");
    probe.args(["--pdeathsig", "TERM", "--", "true"]);
    probe.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    probe.status().is_ok_and(|status| status.success())
});

/// Returns a command for `program` with a parent-death signal (`PR_SET_PDEATHSIG`), such as `TERM`.
///
/// The kernel sends it when the **thread** that spawned the process exits, which includes a `kill -9` of the whole
/// parent. Returns a plain command if `setpriv` cannot set the signal.
#[must_use]
pub fn with_pdeathsig(signal: &str, program: impl AsRef<OsStr>) -> Command {
    with_pdeathsig_as(None, signal, program)
}

/// Like [`with_pdeathsig`], and also changes to a user and a group, without supplementary groups.
pub fn with_pdeathsig_as(ids: Option<(Uid, Gid)>, signal: &str, program: impl AsRef<OsStr>) -> Command {
    if !*SETPRIV {
        let mut command = Command::new(program);
        if let Some((uid, gid)) = ids {
            // For root, setting the uid also drops supplementary groups.
            command.uid(uid.as_raw()).gid(gid.as_raw());
        }
        return command;
    }
    // `setpriv` changes the user after the working folder is entered: the user need not be able to reach it by path.
    let mut command = Command::new("setpriv");
    if let Some((uid, gid)) = ids {
        command.args(["--reuid", &uid.to_string(), "--regid", &gid.to_string(), "--clear-groups"]);
    }
    command.args(["--pdeathsig", signal, "--"]);
    if ids.is_some() {
        // `setpriv` has the capabilities of root until it executes a program, so it would find one that the user may
        // not read. `env` searches `PATH` with the rights of the user.
        command.args(["env", "--"]);
    }
    command.arg(program);
    command
}
