//! Ties a child process to its parent: what has been started does not outlive a killed supervisor.

use std::ffi::OsStr;
use std::process::{Command, Stdio};
use std::sync::LazyLock;

/// Whether this system's `setpriv` can do it: util-linux' can, busybox' cannot.
static SETPRIV: LazyLock<bool> = LazyLock::new(|| {
    let mut probe = Command::new("setpriv");
    probe.args(["--pdeathsig", "TERM", "--", "true"]);
    probe.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    probe.status().is_ok_and(|status| status.success())
});

/// A command for `program` that gets `signal` (such as `TERM`) when the **thread** that spawns it ends, which
/// at the latest it does with its process, by `kill -9` too. Where `setpriv` cannot do that, a plain command.
#[must_use]
pub fn tethered(signal: &str, program: impl AsRef<OsStr>) -> Command {
    if !*SETPRIV {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", signal, "--"]).arg(program);
    command
}
