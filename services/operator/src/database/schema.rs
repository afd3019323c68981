//! What is in a service's database: looked at as its role, as nothing in there can be trusted with more.

use sqlx::query_as;

use super::{Error, Server, identifier::Identifier, plan, plan::Step, session::Session};

// Since Postgres 15 `public` belongs to whoever owns the database, by a role that stands for it.
const PUBLIC_IS_OWN: &str = "
    SELECT pg_get_userbyid(nspowner) IN (current_user, 'pg_database_owner')
       AND NOT EXISTS (SELECT FROM pg_catalog.aclexplode(nspacl) WHERE grantee = 0)
    FROM pg_catalog.pg_namespace WHERE nspname = 'public'";

// What extensions bring does not count.
const IS_EMPTY: &str = "
    SELECT NOT EXISTS (
        SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
          AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend
                          WHERE classid = 'pg_catalog.pg_class'::regclass AND objid = c.oid AND deptype = 'e'))";

const HAS_MIGRATIONS: &str = "SELECT to_regclass('_sqlx_migrations') IS NOT NULL";

const VERSION: &str = "SELECT coalesce(max(version), 0)::bigint FROM _sqlx_migrations WHERE success";

/// Makes the schema `public` the role's own. One that was dropped is the service's business.
pub(super) async fn ensure(
    server: &Server,
    mut own: Session,
    name: &Identifier,
    done: &mut Vec<String>,
) -> Result<(), Error> {
    let is_own: Option<(bool,)> = own.read(query_as(PUBLIC_IS_OWN)).await?.pop();
    own.close().await;
    if is_own == Some((false,)) {
        let steps = plan::mend_schema(name);
        let mut admin = server.admin_in(name.raw()).await?;
        admin.run(&steps).await?;
        admin.close().await;
        done.extend(steps.iter().map(Step::done));
    }
    Ok(())
}

/// See [`Server::schema_version`].
pub(super) async fn version(own: &mut Session) -> Result<Option<i64>, Error> {
    let (is_empty,): (bool,) = own.read_one(query_as(IS_EMPTY)).await?;
    if is_empty {
        return Ok(Some(0));
    }
    let (has_migrations,): (bool,) = own.read_one(query_as(HAS_MIGRATIONS)).await?;
    if !has_migrations {
        return Ok(None);
    }
    match own.read_one(query_as(VERSION)).await {
        Ok((version,)) => Ok(Some(version)),
        // A table of the same name and another form, or one that the role may not read.
        Err(Error::Sql { .. } | Error::Refused { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
