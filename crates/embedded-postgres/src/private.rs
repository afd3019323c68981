//! A folder for secrets in a data folder.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::path::Path;

use crate::folder::Folder;
use crate::{Account, Error};

/// A folder of mode 0700 whose files have mode 0600. All of it belongs to the account that owns the data.
#[derive(Debug)]
pub struct PrivateFolder {
    folder: Folder,
    account: Account,
}

impl PrivateFolder {
    pub(crate) fn create(parent: &Folder, name: &str, account: &Account) -> Result<Self, Error> {
        Ok(Self { folder: parent.create_private(name, account)?, account: account.clone() })
    }

    /// Opens a folder in it, which it creates if it is missing.
    ///
    /// # Errors
    /// Returns an error if the folder cannot be created, or its mode cannot be set.
    pub fn subfolder(&self, name: &str) -> Result<Self, Error> {
        Self::create(&self.folder, name, &self.account)
    }

    /// The absolute path, without symbolic links.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Reads a file of it; `None` if it is missing.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        read(&self.folder, name)
    }

    /// Reads a file of the private folder at `path`, which must be absolute; `None` if one of them is missing.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read.
    pub fn read_at(path: &Path, name: &str) -> Result<Option<Vec<u8>>, Error> {
        Folder::find(path)?.map_or(Ok(None), |folder| read(&folder, name))
    }

    /// Writes a file of it in one step: whoever opens it finds the old or the new content.
    ///
    /// # Errors
    /// Returns an error if the file cannot be written. The old one then stays.
    pub fn replace(&self, name: &str, content: &[u8]) -> Result<(), Error> {
        let failed = || Error::io(format!("write {}", self.path().join(name).display()));
        let draft = format!(".{name}.new");
        match fs::remove_file(self.folder.at(&draft)) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed()(error)),
            _ => {}
        }
        let file = self.folder.create_file(&draft, OpenOptions::new().write(true), &self.account);
        file.and_then(|mut file| {
            file.write_all(content)?;
            file.sync_all()?;
            fs::rename(self.folder.at(&draft), self.folder.at(name))?;
            File::open(self.folder.at("."))?.sync_all()
        })
        .map_err(failed())
    }
}

fn read(folder: &Folder, name: &str) -> Result<Option<Vec<u8>>, Error> {
    let mut content = Vec::new();
    let opened = folder.open_file(name, OpenOptions::new().read(true));
    match opened.and_then(|mut file| file.read_to_end(&mut content)) {
        Ok(_) => Ok(Some(content)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(format!("read {}", folder.path().join(name).display()))(error)),
    }
}
