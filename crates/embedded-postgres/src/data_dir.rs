//! The folder everything of one server is in, and the lock that keeps it to one supervisor.
//!
//! ```text
//! DIR/lock          held with flock while a supervisor lives; holds its pid
//! DIR/pgdata/       the cluster, owned by the account that runs the server
//! DIR/pg_hba.conf   written at each start
//! DIR/postgres.log  the server's log
//! DIR/run/          the socket, unless its path would be too long
//! ```

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::{Account, Error};

/// A data folder that this process holds. Dropping it lets others have it.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    lock: File,
    abandoned: bool,
    pub(crate) account: Account,
    /// Removes a temporary folder at the end; after `lock`, which is in it.
    _temporary: Option<TempDir>,
}

impl DataDir {
    /// Makes the folder where it is missing, and takes its lock.
    ///
    /// # Errors
    /// [`Error::InUse`] while another process has it; [`Error::Unreachable`] when root runs this and the
    /// server's account cannot get there.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Self::take(path, None)
    }

    /// A new folder in the system's place for temporary files, removed at the end.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn temporary() -> Result<Self, Error> {
        let folder = tempfile::Builder::new().prefix("hedgerow-").tempdir();
        let folder = folder.map_err(Error::io("make a temporary folder"))?;
        let path = folder.path().to_owned();
        set_mode(&path, mode(&Account::of(&path)?))?;
        Self::take(&path, Some(folder))
    }

    fn take(path: &Path, temporary: Option<TempDir>) -> Result<Self, Error> {
        let account = Account::of(path)?;
        if !account.can_enter(path) {
            return Err(Error::Unreachable { account: account.name, dir: path.to_owned() });
        }
        create(path, mode(&account))?;
        let path = path.canonicalize().map_err(Error::io(format!("open {}", path.display())))?;
        let (lock, abandoned) = lock(&path)?;
        Ok(Self { path, lock, abandoned, account, _temporary: temporary })
    }

    /// Where it is: absolute, without links.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the supervisor before this one was killed, so that what it had started may still be dying.
    #[must_use]
    pub fn was_abandoned(&self) -> bool {
        self.abandoned
    }
}

impl Drop for DataDir {
    fn drop(&mut self) {
        // An empty lock file says that its last holder left in good order. The lock is let go by name, as
        // closing would not do while a child that another thread just forked still has the file.
        let _ = self.lock.set_len(0).and_then(|()| self.lock.unlock());
    }
}

/// The lock dies with the process: no stale one is ever left, only the pid in it.
fn lock(dir: &Path) -> Result<(File, bool), Error> {
    let path = dir.join("lock");
    let failed = || Error::io(format!("lock {}", path.display()));
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o644)
        .open(&path)
        .map_err(failed())?;
    let locked = file.try_lock();
    let mut holder = String::new();
    file.read_to_string(&mut holder).map_err(failed())?;
    let holder = holder.trim().parse().ok();
    match locked {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(Error::InUse { dir: dir.to_owned(), holder }),
        Err(TryLockError::Error(source)) => return Err(failed()(source)),
    }
    file.set_len(0).and_then(|()| file.rewind()).map_err(failed())?;
    writeln!(file, "{}", std::process::id()).map_err(failed())?;
    Ok((file, holder.is_some()))
}

/// Another account has to pass through to what is its own.
fn mode(account: &Account) -> u32 {
    if account.is_other() { 0o711 } else { 0o700 }
}

/// Like `create_dir_all`, with a mode that does not depend on the umask. What exists is left alone.
fn create(path: &Path, mode: u32) -> Result<(), Error> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        create(parent, mode)?;
    }
    match DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(Error::io(format!("make {}", path.display()))(error))
        }
        _ => set_mode(path, mode),
    }
}

fn set_mode(path: &Path, mode: u32) -> Result<(), Error> {
    fs::set_permissions(path, Permissions::from_mode(mode))
        .map_err(Error::io(format!("set the mode of {}", path.display())))
}
