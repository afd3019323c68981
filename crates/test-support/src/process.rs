//! A service started as a separate process, to be signalled, killed and observed from outside.

use std::{
    ffi::{OsStr, OsString},
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    path::PathBuf,
    process::{Child, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

pub use nix::sys::signal::Signal;

use nix::{sys::signal, unistd::Pid};
use serde_json::Value;

/// How long a test waits for something that must happen: far longer than it takes.
pub const TIMEOUT: Duration = Duration::from_secs(30);

/// How often a condition is checked.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Polls until the check returns something, and returns that. `what` describes what the test waits for.
///
/// # Panics
/// Panics if there is nothing by the end of `timeout`.
pub async fn eventually<T>(what: &str, timeout: Duration, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        // Read before the check, so that a slow check or machine does not fail the condition.
        let late = started.elapsed() >= timeout;
        if let Some(found) = check().await {
            return found;
        }
        assert!(!late, "not within {timeout:?}: {what}");
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// A program with its arguments and environment. It inherits only `PATH` from the test.
#[derive(Clone, Debug)]
pub struct Program {
    path: PathBuf,
    arguments: Vec<OsString>,
    variables: Vec<(OsString, OsString)>,
}

impl Program {
    /// Creates a program, such as `env!("CARGO_BIN_EXE_inventory")`, that listens on free ports and stops without
    /// delay.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let program = Self { path: path.into(), arguments: Vec::new(), variables: Vec::new() };
        let any = |program: Self, name| program.variable(name, "127.0.0.1:0");
        ["HTTP_ADDR", "GRPC_ADDR", "ADMIN_ADDR"].into_iter().fold(program, any).variable("DRAIN_DELAY", "0s")
    }

    /// Adds an argument.
    #[must_use]
    pub fn argument(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn variable(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.variables.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Runs the program until it exits.
    ///
    /// # Panics
    /// Panics if it cannot be started or does not exit.
    pub async fn run(&self) -> Finished {
        Process::spawn(self).ended().await
    }

    /// Starts the program and waits until it listens.
    ///
    /// # Panics
    /// Panics if it cannot be started or exits before it listens.
    pub async fn serve(&self) -> Process {
        let mut process = Process::spawn(self);
        let line = eventually("the service listens", TIMEOUT, async || {
            let line = process.log().into_iter().find(|line| line["message"] == "listening");
            let lives = line.is_some() || !process.has_ended();
            assert!(lives, "the service exited: {}{}", process.stdout.text(), process.stderr.text());
            line
        })
        .await;
        let address = |name: &str| line[name].as_str().and_then(|text| text.parse().ok()).expect("an address");
        (process.http, process.admin) = (address("http"), address("admin"));
        process.grpc = line["grpc"].as_str().map(|_| address("grpc"));
        process
    }
}

/// The exit status and the output of a process.
#[derive(Debug)]
pub struct Finished {
    /// The exit status.
    pub status: ExitStatus,
    /// The standard output.
    pub stdout: String,
    /// The standard error.
    pub stderr: String,
}

impl Finished {
    /// Returns the exit code; `None` if a signal ended the process.
    #[must_use]
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Returns the lines of the log.
    ///
    /// # Panics
    /// Panics if a line of standard output is not JSON.
    #[must_use]
    pub fn log(&self) -> Vec<Value> {
        parse(&self.stdout)
    }
}

/// A running process. It is killed when dropped.
#[derive(Debug)]
pub struct Process {
    /// The address that serves requests.
    pub http: SocketAddr,
    /// The address that serves gRPC, if there is one.
    pub grpc: Option<SocketAddr>,
    /// The address that serves probes and metrics.
    pub admin: SocketAddr,
    child: Child,
    stdout: Output,
    stderr: Output,
}

impl Process {
    fn spawn(program: &Program) -> Self {
        // The process does not outlive the test, even if the test is killed.
        let mut command = embedded_postgres::with_pdeathsig("KILL", &program.path);
        command.args(&program.arguments).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.envs(program.variables.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program can be run");
        let stdout = Output::read(child.stdout.take().expect("a pipe"));
        let stderr = Output::read(child.stderr.take().expect("a pipe"));
        let nowhere = SocketAddr::from(([0; 4], 0));
        Self { http: nowhere, grpc: None, admin: nowhere, child, stdout, stderr }
    }

    /// Returns the URL of a path.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.http)
    }

    /// Returns the URL of a path on the admin port.
    #[must_use]
    pub fn admin_url(&self, path: &str) -> String {
        format!("http://{}{path}", self.admin)
    }

    /// Sends a signal to the process.
    ///
    /// # Panics
    /// Panics if it has exited.
    pub fn signal(&self, signal: Signal) {
        signal::kill(Pid::from_raw(self.child.id().cast_signed()), signal).expect("the process runs");
    }

    /// Kills the process with SIGKILL and waits until it has exited.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Sends SIGTERM and waits until the process exits.
    ///
    /// # Panics
    /// Panics if it does not exit.
    pub async fn stop(self) -> Finished {
        self.signal(Signal::SIGTERM);
        self.ended().await
    }

    /// Waits until the process exits.
    ///
    /// # Panics
    /// Panics if it does not exit.
    pub async fn ended(mut self) -> Finished {
        let status = eventually("the process exits", TIMEOUT, async || self.child.try_wait().expect("a child")).await;
        Finished { status, stdout: self.stdout.rest(), stderr: self.stderr.rest() }
    }

    fn has_ended(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|status| status.is_some())
    }

    /// Returns the lines of the log so far.
    ///
    /// # Panics
    /// Panics if a line of standard output is not JSON.
    #[must_use]
    pub fn log(&self) -> Vec<Value> {
        parse(&self.stdout.text())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn parse(log: &str) -> Vec<Value> {
    log.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}"))).collect()
}

/// The output of a process, read by its own thread.
#[derive(Debug)]
struct Output {
    text: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

impl Output {
    fn read(pipe: impl Read + Send + 'static) -> Self {
        let text = Arc::new(Mutex::new(String::new()));
        let sink = text.clone();
        let reader = std::thread::spawn(move || {
            let mut pipe = BufReader::new(pipe);
            let mut line = Vec::new();
            // Whole lines only: part of a line is not JSON.
            while pipe.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
                sink.lock().unwrap_or_else(PoisonError::into_inner).push_str(&String::from_utf8_lossy(&line));
                line.clear();
            }
        });
        Self { text, reader: Some(reader) }
    }

    fn text(&self) -> String {
        self.text.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn rest(&mut self) -> String {
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        self.text()
    }
}
