//! The folder that holds everything of one server, and the lock that limits it to one supervisor.
//!
//! ```text
//! DIR/lock          locked with flock while a supervisor runs; contains its pid
//! DIR/pgdata/       the cluster, owned by the account that runs the server
//! DIR/pg_hba.conf   rewritten at every start
//! DIR/postgres.log  the server's log
//! DIR/run/          the socket, unless its path would be too long
//! ```

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::{Account, Error};

/// A data folder locked by this process. Dropping it releases the lock.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    lock: File,
    abandoned: bool,
    pub(crate) account: Account,
    /// Removes a temporary folder on drop; declared after `lock`, which is inside the folder.
    _temporary: Option<TempDir>,
}

impl DataDir {
    /// Creates the folder if it is missing, and locks it.
    ///
    /// # Errors
    /// Returns [`Error::InUse`] if another process holds the lock, and [`Error::Unreachable`] if the current user is
    /// root and the server's account cannot enter the folder.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Self::take(path, None)
    }

    /// Creates a temporary folder, removed on drop.
    ///
    /// # Errors
    /// Returns an error if the folder cannot be created.
    pub fn temporary() -> Result<Self, Error> {
        let folder = tempfile::Builder::new().prefix("hedgerow-").tempdir();
        let folder = folder.map_err(Error::io("create a temporary folder"))?;
        let path = folder.path().to_owned();
        set_mode(&path, mode(&Account::for_data_dir(&path)?))?;
        Self::take(&path, Some(folder))
    }

    fn take(path: &Path, temporary: Option<TempDir>) -> Result<Self, Error> {
        let account = Account::for_data_dir(path)?;
        if !account.can_enter(path) {
            return Err(Error::Unreachable { account: account.name, dir: path.to_owned() });
        }
        create(path, mode(&account))?;
        let path = path.canonicalize().map_err(Error::io(format!("open {}", path.display())))?;
        let (lock, abandoned) = lock(&path)?;
        Ok(Self { path, lock, abandoned, account, _temporary: temporary })
    }

    /// The absolute path, without symbolic links.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the previous supervisor was killed, so that its children may still be shutting down.
    #[must_use]
    pub fn was_abandoned(&self) -> bool {
        self.abandoned
    }
}

impl Drop for DataDir {
    fn drop(&mut self) {
        // An empty lock file means that the last holder exited cleanly. Unlock explicitly: closing the file does not
        // release the lock while a child that another thread just forked still has it open.
        let _ = self.lock.set_len(0).and_then(|()| self.lock.unlock());
    }
}

/// Locks the folder. The kernel releases the lock with the process, so only the pid in the file can be stale.
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

/// A different account must be able to traverse the folder to reach its own files.
fn mode(account: &Account) -> u32 {
    if account.is_different() { 0o711 } else { 0o700 }
}

/// Like `create_dir_all`, but with a mode that ignores the umask. Existing folders are left alone.
fn create(path: &Path, mode: u32) -> Result<(), Error> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        create(parent, mode)?;
    }
    match DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(Error::io(format!("create {}", path.display()))(error))
        }
        _ => set_mode(path, mode),
    }
}

fn set_mode(path: &Path, mode: u32) -> Result<(), Error> {
    fs::set_permissions(path, Permissions::from_mode(mode))
        .map_err(Error::io(format!("set the mode of {}", path.display())))
}
