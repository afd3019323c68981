//! A server for one test, with an admin as a managed server has it.

use embedded_postgres::Settings;
use operator::database::Server;
use sqlx::{AssertSqlSafe, Connection, Error, PgConnection, Row};

/// The admin's password.
pub const ADMIN_PASSWORD: &str = "admin-of-all";

pub struct Postgres {
    pub process: embedded_postgres::Server,
}

impl Postgres {
    pub async fn start() -> Self {
        Self::start_with(&Settings::for_tests()).await
    }

    pub async fn start_with(settings: &Settings) -> Self {
        let postgres = Self { process: embedded_postgres::Server::temporary(settings).unwrap() };
        let admin = format!("CREATE ROLE admin LOGIN CREATEDB CREATEROLE PASSWORD '{ADMIN_PASSWORD}'");
        // It may connect although another admin closes the database to everyone.
        postgres.sql(&format!("{admin}; GRANT CONNECT ON DATABASE postgres TO admin")).await;
        postgres
    }

    /// The server with an admin who is no superuser.
    pub fn server(&self) -> Server {
        Server::new(&self.process.url("admin", ADMIN_PASSWORD, "postgres"), None).unwrap()
    }

    /// The server with a superuser as its admin.
    pub fn with_superuser(&self) -> Server {
        Server::new(&self.process.superuser_url("postgres"), None).unwrap()
    }

    /// Runs statements, one at a time, as the superuser.
    pub async fn sql(&self, sql: &str) {
        self.sql_in("postgres", sql).await;
    }

    pub async fn sql_in(&self, database: &str, sql: &str) {
        let mut connection = self.superuser(database).await;
        for statement in sql.split(';') {
            sqlx::raw_sql(AssertSqlSafe(statement.to_owned())).execute(&mut connection).await.unwrap();
        }
        connection.close().await.unwrap();
    }

    /// The texts in the first column.
    pub async fn list(&self, sql: &str) -> Vec<String> {
        let mut connection = self.superuser("postgres").await;
        let rows = sqlx::query(AssertSqlSafe(sql.to_owned())).fetch_all(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// Whether it is so.
    pub async fn holds(&self, condition: &str) -> bool {
        self.list(&format!("SELECT 'so' WHERE {condition}")).await == ["so"]
    }

    /// Connects with a password.
    pub async fn open(&self, role: &str, password: &str, database: &str) -> Result<PgConnection, Error> {
        PgConnection::connect(&self.process.url(role, password, database)).await
    }

    /// Runs a statement as a role in its own database.
    pub async fn sql_as(&self, role: &str, sql: &str) -> Result<(), Error> {
        let mut connection = self.open(role, super::PASSWORD, role).await?;
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut connection).await?;
        connection.close().await
    }

    /// What the server wrote to its log.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.process.data_dir().path().join("postgres.log")).unwrap()
    }

    async fn superuser(&self, database: &str) -> PgConnection {
        PgConnection::connect(&self.process.superuser_url(database)).await.unwrap()
    }
}

/// The SQLSTATE of a refusal.
#[track_caller]
pub fn code<T>(result: Result<T, Error>) -> String {
    let error = result.err().expect("a refusal");
    error.as_database_error().unwrap_or_else(|| panic!("no answer of Postgres: {error}")).code().unwrap().into_owned()
}
