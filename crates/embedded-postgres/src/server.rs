//! The server: its process, from start to stop.

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
use crate::{DataDir, Error, PORT, SUPERUSER, cluster, socket, tether, url};

/// How long a server may take to be ready; after a crash it has its log to replay first.
const START_DEADLINE: Duration = Duration::from_mins(1);

/// How long the children of a killed server may take to let go of its memory.
const SETTLE_DEADLINE: Duration = Duration::from_secs(10);

/// How a server is set.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Whether what is committed outlives a crash of the machine. Off is faster, for data that may be lost.
    pub fsync: bool,
    /// How many connections there may be at a time.
    pub max_connections: u16,
}

impl Default for Settings {
    fn default() -> Self {
        Self { fsync: true, max_connections: 100 }
    }
}

impl Settings {
    /// For data that may be lost, and tests that run in parallel.
    #[must_use]
    pub fn for_tests() -> Self {
        Self { fsync: false, max_connections: 300 }
    }
}

/// A Postgres server, stopped when it is dropped, and told to stop when its process is killed.
#[derive(Debug)]
pub struct Server {
    running: Option<Running>,
    installation: Installation,
    settings: Settings,
    cluster: PathBuf,
    socket_dir: PathBuf,
    data: DataDir,
}

#[derive(Debug)]
struct Running {
    child: Child,
    /// Ends the thread that the server is tethered to, when dropped.
    _keeper: mpsc::Sender<()>,
}

impl Server {
    /// Starts a server on `data`, which is initialised where it is new. A server that a killed supervisor left
    /// behind on it is stopped first. Returns once the server takes connections.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn start(data: DataDir, settings: &Settings) -> Result<Self, Error> {
        let (cluster, installation) = cluster::prepare(&data, settings.fsync)?;
        process::stop_orphan(&cluster)?;
        let socket_dir = socket::prepare(&data)?;
        let settings = settings.clone();
        let mut server = Self { running: None, installation, settings, cluster, socket_dir, data };
        server.start_again()?;
        Ok(server)
    }

    /// Opens `dir` and starts a server on it.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn open(dir: &Path, settings: &Settings) -> Result<Self, Error> {
        Self::start(DataDir::open(dir)?, settings)
    }

    /// Starts a server on a temporary folder, which is removed when the server is dropped.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn temporary(settings: &Settings) -> Result<Self, Error> {
        Self::start(DataDir::temporary()?, settings)
    }

    /// Starts it after [`stop`](Self::stop) or [`kill`](Self::kill), with the same data and the same URLs.
    /// Nothing happens while it runs.
    ///
    /// # Errors
    /// [`Error::Start`], with the end of the server's log.
    pub fn start_again(&mut self) -> Result<(), Error> {
        if self.is_running() {
            return Ok(());
        }
        self.running = None;
        // Children of a server that was killed end a moment after it, and until then there is no other.
        let started = process::wait_for(SETTLE_DEADLINE, || match self.launch() {
            Err(Error::Start { tail, .. }) if tail.contains("is still in use") => None,
            result => Some(result),
        });
        self.running = Some(started.unwrap_or_else(|| self.launch())?);
        Ok(())
    }

    fn launch(&self) -> Result<Running, Error> {
        let log = Log::open(self.data.path())?;
        let mut running = self.spawn(&log).map_err(Error::io("run postgres"))?;
        let pid = running.pid();
        let up = process::wait_for(START_DEADLINE, || match running.child.try_wait() {
            Ok(None) => (PidFile::read(&self.cluster)? == PidFile { pid, ready: true }).then_some(Ok(())),
            Ok(Some(status)) => Some(Err(format!("it ended with {status}"))),
            Err(error) => Some(Err(error.to_string())),
        });
        match up {
            Some(Ok(())) => Ok(running),
            Some(Err(reason)) => Err(log.failure(reason)),
            None => {
                let failure = log.failure(format!("it was not ready after {} s", START_DEADLINE.as_secs()));
                running.stop();
                Err(failure)
            }
        }
    }

    fn spawn(&self, log: &Log) -> io::Result<Running> {
        let mut command = tether::tethered("INT", self.installation.bin.join("postgres"));
        command.arg("-D").arg(&self.cluster).args(["-p", &PORT.to_string()]);
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
        // A process group of its own, so that Ctrl-C in a terminal leaves it to its supervisor.
        self.data.account.run_as(cluster::neutral(&mut command)).process_group(0);
        command.stdin(Stdio::null()).stdout(log.file.try_clone()?).stderr(log.file.try_clone()?);
        spawn_kept(command)
    }

    /// Stops it as `pg_ctl stop -m fast` does: connections are closed, what is committed is safe.
    pub fn stop(&mut self) {
        if let Some(mut running) = self.running.take() {
            running.stop();
        }
    }

    /// Kills it with all its processes, as a crash would.
    pub fn kill(&mut self) {
        if let Some(mut running) = self.running.take() {
            process::signal_whole(running.pid(), Signal::SIGKILL);
            let _ = running.child.wait();
        }
    }

    /// Freezes it with all its processes, as a machine that hangs would: connections stay open, and nothing answers on
    /// them until the guard is dropped.
    #[must_use]
    pub fn freeze(&self) -> Frozen<'_> {
        Frozen::new(self)
    }

    /// Whether its process lives.
    pub fn is_running(&mut self) -> bool {
        self.running.as_mut().is_some_and(|running| matches!(running.child.try_wait(), Ok(None)))
    }

    /// The process id, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.running.as_ref().map(|running| running.child.id())
    }

    /// The folder of the socket: what `PGHOST` is set to.
    #[must_use]
    pub fn socket_dir(&self) -> &Path {
        &self.socket_dir
    }

    /// The folder of data, lock and log.
    #[must_use]
    pub fn data_dir(&self) -> &DataDir {
        &self.data
    }

    /// The URL by which `role` opens `database`, for `sqlx` and `psql`.
    #[must_use]
    pub fn url(&self, role: &str, password: &str, database: &str) -> String {
        url::url(&self.socket_dir, role, Some(password), database)
    }

    /// The URL by which the superuser opens `database`, without a password.
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
        // An error here means that there is no such child any more.
        let child = &mut self.child;
        process::shut_down(child.id().cast_signed(), || child.try_wait().transpose());
    }
}

/// A server that was frozen, and goes on when this is dropped.
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
            process::signal_whole(running.pid(), signal);
        }
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        self.signal(Signal::SIGCONT);
    }
}

/// Spawns from a thread that lasts as long as the server: a tether holds to the thread, and the caller's own
/// may be a test's, gone in a moment.
fn spawn_kept(mut command: Command) -> io::Result<Running> {
    let (report, spawned) = mpsc::channel();
    let (keeper, released) = mpsc::channel::<()>();
    thread::Builder::new().name("postgres-keeper".to_owned()).spawn(move || {
        let _ = report.send(command.spawn());
        let _ = released.recv();
    })?;
    Ok(Running { child: spawned.recv().map_err(io::Error::other)??, _keeper: keeper })
}

/// As an element of a list of folders.
fn quoted(folder: &Path) -> String {
    format!("\"{}\"", folder.to_string_lossy().replace('"', "\"\""))
}
