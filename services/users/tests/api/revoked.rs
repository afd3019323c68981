//! `GET /auth/revoked`, which the gateway reads again and again.

use std::collections::HashSet;

use reqwest::Method;
use serde_json::json;
use sqlx::{PgPool, raw_sql};
use test_support::{
    app::Response,
    process::{TIMEOUT, eventually},
};
use uuid::Uuid;

use crate::issuer::{Issuer, start_issuer};

/// Reads the list as the gateway does.
async fn get(issuer: &Issuer, query: &str) -> Response {
    issuer.send(Method::GET, &format!("/auth/revoked{query}"), &issuer.gateway(), None).await
}

/// The sessions after a cursor, and the next cursor.
async fn read(issuer: &Issuer, cursor: &str) -> (HashSet<Uuid>, String) {
    let body = get(issuer, &format!("?after={cursor}")).await.json(200);
    let sessions = body["sessions"].as_array().expect("a list").iter();
    let ids = sessions.map(|id| id.as_str().expect("a text").parse().expect("a UUID")).collect();
    (ids, body["cursor"].as_str().expect("a text").to_owned())
}

/// Waits until there is nothing more after a cursor. While a transaction of another test runs, sessions are repeated.
async fn read_to_end(issuer: &Issuer, cursor: String) {
    let mut cursor = cursor;
    eventually("there are no more", TIMEOUT, async || {
        let (sessions, next) = read(issuer, &cursor).await;
        cursor = next;
        sessions.is_empty().then_some(())
    })
    .await;
}

/// Inserts this many sessions that are not ended.
async fn insert(pool: &PgPool, count: i64) {
    let insert = "INSERT INTO session (id, user_id, expires_at, agent)
        SELECT gen_random_uuid(), gen_random_uuid(), now() + interval '1 day', '' FROM generate_series(1, $1)";
    sqlx::query(insert).bind(count).execute(pool).await.expect("inserted");
}

const END: &str = "UPDATE session SET revoked_at = now(), revoked_in = pg_current_xact_id()";

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn a_reader_gets_each_session_soon_and_hardly_twice(pool: PgPool) {
    let issuer = start_issuer(&pool).await;
    insert(&pool, 1).await;
    let (none, cursor) = read(&issuer, "").await;
    assert!(none.is_empty());
    raw_sql(END).execute(&pool).await.expect("ended");
    let (one, cursor) = read(&issuer, &cursor).await;
    assert_eq!(one.len(), 1);
    read_to_end(&issuer, cursor).await;
    // Whoever starts anew gets all, also with a cursor that is not known.
    for cursor in ["", "x", "18446744073709551615"] {
        assert_eq!(read(&issuer, cursor).await.0, one, "{cursor}");
    }
    raw_sql("UPDATE session SET revoked_at = revoked_at - interval '1 hour'").execute(&pool).await.expect("changed");
    assert!(read(&issuer, "").await.0.is_empty());
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn a_transaction_that_commits_late_is_not_missed(pool: PgPool) {
    let issuer = start_issuer(&pool).await;
    insert(&pool, 2).await;
    let (_, cursor) = read(&issuer, "").await;
    let one = "UPDATE session SET revoked_at = now(), revoked_in = pg_current_xact_id()
        WHERE id = (SELECT min(id::text)::uuid FROM session WHERE revoked_at IS NULL)";
    let mut late = pool.begin().await.expect("a transaction");
    raw_sql(one).execute(&mut *late).await.expect("ended");
    let other = "UPDATE session SET revoked_at = now(), revoked_in = pg_current_xact_id()
        WHERE id = (SELECT max(id::text)::uuid FROM session)";
    raw_sql(other).execute(&pool).await.expect("ended");
    let (first, cursor) = read(&issuer, &cursor).await;
    assert_eq!(first.len(), 1);
    late.commit().await.expect("committed");
    let (second, cursor) = read(&issuer, &cursor).await;
    assert_eq!(first.union(&second).count(), 2);
    read_to_end(&issuer, cursor).await;
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn a_long_list_is_read_in_pages(pool: PgPool) {
    let issuer = start_issuer(&pool).await;
    insert(&pool, 25_000).await;
    raw_sql(END).execute(&pool).await.expect("ended");
    let (mut all, mut cursor) = (HashSet::new(), String::new());
    for expected in [10_000, 10_000, 5_000] {
        let (page, next) = read(&issuer, &cursor).await;
        assert_eq!(page.len(), expected);
        all.extend(page);
        cursor = next;
    }
    assert_eq!(all.len(), 25_000);
    read_to_end(&issuer, cursor).await;
    assert_eq!(get(&issuer, "").await.header("cache-control"), Some("no-store"));
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn only_services_and_administrators_may_read_the_list(pool: PgPool) {
    let issuer = start_issuer(&pool).await;
    issuer.user("ada@example.com").await;
    let (ada, _) = issuer.tokens("ada@example.com").await;
    let scoped = issuer.foreign_token(&json!({"scope": "users:read users:write"}));
    let impostor = issuer.foreign_token(&json!({"sub": "system:serviceaccount:shop:gateway"}));
    issuer.app.get("/auth/revoked").await.problem(401);
    for (token, expected) in [
        (ada, 403),
        (scoped, 403),
        (impostor, 403),
        ("garbage".to_owned(), 401),
        (issuer.admin(), 200),
        (issuer.gateway(), 200),
    ] {
        let response = issuer.send(Method::GET, "/auth/revoked", &token, None).await;
        assert_eq!(response.status, expected, "{token}: {}", response.text());
    }
}
