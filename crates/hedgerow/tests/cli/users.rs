//! Whoever runs it: an ordinary user, or root.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::process::Command;

use nix::sys::signal::Signal;
use nix::unistd::Uid;

use crate::sandbox::{Sandbox, Up};

/// `nobody`, on every system the tests run on.
const NOBODY: u32 = 65534;

#[test]
fn an_ordinary_user_runs_it_and_root_carries_on() {
    if !Uid::effective().is_root() {
        return; // All other tests are this one.
    }
    let sandbox = Sandbox::new();
    chown(sandbox.path(""), Some(NOBODY), Some(NOBODY)).unwrap();
    let up = sandbox.up_command();
    let mut command = Command::new("setpriv");
    let nobody = NOBODY.to_string();
    command.args(["--reuid", &nobody, "--regid", &nobody, "--clear-groups", "--"]);
    command.arg(up.get_program()).args(up.get_args()).current_dir(sandbox.path(""));
    command.envs(up.get_envs().filter_map(|(name, value)| Some((name, value?)))).env_remove("XDG_RUNTIME_DIR");
    let running = Up::run(&mut command);
    assert_eq!(owner(&sandbox), NOBODY);
    assert_eq!(fs::metadata(sandbox.path("data")).unwrap().mode() & 0o777, 0o700);
    assert!(running.end(Signal::SIGTERM).success());

    let _up = sandbox.up();
    assert_eq!(owner(&sandbox), NOBODY);
    assert_eq!(sandbox.sql("users", "SELECT count(*) FROM starts"), "2");
}

#[test]
fn root_keeps_the_data_elsewhere_when_postgres_cannot_enter_the_folder() {
    if !Uid::effective().is_root() {
        return;
    }
    let sandbox = Sandbox::new();
    let closed = sandbox.path("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
    let moved = format!("/var/lib/hedgerow{}", sandbox.path("").display());
    let up = Up::run(sandbox.up_command().arg("--data-dir").arg(closed.join("data")));
    assert!(up.end(Signal::SIGTERM).success());
    assert!(fs::metadata(format!("{moved}/closed/data/pgdata/PG_VERSION")).is_ok());
    assert!(!closed.join("data").exists());
    fs::remove_dir_all(moved).unwrap();
}

/// Whose process the server is.
fn owner(sandbox: &Sandbox) -> u32 {
    fs::metadata(format!("/proc/{}", sandbox.postgres())).unwrap().uid()
}
