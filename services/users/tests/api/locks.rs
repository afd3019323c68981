//! Another session holds a row: only requests that need it wait for it or fail.

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{PgPool, Postgres, Transaction, raw_sql};
use test_support::{
    app::{App, Response, join_all},
    process::{TIMEOUT, eventually},
};

use crate::{count, create, path, start};

/// Runs a statement in a transaction that stays open.
async fn hold(pool: &PgPool, statement: &'static str) -> Transaction<'static, Postgres> {
    let mut transaction = pool.begin().await.expect("a transaction");
    raw_sql(statement).execute(&mut *transaction).await.expect("locked");
    transaction
}

async fn create_with_key(app: &App, key: &str, email: &str) -> Response {
    let body = json!({"name": "Ada", "email": email});
    app.send(app.request(Method::POST, "/users").header("idempotency-key", key).json(&body)).await
}

/// Creates users, while the lock is held.
async fn create_others(app: &App, round: usize) {
    let others = (0..20).map(|number| async move {
        create(app, "Bob", &format!("{round}-{number}@example.com")).await;
    });
    join_all(others).await;
}

/// Waits until a statement that looks like this waits for a lock.
pub async fn waits(pool: &PgPool, statement: &str) {
    let waiting = "SELECT count(*) FROM pg_stat_activity
                   WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE $1";
    eventually("a statement waits", TIMEOUT, async || {
        let count: i64 = sqlx::query_scalar(waiting).bind(statement).fetch_one(pool).await.expect("a count");
        (count > 0).then_some(())
    })
    .await;
}

/// Waits until the writer waits for a lock of another session.
async fn writer_waits(pool: &PgPool) {
    let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND pid IN
        (SELECT pid FROM pg_stat_activity WHERE datname = current_database())";
    eventually("the writer waits", TIMEOUT, async || {
        let count: i64 = sqlx::query_scalar(waiting).fetch_one(pool).await.expect("a count");
        (count > 0).then_some(())
    })
    .await;
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn a_locked_email_or_key_holds_up_only_its_own_requests(pool: PgPool) {
    let app = start(&pool).await;
    create_with_key(&app, "k", "key@example.com").await.json(201);
    for (round, statement) in [
        "INSERT INTO users (id, name, email) VALUES (gen_random_uuid(), 'Eve', 'new@example.com')",
        "SELECT FROM idempotency FOR UPDATE",
    ]
    .into_iter()
    .enumerate()
    {
        let lock = hold(&pool, statement).await;
        let own = async {
            match round {
                0 => app.post("/users", &json!({"name": "Ada", "email": "NEW@example.com"})).await,
                _ => create_with_key(&app, "k", "key@example.com").await,
            }
        };
        let others = async {
            writer_waits(&pool).await;
            for part in 0..5 {
                create_others(&app, 10 * round + part).await;
            }
            lock.rollback().await.expect("unlocked");
        };
        let (own, ()) = tokio::join!(own, others);
        assert_eq!(own.json(201)["name"], "Ada", "it is done when the lock is free");
    }
    assert_eq!(count(&pool).await, 2 + 2 * 100);
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn a_request_that_waits_too_long_for_a_lock_is_503(pool: PgPool) {
    let app = start(&pool).await;
    let _lock =
        hold(&pool, "INSERT INTO users (id, name, email) VALUES (gen_random_uuid(), 'Eve', 'new@example.com')").await;
    let response = app.post("/users", &json!({"name": "Ada", "email": "new@example.com"})).await;
    assert_eq!(response.problem(503)["type"], "about:blank");
}

/// As when another version of the service has stored it.
#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn an_unknown_stored_response_fails_only_its_own_requests(pool: PgPool) {
    let app = start(&pool).await;
    create_with_key(&app, "k", "key@example.com").await.json(201);
    raw_sql("UPDATE idempotency SET answer = '{\"new_kind\": {}}'").execute(&pool).await.expect("changed");
    for round in 0..5 {
        let repeated = join_all((0..3).map(|_| create_with_key(&app, "k", "key@example.com")));
        let (repeated, ()) = tokio::join!(repeated, create_others(&app, round));
        for response in repeated {
            response.problem(500);
        }
    }
    assert_eq!(count(&pool).await, 1 + 100);
}

/// The disk is full, as far as one user is concerned. Nobody can tell that it fails only one request.
#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn a_repetition_does_not_fail_with_its_batch(pool: PgPool) {
    let app = start(&pool).await;
    create_with_key(&app, "k", "key@example.com").await.json(201);
    let fail = "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN RAISE SQLSTATE '53100' USING MESSAGE = 'disk full'; END $$;
         CREATE TRIGGER fail BEFORE INSERT ON users FOR EACH ROW WHEN (NEW.email = 'bad@example.com')
             EXECUTE FUNCTION fail()";
    raw_sql(fail).execute(&pool).await.expect("a trigger");
    for _ in 0..3 {
        let lock =
            hold(&pool, "INSERT INTO users (id, name, email) VALUES (gen_random_uuid(), 'Eve', 'new@example.com')")
                .await;
        // While the writer waits for the email, the others are queued, and share the next batch.
        let (first, second) =
            (json!({"name": "Ada", "email": "new@example.com"}), json!({"name": "Ada", "email": "bad@example.com"}));
        let together = async {
            writer_waits(&pool).await;
            let (bad, repeated) =
                tokio::join!(app.post("/users", &second), create_with_key(&app, "k", "key@example.com"));
            lock.commit().await.expect("unlocked");
            (bad, repeated)
        };
        let (_, (bad, repeated)) = tokio::join!(app.post("/users", &first), together);
        bad.problem(503);
        repeated.json(201);
        raw_sql("DELETE FROM users WHERE name = 'Eve'").execute(&pool).await.expect("deleted");
    }
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn changes_of_a_locked_row_leave_connections_for_reads(pool: PgPool) {
    let app = start(&pool).await;
    let (ada, bob) = (create(&app, "Ada", "ada@example.com").await, create(&app, "Bob", "bob@example.com").await);
    let lock = hold(&pool, "SELECT FROM users WHERE name = 'Ada' FOR UPDATE").await;
    let change = |number: usize| {
        let request = app.request(Method::PATCH, &path(&ada));
        let request = if number.is_multiple_of(2) { request.header("idempotency-key", "k") } else { request };
        app.send(request.json(&json!({"name": "A"})))
    };
    let changes = join_all((0..20).map(change));
    let reads = async {
        writer_waits(&pool).await;
        for _ in 0..20 {
            let read: Value = app.get(&path(&bob)).await.json(200);
            assert_eq!(read["name"], "Bob");
        }
        lock.rollback().await.expect("unlocked");
    };
    let (changes, ()) = tokio::join!(changes, reads);
    assert!(changes.iter().any(|response| response.status == 200));
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn requests_whose_client_leaves_leave_no_session(pool: PgPool) {
    let app = start(&pool).await;
    let ada = create(&app, "Ada", "ada@example.com").await;
    let lock = hold(&pool, "SELECT FROM users FOR UPDATE").await;
    let waiting = async |query: &'static str| -> i64 {
        let waiting = "SELECT count(*) FROM pg_stat_activity
                       WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE $1";
        sqlx::query_scalar(waiting).bind(query).fetch_one(&pool).await.expect("a count")
    };
    let change = app.request(Method::PATCH, &path(&ada)).json(&json!({"name": "A"}));
    let change = tokio::spawn(change.send());
    eventually("the change waits for the row", TIMEOUT, async || (waiting("%UPDATE users%").await == 1).then_some(()))
        .await;
    change.abort();
    // It waits from now on, and for less time than the change does.
    let mut witness = pool.begin().await.expect("a transaction");
    let witness = tokio::spawn(async move {
        raw_sql("SET LOCAL lock_timeout = '2s'; SELECT FROM users FOR UPDATE").execute(&mut *witness).await.map(drop)
    });
    eventually("the session of the change has ended", TIMEOUT, async || {
        (waiting("%UPDATE users%").await == 0).then_some(())
    })
    .await;
    assert!(!witness.is_finished(), "the change has not waited for its lock timeout");
    lock.rollback().await.expect("unlocked");
    witness.await.expect("no panic").expect("the row is free");
}
