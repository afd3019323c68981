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

// Whether no migration has created anything: not only tables count. The database was made from template0, where the OIDs
// of all objects are below 16384 (FirstNormalObjectId). Namespaces of temporary tables outlive them.
const IS_EMPTY: &str = "
    SELECT NOT EXISTS (SELECT FROM (
        SELECT oid FROM pg_catalog.pg_namespace WHERE nspname !~ '^pg_(toast_)?temp_'
        UNION ALL SELECT oid FROM pg_catalog.pg_class
        UNION ALL SELECT oid FROM pg_catalog.pg_proc
        UNION ALL SELECT oid FROM pg_catalog.pg_type
        UNION ALL SELECT oid FROM pg_catalog.pg_extension
        UNION ALL SELECT oid FROM pg_catalog.pg_operator
        UNION ALL SELECT oid FROM pg_catalog.pg_cast
        UNION ALL SELECT oid FROM pg_catalog.pg_collation
        UNION ALL SELECT oid FROM pg_catalog.pg_ts_config
        UNION ALL SELECT oid FROM pg_catalog.pg_ts_dict
        UNION ALL SELECT oid FROM pg_catalog.pg_event_trigger
        UNION ALL SELECT oid FROM pg_catalog.pg_publication
        UNION ALL SELECT oid FROM pg_catalog.pg_foreign_data_wrapper
        UNION ALL SELECT oid FROM pg_catalog.pg_default_acl
        UNION ALL SELECT oid FROM pg_catalog.pg_largeobject_metadata
    ) AS object WHERE oid >= 16384)";

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
