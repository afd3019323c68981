//! `PATCH /users/{id}`: a JSON merge patch.

use chrono::{DateTime, Utc};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::{create, path, start};

fn time(user: &Value, field: &str) -> DateTime<Utc> {
    user[field].as_str().expect("a text").parse().expect("RFC 3339")
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn a_patch_changes_only_the_given_attributes(pool: PgPool) {
    let app = start(&pool).await;
    let ada = create(&app, "Ada", "ada@example.com").await;
    let bob = create(&app, "Bob", "bob@example.com").await;

    let named = app.patch(&path(&ada), &json!({"name": "Ada L."})).await.json(200);
    assert_eq!((&named["name"], &named["email"]), (&json!("Ada L."), &json!("ada@example.com")));
    let moved = app.patch(&path(&ada), &json!({"email": "l@example.com"})).await.json(200);
    assert_eq!((&moved["name"], &moved["email"]), (&json!("Ada L."), &json!("l@example.com")));
    let both = app.patch(&path(&ada), &json!({"name": "A", "email": "a@example.com"})).await.json(200);
    assert_eq!((&both["name"], &both["email"]), (&json!("A"), &json!("a@example.com")));

    assert_eq!(app.get(&path(&ada)).await.json(200), both);
    assert_eq!(app.get(&path(&bob)).await.json(200), bob);
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn a_patch_changes_updated_at_and_the_etag(pool: PgPool) {
    let app = start(&pool).await;
    let ada = create(&app, "Ada", "ada@example.com").await;
    let before = app.get(&path(&ada)).await;
    let response = app.patch(&path(&ada), &json!({"name": "Ada L."})).await;
    let changed = response.json(200);
    assert_eq!(changed["created_at"], ada["created_at"]);
    assert!(time(&changed, "updated_at") > time(&ada, "updated_at"));
    assert_ne!(response.etag(), before.etag());
    assert_eq!(app.get(&path(&ada)).await.etag(), response.etag());
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn a_patch_is_merge_patch_or_json(pool: PgPool) {
    let app = start(&pool).await;
    let ada = create(&app, "Ada", "ada@example.com").await;
    let media_types = [
        "application/merge-patch+json",
        "application/json",
        "application/merge-patch+json; charset=utf-8",
        "Application/JSON;charset=UTF-8",
    ];
    for media_type in media_types {
        let request = app.request(Method::PATCH, &path(&ada)).header("content-type", media_type);
        let name = app.send(request.body(format!(r#"{{"name": "{media_type}"}}"#))).await.json(200)["name"].clone();
        assert_eq!(name, media_type);
    }
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn an_empty_patch_keeps_the_version_and_checks_conditions(pool: PgPool) {
    let app = start(&pool).await;
    let ada = create(&app, "Ada", "ada@example.com").await;
    let etag = app.get(&path(&ada)).await.etag();
    let patch_if = async |path: &str, tag: &str| {
        app.send(app.request(Method::PATCH, path).header("if-match", tag).json(&json!({}))).await
    };
    for same in [app.patch(&path(&ada), &json!({})).await, patch_if(&path(&ada), &etag).await] {
        assert_eq!((same.json(200), same.etag()), (ada.clone(), etag.clone()));
    }
    patch_if(&path(&ada), "\"999\"").await.problem(412);
    app.patch("/users/0190d9a4-1f5e-7c3a-8a5e-0123456789ab", &json!({})).await.problem(404);
    let found = app.get(&path(&ada)).await;
    assert_eq!((found.json(200), found.etag()), (ada, etag));
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn null_and_read_only_fields_are_refused(pool: PgPool) {
    let app = start(&pool).await;
    let ada = create(&app, "Ada", "ada@example.com").await;
    let cases = [
        (json!({"name": null}), "#/name"),
        (json!({"email": null}), "#/email"),
        (json!({"id": ada["id"]}), "#/id"),
        (json!({"created_at": ada["created_at"]}), "#/created_at"),
        (json!({"updated_at": ada["updated_at"], "name": "Eve"}), "#/updated_at"),
        (json!({"version": 7}), "#/version"),
    ];
    for (body, pointer) in cases {
        assert_eq!(app.patch(&path(&ada), &body).await.errors(), [pointer], "{body}");
    }
    assert_eq!(app.get(&path(&ada)).await.json(200), ada);
}
