//! Errors, worded for readers of an object's status. None contains a secret.

use std::{io, time::Duration};

use sqlx::postgres::PgDatabaseError;

use super::{identifier::Invalid, owner::Owner};

/// What to do if the name of a role or database is taken: the field is immutable.
pub(super) const OTHER_NAME: &str = "delete the object and create it with another `database.name`";

/// Why a role and its database are not as specified.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// A name or annotation is not allowed.
    #[error(transparent)]
    Invalid(#[from] Invalid),

    /// The server does not respond in time, does not speak the Postgres protocol, or is starting or stopping.
    #[error("cannot reach the database server {server}: {reason}")]
    Unreachable {
        /// Host and port.
        server: String,
        /// The cause.
        reason: String,
    },

    /// The server accepts the login of the admin, but does not let it read the catalog in time.
    #[error("the database server {server} does not respond to queries: {reason}")]
    Unresponsive {
        /// Host and port.
        server: String,
        /// The cause.
        reason: String,
    },

    /// The server does not support TLS, or its certificate is not trusted.
    #[error("the TLS handshake with the database server {server} failed: {reason}")]
    Tls {
        /// Host and port.
        server: String,
        /// The cause.
        reason: String,
    },

    /// The password is wrong or the role does not exist.
    #[error("the database server {server} rejected the password of {role:?}: {reason}")]
    WrongPassword {
        /// Host and port.
        server: String,
        /// The admin or the role of the service.
        role: String,
        /// The message from Postgres.
        reason: String,
    },

    /// The role may not log in, for example because of `pg_hba.conf`.
    #[error("the database server {server} rejected the login of {role:?}: {reason}")]
    Login {
        /// Host and port.
        server: String,
        /// The admin or the role of the service.
        role: String,
        /// The message from Postgres.
        reason: String,
    },

    /// All connections of the server are in use.
    #[error("the database server {server} has no free connections: {reason}")]
    TooManyConnections {
        /// Host and port.
        server: String,
        /// The message from Postgres.
        reason: String,
    },

    /// Another object owns it.
    #[error("{what} belongs to {}: {OTHER_NAME}, or {adopt}", owner.describe())]
    OwnedByOther {
        /// The role or database.
        what: String,
        /// Its owner.
        owner: Box<Owner>,
        /// How to adopt it.
        adopt: String,
    },

    /// Hedgerow did not create it.
    #[error("{0}")]
    NotOwned(String),

    /// The admin lacks a privilege.
    #[error("the admin {admin:?} lacks the privilege to {action}: {reason}")]
    PrivilegeMissing {
        /// The role of the admin.
        admin: String,
        /// What the admin tried to do.
        action: String,
        /// The message from Postgres.
        reason: String,
    },

    /// Postgres returned any other error.
    #[error("cannot {action}: {reason}")]
    Sql {
        /// What was attempted.
        action: String,
        /// The message from Postgres.
        reason: String,
    },
}

impl Error {
    /// The kind of error, as the reason of a condition.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "InvalidName",
            Self::Unreachable { .. } | Self::Unresponsive { .. } => "ServerUnreachable",
            Self::Tls { .. } => "TlsFailed",
            Self::WrongPassword { .. } => "WrongPassword",
            Self::Login { .. } => "LoginRefused",
            Self::TooManyConnections { .. } => "TooManyConnections",
            Self::OwnedByOther { .. } => "DatabaseTaken",
            Self::NotOwned(_) => "DatabaseNotOurs",
            Self::PrivilegeMissing { .. } => "PrivilegeMissing",
            Self::Sql { .. } => "DatabaseError",
        }
    }

    /// Whether it may be the server that does not respond, or the admin that cannot log in.
    #[must_use]
    pub fn is_about_server(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. }
                | Self::Unresponsive { .. }
                | Self::Tls { .. }
                | Self::WrongPassword { .. }
                | Self::Login { .. }
                | Self::TooManyConnections { .. }
        )
    }

    /// Whether the role or database belongs to something else. Retrying does not help until someone changes that.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Invalid(_) | Self::OwnedByOther { .. } | Self::NotOwned(_))
    }
}

/// A server and the role that logs in, for error messages.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    /// Host and port.
    pub(super) server: String,
    /// The role that logs in.
    pub(super) role: String,
    /// Whether that is the admin.
    pub(super) is_admin: bool,
}

impl Peer {
    /// The error for a server that did not respond within `limit`.
    pub(super) fn timeout(&self, limit: Duration) -> Error {
        Error::Unreachable { server: self.server.clone(), reason: no_response(limit) }
    }

    /// The error for a read that did not succeed within `limit`. The admin reads only catalogs, which no service can
    /// lock; a service can make reads in its own database slow.
    pub(super) fn read_timeout(&self, limit: Duration) -> Error {
        if self.is_admin {
            return Error::Unresponsive { server: self.server.clone(), reason: no_response(limit) };
        }
        self.timeout(limit)
    }

    /// Classifies an error that occurred in a read.
    pub(super) fn classify_read(&self, error: &sqlx::Error, action: &str) -> Error {
        let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
        // Waiting for a lock, or the statement, took too long.
        if self.is_admin && matches!(code.as_deref(), Some("55P03" | "57014")) {
            let reason = self.classify(error, action).to_string();
            return Error::Unresponsive { server: self.server.clone(), reason };
        }
        self.classify(error, action)
    }

    /// Classifies an error that occurred while trying to do `action`.
    pub(super) fn classify(&self, error: &sqlx::Error, action: &str) -> Error {
        let server = self.server.clone();
        match error {
            sqlx::Error::Database(error) => self.classify_response(error.downcast_ref(), action),
            sqlx::Error::Tls(error) => Error::Tls { server, reason: error.to_string() },
            sqlx::Error::Io(error) => match tls_error(error) {
                Some(reason) => Error::Tls { server, reason },
                None => Error::Unreachable { server, reason: error.to_string() },
            },
            sqlx::Error::Protocol(reason) => Error::Unreachable { server, reason: reason.clone() },
            error => Error::Sql { action: action.to_owned(), reason: error.to_string() },
        }
    }

    /// Classifies by SQLSTATE (appendix A of the Postgres manual).
    fn classify_response(&self, error: &PgDatabaseError, action: &str) -> Error {
        let (server, reason, action) = (self.server.clone(), text(error), action.to_owned());
        match error.code() {
            "28P01" => Error::WrongPassword { server, role: self.role.clone(), reason },
            "28000" => Error::Login { server, role: self.role.clone(), reason },
            "53300" => Error::TooManyConnections { server, reason },
            "57P01" | "57P02" | "57P03" => Error::Unreachable { server, reason },
            "42501" => Error::PrivilegeMissing { admin: self.role.clone(), action, reason },
            _ => Error::Sql { action, reason },
        }
    }
}

fn no_response(limit: Duration) -> String {
    format!("no response within {} s", limit.as_secs())
}

/// Message, detail and hint of an error from Postgres.
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

/// The cause of a failed TLS handshake, which arrives as an I/O error.
fn tls_error(error: &io::Error) -> Option<String> {
    error.get_ref()?.downcast_ref::<rustls::Error>().map(ToString::to_string)
}
