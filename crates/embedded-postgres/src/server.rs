//! The server process, from start to stop.

use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::installation::Installation;
use crate::log::Log;
use crate::process::{self, PidFile};
use crate::{DataDir, Error, PORT, SUPERUSER, cluster, socket, url};

/// How often to say what a server that is starting does. After a crash it replays its write-ahead log first, which can
/// take an hour; from version 15 on it logs its progress.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);

/// How long the children of a killed server may take to release its shared memory.
const ORPHANS_DEADLINE: Duration = Duration::from_secs(10);

/// The settings of a server.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Whether committed data survives a crash of the machine. Off is faster, for data that may be lost.
    pub fsync: bool,
    /// The maximum number of concurrent connections.
    pub max_connections: u16,
    /// Called every ten seconds while the server starts, with the last line of its log.
    pub progress: fn(&str),
}

impl Default for Settings {
    fn default() -> Self {
        Self { fsync: true, max_connections: 100, progress: |_| {} }
    }
}

impl Settings {
    /// Settings for disposable data and tests that run in parallel.
    #[must_use]
    pub fn for_tests() -> Self {
        Self { fsync: false, max_connections: 300, ..Self::default() }
    }
}

/// A running Postgres server. It is stopped on drop, and also if this process is killed.
#[derive(Debug)]
pub struct Server {
    running: Option<Running>,
    installation: Installation,
    settings: Settings,
    socket_dir: PathBuf,
    data: DataDir,
}

#[derive(Debug)]
struct Running {
    child: Child,
    /// Dropping it ends the thread that spawned the server.
    _thread: mpsc::Sender<()>,
}

impl Server {
    /// Starts a server on `data`, which is initialized first if it is new. A server left behind by a killed supervisor
    /// is stopped first. Returns once the server accepts connections.
    ///
    /// # Errors
    /// Returns an error if the server cannot be started; see [`Error`].
    pub fn start(data: DataDir, settings: &Settings) -> Result<Self, Error> {
        let installation = cluster::prepare(&data, settings.fsync)?;
        process::stop_orphan(&data.cluster()?)?;
        let socket_dir = socket::prepare(&data)?;
        let settings = settings.clone();
        let mut server = Self { running: None, installation, settings, socket_dir, data };
        server.start_again()?;
        Ok(server)
    }

    /// Opens `dir` and starts a server on it.
    ///
    /// # Errors
    /// Returns an error if the server cannot be started; see [`Error`].
    pub fn open(dir: &Path, settings: &Settings) -> Result<Self, Error> {
        Self::start(DataDir::open(dir)?, settings)
    }

    /// Starts a server on a temporary folder, which is removed when the server is dropped.
    ///
    /// # Errors
    /// Returns an error if the server cannot be started; see [`Error`].
    pub fn temporary(settings: &Settings) -> Result<Self, Error> {
        Self::start(DataDir::temporary()?, settings)
    }

    /// Starts the server after [`stop`](Self::stop), [`kill`](Self::kill) or a crash, with the same data and URLs. Does
    /// nothing if it is running.
    ///
    /// # Errors
    /// Returns [`Error::Start`], with the last lines of the server's log, if the server does not start.
    pub fn start_again(&mut self) -> Result<(), Error> {
        if self.is_running() {
            return Ok(());
        }
        self.running = None;
        // Children of a killed server exit shortly after it; until then no other server can start.
        let started = process::wait_for(ORPHANS_DEADLINE, || match self.launch() {
            Err(Error::Start { tail, .. }) if tail.contains("is still in use") => None,
            result => Some(result),
        });
        self.running = Some(started.unwrap_or_else(|| self.launch())?);
        Ok(())
    }

    /// Starts the server and waits until it is ready, as long as it runs.
    fn launch(&self) -> Result<Running, Error> {
        let log = Log::open(&self.data.folder, self.data.account())?;
        let cluster = self.data.cluster()?;
        let mut running = self.spawn(&log, cluster.path()).map_err(Error::io("run postgres"))?;
        let pid = running.pid();
        loop {
            let up = process::wait_for(PROGRESS_INTERVAL, || match running.child.try_wait() {
                Ok(None) => (PidFile::read(&cluster)? == PidFile { pid, ready: true }).then_some(Ok(())),
                Ok(Some(status)) => Some(Err(format!("it exited ({status})"))),
                Err(error) => Some(Err(error.to_string())),
            });
            match up {
                Some(Ok(())) => return Ok(running),
                Some(Err(reason)) => return Err(log.failure(reason)),
                None => (self.settings.progress)(&log.last_line().unwrap_or_default()),
            }
        }
    }

    fn spawn(&self, log: &Log, cluster: &Path) -> io::Result<Running> {
        let mut command = self.data.account().command("INT", self.installation.bin.join("postgres"));
        command.arg("-D").arg(cluster).args(["-p", &PORT.to_string()]);
        let on = |yes| if yes { "on" } else { "off" };
        for (name, value) in [
            ("listen_addresses", ""),
            ("unix_socket_directories", &quoted(&self.socket_dir)),
            ("hba_file", &self.data.path().join("pg_hba.conf").to_string_lossy()),
            ("logging_collector", "off"),
            ("max_connections", &self.settings.max_connections.to_string()),
            ("fsync", on(self.settings.fsync)),
            ("synchronous_commit", on(self.settings.fsync)),
            ("full_page_writes", on(self.settings.fsync)),
        ] {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        // Its own process group, so that Ctrl-C in a terminal reaches the supervisor only.
        cluster::with_clean_environment(&mut command).process_group(0);
        command.stdin(Stdio::null()).stdout(log.file.try_clone()?).stderr(log.file.try_clone()?);
        spawn_from_thread(command)
    }

    /// Stops the server like `pg_ctl stop -m fast`: connections are closed, committed data is safe.
    pub fn stop(&mut self) {
        if let Some(mut running) = self.running.take() {
            running.stop();
        }
    }

    /// Kills the server and all its children, simulating a crash.
    pub fn kill(&mut self) {
        if let Some(mut running) = self.running.take() {
            process::signal_all(running.pid(), Signal::SIGKILL);
            let _ = running.child.wait();
        }
    }

    /// Freezes the server and all its children, simulating a machine that hangs: connections stay open but get no
    /// response until the guard is dropped.
    #[must_use]
    pub fn freeze(&self) -> Frozen<'_> {
        Frozen::new(self)
    }

    /// Whether the server process is running.
    pub fn is_running(&mut self) -> bool {
        self.running.as_mut().is_some_and(|running| matches!(running.child.try_wait(), Ok(None)))
    }

    /// The server's process id, if it is running.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.running.as_ref().map(|running| running.child.id())
    }

    /// The folder of the socket, for `PGHOST`.
    #[must_use]
    pub fn socket_dir(&self) -> &Path {
        &self.socket_dir
    }

    /// The folder of the data, the lock and the log.
    #[must_use]
    pub fn data_dir(&self) -> &DataDir {
        &self.data
    }

    /// The connection URL of `role` for `database`, as understood by `sqlx` and `psql`.
    #[must_use]
    pub fn url(&self, role: &str, password: &str, database: &str) -> String {
        url::url(&self.socket_dir, role, Some(password), database)
    }

    /// The superuser's connection URL for `database`, without a password.
    #[must_use]
    pub fn superuser_url(&self, database: &str) -> String {
        url::url(&self.socket_dir, SUPERUSER, None, database)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
        if !self.socket_dir.starts_with(self.data.path()) {
            let _ = std::fs::remove_dir(&self.socket_dir);
        }
    }
}

impl Running {
    fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    fn stop(&mut self) {
        // An error means that the child no longer exists.
        let child = &mut self.child;
        process::shut_down(child.id().cast_signed(), || child.try_wait().transpose());
    }
}

/// A frozen server, which resumes when this guard is dropped.
#[derive(Debug)]
pub struct Frozen<'a>(&'a Server);

impl<'a> Frozen<'a> {
    fn new(server: &'a Server) -> Self {
        let frozen = Self(server);
        frozen.signal(Signal::SIGSTOP);
        frozen
    }

    fn signal(&self, signal: Signal) {
        if let Some(running) = &self.0.running {
            process::signal_all(running.pid(), signal);
        }
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        self.signal(Signal::SIGCONT);
    }
}

/// Spawns the server from a thread that lives as long as it: the parent-death signal is tied to the spawning thread,
/// and the caller's may be a short-lived test thread.
fn spawn_from_thread(mut command: Command) -> io::Result<Running> {
    let (report, spawned) = mpsc::channel();
    let (keep_alive, released) = mpsc::channel::<()>();
    thread::Builder::new().name("postgres-spawner".to_owned()).spawn(move || {
        let _ = report.send(command.spawn());
        let _ = released.recv();
    })?;
    Ok(Running { child: spawned.recv().map_err(io::Error::other)??, _thread: keep_alive })
}

/// Quotes an element of a list of folders.
fn quoted(folder: &Path) -> String {
    format!("\"{}\"", folder.to_string_lossy().replace('"', "\"\""))
}
