//! Finds risks that remain although the role and the database are as specified.

use sqlx::{FromRow, query_as};

use super::{
    error::Error,
    owner::PREFIX,
    session::Session,
    spec::{DatabaseSpec, Warning},
    state::State,
};

#[derive(FromRow)]
struct Risks {
    available: i64,
    others: i64,
    opens: Vec<String>,
}

// Roles of other services are recognized by their ownership comments, whatever the installation. A setting that this
// version lacks is NULL.
const RISKS: &str = "
    SELECT current_setting('max_connections')::bigint
               - current_setting('superuser_reserved_connections')::bigint
               - coalesce(current_setting('reserved_connections', true)::bigint, 0) AS available,
           (SELECT coalesce(sum(rolconnlimit), 0) FROM pg_roles
            WHERE rolconnlimit > 0 AND rolname <> $1
              AND shobj_description(oid, 'pg_authid') LIKE $2 || '%') AS others,
           ARRAY(SELECT datname::text FROM pg_database
                 WHERE datname <> $1 AND datallowconn AND datconnlimit <> -2
                   AND has_database_privilege($1, oid, 'CONNECT')
                 ORDER BY 1) AS opens";

/// Reads the risks of a database that is as specified.
pub(super) async fn read(session: &mut Session, state: &State, spec: &DatabaseSpec) -> Result<Vec<Warning>, Error> {
    let Risks { available, others, opens } =
        session.read_one(query_as(RISKS).bind(spec.name.clone()).bind(PREFIX)).await?;
    let limit = i64::from(spec.connection_limit);
    let memberships = state.role.iter().flat_map(|role| &role.memberships);
    let mut groups: Vec<String> = memberships.map(|membership| membership.role.clone()).collect();
    groups.dedup();

    let mut warnings = Vec::new();
    if limit + others > available {
        warnings.push(Warning::Connections { limit, others, available });
    }
    if !opens.is_empty() {
        warnings.push(Warning::CanConnectTo(opens));
    }
    if !groups.is_empty() {
        warnings.push(Warning::MemberOf(groups));
    }
    Ok(warnings)
}
