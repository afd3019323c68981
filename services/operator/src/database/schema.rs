//! Inspects the database of a service, logged in as its role: its contents are not trusted with more privileges.

use sqlx::query_as;

use super::{
    error::Error,
    identifier::Identifier,
    plan,
    server::Server,
    session::{Session, Step},
};

// Since Postgres 15, `public` belongs to `pg_database_owner`, a role that stands for the owner of the database.
const PUBLIC_IS_OWN: &str = "
    SELECT pg_get_userbyid(nspowner) IN (current_user, 'pg_database_owner')
       AND NOT EXISTS (SELECT FROM pg_catalog.aclexplode(nspacl) WHERE grantee = 0)
    FROM pg_catalog.pg_namespace WHERE nspname = 'public'";

// Tables of extensions do not count.
const IS_EMPTY: &str = "
    SELECT NOT EXISTS (
        SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
          AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend
                          WHERE classid = 'pg_catalog.pg_class'::regclass AND objid = c.oid AND deptype = 'e'))";

const HAS_MIGRATIONS: &str = "SELECT to_regclass('_sqlx_migrations') IS NOT NULL";

const VERSION: &str = "SELECT coalesce(max(version), 0)::bigint FROM _sqlx_migrations WHERE success";

/// Makes the role the only owner of the schema `public`, which a service may drop. Returns the schema version; see
/// [`EnsureReport`](super::EnsureReport).
pub(super) async fn ensure(
    server: &Server,
    mut session: Session,
    name: &Identifier,
    changes: &mut Vec<String>,
) -> Result<Option<i64>, Error> {
    let is_own: Option<(bool,)> = session.read(query_as(PUBLIC_IS_OWN)).await?.pop();
    let version = version(&mut session).await?;
    session.close().await;
    if is_own == Some((false,)) {
        let steps = plan::repair_schema(name);
        let mut admin = server.admin_in(name.raw()).await?;
        admin.run(&steps).await?;
        admin.close().await;
        changes.extend(steps.iter().map(Step::change));
    }
    Ok(version)
}

async fn version(session: &mut Session) -> Result<Option<i64>, Error> {
    let (is_empty,): (bool,) = session.read_one(query_as(IS_EMPTY)).await?;
    if is_empty {
        return Ok(Some(0));
    }
    let (has_migrations,): (bool,) = session.read_one(query_as(HAS_MIGRATIONS)).await?;
    if !has_migrations {
        return Ok(None);
    }
    match session.read_one(query_as(VERSION)).await {
        Ok((version,)) => Ok(Some(version)),
        // The table has another shape, or the role may not read it.
        Err(Error::Sql { .. } | Error::PrivilegeMissing { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
