//! Invalid bodies are refused with the right status and pointer, and nothing is stored.

use reqwest::Method;
use serde_json::json;
use sqlx::PgPool;

use crate::{count, create, path, start};

/// Texts that no strict JSON parser accepts.
const BROKEN: [&[u8]; 18] = [
    b"",
    b"{",
    b"}",
    b"{\"name\": \"Ada\", \"email\": \"x@example.com\"",
    b"{\"name\": \"Ada\", \"email\": \"x@example.com\"}}",
    b"{\"name\": \"Ada\", \"email\": \"x@example.com\",}",
    b"{'name': 'Ada'}",
    b"{name: 1}",
    b"name=Ada&email=x@example.com",
    b"{\"name\": \"Ada\nB\"}",
    b"{\"name\": \"\\x\"}",
    b"{\"name\": \"\\ud800\"}",
    b"{\"name\": \"\xff\"}",
    b"\xff\xfe{\x00}\x00",
    b"\xef\xbb\xbf{\"name\": \"BOM\"}",
    b"\x00",
    b"NaN",
    b" \n\t ",
];

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn a_malformed_or_missing_body_is_400(pool: PgPool) {
    let app = start(&pool).await;
    let ada = path(&create(&app, "Ada", "ada@example.com").await);
    for body in BROKEN {
        for (method, path) in [(Method::POST, "/users"), (Method::PATCH, ada.as_str())] {
            let request = app.request(method, path).header("content-type", "application/json").body(body);
            let response = app.send(request).await;
            assert_eq!(response.status, 400, "{:?}", String::from_utf8_lossy(body));
            response.problem(400);
        }
    }
    app.send(app.request(Method::POST, "/users")).await.problem(400);
    assert_eq!(count(&pool).await, 1);
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn an_invalid_body_is_422_with_a_pointer(pool: PgPool) {
    let app = start(&pool).await;
    let good = json!({"name": "Ada", "email": "ada@example.com"});
    let with = |field: &str, value| {
        let mut body = good.clone();
        body[field] = value;
        body
    };
    let mut cases = vec![
        (json!([]), "#"),
        (json!(["Ada"]), "#"),
        (json!("Ada"), "#"),
        (json!(1), "#"),
        (json!(true), "#"),
        (json!(null), "#"),
        (json!({"email": "ada@example.com"}), "#/name"),
        (json!({"name": "Ada"}), "#/email"),
        (with("id", json!("0190d9a4-1f5e-7c3a-8a5e-0123456789ab")), "#/id"),
        (with("created_at", json!("2020-01-01T00:00:00Z")), "#/created_at"),
        (with("Name", json!("Ada")), "#/Name"),
        (with("", json!(1)), "#/"),
        (with("a/b~c é", json!(1)), "#/a~1b~0c%20%C3%A9"),
        (with("a\0", json!(1)), "#/a%00"),
    ];
    for wrong in [json!(null), json!(1), json!(true), json!([]), json!(["Ada"]), json!({}), json!({"x": [1]})] {
        cases.push((with("name", wrong.clone()), "#/name"));
        cases.push((with("email", wrong), "#/email"));
    }
    for name in ["", " ", "\t\n\u{a0}\u{2003}", "a\0b", "\0", &"é".repeat(201), &"a".repeat(10_000)] {
        cases.push((with("name", json!(name)), "#/name"));
    }
    let emails = [
        "",
        " ",
        "ada",
        "@",
        "@example.com",
        "ada@",
        "a b@example.com",
        "ada@example.com ",
        " ada@example.com",
        "a@-x",
        "a@x..y",
        "ada@example.com\n",
        "é@example.com",
        "ada@exämple.com",
        "a\0@example.com",
        "a@b@c",
        "ada@example.com,eve@example.com",
        "Ada <ada@example.com>",
    ];
    for email in emails {
        cases.push((with("email", json!(email)), "#/email"));
    }
    for length in [243, 10_000] {
        cases.push((with("email", json!(format!("{}@example.com", "a".repeat(length)))), "#/email"));
    }
    for (body, pointer) in cases {
        let response = app.post("/users", &body).await;
        assert_eq!(response.status, 422, "{body}");
        assert_eq!(response.errors(), [pointer], "{body}");
        assert_eq!(response.problem(422)["type"], "https://hedgerow.dev/problems/invalid-request");
    }
    assert_eq!(count(&pool).await, 0);
    assert_eq!(app.post("/users", &good).await.status, 201, "a valid body is still accepted");
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn every_error_in_a_body_is_listed(pool: PgPool) {
    let app = start(&pool).await;
    let mut pointers = app.post("/users", &json!({"name": "", "x": 1, "y": 2})).await.errors();
    pointers.sort();
    assert_eq!(pointers, ["#/email", "#/name", "#/x", "#/y"]);
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn the_content_type_must_be_json(pool: PgPool) {
    let app = start(&pool).await;
    let ada = path(&create(&app, "Ada", "ada@example.com").await);
    let body = r#"{"name": "Eve", "email": "eve@example.com"}"#;
    let refused =
        ["text/plain", "text/json", "application/xml", "application/jsonx", "json", "", ";", "multipart/form-data"];
    for media_type in refused {
        for (method, path) in [(Method::POST, "/users"), (Method::PATCH, ada.as_str())] {
            let request = app.request(method, path).header("content-type", media_type).body(body);
            let response = app.send(request).await;
            assert_eq!(response.status, 415, "{media_type:?}");
            response.problem(415);
        }
    }
    let merge_patch = app.request(Method::POST, "/users").header("content-type", "application/merge-patch+json");
    app.send(merge_patch.body(body)).await.problem(415);
    app.send(app.request(Method::POST, "/users").body(body)).await.problem(415);
    app.send(app.request(Method::PATCH, &ada).body(body)).await.problem(415);
    assert_eq!(count(&pool).await, 1);

    for (number, parameter) in ["", ";charset=utf-8", "; charset=\"UTF-8\"", " ; x=y"].into_iter().enumerate() {
        let request =
            app.request(Method::POST, "/users").header("content-type", format!("Application/JSON{parameter}"));
        let response = app.send(request.body(format!(r#"{{"name": "Ada", "email": "{number}@example.com"}}"#))).await;
        assert_eq!(response.status, 201, "{parameter}");
    }
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn deep_nesting_is_refused(pool: PgPool) {
    let app = start(&pool).await;
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        for depth in [100, 200, 10_000] {
            let nested = format!("{}1{}", open.repeat(depth), close.repeat(depth));
            let body = format!(r#"{{"name": {nested}, "email": "ada@example.com"}}"#);
            let request = app.request(Method::POST, "/users").header("content-type", "application/json").body(body);
            let response = app.send(request).await;
            response.problem(if depth == 100 {
                422
            } else if response.status == 413 {
                413
            } else {
                400
            });
        }
    }
    assert_eq!(count(&pool).await, 0);
}
