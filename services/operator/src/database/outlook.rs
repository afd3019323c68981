//! What is as wanted and may still turn out badly.

use std::fmt;

use sqlx::{FromRow, query_as};

use super::{Error, Wanted, session::Session, state::State};

/// Something to know about a database that is in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Warning {
    /// The connection limits of all roles made by the operator are more than the server gives together.
    Connections {
        /// The limit of this role.
        limit: i64,
        /// The limits of the others.
        others: i64,
        /// What the server gives to all who are no superusers.
        available: i64,
    },
    /// The role can open these databases too, as everyone can, and the admin may not change that.
    Opens(Vec<String>),
    /// The role is a member of these, and the admin may not change that.
    MemberOf(Vec<String>),
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connections { limit, others: 0, available } => {
                write!(f, "the connection limit is {limit}, and the server gives {available}")
            }
            Self::Connections { limit, others, available } => write!(
                f,
                "the connection limit is {limit}, that of all other services together {others}, and the server gives \
                 {available}"
            ),
            Self::Opens(databases) => {
                write!(f, "the role can open other databases as well: {}", databases.join(", "))
            }
            Self::MemberOf(roles) => write!(f, "the role is a member of other roles: {}", roles.join(", ")),
        }
    }
}

#[derive(FromRow)]
struct Outlook {
    available: i64,
    others: i64,
    opens: Vec<String>,
}

// Others are told by their marks, of whatever installation. A setting that this version has not got is NULL.
const OUTLOOK: &str = "
    SELECT current_setting('max_connections')::bigint
               - current_setting('superuser_reserved_connections')::bigint
               - coalesce(current_setting('reserved_connections', true)::bigint, 0) AS available,
           (SELECT coalesce(sum(rolconnlimit), 0) FROM pg_roles
            WHERE rolconnlimit > 0 AND rolname <> $1
              AND shobj_description(oid, 'pg_authid') LIKE 'hedgerow.dev/microservice %') AS others,
           ARRAY(SELECT datname::text FROM pg_database
                 WHERE datname <> $1 AND datallowconn AND datconnlimit <> -2
                   AND has_database_privilege($1, oid, 'CONNECT')
                 ORDER BY 1) AS opens";

/// Looks once all is as wanted.
pub(super) async fn look(session: &mut Session, state: &State, wanted: &Wanted) -> Result<Vec<Warning>, Error> {
    let Outlook { available, others, opens } = session.read_one(query_as(OUTLOOK).bind(wanted.name.clone())).await?;
    let limit = i64::from(wanted.connection_limit);
    let memberships = state.role.iter().flat_map(|role| &role.memberships);
    let mut groups: Vec<String> = memberships.map(|membership| membership.role.clone()).collect();
    groups.dedup();

    let mut warnings = Vec::new();
    if limit + others > available {
        warnings.push(Warning::Connections { limit, others, available });
    }
    if !opens.is_empty() {
        warnings.push(Warning::Opens(opens));
    }
    if !groups.is_empty() {
        warnings.push(Warning::MemberOf(groups));
    }
    Ok(warnings)
}
