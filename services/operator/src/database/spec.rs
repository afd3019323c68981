//! The desired role and database of a service.

use std::fmt;

use super::owner::{Adoption, Owner};

/// A role and a database of the same name.
#[derive(Clone)]
pub struct DatabaseSpec {
    /// The name of both.
    pub name: String,
    /// The object that owns both.
    pub owner: Owner,
    /// The password of the role. It never appears in `Debug` output.
    pub password: String,
    /// The connection limit of the role; -1 for no limit.
    pub connection_limit: i32,
    /// What may be adopted.
    pub adoption: Adoption,
}

impl fmt::Debug for DatabaseSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DatabaseSpec({:?}, {})", self.name, self.owner)
    }
}

/// The result of [`Server::ensure`](super::Server::ensure).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EnsureReport {
    /// What was changed, such as `created role "x"`; empty if nothing had to be.
    pub changes: Vec<String>,
    /// The schema version of the service: 0 for an empty database, the version of the last migration if `sqlx` runs
    /// them, and `None` if it is unknown.
    pub schema_version: Option<i64>,
    /// Risks that remain.
    pub warnings: Vec<Warning>,
}

/// The result of [`Server::remove`](super::Server::remove).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RemoveReport {
    /// What was changed; empty if nothing was there.
    pub changes: Vec<String>,
}

/// A risk that remains although the role and the database are as specified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Warning {
    /// The connection limits of all roles that operators created exceed what the server offers.
    Connections {
        /// The limit of this role.
        limit: i64,
        /// The sum of the limits of all other services.
        others: i64,
        /// The connections that the server offers to roles other than superusers.
        available: i64,
    },
    /// The role can connect to these databases, because everyone can and the admin cannot change that.
    CanConnectTo(Vec<String>),
    /// The role is a member of these roles and the admin cannot change that.
    MemberOf(Vec<String>),
    /// All connections of the role are in use.
    Exhausted,
    /// The admin may not read the system identifier of the server.
    UnknownServer,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connections { limit, others: 0, available } => {
                write!(f, "the connection limit is {limit}, but the server offers only {available} connections")
            }
            Self::Connections { limit, others, available } => write!(
                f,
                "the connection limits exceed the {available} connections of the server: {limit} for this service and \
                 {others} for all others"
            ),
            Self::CanConnectTo(databases) => {
                write!(f, "the role can connect to other databases: {}", databases.join(", "))
            }
            Self::MemberOf(roles) => write!(f, "the role is a member of other roles: {}", roles.join(", ")),
            Self::Exhausted => f.write_str("all connections of the role are in use"),
            Self::UnknownServer => f.write_str(
                "the admin may not execute pg_control_system(), so another server with a database of this name would not \
                 be noticed",
            ),
        }
    }
}
