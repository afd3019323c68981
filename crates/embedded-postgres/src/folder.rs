//! A folder that is opened once. Everything in it is then reached through the open handle, so that whoever owns the
//! folder, or one above it, cannot send root elsewhere by a symbolic link.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown, fchown};
use std::path::{Component, Path, PathBuf};

use nix::fcntl::OFlag;
use nix::unistd::Uid;

use crate::{Account, Error};

/// How many symbolic links a path may contain, as in the kernel.
const MAX_LINKS: usize = 40;

#[derive(Debug)]
pub struct Folder {
    /// The path by which it was opened, without symbolic links.
    path: PathBuf,
    handle: File,
}

impl Folder {
    /// Opens `path`, which must be absolute. With a `mode`, creates what is missing of it, with this mode whatever the
    /// umask is.
    ///
    /// # Errors
    /// Returns [`Error::Link`] if the current user is root and the path contains a symbolic link in a folder that
    /// another user owns.
    pub fn open(path: &Path, mode: Option<u32>) -> Result<Self, Error> {
        let (mut folder, missing) = Self::walk(path)?;
        for name in missing {
            folder = match mode {
                Some(mode) => folder.create(name, mode)?,
                None => folder.enter(name)?,
            };
        }
        Ok(folder)
    }

    /// Returns what `path`, which must be absolute, refers to: a path without symbolic links and `..`.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn resolve(path: &Path) -> Result<PathBuf, Error> {
        let (mut folder, missing) = Self::walk(path)?;
        folder.path.extend(missing);
        Ok(folder.path)
    }

    /// Opens the last folder of `path` that exists. Also returns the names that are missing below it, without `..`.
    fn walk(path: &Path) -> Result<(Self, Vec<OsString>), Error> {
        let mut folder = Self::root()?;
        let mut missing = Vec::new();
        let mut rest = components(path);
        let mut links = 0;
        while let Some(name) = rest.pop() {
            if !missing.is_empty() {
                if name == ".." {
                    missing.pop();
                } else {
                    missing.push(name);
                }
                continue;
            }
            match fs::read_link(folder.at(&name)) {
                Ok(target) if links < MAX_LINKS => {
                    links += 1;
                    folder.refuse_link(&name)?;
                    if target.is_absolute() {
                        folder = Self::root()?;
                    }
                    rest.extend(components(&target));
                }
                Err(error) if error.kind() == ErrorKind::NotFound => missing.push(name),
                _ => folder = folder.enter(&name)?,
            }
        }
        Ok((folder, missing))
    }

    /// Opens `path` if it exists.
    pub fn find(path: &Path) -> Result<Option<Self>, Error> {
        match Self::open(path, None) {
            Ok(folder) => Ok(Some(folder)),
            Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn root() -> Result<Self, Error> {
        let path = PathBuf::from("/");
        Ok(Self { handle: open_handle(&path).map_err(Error::io("open /"))?, path })
    }

    /// Opens a folder in it, which must not be a symbolic link.
    pub fn enter(&self, name: impl AsRef<OsStr>) -> Result<Self, Error> {
        let name = name.as_ref();
        let path = if name == ".." { self.parent() } else { self.path.join(name) };
        let handle = open_handle(&self.at(name)).map_err(Error::io(format!("open {}", path.display())))?;
        Ok(Self { path, handle })
    }

    fn parent(&self) -> PathBuf {
        self.path.parent().unwrap_or(&self.path).to_owned()
    }

    /// Creates a folder in it, unless there is one, and opens it.
    pub fn create(&self, name: impl AsRef<OsStr>, mode: u32) -> Result<Self, Error> {
        let path = self.path.join(name.as_ref());
        match DirBuilder::new().mode(mode).create(self.at(&name)) {
            Ok(()) => {
                let folder = self.enter(name)?;
                folder.set_mode(mode)?;
                Ok(folder)
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => self.enter(name),
            Err(error) => Err(Error::io(format!("create {}", path.display()))(error)),
        }
    }

    /// Creates a folder in it that only `account` and root can open, unless there is one, and opens it. One that exists
    /// keeps its owner: see [`open_or_create`](Self::open_or_create).
    pub fn create_private(&self, name: &str, account: &Account) -> Result<Self, Error> {
        const MODE: u32 = 0o700;
        let is_new = match DirBuilder::new().mode(MODE).create(self.at(name)) {
            Ok(()) => true,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => false,
            Err(error) => return Err(Error::io(format!("create {}", self.path.join(name).display()))(error)),
        };
        let folder = self.enter(name)?;
        if is_new && account.is_different() {
            folder.set_owner(account)?;
        }
        folder.set_mode(MODE)?;
        Ok(folder)
    }

    /// Opens a file in it, which must not be a symbolic link. Nor does a named pipe block.
    pub fn open_file(&self, name: &str, options: &mut OpenOptions) -> io::Result<File> {
        options.custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits()).open(self.at(name))
    }

    /// Creates a file in it, which must not exist. Only `account` and root can open it, whatever the umask is.
    pub fn create_file(&self, name: &str, options: &mut OpenOptions, account: &Account) -> io::Result<File> {
        let file = self.open_file(name, options.create_new(true).mode(0o600))?;
        if account.is_different() {
            fchown(&file, Some(account.uid.as_raw()), Some(account.gid.as_raw()))?;
        }
        file.set_permissions(Permissions::from_mode(0o600))?;
        Ok(file)
    }

    /// Opens a file in it for writing, or creates it as [`create_file`](Self::create_file) does. A file that exists
    /// keeps its owner: in a folder of another user, it could be any file of root that was moved there.
    ///
    /// # Errors
    /// Returns [`Error::HardLink`] if root would write to a file that another user can have linked.
    pub fn open_or_create(&self, name: &str, options: &mut OpenOptions, account: &Account) -> Result<File, Error> {
        let failed = || Error::io(format!("open {}", self.path.join(name).display()));
        match self.create_file(name, &mut options.clone(), account) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let file = self.open_file(name, options).map_err(failed())?;
                if file.metadata().map_err(failed())?.nlink() > 1 && self.is_foreign()? {
                    return Err(Error::HardLink(self.path.join(name)));
                }
                file.set_permissions(Permissions::from_mode(0o600)).map_err(failed())?;
                Ok(file)
            }
            created => created.map_err(failed()),
        }
    }

    /// Fails if root would follow a symbolic link that another user can have made.
    pub fn refuse_link(&self, name: impl AsRef<OsStr>) -> Result<(), Error> {
        if self.is_foreign()? { Err(Error::Link(self.path.join(name.as_ref()))) } else { Ok(()) }
    }

    /// Whether the current user is root and somebody else owns the folder, who can put anything in it.
    fn is_foreign(&self) -> Result<bool, Error> {
        Ok(Uid::effective().is_root() && !self.owner()?.is_root())
    }

    pub fn owner(&self) -> Result<Uid, Error> {
        let metadata = self.handle.metadata().map_err(Error::io(format!("read {}", self.path.display())))?;
        Ok(Uid::from_raw(metadata.uid()))
    }

    pub fn set_mode(&self, mode: u32) -> Result<(), Error> {
        fs::set_permissions(self.at("."), Permissions::from_mode(mode))
            .map_err(Error::io(format!("set the mode of {}", self.path.display())))
    }

    /// Gives it to `account`.
    pub fn set_owner(&self, account: &Account) -> Result<(), Error> {
        chown(self.at("."), Some(account.uid.as_raw()), Some(account.gid.as_raw())).map_err(Error::io(format!(
            "change the owner of {} to {}",
            self.path.display(),
            account.name
        )))
    }

    /// The path of an entry through the open handle. Only the entry itself can be a symbolic link.
    pub fn at(&self, name: impl AsRef<OsStr>) -> PathBuf {
        Path::new("/proc/self/fd").join(self.handle.as_raw_fd().to_string()).join(name.as_ref())
    }

    /// The absolute path, without symbolic links, for other programs and for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Opens a folder without the right to list it.
fn open_handle(path: &Path) -> io::Result<File> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
    OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)
}

/// The names in a path, the first one last.
fn components(path: &Path) -> Vec<OsString> {
    let names =
        path.components().rev().filter(|component| matches!(component, Component::Normal(_) | Component::ParentDir));
    names.map(|component| component.as_os_str().to_owned()).collect()
}
