//! Invalid bodies are refused with the right status and pointer, and change nothing.

use reqwest::Method;
use serde_json::json;
use sqlx::PgPool;

use crate::{counts, set, start};

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_malformed_or_missing_body_is_400(pool: PgPool) {
    let app = start(&pool).await;
    set(&app, "p", 5).await.json(201);
    let broken: [&[u8]; 16] = [
        b"",
        b" ",
        b"{",
        b"{\"stock\": 1, \"delta\": 1",
        b"{\"stock\": 1,}",
        b"{\"stock\": 01}",
        b"{\"stock\": +1}",
        b"{\"stock\": 1.}",
        b"{\"stock\": 0x1}",
        b"{\"stock\": NaN}",
        b"{\"stock\": Infinity}",
        b"{\"delta\": 1} {\"delta\": 1}",
        b"delta=1",
        b"{\"reason\": \"\xff\"}",
        b"{\"reason\": \"\\udc00\"}",
        b"\x00",
    ];
    for body in broken {
        for method in [Method::POST, Method::PATCH] {
            let request = app.request(method, "/inventory/p").header("content-type", "application/json").body(body);
            let response = app.send(request).await;
            assert_eq!(response.status, 400, "{}", String::from_utf8_lossy(body));
            response.problem(400);
        }
    }
    app.send(app.request(Method::POST, "/inventory/p")).await.problem(400);
    app.send(app.request(Method::PATCH, "/inventory/p")).await.problem(400);
    assert_eq!(counts(&pool).await, (1, 1));
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn an_invalid_body_is_422_with_a_pointer(pool: PgPool) {
    let app = start(&pool).await;
    let cases = [
        (Method::POST, json!([]), "#"),
        (Method::POST, json!(42), "#"),
        (Method::POST, json!(null), "#"),
        (Method::PATCH, json!("x"), "#"),
        (Method::PATCH, json!([{"delta": 1}]), "#"),
        (Method::POST, json!({"stock": 1, "reason": "x"}), "#/reason"),
        (Method::POST, json!({"stock": 1, "on_hand": 1}), "#/on_hand"),
        (Method::POST, json!({"stock": 1, "product_id": "p"}), "#/product_id"),
        (Method::POST, json!({"stock": 1, "Stock": 1}), "#/Stock"),
        (Method::POST, json!({"stock": 1, "~/ ": 1}), "#/~0~1%20"),
        (Method::PATCH, json!({"delta": 1, "stock": 1}), "#/stock"),
        (Method::PATCH, json!({"delta": 1, "reasons": []}), "#/reasons"),
    ];
    for (method, body, pointer) in cases {
        let response = app.send(app.request(method.clone(), "/inventory/p").json(&body)).await;
        assert_eq!(response.status, 422, "{method} {body}");
        assert_eq!(response.errors(), [pointer], "{method} {body}");
        assert_eq!(response.problem(422)["type"], "https://hedgerow.dev/problems/invalid-request");
    }
    let mut pointers = app.patch("/inventory/p", &json!({"delta": "1", "reason": 1, "x": 1})).await.errors();
    pointers.sort();
    assert_eq!(pointers, ["#/delta", "#/reason", "#/x"], "every error is listed");
    assert_eq!(counts(&pool).await, (0, 0));
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn duplicate_fields_and_huge_numbers_are_422(pool: PgPool) {
    let app = start(&pool).await;
    let cases = [
        (Method::POST, r#"{"stock": 1e400}"#, "#/stock"),
        (Method::POST, r#"{"stock": -1e400}"#, "#/stock"),
        (Method::POST, r#"{"stock": 1, "stock": 1}"#, "#/stock"),
        (Method::PATCH, r#"{"delta": 1, "reason": "a", "delta": 2}"#, "#/delta"),
        (Method::PATCH, r#"{"delta": 1e999999999999}"#, "#/delta"),
    ];
    for (method, body, pointer) in cases {
        let request = app.request(method, "/inventory/p").header("content-type", "application/json").body(body);
        assert_eq!(app.send(request).await.errors(), [pointer], "{body}");
    }
    assert_eq!(counts(&pool).await, (0, 0));
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn the_content_type_must_be_json(pool: PgPool) {
    let app = start(&pool).await;
    for media_type in ["text/plain", "application/x-www-form-urlencoded", "application/xml", "", "json"] {
        for (method, body) in [(Method::POST, r#"{"stock": 1}"#), (Method::PATCH, r#"{"delta": 1}"#)] {
            let request = app.request(method, "/inventory/p").header("content-type", media_type).body(body);
            let response = app.send(request).await;
            assert_eq!(response.status, 415, "{media_type:?}");
            response.problem(415);
        }
    }
    let merge_patch = app.request(Method::POST, "/inventory/p").header("content-type", "application/merge-patch+json");
    app.send(merge_patch.body(r#"{"stock": 1}"#)).await.problem(415);
    app.send(app.request(Method::POST, "/inventory/p").body(r#"{"stock": 1}"#)).await.problem(415);
    app.send(app.request(Method::PATCH, "/inventory/p").body(r#"{"delta": 1}"#)).await.problem(415);
    assert_eq!(counts(&pool).await, (0, 0));

    let charset = app.request(Method::POST, "/inventory/p").header("content-type", "application/json; charset=utf-8");
    assert_eq!(app.send(charset.body(r#"{"stock": 1}"#)).await.status, 201);
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn deep_nesting_is_refused(pool: PgPool) {
    let app = start(&pool).await;
    for (depth, status) in [(100, 422), (10_000, 400)] {
        let body = format!(r#"{{"stock": {}1{}}}"#, "[".repeat(depth), "]".repeat(depth));
        let request = app.request(Method::POST, "/inventory/p").header("content-type", "application/json");
        app.send(request.body(body)).await.problem(status);
    }
    assert_eq!(counts(&pool).await, (0, 0));
}
