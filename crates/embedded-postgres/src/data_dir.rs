//! The folder that holds everything of one server, and the lock that limits it to one supervisor.
//!
//! ```text
//! DIR/lock          locked with flock while a supervisor runs; contains its pid
//! DIR/pgdata/       the cluster, owned by the account that runs the server
//! DIR/pg_hba.conf   rewritten at every start
//! DIR/postgres.log  the server's log
//! DIR/run/          the socket, unless its path would be too long
//! ```
//!
//! Whoever runs the server can keep secrets in further folders: see [`DataDir::private_folder`].
//!
//! All files belong to that account, and only it and root can open them: whoever can open the lock can hold it.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::folder::Folder;
use crate::{Account, CLUSTER, Error, PrivateFolder};

/// A data folder locked by this process. Dropping it releases the lock.
#[derive(Debug)]
pub struct DataDir {
    pub(crate) folder: Folder,
    lock: File,
    account: Account,
    /// Removes a temporary folder on drop; declared after `lock`, which is inside the folder.
    _temporary: Option<TempDir>,
}

impl DataDir {
    /// Creates the folder if it is missing, and locks it.
    ///
    /// # Errors
    /// Returns [`Error::InUse`] if another process holds the lock. If the current user is root, returns
    /// [`Error::Unreachable`] if the server's account cannot enter the folder, and [`Error::Link`] if the path contains
    /// a symbolic link in a folder that another user owns, or [`Error::HardLink`] if the lock is one in such a folder.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Self::take(path, None)
    }

    /// Creates a temporary folder, removed on drop.
    ///
    /// # Errors
    /// Returns an error if the folder cannot be created.
    pub fn temporary() -> Result<Self, Error> {
        let temporary = tempfile::Builder::new().prefix("hedgerow-").tempdir();
        let temporary = temporary.map_err(Error::io("create a temporary folder"))?;
        let path = temporary.path().to_owned();
        Folder::open(&path, None)?.set_mode(mode(&Account::for_data_dir(&path)?))?;
        Self::take(&path, Some(temporary))
    }

    fn take(path: &Path, temporary: Option<TempDir>) -> Result<Self, Error> {
        let path = Self::resolve(path)?;
        let account = Account::for_data_dir(&path)?;
        if !account.can_enter(&path) {
            return Err(Error::Unreachable { account: account.name, dir: path });
        }
        let folder = Folder::open(&path, Some(mode(&account)))?;
        let lock = lock(&folder, &account)?;
        Ok(Self { folder, lock, account, _temporary: temporary })
    }

    /// Returns the absolute path that `path` refers to, without symbolic links and `..`, whether it exists or not.
    ///
    /// # Errors
    /// Returns an error if that cannot be determined, such as for want of access, and [`Error::Link`] as
    /// [`open`](Self::open) does.
    pub fn resolve(path: &Path) -> Result<PathBuf, Error> {
        Folder::resolve(&std::path::absolute(path).map_err(Error::io(format!("open {}", path.display())))?)
    }

    /// Whether there are data in `path`, which must be absolute.
    ///
    /// # Errors
    /// Returns an error if that cannot be determined, such as for want of access.
    pub fn has_data(path: &Path) -> Result<bool, Error> {
        Ok(Folder::find(&path.join(CLUSTER))?.is_some())
    }

    /// The absolute path, without symbolic links.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The account that owns the data.
    #[must_use]
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// Opens a folder in it for secrets, which it creates if it is missing.
    ///
    /// # Errors
    /// Returns an error if the folder cannot be created, or its mode cannot be set.
    pub fn private_folder(&self, name: &str) -> Result<PrivateFolder, Error> {
        PrivateFolder::create(&self.folder, name, &self.account)
    }

    /// The folder of the cluster. The owner of the data folder may have made it a symbolic link, to another disk.
    pub(crate) fn cluster(&self) -> Result<Folder, Error> {
        Folder::open(&self.path().join(CLUSTER), None)
    }
}

impl Drop for DataDir {
    fn drop(&mut self) {
        // Unlock explicitly: closing the file does not release the lock while a child that another thread just forked
        // still has it open.
        let _ = self.lock.set_len(0).and_then(|()| self.lock.unlock());
    }
}

/// Locks the folder. The kernel releases the lock with the process, so only the pid in the file can be stale.
fn lock(folder: &Folder, account: &Account) -> Result<File, Error> {
    let failed = || Error::io(format!("lock {}", folder.path().join("lock").display()));
    let mut file = folder.open_or_create("lock", OpenOptions::new().read(true).write(true), account)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            file.read_to_string(&mut holder).map_err(failed())?;
            return Err(Error::InUse { dir: folder.path().to_owned(), holder: holder.trim().parse().ok() });
        }
        Err(TryLockError::Error(source)) => return Err(failed()(source)),
    }
    file.set_len(0).and_then(|()| file.rewind()).map_err(failed())?;
    writeln!(file, "{}", std::process::id()).map_err(failed())?;
    Ok(file)
}

/// A different account must be able to traverse the folder to reach its own files.
fn mode(account: &Account) -> u32 {
    if account.is_different() { 0o711 } else { 0o700 }
}
