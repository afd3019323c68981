//! A folder with `hedgerow` and stand-ins for the services, and its own loopback address.

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Read, Write, stderr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};
use tempfile::TempDir;

/// How long a test waits for anything.
pub const DEADLINE: Duration = Duration::from_mins(1);

/// The services that have a database.
pub const SERVICES: [&str; 2] = ["users", "inventory"];

pub const GATEWAY: &str = "gateway";

pub struct Sandbox {
    folder: TempDir,
    host: String,
}

impl Sandbox {
    pub fn new() -> Self {
        static COUNT: AtomicU8 = AtomicU8::new(1);
        let folder = tempfile::tempdir().unwrap();
        open_to_all(folder.path());
        let program = Path::new(env!("CARGO_BIN_EXE_hedgerow"));
        let copy = folder.path().join("hedgerow");
        fs::hard_link(program, &copy).or_else(|_| fs::copy(program, &copy).map(drop)).unwrap();
        for service in [&SERVICES[..], &[GATEWAY]].concat() {
            let stand_in = folder.path().join(service);
            fs::write(&stand_in, include_str!("stand_in.py")).unwrap();
            fs::set_permissions(&stand_in, Permissions::from_mode(0o755)).unwrap();
        }
        // All of 127.0.0.0/8 is local: with an address each, tests that run in parallel do not share ports.
        let [.., high, low] = std::process::id().to_be_bytes();
        let host = format!("127.{}.{low}.{}", high | 128, COUNT.fetch_add(1, Ordering::Relaxed));
        Self { folder, host }
    }

    /// Replaces the stand-in for a service by the binary that was built last.
    pub fn use_binary(&self, service: &str) {
        let program = Path::new(env!("CARGO_BIN_EXE_hedgerow")).with_file_name(service);
        assert!(program.is_file(), "{} not found: build it with `cargo build`", program.display());
        let path = self.path(service);
        fs::remove_file(&path).unwrap();
        fs::hard_link(&program, &path).or_else(|_| fs::copy(&program, &path).map(drop)).unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn address(&self, port: u16) -> String {
        format!("{}:{port}", self.host)
    }

    /// `hedgerow up` on the sandbox's address, with `data` in its folder.
    pub fn up_command(&self) -> Command {
        let mut command = Command::new(self.path("hedgerow"));
        command.arg("up").current_dir(&self.folder).env("HEDGEROW_DATA_DIR", "data");
        let users = [("USERS", 8081), ("USERS_ADMIN", 9091)];
        let inventory = [("INVENTORY", 8082), ("INVENTORY_GRPC", 50052), ("INVENTORY_ADMIN", 9092)];
        let gateway = [("GATEWAY", 8080), ("GATEWAY_ADMIN", 9093)];
        let ports = users.into_iter().chain(inventory).chain(gateway);
        command.envs(ports.map(|(name, port)| (format!("{name}_ADDR"), self.address(port))));
        command
    }

    /// Starts it and waits until it is up.
    pub fn up(&self) -> Up {
        Up::run(&mut self.up_command())
    }

    /// The value of a variable in the environment that a service was last started with.
    pub fn given(&self, service: &str, variable: &str) -> Option<String> {
        let environment = fs::read_to_string(self.path(&format!("{service}.json"))).unwrap();
        let (_, rest) = environment.split_once(&format!("\"{variable}\": \""))?;
        Some(rest.split_once('"').unwrap().0.to_owned())
    }

    /// The pid of a service's process.
    pub fn running(&self, service: &str) -> i32 {
        let path = self.path(service);
        let processes =
            fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
        let mut matching =
            processes.filter(|pid| fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == path));
        matching.next().unwrap()
    }

    /// The pids of the processes of a service that have logged `what`.
    pub fn noted(&self, service: &str, what: &str) -> Vec<i32> {
        let log = fs::read_to_string(self.path(&format!("{service}.log"))).unwrap_or_default();
        let lines = log.lines().filter_map(|line| line.split_once(' '));
        lines.filter(|(word, _)| *word == what).map(|(_, pid)| pid.parse().unwrap()).collect()
    }

    /// Runs SQL as the superuser.
    pub fn sql(&self, database: &str, sql: &str) -> String {
        let socket = self.path("data/run");
        let url = format!("host={} user=postgres dbname={database}", socket.display());
        psql(&url, sql).unwrap()
    }

    /// The pid of the Postgres server.
    pub fn postgres(&self) -> i32 {
        let file = fs::read_to_string(self.path("data/pgdata/postmaster.pid")).unwrap();
        file.lines().next().unwrap().parse().unwrap()
    }
}

/// A running `hedgerow up`.
pub struct Up {
    child: Child,
    output: Receiver<String>,
}

impl Up {
    /// Starts it and waits until it is up.
    pub fn run(command: &mut Command) -> Self {
        Self::run_until(command, "Try:")
    }

    /// Starts it and waits for a line of its output that contains `text`.
    pub fn run_until(command: &mut Command, text: &str) -> Self {
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (tell, output) = channel();
        let pipes: [Box<dyn Read + Send>; 2] =
            [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        for pipe in pipes {
            let tell = tell.clone();
            thread::spawn(move || {
                BufReader::new(pipe).lines().map_while(Result::ok).try_for_each(|line| tell.send(line))
            });
        }
        let up = Self { child, output };
        up.wait_for_line(text);
        up
    }

    /// Waits for a line of its output that contains `text`.
    pub fn wait_for_line(&self, text: &str) -> String {
        let deadline = Instant::now() + DEADLINE;
        let mut seen = Vec::new();
        while let Ok(line) = self.output.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            if line.contains(text) {
                return line;
            }
            seen.push(line);
        }
        panic!("no line with {text:?} in:\n{}", seen.join("\n"));
    }

    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// Sends a signal and waits for the exit.
    pub fn end(mut self, signal: Signal) -> ExitStatus {
        send(self.pid(), signal);
        wait_until("hedgerow exits", || self.child.try_wait().unwrap().is_some());
        self.child.wait().unwrap()
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            send(self.pid(), Signal::SIGTERM);
            let _ = self.child.wait();
        }
    }
}

/// Lets the services write to a folder: under root they run as another account.
pub fn open_to_all(folder: &Path) {
    fs::set_permissions(folder, Permissions::from_mode(0o777)).unwrap();
}

/// Whether the tests run as root. Says otherwise that the test is skipped, to the terminal itself: the output of a test
/// that passes is not shown.
pub fn is_root(test: &str) -> bool {
    let is_root = Uid::effective().is_root();
    if !is_root {
        stderr().write_all(format!("skipped: {test} needs root\n").as_bytes()).unwrap();
    }
    is_root
}

/// Runs a command that must fail, and returns its error output.
pub fn failure(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.stdin(Stdio::null()).output().unwrap();
    assert!(!status.success());
    assert_eq!(String::from_utf8_lossy(&stdout), "");
    String::from_utf8(stderr).unwrap()
}

pub fn psql(url: &str, sql: &str) -> Result<String, String> {
    let output = Command::new("psql").args([url, "-X", "-At", "-c", sql]).output().unwrap();
    let text = |bytes| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

pub fn send(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).unwrap();
}

/// Whether the process is running; zombies do not count.
pub fn lives(pid: i32) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|arguments| !arguments.is_empty())
}

pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}
