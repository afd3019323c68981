//! The server's log file, and the part of it that explains a failure.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;

use crate::Error;
use crate::folder::Folder;

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
    pub fn open(folder: &Folder) -> Result<Self, Error> {
        let path = folder.path().join(NAME);
        if fs::symlink_metadata(folder.at(NAME)).is_ok_and(|log| log.len() > MAX_SIZE) {
            let _ = fs::rename(folder.at(NAME), folder.at(format!("{NAME}.1")));
        }
        let failed = || Error::io(format!("open {}", path.display()));
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(true).mode(0o600);
        let file = folder.open_file(NAME, &mut options).map_err(failed())?;
        let start = file.metadata().map_err(failed())?.len();
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
