//! A real server, through crashes, orphans, interrupted starts and bad settings.

mod accounts;

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use embedded_postgres::{DataDir, Error, Server, Settings};
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
