//! An email belongs to one user, regardless of case.

use serde_json::json;
use sqlx::PgPool;
use test_support::app::{Response, join_all};

use crate::{count, create, path, start};

/// Asserts that the email was taken.
#[track_caller]
fn assert_taken(response: &Response) {
    assert_eq!(response.problem(409)["type"], "https://hedgerow.dev/problems/email-taken");
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn a_taken_email_is_refused_regardless_of_case(pool: PgPool) {
    let app = start(&pool).await;
    let ada = create(&app, "Ada", "Ada@example.com").await;
    for email in ["Ada@example.com", "ada@example.com", "ADA@EXAMPLE.COM"] {
        assert_taken(&app.post("/users", &json!({"name": "Eve", "email": email})).await);
    }
    assert_eq!(app.get("/users").await.rows(), [ada]);
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn a_patch_with_a_taken_email_changes_nothing(pool: PgPool) {
    let app = start(&pool).await;
    create(&app, "Ada", "ada@example.com").await;
    let bob = create(&app, "Bob", "bob@example.com").await;
    let etag = app.get(&path(&bob)).await.etag();
    assert_taken(&app.patch(&path(&bob), &json!({"name": "Eve", "email": "ADA@example.com"})).await);
    let found = app.get(&path(&bob)).await;
    assert_eq!((found.json(200), found.etag()), (bob, etag));
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn a_user_may_change_the_case_of_its_own_email(pool: PgPool) {
    let app = start(&pool).await;
    let ada = create(&app, "Ada", "ada@example.com").await;
    for email in ["ADA@example.com", "ADA@example.com"] {
        assert_eq!(app.patch(&path(&ada), &json!({"email": email})).await.json(200)["email"], email);
    }
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn an_email_is_free_again_once_its_user_drops_it(pool: PgPool) {
    let app = start(&pool).await;
    let ada = create(&app, "Ada", "ada@example.com").await;
    assert_eq!(app.patch(&path(&ada), &json!({"email": "lovelace@example.com"})).await.status, 200);
    create(&app, "Another Ada", "ada@example.com").await;
    assert_eq!(app.delete(&path(&ada)).await.status, 204);
    create(&app, "Another Lovelace", "lovelace@example.com").await;
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn exactly_one_of_concurrent_duplicates_is_created(pool: PgPool) {
    let (app, other) = (start(&pool).await, start(&pool).await);
    for round in 0..5 {
        let duplicates = (0..16).map(|copy| {
            let (app, case) = (if copy % 2 == 0 { &app } else { &other }, if copy % 3 == 0 { "COPY" } else { "copy" });
            let body = json!({"name": format!("Copy {copy}"), "email": format!("{case}{round}@example.com")});
            async move { app.post("/users", &body).await }
        });
        let responses = join_all(duplicates).await;
        let (created, refused): (Vec<_>, Vec<_>) = responses.iter().partition(|response| response.status == 201);
        assert_eq!(created.len(), 1);
        refused.into_iter().for_each(assert_taken);
        assert_eq!(count(&pool).await, round + 1);
        let filtered = app.get(&format!("/users?email=copy{round}%40example.com")).await;
        assert_eq!(filtered.rows(), [created[0].json(201)]);
    }
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn exactly_one_of_concurrent_patches_to_one_email_wins(pool: PgPool) {
    let app = start(&pool).await;
    let mut users = Vec::new();
    for number in 0..8 {
        users.push(create(&app, "Ada", &format!("ada{number}@example.com")).await);
    }
    let body = json!({"email": "wanted@example.com"});
    let responses = join_all(users.iter().map(|user| {
        let (app, body, path) = (&app, &body, path(user));
        async move { app.patch(&path, body).await }
    }));
    let responses = responses.await;
    let (won, lost): (Vec<_>, Vec<_>) = responses.iter().partition(|response| response.status == 200);
    assert_eq!(won.len(), 1);
    lost.into_iter().for_each(assert_taken);
}
