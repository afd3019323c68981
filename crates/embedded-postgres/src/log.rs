//! The server's log file, and the part of it that explains a failure.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::Error;

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
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let path = dir.join("postgres.log");
        if fs::metadata(&path).is_ok_and(|log| log.len() > MAX_SIZE) {
            let _ = fs::rename(&path, dir.join("postgres.log.1"));
        }
        let failed = || Error::io(format!("open {}", path.display()));
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&path).map_err(failed())?;
        let start = file.metadata().map_err(failed())?.len();
        Ok(Self { path, file, start })
    }

    /// Returns what the server has logged since it was started.
    pub fn read(&self) -> String {
        let mut text = Vec::new();
        let _ = File::open(&self.path).and_then(|mut log| {
            log.seek(SeekFrom::Start(self.start))?;
            log.read_to_end(&mut text)
        });
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Returns the error for a failed start.
    pub fn failure(&self, reason: String) -> Error {
        let text = self.read();
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n");
        Error::Start { reason, log: self.path.clone(), tail }
    }
}
