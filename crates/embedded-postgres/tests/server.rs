//! A real server, through crashes, orphans, interrupted starts and bad settings.

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Write, stderr};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use embedded_postgres::{Account, DataDir, Error, Server, Settings};
use nix::unistd::{Uid, User};
use tempfile::TempDir;

/// A folder that the server's account can enter, even if the tests run as root.
fn scratch() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(&folder, Permissions::from_mode(0o755)).unwrap();
    folder
}

fn open(dir: &Path) -> Server {
    Server::open(dir, &Settings::for_tests()).unwrap()
}

fn psql(url: &str, sql: &str) -> Result<String, String> {
    let output = Command::new("psql").args([url, "-X", "-At", "-v", "ON_ERROR_STOP=1", "-c", sql]).output().unwrap();
    let text = |bytes| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

fn sql(server: &Server, sql: &str) -> String {
    psql(&server.superuser_url("postgres"), sql).unwrap()
}

#[test]
fn committed_data_survives_stop_and_kill() {
    let mut server = Server::temporary(&Settings { fsync: true, ..Settings::for_tests() }).unwrap();
    sql(&server, "CREATE TABLE kept (n int)");
    sql(&server, "INSERT INTO kept VALUES (1)");

    server.stop();
    assert!(psql(&server.superuser_url("postgres"), "SELECT 1").is_err());
    server.start_again().unwrap();
    sql(&server, "INSERT INTO kept VALUES (2)");

    // A busy backend does not delay the next server.
    let mut busy = Command::new("psql")
        .args([&server.superuser_url("postgres"), "-X", "-c", "SELECT 'busy', pg_sleep(600)"])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    while sql(&server, "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%''busy''%'") < "2".into() {}
    server.kill();
    assert!(!busy.wait().unwrap().success());
    server.start_again().unwrap();
    assert_eq!(sql(&server, "SELECT sum(n) FROM kept"), "3");
}

#[test]
fn a_temporary_server_is_removed_completely() {
    let mut server = Server::temporary(&Settings::for_tests()).unwrap();
    let folder = server.data_dir().path().to_owned();
    let pid = server.pid().unwrap();
    assert!(server.is_running());
    drop(server);
    assert!(!folder.exists());
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn the_server_listens_only_on_a_private_socket() {
    let server = Server::temporary(&Settings::for_tests()).unwrap();
    assert_eq!(sql(&server, "SHOW listen_addresses"), "");
    let folder = fs::metadata(server.socket_dir()).unwrap();
    assert_eq!(folder.mode() & 0o777, 0o700);
    assert_ne!(folder.uid(), 0);
}

#[test]
fn a_role_needs_a_password_and_the_superuser_does_not() {
    let parent = scratch();
    let server = open(&parent.path().join("it's a \"folder\" %20"));
    let password = "p@:/?#&= '\"%";
    sql(&server, "CREATE ROLE \"a role\" LOGIN PASSWORD 'p@:/?#&= ''\"%'");
    assert_eq!(psql(&server.url("a role", password, "postgres"), "SELECT 1").unwrap(), "1");
    let refusal = psql(&server.url("a role", "another", "postgres"), "SELECT 1").unwrap_err();
    assert!(refusal.contains("password authentication failed"), "{refusal}");
}

#[test]
fn a_data_folder_has_one_supervisor_at_a_time() {
    let parent = scratch();
    let folder = parent.path().join("data");
    let first = DataDir::open(&folder).unwrap();
    let Err(Error::InUse { holder, .. }) = DataDir::open(&folder) else { panic!("locked twice") };
    assert_eq!(holder, Some(std::process::id()));
    drop(first);
    DataDir::open(&folder).unwrap();
}

#[test]
fn a_server_left_by_a_killed_supervisor_is_replaced() {
    for pdeathsig in [true, false] {
        let parent = scratch();
        let folder = parent.path().join("data");
        let (mut supervisor, orphan) = supervise(&folder, parent.path(), pdeathsig);
        supervisor.kill().unwrap();
        supervisor.wait().unwrap();
        let server = open(&folder);
        assert!(!Path::new(&format!("/proc/{orphan}")).exists() || zombie(&orphan));
        assert_eq!(sql(&server, "SELECT n FROM left_behind"), "1");
    }
}

/// Without an init process that reaps them, orphans remain as zombies.
fn zombie(pid: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|arguments| arguments.is_empty())
}

/// Runs [`supervisor`] in its own process. Without `setpriv` on its `PATH`, the server gets no parent-death signal.
fn supervise(folder: &Path, scratch: &Path, pdeathsig: bool) -> (Child, String) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "supervisor", "--ignored", "--nocapture"]).env("FOLDER", folder);
    if !pdeathsig {
        for program in ["postgres", "psql", "test"] {
            symlink(on_path(program), scratch.join(program)).unwrap();
        }
        command.env("PATH", scratch);
    }
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let pid = output.find_map(|line| Some(line.split_once("server ")?.1.to_owned()));
    (child, pid.expect("the supervisor starts a server"))
}

fn on_path(program: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap();
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.exists()).unwrap()
}

#[test]
#[ignore = "run by `supervise`"]
fn supervisor() {
    let server = open(Path::new(&std::env::var("FOLDER").unwrap()));
    sql(&server, "CREATE TABLE left_behind AS SELECT 1 AS n");
    println!("server {}", server.pid().unwrap());
    std::io::stdout().flush().unwrap();
    std::io::stdin().lines().for_each(drop);
}

#[test]
fn a_reused_pid_in_a_stale_pid_file_is_harmless() {
    let parent = scratch();
    let folder = parent.path().join("data");
    drop(open(&folder));
    let mut innocent = Command::new("sleep").arg("600").spawn().unwrap();
    let stale = format!("{}\n{}\n1700000000\n5432\n", innocent.id(), folder.display());
    fs::write(folder.join("pgdata/postmaster.pid"), stale).unwrap();
    drop(open(&folder));
    assert_eq!(innocent.try_wait().unwrap(), None);
    innocent.kill().unwrap();
    innocent.wait().unwrap();
}

#[test]
fn an_interrupted_initdb_is_repeated() {
    let parent = scratch();
    let draft = parent.path().join("data/pgdata.new");
    fs::create_dir_all(&draft).unwrap();
    fs::write(draft.join("PG_VERSION"), "15\n").unwrap();
    let server = open(&parent.path().join("data"));
    assert_eq!(sql(&server, "SELECT lower('É')"), "é");
    assert!(!draft.exists());
}

#[test]
fn data_of_another_major_version_is_refused() {
    for (made_by, reason) in [("9.6", "9.6, which is too old"), ("14", "14, which is too old"), ("99", "99, but only")]
    {
        let parent = scratch();
        let cluster = parent.path().join("data/pgdata");
        fs::create_dir_all(&cluster).unwrap();
        fs::write(cluster.join("PG_VERSION"), format!("{made_by}\n")).unwrap();
        let refusal = Server::open(&parent.path().join("data"), &Settings::for_tests()).unwrap_err().to_string();
        assert!(refusal.contains(&format!("was created by Postgres {reason}")), "{refusal}");
        assert_eq!(refusal.lines().count(), 1);
    }
}

#[test]
fn a_failed_start_shows_the_servers_log() {
    let parent = scratch();
    let folder = parent.path().join("data");
    drop(open(&folder));
    let mut settings = fs::OpenOptions::new().append(true).open(folder.join("pgdata/postgresql.conf")).unwrap();
    writeln!(settings, "no_such_setting = 1").unwrap();
    let failure = Server::open(&folder, &Settings::for_tests()).unwrap_err().to_string();
    assert!(failure.contains("unrecognized configuration parameter \"no_such_setting\""), "{failure}");
}

#[test]
fn a_long_data_path_gets_a_short_socket_path() {
    let parent = scratch();
    let folder = parent.path().join("long".repeat(30));
    let server = open(&folder);
    let socket_dir = server.socket_dir().to_owned();
    assert!(!socket_dir.starts_with(parent.path()));
    assert_eq!(sql(&server, "SELECT 1"), "1");
    drop(server);
    assert!(!socket_dir.exists());
}

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
