//! What can go wrong, each in words that say what to do about it.

use std::io;
use std::path::PathBuf;

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Neither `PATH` nor `/usr/lib/postgresql/*/bin` has a server.
    #[error("no Postgres server is installed (looked on PATH and in /usr/lib/postgresql/*/bin)")]
    NotInstalled,

    /// Run by root, and no account is there to drop to.
    #[error("Postgres does not run as root, and there is no user `postgres` or `nobody` to run it as")]
    NoAccount,

    /// The account that would run the server cannot get to the folder.
    #[error("the user `{account}`, who runs Postgres, cannot enter {}", dir.display())]
    Unreachable {
        /// The account's name.
        account: String,
        /// The folder it cannot enter.
        dir: PathBuf,
    },

    /// Another process holds the data folder's lock.
    #[error("{} is in use by {}", dir.display(), holder.map_or("another process".to_owned(), |pid| format!("process {pid}")))]
    InUse {
        /// The data folder.
        dir: PathBuf,
        /// The process that holds it, where it has said so yet.
        holder: Option<u32>,
    },

    /// The data are of a major version that is not installed.
    #[error(
        "{} was made by Postgres {made_by}, but only {installed} is installed: install Postgres {made_by}, or move the folder away to start afresh",
        dir.display()
    )]
    OtherVersion {
        /// The data folder.
        dir: PathBuf,
        /// The major version that made it.
        made_by: String,
        /// The major versions that are there.
        installed: String,
    },

    /// A socket folder that others could have prepared.
    #[error("{} is not a private folder of the user who runs Postgres: remove it", .0.display())]
    NotPrivate(PathBuf),

    /// `initdb` failed.
    #[error("initdb failed: {0}")]
    Init(String),

    /// The server ended, or was not ready in time.
    #[error("Postgres did not start: {reason}; the end of {}:\n{tail}", log.display())]
    Start {
        /// How it ended.
        reason: String,
        /// The server's log.
        log: PathBuf,
        /// The log's last lines.
        tail: String,
    },

    /// A server that an earlier supervisor left behind cannot be ended.
    #[error("the Postgres server {0}, left behind on this data folder, does not stop")]
    Orphan(i32),

    /// The operating system refused.
    #[error("cannot {action}")]
    Io {
        /// What was being done.
        action: String,
        /// The refusal.
        source: io::Error,
    },
}

impl Error {
    /// For `map_err`: names what was being done.
    pub(crate) fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::Io { action, source }
    }
}
