//! Errors, worded so that they say what to do.

use std::io;
use std::path::PathBuf;

use crate::installation::OLDEST;

/// Why a server could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no server on `PATH` or in `/usr/lib/postgresql/*/bin`.
    #[error(
        "no Postgres server found on PATH or in /usr/lib/postgresql/*/bin: install one, such as Debian's `postgresql`"
    )]
    NotInstalled,

    /// All installed versions are too old for the services.
    #[error("the installed Postgres {newest} is too old: install Postgres {oldest} or later", oldest = OLDEST)]
    TooOld {
        /// The newest installed major version.
        newest: u32,
    },

    /// The current user is root, and there is no account to switch to.
    #[error(
        "Postgres refuses to run as root, and there is no user `postgres` or `nobody` to run it as: create one of them"
    )]
    NoAccount,

    /// The account that would run the server cannot enter the folder.
    #[error(
        "Postgres runs as the user `{account}`, which has no access to {}: give it access, or choose another data folder",
        dir.display()
    )]
    Unreachable {
        /// The account's name.
        account: String,
        /// The folder it cannot enter.
        dir: PathBuf,
    },

    /// Root would follow a symbolic link that another user can have made.
    #[error("{} is a symbolic link in a folder of another user, which root does not follow: use the path it refers to", .0.display())]
    Link(PathBuf),

    /// Root would write to a file that another user can have given this name.
    #[error("{} has several hard links and is in a folder of another user, so root does not write to it: remove it", .0.display())]
    HardLink(PathBuf),

    /// Another process has locked the data folder.
    #[error("{} is in use by {}", dir.display(), holder.map_or("another process".to_owned(), |pid| format!("process {pid}")))]
    InUse {
        /// The data folder.
        dir: PathBuf,
        /// The process that holds the lock, if it has recorded its pid.
        holder: Option<u32>,
    },

    /// The data was created by a major version that is too old for the services.
    #[error(
        "{} was created by Postgres {made_by}, which is too old: to start with an empty database on Postgres {oldest} or later, move the folder out of the way",
        dir.display(),
        oldest = OLDEST
    )]
    OldData {
        /// The data folder.
        dir: PathBuf,
        /// The major version that created the data.
        made_by: String,
    },

    /// The data was created by a major version that is not installed.
    #[error(
        "{} was created by Postgres {made_by}, but only {installed} is installed: install Postgres {made_by}, or move the folder out of the way to start with an empty database",
        dir.display()
    )]
    OtherVersion {
        /// The data folder.
        dir: PathBuf,
        /// The major version that created the data.
        made_by: String,
        /// The installed major versions.
        installed: String,
    },

    /// The socket folder may have been created by someone else.
    #[error("{} is not private to the user that runs Postgres: remove it", .0.display())]
    NotPrivate(PathBuf),

    /// `initdb` failed.
    #[error("initdb failed: {0}")]
    Init(String),

    /// The server exited, or was not ready in time.
    #[error("Postgres did not start: {reason}; the last lines of {}:\n{tail}", log.display())]
    Start {
        /// What happened.
        reason: String,
        /// The server's log.
        log: PathBuf,
        /// The log's last lines.
        tail: String,
    },

    /// A server left behind by an earlier supervisor does not stop.
    #[error("a leftover Postgres server on this data folder (process {0}) does not stop: kill it")]
    Orphan(i32),

    /// A system call failed.
    #[error("cannot {action}")]
    Io {
        /// What was attempted.
        action: String,
        /// The system's error.
        source: io::Error,
    },
}

impl Error {
    /// For `map_err`: names what was attempted.
    pub(crate) fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::Io { action, source }
    }
}
