//! A real server through the accidents of its life: crashes, orphans, half-done work, foreign hands.

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use embedded_postgres::{Account, DataDir, Error, Server, Settings};
use tempfile::TempDir;

/// A folder that the server's account can pass through, also when the tests run as root.
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
fn what_is_committed_outlives_stop_and_kill() {
    let mut server = Server::temporary(&Settings { fsync: true, ..Settings::for_tests() }).unwrap();
    sql(&server, "CREATE TABLE kept (n int)");
    sql(&server, "INSERT INTO kept VALUES (1)");

    server.stop();
    assert!(psql(&server.superuser_url("postgres"), "SELECT 1").is_err());
    server.start_again().unwrap();
    sql(&server, "INSERT INTO kept VALUES (2)");

    // A backend that is busy does not hold the next server up.
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
fn a_temporary_server_leaves_nothing_behind() {
    let mut server = Server::temporary(&Settings::for_tests()).unwrap();
    let folder = server.data_dir().path().to_owned();
    let pid = server.pid().unwrap();
    assert!(server.is_running());
    drop(server);
    assert!(!folder.exists());
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn nothing_listens_but_a_socket_in_a_private_folder() {
    let server = Server::temporary(&Settings::for_tests()).unwrap();
    assert_eq!(sql(&server, "SHOW listen_addresses"), "");
    let folder = fs::metadata(server.socket_dir()).unwrap();
    assert_eq!(folder.mode() & 0o777, 0o700);
    assert_ne!(folder.uid(), 0);
}

#[test]
fn a_role_needs_its_password_and_the_superuser_none() {
    let parent = scratch();
    let server = open(&parent.path().join("it's a \"folder\" %20"));
    let password = "p@:/?#&= '\"%";
    sql(&server, "CREATE ROLE \"a role\" LOGIN PASSWORD 'p@:/?#&= ''\"%'");
    assert_eq!(psql(&server.url("a role", password, "postgres"), "SELECT 1").unwrap(), "1");
    let refusal = psql(&server.url("a role", "another", "postgres"), "SELECT 1").unwrap_err();
    assert!(refusal.contains("password authentication failed"), "{refusal}");
}

#[test]
fn a_folder_has_one_supervisor_at_a_time() {
    let parent = scratch();
    let folder = parent.path().join("data");
    let first = DataDir::open(&folder).unwrap();
    assert!(!first.was_abandoned());
    let Err(Error::InUse { holder, .. }) = DataDir::open(&folder) else { panic!("two hold it") };
    assert_eq!(holder, Some(std::process::id()));
    drop(first);
    assert!(!DataDir::open(&folder).unwrap().was_abandoned());
}

#[test]
fn a_server_left_by_a_killed_supervisor_is_taken_over() {
    for tethered in [true, false] {
        let parent = scratch();
        let folder = parent.path().join("data");
        let (mut supervisor, orphan) = supervise(&folder, parent.path(), tethered);
        supervisor.kill().unwrap();
        supervisor.wait().unwrap();
        let server = open(&folder);
        assert!(server.data_dir().was_abandoned());
        assert!(!Path::new(&format!("/proc/{orphan}")).exists() || zombie(&orphan));
        assert_eq!(sql(&server, "SELECT n FROM left_behind"), "1");
    }
}

/// Where nobody reaps orphans, they stay as zombies.
fn zombie(pid: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|arguments| arguments.is_empty())
}

/// Runs [`supervisor`] in a process of its own; without `setpriv` on its `PATH`, nothing tethers the server.
fn supervise(folder: &Path, scratch: &Path, tethered: bool) -> (Child, String) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "supervisor", "--ignored", "--nocapture"]).env("FOLDER", folder);
    if !tethered {
        for program in ["postgres", "psql", "test"] {
            symlink(on_path(program), scratch.join(program)).unwrap();
        }
        command.env("PATH", scratch);
    }
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let said = output.find_map(|line| Some(line.split_once("server ")?.1.to_owned()));
    (child, said.expect("the supervisor starts a server"))
}

fn on_path(program: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap();
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.exists()).unwrap()
}

#[test]
#[ignore = "what `supervise` runs"]
fn supervisor() {
    let server = open(Path::new(&std::env::var("FOLDER").unwrap()));
    sql(&server, "CREATE TABLE left_behind AS SELECT 1 AS n");
    println!("server {}", server.pid().unwrap());
    std::io::stdout().flush().unwrap();
    std::io::stdin().lines().for_each(drop);
}

#[test]
fn a_stale_pid_that_is_another_process_now_blocks_nothing_and_kills_nothing() {
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
fn an_initdb_that_was_killed_midway_is_done_again() {
    let parent = scratch();
    let draft = parent.path().join("data/pgdata.new");
    fs::create_dir_all(&draft).unwrap();
    fs::write(draft.join("PG_VERSION"), "15\n").unwrap();
    let server = open(&parent.path().join("data"));
    assert_eq!(sql(&server, "SELECT lower('É')"), "é");
    assert!(!draft.exists());
}

#[test]
fn data_of_another_major_version_are_refused_in_one_line() {
    let parent = scratch();
    let cluster = parent.path().join("data/pgdata");
    fs::create_dir_all(&cluster).unwrap();
    fs::write(cluster.join("PG_VERSION"), "9.6\n").unwrap();
    let refusal = Server::open(&parent.path().join("data"), &Settings::for_tests()).unwrap_err().to_string();
    assert!(refusal.contains("was made by Postgres 9.6, but only"), "{refusal}");
    assert_eq!(refusal.lines().count(), 1);
}

#[test]
fn a_failed_start_shows_what_the_server_said() {
    let parent = scratch();
    let folder = parent.path().join("data");
    drop(open(&folder));
    let mut settings = fs::OpenOptions::new().append(true).open(folder.join("pgdata/postgresql.conf")).unwrap();
    writeln!(settings, "no_such_setting = 1").unwrap();
    let failure = Server::open(&folder, &Settings::for_tests()).unwrap_err().to_string();
    assert!(failure.contains("unrecognized configuration parameter \"no_such_setting\""), "{failure}");
}

#[test]
fn a_long_path_gets_a_short_socket() {
    let parent = scratch();
    let folder = parent.path().join("long".repeat(30));
    let server = open(&folder);
    let socket_dir = server.socket_dir().to_owned();
    assert!(!socket_dir.starts_with(parent.path()));
    assert_eq!(sql(&server, "SELECT 1"), "1");
    drop(server);
    assert!(!socket_dir.exists());
}

#[test]
fn for_root_the_server_runs_as_an_account_without_privileges() {
    let server = Server::temporary(&Settings::for_tests()).unwrap();
    let cluster = fs::metadata(server.data_dir().path().join("pgdata")).unwrap();
    let process = fs::metadata(format!("/proc/{}", server.pid().unwrap())).unwrap();
    assert_ne!(process.uid(), 0);
    assert_eq!(process.uid(), cluster.uid());
    // A folder that only its owner enters, for whom the account is somebody else.
    let closed = scratch();
    fs::set_permissions(&closed, Permissions::from_mode(0o700)).unwrap();
    let account = Account::of(closed.path()).unwrap();
    let is_root = fs::metadata(closed.path()).unwrap().uid() == 0;
    assert_eq!(account.can_enter(&closed.path().join("data")), !is_root);
}
