//! Panics while a user is created. A timestamp that the driver cannot represent makes it panic when it reads the row.

use reqwest::Method;
use serde_json::json;
use sqlx::{PgPool, raw_sql};
use test_support::app::{App, Response};

use crate::{count, start};

/// Makes users have such a timestamp.
async fn break_rows(pool: &PgPool) {
    raw_sql("ALTER TABLE users ALTER created_at SET DEFAULT 'infinity'").execute(pool).await.expect("altered");
}

async fn post(app: &App, key: Option<&str>) -> Response {
    let request = app.request(Method::POST, "/users").json(&json!({"name": "Ada", "email": "ada@example.com"}));
    app.send(key.into_iter().fold(request, |request, key| request.header("idempotency-key", key))).await
}

/// With a key, the row is read before the transaction is committed.
#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn a_panic_before_the_commit_is_a_plain_failure(pool: PgPool) {
    let app = start(&pool).await;
    break_rows(&pool).await;
    let response = post(&app, Some("k")).await;
    assert_eq!(response.problem(500)["type"], "about:blank");
    assert_eq!((response.header("x-outcome"), count(&pool).await), (None, 0));
    raw_sql("ALTER TABLE users ALTER created_at SET DEFAULT now()").execute(&pool).await.expect("altered");
    post(&app, Some("k")).await.json(201);
}

/// Without a key, the statement is its own transaction.
#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn a_panic_after_the_commit_is_an_unknown_outcome(pool: PgPool) {
    let app = start(&pool).await;
    break_rows(&pool).await;
    let response = post(&app, None).await;
    assert_eq!(response.problem(503)["type"], "https://hedgerow.dev/problems/outcome-unknown");
    assert_eq!((response.header("x-outcome"), count(&pool).await), (Some("unknown"), 1), "it took effect");
}
