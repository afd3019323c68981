//! The current state on the server: the admin, and the role and database of a name.

use sqlx::{FromRow, postgres::PgRow, query_as};

use super::{
    error::Error,
    identifier::Identifier,
    session::{Query, Session},
};

/// The input of a plan.
#[derive(Debug, Clone)]
pub(super) struct State {
    pub(super) admin: Admin,
    pub(super) role: Option<Role>,
    pub(super) database: Option<Database>,
    /// Those of `postgres` and `template1` that everyone may connect to and whose privileges the admin may change.
    pub(super) open: Vec<String>,
}

/// The role that the operator logs in as.
#[derive(Debug, Clone, FromRow)]
pub(super) struct Admin {
    pub(super) name: String,
    /// The database it is connected to.
    pub(super) home: String,
    /// Such as 150018.
    pub(super) version: i32,
}

/// The role of a service.
#[derive(Debug, Clone, FromRow)]
#[expect(clippy::struct_excessive_bools, reason = "as in the catalog")]
pub(super) struct Role {
    pub(super) comment: Option<String>,
    pub(super) superuser: bool,
    pub(super) creates_databases: bool,
    pub(super) creates_roles: bool,
    pub(super) replicates: bool,
    pub(super) bypasses_rls: bool,
    pub(super) logs_in: bool,
    pub(super) connection_limit: i32,
    /// Whether its password expires.
    pub(super) expires: bool,
    /// Whether the admin has its privileges and may act as it.
    pub(super) usable_by_admin: bool,
    #[sqlx(skip)]
    pub(super) memberships: Vec<Membership>,
}

/// A role that the service's role is a member of.
#[derive(Debug, Clone, FromRow)]
pub(super) struct Membership {
    pub(super) role: String,
    pub(super) grantor: String,
    /// Whether the admin may revoke it.
    pub(super) revocable: bool,
}

/// The database of a service.
#[derive(Debug, Clone, FromRow)]
#[expect(clippy::struct_excessive_bools, reason = "as in the catalog")]
pub(super) struct Database {
    pub(super) comment: Option<String>,
    pub(super) owner: String,
    pub(super) takes_connections: bool,
    pub(super) is_template: bool,
    pub(super) connection_limit: i32,
    /// Whether everyone has a privilege on it.
    pub(super) is_public: bool,
    /// Whether its owner has all privileges.
    pub(super) is_owners: bool,
}

impl Database {
    /// Whether `DROP DATABASE` was interrupted. Such a database can only be dropped.
    pub(super) fn is_invalid(&self) -> bool {
        self.connection_limit == -2
    }

    /// Whether reconnecting clients, or being a template, could keep it from being dropped.
    pub(super) fn accepts_clients(&self) -> bool {
        !self.is_invalid() && (self.takes_connections || self.is_template)
    }
}

const ADMIN: &str = "
    SELECT current_user::text AS name, current_database()::text AS home,
           current_setting('server_version_num')::int AS version";

// Up to Postgres 15, a member may act as the role. Since 16 this takes the option SET, which the creator lacks.
const ROLE: &str = "
    SELECT shobj_description(oid, 'pg_authid') AS comment, rolsuper AS superuser,
           rolcreatedb AS creates_databases, rolcreaterole AS creates_roles, rolreplication AS replicates,
           rolbypassrls AS bypasses_rls, rolcanlogin AS logs_in, rolconnlimit AS connection_limit,
           coalesce(rolvaliduntil < 'infinity', false) AS expires,
           pg_has_role(oid, 'USAGE') AND pg_has_role(oid,
               CASE WHEN current_setting('server_version_num')::int < 160000 THEN 'MEMBER' ELSE 'SET' END) AS usable_by_admin
    FROM pg_roles WHERE rolname = $1";

// Who may revoke a membership: up to Postgres 15, anyone with CREATEROLE; since 16, anyone with the ADMIN option of the
// group and the privileges of the grantor.
const MEMBERSHIPS: &str = "
    SELECT g.rolname::text AS role, pg_get_userbyid(m.grantor)::text AS grantor,
           CASE WHEN a.rolsuper THEN true
                WHEN g.rolsuper THEN false
                WHEN current_setting('server_version_num')::int < 160000
                    THEN a.rolcreaterole OR pg_has_role(g.oid, 'MEMBER WITH ADMIN OPTION')
                ELSE pg_has_role(g.oid, 'MEMBER WITH ADMIN OPTION') AND pg_has_role(m.grantor, 'USAGE')
           END AS revocable
    FROM pg_auth_members m
    JOIN pg_roles g ON g.oid = m.roleid
    JOIN pg_roles r ON r.oid = m.member
    JOIN pg_roles a ON a.rolname = current_user
    WHERE r.rolname = $1
    ORDER BY 1, 2";

const DATABASE: &str = "
    SELECT shobj_description(d.oid, 'pg_database') AS comment, pg_get_userbyid(d.datdba)::text AS owner,
           d.datallowconn AS takes_connections, d.datistemplate AS is_template,
           d.datconnlimit AS connection_limit, p.is_public, p.is_owners
    FROM pg_database d, LATERAL (
        SELECT coalesce(bool_or(grantee = 0), false) AS is_public,
               count(DISTINCT privilege_type) FILTER (WHERE grantee = d.datdba) = 3 AS is_owners
        FROM aclexplode(coalesce(d.datacl, acldefault('d', d.datdba)))
    ) p
    WHERE d.datname = $1";

const OPEN: &str = "
    SELECT d.datname::text
    FROM pg_database d
    WHERE d.datname IN ('postgres', 'template1') AND pg_has_role(d.datdba, 'USAGE')
      AND EXISTS (SELECT FROM aclexplode(coalesce(d.datacl, acldefault('d', d.datdba)))
                  WHERE grantee = 0 AND privilege_type = 'CONNECT')
    ORDER BY 1";

impl State {
    pub(super) async fn read(session: &mut Session, name: &Identifier) -> Result<Self, Error> {
        let name = name.raw();
        let admin = session.read_one(query_as(ADMIN)).await?;
        let mut role: Option<Role> = session.read(by_name(ROLE, name)).await?.pop();
        if let Some(role) = &mut role {
            role.memberships = session.read(by_name(MEMBERSHIPS, name)).await?;
        }
        let database = session.read(by_name(DATABASE, name)).await?.pop();
        let open = session.read(query_as(OPEN)).await?.into_iter().map(|(name,)| name).collect();
        Ok(Self { admin, role, database, open })
    }
}

fn by_name<T>(query: &'static str, name: &str) -> Query<T>
where
    T: for<'r> FromRow<'r, PgRow>,
{
    query_as(query).bind(name.to_owned())
}
