//! A folder that is opened once. Everything in it is then reached through the open handle, so that whoever owns the
//! folder, or one above it, cannot send root elsewhere by a symbolic link.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
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
        let mut folder = Self::root()?;
        let mut rest = components(path);
        let mut links = 0;
        while let Some(name) = rest.pop() {
            match fs::read_link(folder.at(&name)) {
                Ok(target) if links < MAX_LINKS => {
                    links += 1;
                    folder.refuse_link(&name)?;
                    if target.is_absolute() {
                        folder = Self::root()?;
                    }
                    rest.extend(components(&target));
                }
                Err(error) if error.kind() == ErrorKind::NotFound && mode.is_some() => {
                    folder = folder.create(&name, mode.unwrap_or_default())?;
                }
                _ => folder = folder.enter(&name)?,
            }
        }
        Ok(folder)
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

    /// Opens a file in it, which must not be a symbolic link. Nor does a named pipe block.
    pub fn open_file(&self, name: &str, options: &mut OpenOptions) -> io::Result<File> {
        options.custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits()).open(self.at(name))
    }

    /// Fails if root would follow a symbolic link that another user can have made.
    pub fn refuse_link(&self, name: impl AsRef<OsStr>) -> Result<(), Error> {
        let owner = self.owner()?;
        if Uid::effective().is_root() && !owner.is_root() {
            return Err(Error::Link(self.path.join(name.as_ref())));
        }
        Ok(())
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
