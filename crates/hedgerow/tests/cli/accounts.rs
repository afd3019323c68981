//! `hedgerow up`, run by an ordinary user or by root.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;

use crate::sandbox::{GATEWAY, SERVICES, Sandbox, Up, failure, is_root, psql};

/// The uid of `nobody` on every system the tests run on.
const NOBODY: u32 = 65534;

#[test]
fn root_can_continue_with_an_ordinary_users_data() {
    if !is_root("root_can_continue_with_an_ordinary_users_data") {
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
    assert_eq!(owner(sandbox.postgres()), NOBODY);
    assert_eq!(fs::metadata(sandbox.path("data")).unwrap().mode() & 0o777, 0o700);
    assert!(running.end(Signal::SIGTERM).success());

    let _up = sandbox.up();
    assert_eq!(owner(sandbox.postgres()), NOBODY);
    for service in [&SERVICES[..], &[GATEWAY]].concat() {
        assert_eq!(owner(*sandbox.noted(service, "serving").last().unwrap()), NOBODY);
    }
    assert_eq!(sandbox.sql("users", "SELECT count(*) FROM starts"), "2");
}

/// A data folder that the account of Postgres cannot enter while the folder above it is closed.
struct Closable {
    sandbox: Sandbox,
    above: PathBuf,
    data: PathBuf,
    fallback: PathBuf,
}

impl Closable {
    fn new() -> Self {
        let sandbox = Sandbox::new();
        let above = sandbox.path("above");
        fs::create_dir(&above).unwrap();
        let data = above.join("data");
        let fallback = Path::new("/var/lib/hedgerow").join(data.strip_prefix("/").unwrap());
        Self { sandbox, above, data, fallback }
    }

    fn close(&self, closed: bool) {
        fs::set_permissions(&self.above, fs::Permissions::from_mode(if closed { 0o700 } else { 0o755 })).unwrap();
    }

    fn up_command(&self) -> Command {
        let mut command = self.sandbox.up_command();
        command.arg("--data-dir").arg(&self.data);
        command
    }

    /// Runs it once. Returns how often it was started on the data in this folder.
    fn starts(&self, data: &Path) -> String {
        let up = Up::run(&mut self.up_command());
        let url = format!("host={} user=postgres dbname=users", data.join("run").display());
        let starts = psql(&url, "SELECT count(*) FROM starts").unwrap();
        assert!(up.end(Signal::SIGTERM).success());
        starts
    }
}

impl Drop for Closable {
    fn drop(&mut self) {
        let folder = Path::new("/var/lib/hedgerow").join(self.sandbox.path("").strip_prefix("/").unwrap());
        let _ = fs::remove_dir_all(folder);
    }
}

#[test]
fn root_keeps_to_the_data_folder_it_has_chosen() {
    if !is_root("root_keeps_to_the_data_folder_it_has_chosen") {
        return;
    }
    let place = Closable::new();
    place.close(true);
    assert_eq!(place.starts(&place.fallback), "1");
    assert!(!place.data.exists());
    place.close(false);
    assert_eq!(place.starts(&place.fallback), "2");
    assert!(!place.data.exists());

    fs::create_dir_all(place.data.join("pgdata")).unwrap();
    let [data, fallback] = [&place.data, &place.fallback].map(|folder| folder.display());
    let expected = format!(
        "hedgerow: there are data both in {data} and in {fallback}: move those that you do not need out of the way\n"
    );
    assert_eq!(failure(&mut place.up_command()), expected);
}

#[test]
fn root_does_not_replace_data_whose_folder_is_closed() {
    if !is_root("root_does_not_replace_data_whose_folder_is_closed") {
        return;
    }
    let place = Closable::new();
    place.close(false);
    assert_eq!(place.starts(&place.data), "1");
    place.close(true);
    let said = failure(&mut place.up_command());
    let expected =
        format!("which has no access to {}: give it access, or choose another data folder\n", place.data.display());
    assert!(said.ends_with(&expected), "{said}");
    assert!(!place.fallback.exists());
    place.close(false);
    assert_eq!(place.starts(&place.data), "2");
}

#[test]
fn root_runs_services_that_their_account_cannot_reach() {
    if !is_root("root_runs_services_that_their_account_cannot_reach") {
        return;
    }
    let sandbox = Sandbox::new();
    let folder = sandbox.path("closed/bin");
    fs::create_dir_all(&folder).unwrap();
    fs::hard_link(sandbox.path("hedgerow"), folder.join("hedgerow")).unwrap();
    for service in [&SERVICES[..], &[GATEWAY]].concat() {
        // Python would make the path of its program absolute.
        let text = format!("#!/bin/sh\nexec python3 {} \"$@\"\n", sandbox.path(service).display());
        fs::write(folder.join(service), text).unwrap();
        fs::set_permissions(folder.join(service), fs::Permissions::from_mode(0o755)).unwrap();
    }
    fs::set_permissions(sandbox.path("closed"), fs::Permissions::from_mode(0o700)).unwrap();
    let up = sandbox.up_command();
    let mut command = Command::new(folder.join("hedgerow"));
    command.args(up.get_args()).current_dir(sandbox.path(""));
    command.envs(up.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let _up = Up::run(&mut command);
    assert_ne!(owner(sandbox.noted("users", "serving")[0]), 0);
}

#[test]
fn root_follows_no_link_in_a_folder_of_another_user() {
    if !is_root("root_follows_no_link_in_a_folder_of_another_user") {
        return;
    }
    let sandbox = Sandbox::new();
    chown(sandbox.path(""), Some(NOBODY), Some(NOBODY)).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    symlink(elsewhere.path(), sandbox.path("data")).unwrap();
    let said = failure(&mut sandbox.up_command());
    assert!(said.contains("is a symbolic link in a folder of another user, which root does not follow"), "{said}");
    assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0);
}

/// The uid of a process.
fn owner(pid: i32) -> u32 {
    fs::metadata(format!("/proc/{pid}")).unwrap().uid()
}
