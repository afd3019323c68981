//! Unknown and malformed ids are 404.

use reqwest::Method;
use serde_json::json;
use sqlx::PgPool;
use test_support::app::App;

use crate::{count, create, id, start};

const METHODS: [Method; 3] = [Method::GET, Method::PATCH, Method::DELETE];

async fn assert_not_found(app: &App, path: &str) {
    for method in METHODS {
        let mut request = app.request(method.clone(), path);
        if method == Method::PATCH {
            request = request.json(&json!({"name": "Eve"}));
        }
        let response = app.send(request).await;
        assert_eq!(response.status, 404, "{method} {path}");
        response.problem(404);
    }
    assert_eq!(app.send(app.request(Method::HEAD, path)).await.status, 404, "HEAD {path}");
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn unknown_and_malformed_ids_are_not_found(pool: PgPool) {
    let app = start(&pool).await;
    let ada = create(&app, "Ada", "ada@example.com").await;
    let uuid = id(&ada);
    let ids = [
        "0190d9a4-1f5e-7c3a-8a5e-0123456789ab".to_owned(),
        "00000000-0000-0000-0000-000000000000".to_owned(),
        "1".to_owned(),
        "x".to_owned(),
        "-1".to_owned(),
        "null".to_owned(),
        "'%20OR%201=1--".to_owned(),
        "%00".to_owned(),
        "%F0%9F%A6%94".to_owned(),
        "...".to_owned(),
        // Other forms of an existing UUID: a user has a single path.
        uuid.replace('-', ""),
        format!("%7B{uuid}%7D"),
        format!("urn:uuid:{uuid}"),
        format!("{uuid}%20"),
        format!("%20{uuid}"),
        format!("{uuid}%0A"),
        format!("{uuid}%00"),
        format!("{uuid}/"),
        format!("{uuid}/x"),
        format!("{uuid}%2F"),
        "a".repeat(10_000),
    ];
    for id in ids {
        assert_not_found(&app, &format!("/users/{id}")).await;
    }
    assert_eq!(count(&pool).await, 1);
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn an_id_that_is_not_utf_8_is_400(pool: PgPool) {
    let app = start(&pool).await;
    app.get("/users/%FF").await.problem(400);
    app.patch("/users/%C3", &json!({})).await.problem(400);
    app.delete("/users/%ED%A0%80").await.problem(400);
}
