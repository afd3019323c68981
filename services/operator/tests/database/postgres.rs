//! A Postgres server with an admin like that of a managed server.
//!
//! The tests share one server and take turns, because roles are global to a server. Each turn begins with a reset.
//! Tests that depend on the configuration, the log or the WAL start a server of their own.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use embedded_postgres::Settings;
use operator::database::Server;
use sqlx::{AssertSqlSafe, Connection, Error, PgConnection, Row};
use tokio::sync::MutexGuard;

/// The password of the admin.
pub const ADMIN_PASSWORD: &str = "admin-of-all";

/// The shared server. It runs while any test uses it or waits for its turn, and is removed after the last one.
static SHARED: Mutex<Weak<embedded_postgres::Server>> = Mutex::new(Weak::new());

/// The turn to use the shared server.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

pub struct Postgres {
    pub process: Arc<embedded_postgres::Server>,
    _turn: Option<MutexGuard<'static, ()>>,
}

impl Postgres {
    /// Waits for a turn on the shared server and resets it.
    pub async fn shared() -> Self {
        let process = {
            let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
            shared.upgrade().unwrap_or_else(|| {
                let server = Arc::new(embedded_postgres::Server::temporary(&Settings::for_tests()).unwrap());
                *shared = Arc::downgrade(&server);
                server
            })
        };
        let postgres = Self { process, _turn: Some(TURN.lock().await) };
        postgres.reset().await;
        postgres.create_admin().await;
        postgres
    }

    /// Starts a server for one test.
    pub async fn start() -> Self {
        Self::start_with(&Settings::for_tests()).await
    }

    pub async fn start_with(settings: &Settings) -> Self {
        let process = Arc::new(embedded_postgres::Server::temporary(settings).unwrap());
        let postgres = Self { process, _turn: None };
        postgres.create_admin().await;
        postgres
    }

    async fn create_admin(&self) {
        let admin = format!("CREATE ROLE admin LOGIN CREATEDB CREATEROLE PASSWORD '{ADMIN_PASSWORD}'");
        // The admin can connect even after a superuser has revoked CONNECT from PUBLIC.
        self.sql(&format!("{admin}; GRANT CONNECT ON DATABASE postgres TO admin")).await;
    }

    /// Removes everything that the previous test left behind.
    async fn reset(&self) {
        self.sql(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
             WHERE pid <> pg_backend_pid() AND backend_type = 'client backend';
             ALTER SYSTEM RESET ALL; SELECT pg_reload_conf();
             ALTER DATABASE postgres OWNER TO postgres;
             GRANT CONNECT, TEMPORARY ON DATABASE postgres TO PUBLIC;
             GRANT CONNECT ON DATABASE template1 TO PUBLIC;
             UPDATE pg_database SET datistemplate = false WHERE datname NOT IN ('template0', 'template1')",
        )
        .await;
        let databases = "SELECT format('DROP DATABASE %I WITH (FORCE)', datname) FROM pg_database
                         WHERE datname NOT IN ('postgres', 'template0', 'template1')";
        for drop in self.list(databases).await {
            self.statement(&drop).await;
        }
        // The first list removes privileges, so that no role depends on another when it is dropped.
        for kind in ["OWNED BY %I CASCADE", "ROLE %I"] {
            let roles = format!(
                "SELECT format('DROP {kind}', rolname) FROM pg_roles
                 WHERE rolname <> 'postgres' AND rolname NOT LIKE 'pg\\_%'"
            );
            for drop in self.list(&roles).await {
                self.statement(&drop).await;
            }
        }
    }

    /// Runs one statement as the superuser.
    async fn statement(&self, sql: &str) {
        let mut connection = self.superuser("postgres").await;
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
    }

    /// The server, with an admin who is not a superuser.
    pub fn server(&self) -> Server {
        Server::new(&self.process.url("admin", ADMIN_PASSWORD, "postgres"), None).unwrap()
    }

    /// The server, with a superuser as the admin.
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

    /// Whether a condition holds.
    pub async fn holds(&self, condition: &str) -> bool {
        self.list(&format!("SELECT 'true' WHERE {condition}")).await == ["true"]
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

    /// The log of the server.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.process.data_dir().path().join("postgres.log")).unwrap()
    }

    async fn superuser(&self, database: &str) -> PgConnection {
        PgConnection::connect(&self.process.superuser_url(database)).await.unwrap()
    }
}

/// The SQLSTATE of an error.
#[track_caller]
pub fn code<T>(result: Result<T, Error>) -> String {
    let error = result.err().expect("an error");
    error
        .as_database_error()
        .unwrap_or_else(|| panic!("not an error from Postgres: {error}"))
        .code()
        .unwrap()
        .into_owned()
}
