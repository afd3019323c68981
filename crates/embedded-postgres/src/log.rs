//! The server's log file, and what of it explains a failure.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::Error;

/// Beyond this size, in bytes, the log is set aside at a start, in place of the one before.
const FULL: u64 = 8 << 20;

/// How many lines of it an error shows.
const TAIL: usize = 20;

pub struct Log {
    path: PathBuf,
    pub file: File,
    /// Where this start's lines begin.
    begin: u64,
}

impl Log {
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let path = dir.join("postgres.log");
        if fs::metadata(&path).is_ok_and(|log| log.len() > FULL) {
            let _ = fs::rename(&path, dir.join("postgres.log.1"));
        }
        let failed = || Error::io(format!("open {}", path.display()));
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&path).map_err(failed())?;
        let begin = file.metadata().map_err(failed())?.len();
        Ok(Self { path, file, begin })
    }

    /// What the server has said since.
    pub fn read(&self) -> String {
        let mut text = Vec::new();
        let _ = File::open(&self.path).and_then(|mut log| {
            log.seek(SeekFrom::Start(self.begin))?;
            log.read_to_end(&mut text)
        });
        String::from_utf8_lossy(&text).into_owned()
    }

    /// The error for a start that failed.
    pub fn failure(&self, reason: String) -> Error {
        let text = self.read();
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(TAIL)..].join("\n");
        Error::Start { reason, log: self.path.clone(), tail }
    }
}
