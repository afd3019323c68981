//! A role and a database for each service. Each role can connect only to its own database.

use embedded_postgres::Server;
use postgres_protocol::escape::{escape_identifier, escape_literal};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

/// Creates what is missing and gives the role a new password. Returns the URL for the service.
pub async fn prepare(server: &Server, name: &str) -> anyhow::Result<String> {
    let password = random_password();
    let mut admin = open(server, "postgres").await?;
    let role = escape_identifier(name);

    if !exists(&mut admin, "SELECT FROM pg_roles WHERE rolname = $1", name).await? {
        execute(&mut admin, format!("CREATE ROLE {role}")).await?;
    }
    let attributes = "LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS";
    execute(&mut admin, format!("ALTER ROLE {role} WITH {attributes} PASSWORD {}", escape_literal(&password))).await?;

    if !exists(&mut admin, "SELECT FROM pg_database WHERE datname = $1", name).await? {
        execute(&mut admin, format!("CREATE DATABASE {role} OWNER {role}")).await?;
    }
    execute(&mut admin, format!("ALTER DATABASE {role} OWNER TO {role}")).await?;
    for database in ["postgres", "template1", name] {
        revoke_from_public(&mut admin, database).await?;
    }
    admin.close().await?;

    let mut own = open(server, name).await?;
    execute(&mut own, format!("ALTER SCHEMA public OWNER TO {role}")).await?;
    execute(&mut own, "REVOKE ALL ON SCHEMA public FROM PUBLIC".to_owned()).await?;
    own.close().await?;
    Ok(server.url(name, &password, name))
}

async fn open(server: &Server, database: &str) -> sqlx::Result<PgConnection> {
    PgConnection::connect(&server.superuser_url(database)).await
}

async fn exists(connection: &mut PgConnection, query: &'static str, name: &str) -> sqlx::Result<bool> {
    Ok(sqlx::query(query).bind(name).fetch_optional(connection).await?.is_some())
}

/// Leaves a database to its owner and the superuser.
async fn revoke_from_public(connection: &mut PgConnection, database: &str) -> sqlx::Result<()> {
    execute(connection, format!("REVOKE ALL ON DATABASE {} FROM PUBLIC", escape_identifier(database))).await
}

/// Executes a statement whose names and texts cannot be bound; they must be escaped.
async fn execute(connection: &mut PgConnection, sql: String) -> sqlx::Result<()> {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await.map(drop)
}

/// 128 random bits in hexadecimal.
fn random_password() -> String {
    format!("{:032x}", rand::random::<u128>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_text_cannot_close_its_quotes() {
        assert_eq!(escape_identifier("users"), r#""users""#);
        assert_eq!(escape_identifier(r#"a"; DROP TABLE b; --"#), r#""a""; DROP TABLE b; --""#);
        assert_eq!(escape_literal(r"it's \' fine"), r" E'it''s \\'' fine'");
    }

    #[test]
    fn passwords_differ() {
        let (one, other) = (random_password(), random_password());
        assert_eq!(one.len(), 32);
        assert_ne!(one, other);
    }
}
