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
    let running = Up::run(&mut as_nobody(&sandbox.up_command()));
    assert_eq!(owner(sandbox.postgres()), NOBODY);
    assert_eq!(fs::metadata(sandbox.path("data")).unwrap().mode() & 0o777, 0o700);
    assert!(running.end(Signal::SIGTERM).success());

    for file in ["data/lock", "data/pg_hba.conf", "data/postgres.log"] {
        fs::remove_file(sandbox.path(file)).unwrap();
    }
    let running = sandbox.up();
    assert_eq!(owner(sandbox.postgres()), NOBODY);
    for service in [&SERVICES[..], &[GATEWAY]].concat() {
        assert_eq!(owner(*sandbox.noted(service, "serving").last().unwrap()), NOBODY);
    }
    assert_eq!(sandbox.sql("users", "SELECT count(*) FROM starts"), "2");
    assert!(running.end(Signal::SIGTERM).success());

    // The user can open the files that root has created.
    let _up = Up::run(&mut as_nobody(&sandbox.up_command()));
    assert_eq!(sandbox.sql("users", "SELECT count(*) FROM starts"), "3");
}

/// The same command, run by `nobody`.
fn as_nobody(command: &Command) -> Command {
    let nobody = NOBODY.to_string();
    let mut with_setpriv =
        within(&["setpriv", "--reuid", &nobody, "--regid", &nobody, "--clear-groups", "--"], command);
    with_setpriv.env_remove("XDG_RUNTIME_DIR");
    with_setpriv
}

/// The same command, run by another one, whose last arguments it becomes.
fn within(outer: &[&str], command: &Command) -> Command {
    let mut within = Command::new(outer[0]);
    within.args(&outer[1..]).arg(command.get_program()).args(command.get_args());
    within.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    within.current_dir(command.get_current_dir().unwrap());
    within
}

#[test]
fn root_may_have_any_umask() {
    if !is_root("root_may_have_any_umask") {
        return;
    }
    for umask in ["027", "077"] {
        let sandbox = Sandbox::new();
        let script = format!("umask {umask}; exec \"$0\" \"$@\"");
        let up = Up::run(&mut within(&["sh", "-c", &script], &sandbox.up_command()));
        assert!(up.end(Signal::SIGTERM).success());
        let _up = sandbox.up();
        assert_eq!(sandbox.sql("users", "SELECT count(*) FROM starts"), "2");
    }
}

fn fallback(folder: &Path) -> PathBuf {
    Path::new("/var/lib/hedgerow").join(folder.strip_prefix("/").unwrap())
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
        let fallback = fallback(&data);
        Self { sandbox, above, data, fallback }
    }

    /// How many `..` lead from the folder above it to `/`, and one more.
    fn depth(&self) -> usize {
        self.above.components().count()
    }

    fn close(&self, closed: bool) {
        fs::set_permissions(&self.above, fs::Permissions::from_mode(if closed { 0o700 } else { 0o755 })).unwrap();
    }

    fn up_command(&self, requested: &Path) -> Command {
        let mut command = self.sandbox.up_command();
        command.arg("--data-dir").arg(requested);
        command
    }

    /// Runs it once. Returns how often it was started on the data in the folder `data`.
    fn starts(&self, requested: &Path, data: &Path) -> String {
        let up = Up::run(&mut self.up_command(requested));
        let starts = starts(data);
        assert!(up.end(Signal::SIGTERM).success());
        starts
    }
}

/// How often it was started on the data in this folder, on which it runs.
fn starts(data: &Path) -> String {
    let url = format!("host={} user=postgres dbname=users", data.join("run").display());
    psql(&url, "SELECT count(*) FROM starts").unwrap()
}

impl Drop for Closable {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(fallback(&self.sandbox.path("")));
    }
}

#[test]
fn root_keeps_to_the_data_folder_it_has_chosen() {
    if !is_root("root_keeps_to_the_data_folder_it_has_chosen") {
        return;
    }
    let place = Closable::new();
    place.close(true);
    assert_eq!(place.starts(&place.data, &place.fallback), "1");
    assert!(!place.data.exists());
    place.close(false);
    assert_eq!(place.starts(&place.data, &place.fallback), "2");
    assert!(!place.data.exists());

    fs::create_dir_all(place.data.join("pgdata")).unwrap();
    let [data, fallback] = [&place.data, &place.fallback].map(|folder| folder.display());
    let expected = format!(
        "hedgerow: there are data in {data} and in {fallback}: move those that you do not need out of the way\n"
    );
    assert_eq!(failure(&mut place.up_command(&place.data)), expected);
}

#[test]
fn root_finds_the_data_however_the_folder_is_spelled() {
    if !is_root("root_finds_the_data_however_the_folder_is_spelled") {
        return;
    }
    let place = Closable::new();
    place.close(true);
    symlink(&place.above, place.sandbox.path("alias")).unwrap();
    assert_eq!(place.starts(&place.sandbox.path("alias/data"), &place.fallback), "1");
    assert_eq!(place.starts(&place.data, &place.fallback), "2");
    assert_eq!(place.starts(&place.above.join("missing/../data"), &place.fallback), "3");
    // So many `..` led out of /var/lib/hedgerow.
    let spelled = format!("{}{}{}", place.above.display(), "/..".repeat(place.depth()), place.data.display());
    assert_eq!(place.starts(Path::new(&spelled), &place.fallback), "4");
    assert!(!fallback(&place.sandbox.path("alias")).exists());
    assert!(!place.above.join("missing").exists());
}

#[test]
fn root_finds_data_in_a_folder_named_by_another_spelling() {
    if !is_root("root_finds_data_in_a_folder_named_by_another_spelling") {
        return;
    }
    let place = Closable::new();
    place.close(true);
    symlink(&place.above, place.sandbox.path("alias")).unwrap();
    // An earlier version named it after the path as it was spelled.
    let alias = place.sandbox.path("alias/data");
    let named_by_alias = fallback(&alias);
    assert_eq!(place.starts(&named_by_alias, &named_by_alias), "1");
    assert_eq!(place.starts(&place.data, &named_by_alias), "2");
    assert_eq!(place.starts(&alias, &named_by_alias), "3");
    assert!(!place.fallback.exists());

    fs::create_dir_all(place.fallback.join("pgdata")).unwrap();
    let expected = format!("there are data in {} and in {}", place.fallback.display(), named_by_alias.display());
    for requested in [&place.data, &alias] {
        let said = failure(&mut place.up_command(requested));
        assert!(said.contains(&expected), "{said}");
    }
}

#[test]
fn root_does_not_overlook_data_outside_of_the_fallback_folder() {
    if !is_root("root_does_not_overlook_data_outside_of_the_fallback_folder") {
        return;
    }
    let place = Closable::new();
    // An earlier version went from /var/lib/hedgerow/PATH as many folders up.
    let outside = tempfile::tempdir_in("/var/lib").unwrap();
    fs::create_dir(outside.path().join("pgdata")).unwrap();
    let requested = Path::new("/").join(outside.path().file_name().unwrap());
    let spelled = format!("{}{}{}", place.above.display(), "/..".repeat(place.depth()), requested.display());
    let said = failure(&mut place.up_command(Path::new(&spelled)));
    assert!(said.starts_with(&format!("hedgerow: there are data in {}, where", outside.path().display())), "{said}");
    assert!(!requested.exists());
}

#[test]
fn an_ordinary_user_is_not_sent_to_data_of_root() {
    if !is_root("an_ordinary_user_is_not_sent_to_data_of_root") {
        return;
    }
    let place = Closable::new();
    place.close(true);
    chown(&place.above, Some(NOBODY), Some(NOBODY)).unwrap();
    assert_eq!(place.starts(&place.data, &place.fallback), "1");
    for service in [&SERVICES[..], &[GATEWAY]].concat() {
        // The account of the first run owns what its services have written.
        for ending in ["json", "log"] {
            fs::remove_file(place.sandbox.path(&format!("{service}.{ending}"))).unwrap();
        }
    }
    let mut command = as_nobody(&place.up_command(&place.data));
    let up = Up::run_until(&mut command, "only root can use the data in");
    up.wait_for_line("Try:");
    assert_eq!(starts(&place.data), "1");
}

#[test]
fn root_does_not_replace_data_whose_folder_is_closed() {
    if !is_root("root_does_not_replace_data_whose_folder_is_closed") {
        return;
    }
    let place = Closable::new();
    place.close(false);
    assert_eq!(place.starts(&place.data, &place.data), "1");
    place.close(true);
    let said = failure(&mut place.up_command(&place.data));
    let expected =
        format!("which has no access to {}: give it access, or choose another data folder\n", place.data.display());
    assert!(said.ends_with(&expected), "{said}");
    assert!(!place.fallback.exists());
    place.close(false);
    assert_eq!(place.starts(&place.data, &place.data), "2");
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
