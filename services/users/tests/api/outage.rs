//! The database hangs or is unavailable: 503 in time, stating whether a change may have taken effect.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use embedded_postgres::{Server, Settings};
use reqwest::Method;
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool, raw_sql};
use test_support::{
    app::{App, Response, join_all},
    process::{TIMEOUT, eventually},
};

use crate::{create, path, start};

const UNKNOWN: &str = "https://hedgerow.dev/problems/outcome-unknown";
const NOT_DONE: &str = "about:blank";

/// How soon a response is sent while the database hangs; shorter than the limit for a request.
const HUNG: Duration = Duration::from_secs(12);
/// How soon the service recovers once the database continues.
const RECOVERY: Duration = Duration::from_secs(2);

/// Makes a change of each kind. Each is a statement that commits by itself.
async fn changes(app: &App, user: &str) -> [Response; 3] {
    let new = json!({"name": "Bob", "email": "bob@example.com"});
    let patch = json!({"name": "Eve"});
    tokio::join!(app.post("/users", &new), app.patch(user, &patch), app.delete(user)).into()
}

/// Waits until the three changes are waiting for a lock on the table.
async fn waiting(connection: &mut PgConnection) {
    let waiting = "SELECT count(*) FROM pg_locks WHERE relation = 'users'::regclass AND NOT granted";
    eventually("the changes are waiting for the lock", TIMEOUT, async || {
        let waiting: i64 = sqlx::query_scalar(waiting).fetch_one(&mut *connection).await.expect("a count");
        (waiting == 3).then_some(())
    })
    .await;
}

#[track_caller]
fn assert_all(responses: &[Response], kind: &str) {
    for response in responses {
        assert_eq!(response.problem(503)["type"], kind, "{}", response.text());
    }
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn a_change_without_a_database_response_has_an_unknown_outcome(pool: PgPool) {
    let app = start(&pool).await;
    let ada = path(&create(&app, "Ada", "ada@example.com").await);
    let mut lock = pool.acquire().await.expect("a connection");
    raw_sql("BEGIN; LOCK TABLE users IN SHARE MODE").execute(&mut *lock).await.expect("locked");
    let end = async {
        // The writer does not wait all the time.
        let mut ended = HashSet::new();
        let end = "SELECT pid, pg_terminate_backend(pid) FROM pg_locks
                   WHERE relation = 'users'::regclass AND NOT granted";
        eventually("three changes are ended while they wait", TIMEOUT, async || {
            let pids: Vec<(i32, bool)> = sqlx::query_as(end).fetch_all(&mut *lock).await.expect("ended");
            ended.extend(pids.into_iter().map(|(pid, _)| pid));
            (ended.len() == 3).then_some(())
        })
        .await;
    };
    let (responses, ()) = tokio::join!(changes(&app, &ada), end);
    assert_all(&responses, UNKNOWN);
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn a_change_that_the_database_cancels_has_no_effect(pool: PgPool) {
    let app = start(&pool).await;
    let ada = path(&create(&app, "Ada", "ada@example.com").await);
    let mut lock = pool.acquire().await.expect("a connection");
    raw_sql("BEGIN; LOCK TABLE users IN SHARE MODE").execute(&mut *lock).await.expect("locked");
    assert_all(&changes(&app, &ada).await, NOT_DONE);
}

#[sqlx::test(migrations = false)]
async fn a_change_that_cannot_be_sent_has_no_effect(pool: PgPool) {
    let options = (*pool.connect_options()).clone().database("nowhere");
    let app = App::start(&users::SERVICE, &options).await;
    assert_all(&changes(&app, "/users/0190d9a4-1f5e-7c3a-8a5e-0123456789ab").await, NOT_DONE);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_request_is_503_in_time_while_the_database_hangs() {
    let postgres = Server::temporary(&Settings::for_tests()).expect("a Postgres server");
    let url = postgres.superuser_url("postgres");
    let mut lock = PgConnection::connect(&url).await.expect("a connection");
    users::MIGRATIONS.run(&mut lock).await.expect("migrated");
    let app = App::start_on(&users::SERVICE, url).await;
    let ada = path(&create(&app, "Ada", "ada@example.com").await);

    raw_sql("BEGIN; LOCK TABLE users IN SHARE MODE").execute(&mut lock).await.expect("locked");
    let hang = async {
        waiting(&mut lock).await;
        let frozen = postgres.freeze();
        let started = Instant::now();
        let reads = join_all((0..10).map(|number| app.get(if number % 2 == 0 { &ada } else { "/users" })));
        let (reads, changes) = tokio::join!(reads, changes(&app, &ada));
        assert_all(&reads, NOT_DONE);
        assert_all(&changes, NOT_DONE);
        assert!(started.elapsed() < HUNG, "{:?}", started.elapsed());
        let not_ready = async || (app.admin("/readyz").await.status == 503).then_some(());
        eventually("not ready", TIMEOUT, not_ready).await;
        drop(frozen);
    };
    let (blocked, ()) = tokio::join!(changes(&app, &ada), hang);
    assert_all(&blocked, UNKNOWN);

    raw_sql("ROLLBACK").execute(&mut lock).await.expect("unlocked");
    let started = Instant::now();
    let request = || app.request(Method::PATCH, &ada).json(&json!({"name": "Ada L."}));
    let works = async || (app.send(request()).await.status == 200).then_some(());
    eventually("recovered", RECOVERY, works).await;
    app.get("/users").await.json(200);
    let ready = async || (app.admin("/readyz").await.status == 200).then_some(());
    eventually("ready", RECOVERY.saturating_sub(started.elapsed()), ready).await;
}

/// As on a standby, or where a managed Postgres protects itself from a full disk.
#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn changes_of_a_read_only_database_are_503(pool: PgPool) {
    let name: String = sqlx::query_scalar("SELECT current_database()::text").fetch_one(&pool).await.expect("a name");
    let read_only = format!("ALTER DATABASE \"{name}\" SET default_transaction_read_only = on");
    raw_sql(AssertSqlSafe(read_only)).execute(&pool).await.expect("altered");
    let app = start(&pool).await;
    for response in changes(&app, "/users/0198f2b4-7a52-7d29-9c5b-6f4f6f4e3a11").await {
        let problem = response.problem(503);
        assert_eq!(
            (&problem["type"], &problem["detail"]),
            (&json!(NOT_DONE), &json!("the database is read-only; try again later"))
        );
        assert_eq!(response.header("retry-after"), Some("1"));
    }
    assert_eq!(app.get("/users").await.status, 200);
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn a_wider_column_fails_no_request_for_good(pool: PgPool) {
    let app = start(&pool).await;
    let ada = path(&create(&app, "Ada", "ada@example.com").await);
    raw_sql("ALTER TABLE users ALTER name TYPE varchar(1000)").execute(&pool).await.expect("altered");
    eventually("every connection has prepared its statements anew", TIMEOUT, async || {
        let statuses = [app.get(&ada).await.status, app.get("/users").await.status];
        assert!(statuses.iter().all(|status| matches!(status, 200 | 503)), "{statuses:?}");
        (statuses == [200, 200]).then_some(())
    })
    .await;
}
