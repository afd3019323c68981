//! A service started as a process of its own: to be signalled, killed and looked at from outside.

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

/// How long a test waits for what must happen and has no limit of its own: far longer than it takes.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How often a condition is looked at while it is waited for.
const GLANCE: Duration = Duration::from_millis(5);

/// Looks until there is something, and returns it. `what` says what is waited for.
///
/// # Panics
/// When there is nothing by the end of `patience`.
pub async fn eventually<T>(what: &str, patience: Duration, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        // Read before the look: a look that takes long, or a machine that does, is not held against the condition.
        let late = begun.elapsed() >= patience;
        if let Some(found) = look().await {
            return found;
        }
        assert!(!late, "not within {patience:?}: {what}");
        tokio::time::sleep(GLANCE).await;
    }
}

/// A service's program and what it is told. Of the test's own environment it gets nothing but `PATH`.
#[derive(Clone, Debug)]
pub struct Program {
    path: PathBuf,
    arguments: Vec<OsString>,
    variables: Vec<(OsString, OsString)>,
}

impl Program {
    /// The program at `path`, such as `env!("CARGO_BIN_EXE_inventory")`. It is to listen on free ports and to stop
    /// without delay.
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

    /// Runs it to its end.
    ///
    /// # Panics
    /// When it cannot be run, or does not end.
    pub async fn run(&self) -> Finished {
        Process::spawn(self).ended().await
    }

    /// Starts it and waits until it listens.
    ///
    /// # Panics
    /// When it cannot be run, or ends before it listens.
    pub async fn serve(&self) -> Process {
        let mut process = Process::spawn(self);
        let line = eventually("the service listens", PATIENCE, async || {
            let line = process.log().into_iter().find(|line| line["message"] == "listening");
            let lives = line.is_some() || !process.has_ended();
            assert!(lives, "the service ended: {}{}", process.stdout.text(), process.stderr.text());
            line
        })
        .await;
        let address = |name: &str| line[name].as_str().and_then(|text| text.parse().ok()).expect("an address");
        (process.http, process.admin) = (address("http"), address("admin"));
        process.grpc = line["grpc"].as_str().map(|_| address("grpc"));
        process
    }
}

/// How a process ended, and what it wrote.
#[derive(Debug)]
pub struct Finished {
    /// Its exit status.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Finished {
    /// The exit code; `None` when a signal ended it.
    #[must_use]
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// The lines of its log.
    ///
    /// # Panics
    /// Where a line of standard output is no JSON.
    #[must_use]
    pub fn log(&self) -> Vec<Value> {
        parse(&self.stdout)
    }
}

/// A running process, killed when it is dropped.
#[derive(Debug)]
pub struct Process {
    /// Where it serves requests, once it does.
    pub http: SocketAddr,
    /// Where it serves gRPC, once it does, if ever.
    pub grpc: Option<SocketAddr>,
    /// Where it serves probes and metrics, once it does.
    pub admin: SocketAddr,
    child: Child,
    stdout: Output,
    stderr: Output,
}

impl Process {
    fn spawn(program: &Program) -> Self {
        // Also where the test's own process is killed, nothing stays behind.
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

    /// The URL of a path where it serves requests.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.http)
    }

    /// The URL of a path where it serves probes and metrics.
    #[must_use]
    pub fn admin_url(&self, path: &str) -> String {
        format!("http://{}{path}", self.admin)
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// When it has ended already.
    pub fn signal(&self, signal: Signal) {
        signal::kill(Pid::from_raw(self.child.id().cast_signed()), signal).expect("the process lives");
    }

    /// `kill -9`, and waits for its end.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Asks it to stop by SIGTERM, and waits for its end.
    ///
    /// # Panics
    /// When it does not end.
    pub async fn stop(self) -> Finished {
        self.signal(Signal::SIGTERM);
        self.ended().await
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it does not end.
    pub async fn ended(mut self) -> Finished {
        let status = eventually("the process ends", PATIENCE, async || self.child.try_wait().expect("a child")).await;
        Finished { status, stdout: self.stdout.rest(), stderr: self.stderr.rest() }
    }

    fn has_ended(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|status| status.is_some())
    }

    /// The lines of its log so far.
    ///
    /// # Panics
    /// Where a line of standard output is no JSON.
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
    log.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"))).collect()
}

/// What a process writes, read as it comes by a thread of its own.
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
            // Whole lines only: a half one would be no JSON.
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
