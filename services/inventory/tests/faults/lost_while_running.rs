//! A connection lost while its COMMIT, or a statement that is its own transaction, still runs: the service waits for
//! the outcome.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection, raw_sql};
use test_support::{
    inventory::inconsistencies,
    process::{Process, TIMEOUT, eventually},
};

use crate::{
    proxy::{Cut, Proxy},
    service::{Postgres, client, linger, program, serve},
};

/// The outcome of the lost transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Committed,
    RolledBack,
}

/// A service that loses its database connection during the second commit, and only then.
struct Scenario {
    _postgres: Postgres,
    proxy: Proxy,
    service: Process,
    /// The test's own connection.
    connection: PgConnection,
}

impl Scenario {
    async fn new() -> Self {
        let postgres = Postgres::migrated().await;
        let proxy = Proxy::start(postgres.server.socket_dir(), |number| (number == 1).then_some(Cut::During)).await;
        let service = serve(&program(&proxy.url("postgres"))).await;
        let connection = PgConnection::connect(&postgres.url).await.expect("a connection");
        let stocked = send(&service, Method::POST, "/inventory/p", json!({"stock": 10})).await;
        assert_eq!(stocked.0, StatusCode::CREATED);
        Self { _postgres: postgres, proxy, service, connection }
    }

    /// Makes a request whose connection is lost during commit. Lets the commit end once the service is waiting for it.
    async fn lose(&mut self, method: Method, path: &str, body: Value, outcome: Outcome) -> (StatusCode, Value) {
        let Self { service, connection, .. } = self;
        let finish = async {
            // The lost transaction, and the query for its outcome or the retry.
            let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted";
            eventually("the service is waiting for the outcome", TIMEOUT, async || {
                let waiting: i64 = sqlx::query_scalar(waiting).fetch_one(&mut *connection).await.expect("a count");
                (waiting == 2).then_some(())
            })
            .await;
            if outcome == Outcome::RolledBack {
                let lost = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
                assert!(
                    sqlx::query_scalar::<_, bool>(lost).fetch_one(&mut *connection).await.expect("the backend exists")
                );
            }
            raw_sql("ROLLBACK").execute(&mut *connection).await.expect("unlocked");
        };
        let (response, ()) = tokio::join!(send(service, method, path, body), finish);
        assert_eq!(self.proxy.cuts(), 1);
        response
    }

    /// Asserts that the ledger has these movements and all tables agree.
    async fn check(&mut self, kinds: &[&str]) {
        let ledger = sqlx::query_scalar("SELECT kind FROM movement ORDER BY version");
        let ledger: Vec<String> = ledger.fetch_all(&mut self.connection).await.expect("the ledger");
        assert_eq!(ledger, kinds, "each change was applied once");
        assert_eq!(inconsistencies(&mut self.connection).await, Vec::<String>::new());
    }

    /// Asserts that one hold was made, that the response describes it, and that the reservations have these states.
    async fn check_hold(&mut self, (status, held): (StatusCode, Value), reservations: &[&str]) {
        assert_eq!((status, &held["state"]), (StatusCode::CREATED, &json!("held")));
        let path = format!("/reservations/{}", held["id"].as_str().expect("an id"));
        assert_eq!(send(&self.service, Method::GET, &path, Value::Null).await, (StatusCode::OK, held));
        self.check(&["set", "hold"]).await;
        let found = sqlx::query_scalar("SELECT state FROM reservation ORDER BY state");
        let found: Vec<String> = found.fetch_all(&mut self.connection).await.expect("the reservations");
        assert_eq!(found, reservations);
    }
}

async fn send(service: &Process, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
    let response = client().request(method, service.url(path)).json(&body).send().await.expect("a response");
    (response.status(), response.json().await.expect("JSON"))
}

/// One item without a key takes a single statement.
fn hold() -> Value {
    json!({"items": [{"product_id": "p", "quantity": 3}]})
}

#[tokio::test]
async fn a_transaction_lost_during_commit_is_applied_once() {
    for outcome in [Outcome::Committed, Outcome::RolledBack] {
        let mut scenario = Scenario::new().await;
        linger(&mut scenario.connection).await;
        let (status, stock) = scenario.lose(Method::PATCH, "/inventory/p", json!({"delta": 1}), outcome).await;
        assert_eq!((status, &stock["on_hand"]), (StatusCode::OK, &json!(11)), "{outcome:?}");
        scenario.check(&["set", "adjust"]).await;
    }
}

#[tokio::test]
async fn a_single_statement_hold_lost_during_commit_is_found() {
    let mut scenario = Scenario::new().await;
    linger(&mut scenario.connection).await;
    let held = scenario.lose(Method::POST, "/reservations", hold(), Outcome::Committed).await;
    scenario.check_hold(held, &["held"]).await;
}

#[tokio::test]
async fn a_single_statement_hold_that_fails_to_commit_is_retried() {
    let mut scenario = Scenario::new().await;
    linger(&mut scenario.connection).await;
    let held = scenario.lose(Method::POST, "/reservations", hold(), Outcome::RolledBack).await;
    scenario.check_hold(held, &["held", "void"]).await;
}

/// The lost statement has not inserted its id yet, so the id is voided.
#[tokio::test]
async fn a_lost_hold_that_waits_for_its_row_is_voided_and_retried() {
    let mut scenario = Scenario::new().await;
    // A trigger waits for longer than the writer does.
    let wait = "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql SET lock_timeout = '4s' AS
             $$ BEGIN PERFORM pg_advisory_xact_lock_shared(1); RETURN NEW; END $$;
         CREATE TRIGGER wait BEFORE UPDATE ON stock FOR EACH ROW EXECUTE FUNCTION wait()";
    raw_sql(wait).execute(&mut scenario.connection).await.expect("a trigger");
    let lock = "BEGIN; SELECT pg_advisory_xact_lock(1)";
    raw_sql(lock).execute(&mut scenario.connection).await.expect("locked");
    let held = scenario.lose(Method::POST, "/reservations", hold(), Outcome::Committed).await;
    scenario.check_hold(held, &["held", "void"]).await;
}
