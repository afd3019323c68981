//! The server's log file, and the part of it that explains a failure.

use std::fs::{self, File, Metadata, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;

use crate::folder::Folder;
use crate::{Account, Error};

const NAME: &str = "postgres.log";

/// The size in bytes beyond which the log is rotated at the next start.
const MAX_SIZE: u64 = 8 << 20;

/// How many lines an error message includes.
const TAIL_LINES: usize = 20;

pub struct Log {
    path: PathBuf,
    pub file: File,
    /// The offset at which the lines of this start begin.
    start: u64,
}

impl Log {
    /// Opens the log for appending. One that is too large or belongs to another account is renamed first.
    pub fn open(folder: &Folder, account: &Account) -> Result<Self, Error> {
        let path = folder.path().join(NAME);
        let is_full_or_foreign = |log: Metadata| log.len() > MAX_SIZE || log.uid() != account.uid.as_raw();
        if fs::symlink_metadata(folder.at(NAME)).is_ok_and(is_full_or_foreign) {
            let _ = fs::rename(folder.at(NAME), folder.at(format!("{NAME}.1")));
        }
        let file = folder.open_or_create(NAME, OpenOptions::new().read(true).append(true), account)?;
        let start = file.metadata().map_err(Error::io(format!("open {}", path.display())))?.len();
        Ok(Self { path, file, start })
    }

    /// Returns what the server has logged since it was started.
    pub fn read(&self) -> String {
        let length = self.file.metadata().map_or(0, |log| log.len().saturating_sub(self.start));
        let mut text = vec![0; usize::try_from(length).unwrap_or_default()];
        let read = self.file.read_at(&mut text, self.start).unwrap_or_default();
        text.truncate(read);
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Returns the last line that the server has logged since it was started.
    pub fn last_line(&self) -> Option<String> {
        self.read().lines().last().map(str::to_owned)
    }

    /// Returns the error for a failed start.
    pub fn failure(&self, reason: String) -> Error {
        let text = self.read();
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n");
        Error::Start { reason, log: self.path.clone(), tail }
    }
}
