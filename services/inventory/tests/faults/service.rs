//! The service under test, its database, and a client.

use std::time::Duration;

use embedded_postgres::{Server, Settings};
use reqwest::{Client, Response, StatusCode};
use serde_json::{Value, json};
use sqlx::{ConnectOptions, PgConnection, PgPool, raw_sql};
use test_support::process::{Process, Program, TIMEOUT, eventually};

/// How long any response may take: the limit for a request plus some slack for a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(16);

/// The service's program, configured with a database.
pub fn program(database_url: &str) -> Program {
    Program::new(env!("CARGO_BIN_EXE_inventory")).variable("DATABASE_URL", database_url)
}

/// The URL of a test's own database.
pub fn url(pool: &PgPool) -> String {
    pool.connect_options().to_url_lossy().to_string()
}

/// Starts the service and waits until it is ready.
pub async fn serve(program: &Program) -> Process {
    let service = program.serve().await;
    ready(&service).await;
    service
}

/// Waits until the service is ready.
pub async fn ready(service: &Process) {
    eventually("ready", TIMEOUT, async || (readiness(service).await.status() == 200).then_some(())).await;
}

/// The response of `/readyz`.
pub async fn readiness(service: &Process) -> Response {
    client().get(service.admin_url("/readyz")).send().await.expect("a response")
}

/// A client with the deadline as its timeout.
pub fn client() -> Client {
    Client::builder().timeout(DEADLINE).build().expect("a client")
}

/// Adds one to the stock of a product.
pub async fn add_one(client: &Client, service: &Process, product: &str) -> Response {
    let request = client.patch(service.url(&format!("/inventory/{product}"))).json(&json!({"delta": 1}));
    request.send().await.expect("a response")
}

/// Makes every COMMIT of a transaction that wrote the ledger wait until the transaction that this starts has ended.
pub async fn linger(connection: &mut PgConnection) {
    let linger = "CREATE FUNCTION linger() RETURNS trigger LANGUAGE plpgsql SET lock_timeout = '4s' AS
             $$ BEGIN PERFORM pg_advisory_xact_lock_shared(1); RETURN NULL; END $$;
         CREATE CONSTRAINT TRIGGER linger AFTER INSERT ON movement DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION linger()";
    raw_sql(linger).execute(&mut *connection).await.expect("a trigger");
    raw_sql("BEGIN; SELECT pg_advisory_xact_lock(1)").execute(connection).await.expect("locked");
}

/// Asserts that a response is a 503 problem, with `Retry-After` unless its outcome is unknown; returns the problem.
pub async fn unavailable(response: Response) -> Value {
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    let retry_after = response.headers().get("retry-after").cloned();
    let problem: Value = response.json().await.expect("JSON");
    assert_eq!(problem["status"], 503);
    if problem["type"] == "https://hedgerow.dev/problems/outcome-unknown" {
        assert_eq!(retry_after, None);
    } else {
        let seconds = retry_after.expect("Retry-After").to_str().expect("text").parse::<u32>();
        assert!(seconds.is_ok_and(|seconds| seconds > 0));
    }
    problem
}

/// A Postgres server for one test, which may stop it.
pub struct Postgres {
    pub server: Server,
    pub url: String,
}

impl Postgres {
    /// Starts a server without the service's schema. Acknowledged transactions survive `kill -9`.
    pub fn empty() -> Self {
        let settings = Settings { fsync: true, ..Settings::for_tests() };
        let server = Server::temporary(&settings).expect("a Postgres server");
        let url = server.superuser_url("postgres");
        Self { server, url }
    }

    /// Starts a server with the service's schema.
    pub async fn migrated() -> Self {
        let postgres = Self::empty();
        let migrated = program(&postgres.url).argument("migrate").run().await;
        assert_eq!(migrated.code(), Some(0), "{}", migrated.stdout);
        postgres
    }
}
