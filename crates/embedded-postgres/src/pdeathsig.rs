//! Ties a child process to its parent, so that it does not outlive a killed supervisor.

use std::ffi::OsStr;
use std::process::{Command, Stdio};
use std::sync::LazyLock;

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
    if !*SETPRIV {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", signal, "--"]).arg(program);
    command
}
