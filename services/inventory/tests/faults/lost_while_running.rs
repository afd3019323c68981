//! A connection that is lost while its COMMIT, or a statement that is its own transaction, still runs: what becomes of
//! that is waited for, whatever it is.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection, raw_sql};
use test_support::{
    inventory::inconsistencies,
    process::{PATIENCE, Process, eventually},
};

use crate::{
    proxy::{Cut, Proxy},
    service::{Postgres, client, linger, program, serve},
};

/// How what was lost ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Committed,
    RolledBack,
}

/// A service whose way to the database is lost during its second commit, and only then.
struct Setting {
    _postgres: Postgres,
    proxy: Proxy,
    service: Process,
    /// The test's own way.
    connection: PgConnection,
}

impl Setting {
    async fn new() -> Self {
        let postgres = Postgres::migrated().await;
        let proxy = Proxy::start(&postgres.server, |number| (number == 1).then_some(Cut::During)).await;
        let service = serve(&program(&proxy.url("postgres"))).await;
        let connection = PgConnection::connect(&postgres.url).await.expect("a connection");
        let stocked = send(&service, Method::POST, "/inventory/p", json!({"stock": 10})).await;
        assert_eq!(stocked.0, StatusCode::CREATED);
        Self { _postgres: postgres, proxy, service, connection }
    }

    /// Makes a request whose commit is lost, and lets that end once it is waited for.
    async fn lose(&mut self, method: Method, path: &str, body: Value, end: End) -> (StatusCode, Value) {
        let Self { service, connection, .. } = self;
        let goes_on = async {
            // The lost one, and who wants to know of it or does it anew.
            let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted";
            eventually("what was lost is waited for", PATIENCE, async || {
                let waiting: i64 = sqlx::query_scalar(waiting).fetch_one(&mut *connection).await.expect("a count");
                (waiting == 2).then_some(())
            })
            .await;
            if end == End::RolledBack {
                let lost = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
                assert!(sqlx::query_scalar::<_, bool>(lost).fetch_one(&mut *connection).await.expect("it is there"));
            }
            raw_sql("ROLLBACK").execute(&mut *connection).await.expect("unlocked");
        };
        let (answer, ()) = tokio::join!(send(service, method, path, body), goes_on);
        assert_eq!(self.proxy.cuts(), 1);
        answer
    }

    /// Checks that the ledger is of these kinds, and all tables agree.
    async fn check(&mut self, kinds: &[&str]) {
        let ledger = sqlx::query_scalar("SELECT kind FROM movement ORDER BY version");
        let ledger: Vec<String> = ledger.fetch_all(&mut self.connection).await.expect("the ledger");
        assert_eq!(ledger, kinds, "each once");
        assert_eq!(inconsistencies(&mut self.connection).await, Vec::<String>::new());
    }

    /// Checks that a hold was made once, that the answer is of that one, and of what states the reservations are.
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
    let response = client().request(method, service.url(path)).json(&body).send().await.expect("an answer");
    (response.status(), response.json().await.expect("JSON"))
}

/// Of one item, without a key: it takes a single statement.
fn hold() -> Value {
    json!({"items": [{"product_id": "p", "quantity": 3}]})
}

#[tokio::test]
async fn a_transaction_that_still_commits_is_waited_for_and_done_once_however_it_ends() {
    for end in [End::Committed, End::RolledBack] {
        let mut setting = Setting::new().await;
        linger(&mut setting.connection).await;
        let (status, stock) = setting.lose(Method::PATCH, "/inventory/p", json!({"delta": 1}), end).await;
        assert_eq!((status, &stock["on_hand"]), (StatusCode::OK, &json!(11)), "{end:?}");
        setting.check(&["set", "adjust"]).await;
    }
}

#[tokio::test]
async fn a_hold_in_one_statement_that_still_commits_is_waited_for_and_its_result_read() {
    let mut setting = Setting::new().await;
    linger(&mut setting.connection).await;
    let held = setting.lose(Method::POST, "/reservations", hold(), End::Committed).await;
    setting.check_hold(held, &["held"]).await;
}

#[tokio::test]
async fn a_hold_in_one_statement_that_fails_as_it_commits_is_waited_for_and_made_anew() {
    let mut setting = Setting::new().await;
    linger(&mut setting.connection).await;
    let held = setting.lose(Method::POST, "/reservations", hold(), End::RolledBack).await;
    setting.check_hold(held, &["held", "void"]).await;
}

/// It has not taken its id yet, which another one then takes from it.
#[tokio::test]
async fn a_hold_in_one_statement_that_still_waits_for_its_row_can_never_be_and_is_made_anew() {
    let mut setting = Setting::new().await;
    let lock = "BEGIN; SELECT FROM stock FOR UPDATE";
    raw_sql(lock).execute(&mut setting.connection).await.expect("locked");
    let held = setting.lose(Method::POST, "/reservations", hold(), End::Committed).await;
    setting.check_hold(held, &["held", "void"]).await;
}
