//! Under which account the server runs, and whose files it reads and writes.

use std::fs::{self, Permissions};
use std::io::{Write, stderr};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Command;

use embedded_postgres::{Account, DataDir, Error, Server, Settings};
use nix::unistd::{Uid, User};

use crate::{open, scratch, sql};

/// Whether the tests run as root. Says otherwise that the test is skipped, to the terminal itself: the output of a test
/// that passes is not shown.
fn is_root(test: &str) -> bool {
    let is_root = Uid::effective().is_root();
    if !is_root {
        stderr().write_all(format!("skipped: {test} needs root\n").as_bytes()).unwrap();
    }
    is_root
}

/// The files that a supervisor creates next to the cluster.
const FILES: [&str; 3] = ["lock", "pg_hba.conf", "postgres.log"];

fn owner_and_mode(file: &Path) -> (u32, u32) {
    let metadata = fs::metadata(file).unwrap();
    (metadata.uid(), metadata.mode() & 0o777)
}

#[test]
fn the_files_are_for_the_account_alone() {
    let parent = scratch();
    let folder = parent.path().join("data");
    let server = open(&folder);
    let account = fs::metadata(folder.join("pgdata")).unwrap().uid();
    for name in FILES {
        assert_eq!(owner_and_mode(&folder.join(name)), (account, 0o600), "{name}");
    }
    drop(server);
    // An earlier version created the lock with this mode.
    fs::set_permissions(folder.join("lock"), Permissions::from_mode(0o644)).unwrap();
    DataDir::open(&folder).unwrap();
    assert_eq!(owner_and_mode(&folder.join("lock")), (account, 0o600));
}

#[test]
fn as_root_files_that_only_root_can_read_do_no_harm() {
    if !is_root("as_root_files_that_only_root_can_read_do_no_harm") {
        return;
    }
    let parent = scratch();
    let folder = parent.path().join("data");
    drop(open(&folder));
    for name in FILES {
        chown(folder.join(name), Some(0), Some(0)).unwrap();
        fs::set_permissions(folder.join(name), Permissions::from_mode(0o600)).unwrap();
    }
    assert_eq!(sql(&open(&folder), "SELECT 1"), "1");
}

#[test]
fn as_root_data_of_a_user_without_a_name_are_used() {
    if !is_root("as_root_data_of_a_user_without_a_name_are_used") {
        return;
    }
    let unnamed = (50_000..60_000).find(|uid| User::from_uid(Uid::from_raw(*uid)).unwrap().is_none()).unwrap();
    let parent = scratch();
    let folder = parent.path().join("data");
    let server = open(&folder);
    sql(&server, "CREATE TABLE kept AS SELECT 1 AS n");
    drop(server);
    // The group is not one that the user is known to be in.
    let owner = format!("{unnamed}:0");
    assert!(Command::new("chown").args(["-R", &owner]).arg(folder.join("pgdata")).status().unwrap().success());
    fs::remove_dir_all(folder.join("run")).unwrap();
    let server = open(&folder);
    let process = fs::metadata(format!("/proc/{}", server.pid().unwrap())).unwrap();
    assert_eq!((process.uid(), process.gid()), (unnamed, NOBODY));
    assert_eq!(sql(&server, "SELECT n FROM kept"), "1");
}

#[test]
fn as_root_the_server_runs_as_an_unprivileged_user() {
    if !is_root("as_root_the_server_runs_as_an_unprivileged_user") {
        return;
    }
    let server = Server::temporary(&Settings::for_tests()).unwrap();
    let cluster = fs::metadata(server.data_dir().path().join("pgdata")).unwrap();
    let process = fs::metadata(format!("/proc/{}", server.pid().unwrap())).unwrap();
    assert_ne!(process.uid(), 0);
    assert_eq!(process.uid(), cluster.uid());
    // A folder that only its owner can enter.
    let closed = scratch();
    fs::set_permissions(&closed, Permissions::from_mode(0o700)).unwrap();
    let account = Account::for_data_dir(closed.path()).unwrap();
    assert!(!account.can_enter(&closed.path().join("data")));
}

/// The uid of `nobody` on every system the tests run on.
const NOBODY: u32 = 65534;

#[test]
fn as_root_no_link_of_another_user_is_followed() {
    if !is_root("as_root_no_link_of_another_user_is_followed") {
        return;
    }
    let secret = scratch();
    let secret = secret.path();
    fs::write(secret.join("file"), "secret").unwrap();
    fs::create_dir(secret.join("pgdata")).unwrap();
    let before = fs::metadata(secret.join("pgdata")).unwrap();
    for (name, target) in [
        ("lock", "file"),
        ("pg_hba.conf", "file"),
        ("postgres.log", "file"),
        ("pgdata", "pgdata"),
        ("pgdata.new", "pgdata"),
        ("run", "pgdata"),
    ] {
        let is_replaced = ["pg_hba.conf", "postgres.log", "pgdata.new"].contains(&name);
        let parent = scratch();
        let folder = parent.path().join("data");
        fs::create_dir(&folder).unwrap();
        chown(&folder, Some(NOBODY), Some(NOBODY)).unwrap();
        symlink(secret.join(target), folder.join(name)).unwrap();
        let opened = Server::open(&folder, &Settings::for_tests());
        assert_eq!(opened.is_ok(), is_replaced, "{name}: {:?}", opened.err());
        assert_eq!(fs::read_to_string(secret.join("file")).unwrap(), "secret", "{name}");
        assert_eq!(fs::read_dir(secret.join("pgdata")).unwrap().count(), 0, "{name}");
        let after = fs::metadata(secret.join("pgdata")).unwrap();
        assert_eq!((after.uid(), after.mode()), (before.uid(), before.mode()), "{name}");
    }
    // A link in the way to the folder.
    let parent = scratch();
    chown(parent.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    symlink(secret, parent.path().join("way")).unwrap();
    let refused = Server::open(&parent.path().join("way/data"), &Settings::for_tests()).unwrap_err();
    assert!(matches!(refused, Error::Link(_)), "{refused}");
    assert!(!secret.join("data").exists());
    // The owner of a folder may follow the links in it.
    chown(parent.path(), Some(0), Some(0)).unwrap();
    drop(open(&parent.path().join("way/data")));
    assert!(secret.join("data/pgdata").exists());
}

#[test]
fn as_root_no_hard_link_of_another_user_is_written_to() {
    if !is_root("as_root_no_hard_link_of_another_user_is_written_to") {
        return;
    }
    let account = Account::for_data_dir(Path::new("/")).unwrap();
    let account = User::from_name(account.name()).unwrap().unwrap().uid.as_raw();
    for (name, owner, is_replaced) in [
        ("lock", 0, false),
        ("pg_hba.conf", 0, true),
        ("pg_hba.conf", account, true),
        ("postgres.log", 0, true),
        ("postgres.log", account, false),
    ] {
        let parent = scratch();
        let secret = parent.path().join("secret");
        fs::write(&secret, "secret").unwrap();
        fs::set_permissions(&secret, Permissions::from_mode(0o640)).unwrap();
        chown(&secret, Some(owner), Some(0)).unwrap();
        let folder = parent.path().join("data");
        fs::create_dir(&folder).unwrap();
        chown(&folder, Some(NOBODY), Some(NOBODY)).unwrap();
        fs::hard_link(&secret, folder.join(name)).unwrap();
        let opened = Server::open(&folder, &Settings::for_tests());
        assert_eq!(opened.is_ok(), is_replaced, "{name}: {:?}", opened.err());
        if let Err(error) = opened {
            assert!(error.to_string().contains("has several hard links"), "{error}");
        }
        assert_eq!(fs::read_to_string(&secret).unwrap(), "secret", "{name}");
        assert_eq!(owner_and_mode(&secret), (owner, 0o640), "{name}");
    }
}
