//! What can go wrong, in words for whoever reads the status of an object. None of them holds a secret.

use std::{io, time::Duration};

use sqlx::postgres::PgDatabaseError;

use super::Mark;

/// A value that cannot be right, and what would be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(pub(super) &'static str);

/// Why a role and its database are not as they should be.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The name cannot be one.
    #[error(transparent)]
    Invalid(#[from] Invalid),

    /// Nobody answers, or not as Postgres does, or not in time, or it is starting or stopping.
    #[error("the database server {server} cannot be reached: {reason}")]
    Unreachable {
        /// Host and port.
        server: String,
        /// What happened instead.
        reason: String,
    },

    /// The server has no TLS, or a certificate that is not trusted.
    #[error("TLS with the database server {server} failed: {reason}")]
    Tls {
        /// Host and port.
        server: String,
        /// What is wrong.
        reason: String,
    },

    /// The password is not the role's, or there is no such role.
    #[error("the database server {server} does not take the password of {role:?}: {reason}")]
    WrongPassword {
        /// Host and port.
        server: String,
        /// The admin, or the service's own role.
        role: String,
        /// What Postgres says.
        reason: String,
    },

    /// A rule of the server's `pg_hba.conf`.
    #[error("the database server {server} does not let {role:?} log in: {reason}")]
    Login {
        /// Host and port.
        server: String,
        /// The admin, or the service's own role.
        role: String,
        /// What Postgres says.
        reason: String,
    },

    /// All connections of the server are in use.
    #[error("the database server {server} has no connection left: {reason}")]
    TooManyConnections {
        /// Host and port.
        server: String,
        /// What Postgres says.
        reason: String,
    },

    /// Another object was first.
    #[error(
        "{what} belongs to {}/{} of installation {}: choose another name, or adopt it as {:?}",
        mark.namespace(), mark.name(), mark.installation(), mark.to_string()
    )]
    TakenBy {
        /// The role or the database.
        what: String,
        /// The other object.
        mark: Mark,
    },

    /// Somebody else made it.
    #[error("{0}")]
    NotOurs(String),

    /// The admin lacks a privilege.
    #[error("the admin {admin:?} may not {action}: {reason}")]
    Refused {
        /// The admin's role.
        admin: String,
        /// What it tried.
        action: String,
        /// What Postgres says.
        reason: String,
    },

    /// Postgres refuses for another reason.
    #[error("cannot {action}: {reason}")]
    Sql {
        /// What was tried.
        action: String,
        /// What Postgres says.
        reason: String,
    },
}

impl Error {
    /// The kind of error in one word, as the reason of a condition.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "InvalidName",
            Self::Unreachable { .. } => "ServerUnreachable",
            Self::Tls { .. } => "TlsFailed",
            Self::WrongPassword { .. } => "WrongPassword",
            Self::Login { .. } => "LoginRefused",
            Self::TooManyConnections { .. } => "TooManyConnections",
            Self::TakenBy { .. } => "DatabaseTaken",
            Self::NotOurs(_) => "DatabaseNotOurs",
            Self::Refused { .. } => "PrivilegeMissing",
            Self::Sql { .. } => "DatabaseError",
        }
    }

    /// Whether another try is of no use until somebody changes something: another object or someone else has it.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Invalid(_) | Self::TakenBy { .. } | Self::NotOurs(_))
    }
}

/// Who talks to which server: what errors name.
#[derive(Debug, Clone)]
pub(super) struct Party {
    /// Host and port.
    pub(super) server: String,
    /// The role that logs in.
    pub(super) role: String,
}

impl Party {
    /// The server was silent for longer than it may.
    pub(super) fn silent(&self, limit: Duration) -> Error {
        let reason = format!("no answer within {} s", limit.as_secs());
        Error::Unreachable { server: self.server.clone(), reason }
    }

    /// What an error means that came while trying to do `action`.
    pub(super) fn explain(&self, error: &sqlx::Error, action: &str) -> Error {
        let server = self.server.clone();
        match error {
            sqlx::Error::Database(error) => self.explain_answer(error.downcast_ref(), action),
            sqlx::Error::Tls(error) => Error::Tls { server, reason: error.to_string() },
            sqlx::Error::Io(error) => match tls_error(error) {
                Some(reason) => Error::Tls { server, reason },
                None => Error::Unreachable { server, reason: error.to_string() },
            },
            sqlx::Error::Protocol(reason) => Error::Unreachable { server, reason: reason.clone() },
            error => Error::Sql { action: action.to_owned(), reason: error.to_string() },
        }
    }

    /// By SQLSTATE (appendix A of the Postgres manual).
    fn explain_answer(&self, error: &PgDatabaseError, action: &str) -> Error {
        let (server, reason, action) = (self.server.clone(), text(error), action.to_owned());
        match error.code() {
            "28P01" => Error::WrongPassword { server, role: self.role.clone(), reason },
            "28000" => Error::Login { server, role: self.role.clone(), reason },
            "53300" => Error::TooManyConnections { server, reason },
            "57P01" | "57P02" | "57P03" => Error::Unreachable { server, reason },
            "42501" => Error::Refused { admin: self.role.clone(), action, reason },
            _ => Error::Sql { action, reason },
        }
    }
}

/// What Postgres says: the message, what it adds and what it advises.
fn text(error: &PgDatabaseError) -> String {
    let mut text = error.message().to_owned();
    if let Some(detail) = error.detail() {
        text = format!("{text}: {}", detail.replace('\n', "; "));
    }
    if let Some(hint) = error.hint() {
        text = format!("{text} ({hint})");
    }
    text
}

/// A failed handshake comes as an error of the connection.
fn tls_error(error: &io::Error) -> Option<String> {
    error.get_ref()?.downcast_ref::<rustls::Error>().map(ToString::to_string)
}
