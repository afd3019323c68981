//! A role and a database for each service. Each role can open its own database only.

use std::fs::File;
use std::io::{self, Read};

use anyhow::Context;
use embedded_postgres::Server;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

/// Creates what is missing and gives the role a new password. Returns the URL for the service.
pub async fn prepare(server: &Server, name: &str) -> anyhow::Result<String> {
    let password = random_password().context("cannot create a password")?;
    let mut admin = open(server, "postgres").await?;
    let role = quoted('"', name);

    if !exists(&mut admin, "SELECT FROM pg_roles WHERE rolname = $1", name).await? {
        execute(&mut admin, format!("CREATE ROLE {role}")).await?;
    }
    let attributes = "LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS";
    execute(&mut admin, format!("ALTER ROLE {role} WITH {attributes} PASSWORD {}", quoted('\'', &password))).await?;

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
    execute(connection, format!("REVOKE ALL ON DATABASE {} FROM PUBLIC", quoted('"', database))).await
}

/// Executes a statement whose names and texts cannot be bound; they must be [`quoted`].
async fn execute(connection: &mut PgConnection, sql: String) -> sqlx::Result<()> {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await.map(drop)
}

/// An SQL identifier if `mark` is `"`, a string if it is `'`.
fn quoted(mark: char, text: &str) -> String {
    format!("{mark}{}{mark}", text.replace(mark, &format!("{mark}{mark}")))
}

/// 128 random bits in hexadecimal.
fn random_password() -> io::Result<String> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(format!("{:032x}", u128::from_ne_bytes(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_text_cannot_close_its_quotes() {
        assert_eq!(quoted('"', "users"), r#""users""#);
        assert_eq!(quoted('"', r#"a"; DROP TABLE b; --"#), r#""a""; DROP TABLE b; --""#);
        assert_eq!(quoted('\'', r"it's \' fine"), r"'it''s \'' fine'");
    }

    #[test]
    fn passwords_differ() {
        let (one, other) = (random_password().unwrap(), random_password().unwrap());
        assert_eq!(one.len(), 32);
        assert_ne!(one, other);
    }
}
