//! `hedgerow up`, run by an ordinary user or by root.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::process::Command;

use nix::sys::signal::Signal;
use nix::unistd::Uid;

use crate::sandbox::{Sandbox, Up};

/// The uid of `nobody` on every system the tests run on.
const NOBODY: u32 = 65534;

#[test]
fn root_can_continue_with_an_ordinary_users_data() {
    if !Uid::effective().is_root() {
        return; // Then all other tests run it as an ordinary user.
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
fn root_gets_another_data_folder_if_postgres_cannot_enter_it() {
    if !Uid::effective().is_root() {
        return;
    }
    let sandbox = Sandbox::new();
    let closed = sandbox.path("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
    let fallback = format!("/var/lib/hedgerow{}", sandbox.path("").display());
    let up = Up::run(sandbox.up_command().arg("--data-dir").arg(closed.join("data")));
    assert!(up.end(Signal::SIGTERM).success());
    assert!(fs::metadata(format!("{fallback}/closed/data/pgdata/PG_VERSION")).is_ok());
    assert!(!closed.join("data").exists());
    fs::remove_dir_all(fallback).unwrap();
}

/// The uid of the server process.
fn owner(sandbox: &Sandbox) -> u32 {
    fs::metadata(format!("/proc/{}", sandbox.postgres())).unwrap().uid()
}
