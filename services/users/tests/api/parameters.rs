//! Refused query strings, paths and methods.

use std::slice;

use reqwest::Method;
use serde_json::json;
use sqlx::PgPool;
use test_support::rules;

use crate::{create, path, start};

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn an_invalid_parameter_is_422_and_named(pool: PgPool) {
    let app = start(&pool).await;
    let long = "a".repeat(10_000);
    let cases = [
        ("limit", "0"),
        ("limit", "201"),
        ("limit", "-1"),
        ("limit", "1.5"),
        ("limit", "1e2"),
        ("limit", "x"),
        ("limit", ""),
        ("limit", "%20"),
        ("limit", "%00"),
        ("limit", "99999999999999999999"),
        ("limit", &long),
        ("after", ""),
        ("after", "x"),
        ("after", "1"),
        ("after", "%00"),
        ("after", "0190d9a4-1f5e-7c3a-8a5e-0123456789a"),
        ("after", "0190d9a4-1f5e-7c3a-8a5e-0123456789ag"),
        ("after", &long),
        ("email", ""),
        ("email", "ada"),
        ("email", "a%00@example.com"),
        ("email", "a@example.com%0A"),
        ("email", &long),
    ];
    for (name, value) in cases {
        let response = app.get(&format!("/users?{name}={value}")).await;
        assert_eq!(response.status, 422, "{name}={value}");
        assert_eq!(response.errors(), [name], "{name}={value}");
    }
    assert_eq!(app.get("/users?limit").await.errors(), ["limit"]);
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn a_repeated_parameter_is_422_and_named(pool: PgPool) {
    let app = start(&pool).await;
    let uuid = "0190d9a4-1f5e-7c3a-8a5e-0123456789ab";
    for (name, value) in [("limit", "1"), ("after", uuid), ("email", "ada@example.com")] {
        assert_eq!(app.get(&format!("/users?{name}={value}&{name}={value}")).await.errors(), [name]);
    }
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn a_malformed_query_string_is_400(pool: PgPool) {
    let app = start(&pool).await;
    for query in ["limit=%FF", "%FF=1", "after=%C3%28", "x=%ED%A0%80", "limit=%zz", "email=100%", "%", "x=%2"] {
        app.get(&format!("/users?{query}")).await.problem(400);
    }
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn an_unknown_parameter_is_422_and_named(pool: PgPool) {
    let app = start(&pool).await;
    let ada = path(&create(&app, "Ada", "ada@example.com").await);
    for path in ["/users", &ada, &format!("{ada}/wishlist")] {
        for (query, names) in [
            ("x=1", vec!["x"]),
            ("x=1&y=2&x=3", vec!["x", "y"]),
            ("=", vec![""]),
            ("=1", vec![""]),
            ("Limit=0", vec!["Limit"]),
            ("a=b=c", vec!["a"]),
            ("x=%00", vec!["x"]),
        ] {
            assert_eq!(app.get(&format!("{path}?{query}")).await.errors(), names, "{path}?{query}");
        }
    }
    let problem = app.get("/users?limt=5").await.problem(422);
    assert_eq!(problem["errors"][0]["detail"], "unknown parameter; known parameters: limit, after, email");
    let problem = app.get(&format!("{ada}?limit=5")).await.problem(422);
    assert_eq!(problem["errors"][0]["detail"], "unknown parameter; this operation has no query parameters");
    assert_eq!(app.delete(&format!("{ada}?dry_run=true")).await.errors(), ["dry_run"]);
    app.get(&ada).await.json(200);
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn an_empty_query_string_is_accepted(pool: PgPool) {
    let app = start(&pool).await;
    let ada = create(&app, "Ada", "ada@example.com").await;
    for query in ["", "&&", "limit=1&"] {
        assert_eq!(app.get(&format!("/users?{query}")).await.rows(), slice::from_ref(&ada), "{query}");
    }
    assert_eq!(app.get(&format!("{}?", path(&ada))).await.json(200), ada);
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn errors_of_values_are_in_plain_english(pool: PgPool) {
    let app = start(&pool).await;
    for after in ["", "x", "0190d9a4-1f5e-7c3a-8a5e-0123456789a"] {
        let problem = app.get(&format!("/users?after={after}")).await.problem(422);
        assert_eq!(problem["errors"], json!([{"parameter": "after", "detail": "must be a UUID"}]), "{after}");
    }
    let body = json!({"name": 1, "email": "ada@example.com", "wishlist": {}});
    let errors = app.post("/users", &body).await.problem(422)["errors"].clone();
    let expected = json!([
        {"pointer": "#/name", "detail": "must be a string"}, {"pointer": "#/wishlist", "detail": "must be an array"},
    ]);
    assert_eq!(errors, expected);
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn a_trailing_slash_is_404_with_a_hint(pool: PgPool) {
    let problem = start(&pool).await.get("/users/").await.problem(404);
    assert_eq!(problem["detail"], "no such path; try it without the trailing slash");
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn an_unknown_path_is_404(pool: PgPool) {
    let app = start(&pool).await;
    for path in ["/nothing", "/user", "/users/", "//users", "/Users", "/users%2F", "/%FF", "/%00", "/%zz", "/metrics"] {
        for method in [Method::GET, Method::POST, Method::PATCH, Method::DELETE, Method::PUT] {
            let response = app.send(app.request(method.clone(), path)).await;
            assert_eq!(response.status, 404, "{method} {path}");
            assert_eq!(response.problem(404)["type"], "about:blank");
        }
    }
    app.get(&format!("/{}", "a".repeat(10_000))).await.problem(404);
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn a_method_that_is_not_allowed_is_405_with_allow(pool: PgPool) {
    let app = start(&pool).await;
    let ada = path(&create(&app, "Ada", "ada@example.com").await);
    let cases = [
        ("/users", vec!["PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "FOO", "get"], "GET,HEAD,POST"),
        (ada.as_str(), vec!["POST", "PUT", "OPTIONS", "TRACE", "FOO"], "DELETE,GET,HEAD,PATCH"),
        ("/openapi.json", vec!["POST", "DELETE"], "GET,HEAD"),
    ];
    for (path, methods, allowed) in cases {
        rules::refuses_methods(&app, path, &methods, allowed).await;
    }
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn head_is_get_without_the_body(pool: PgPool) {
    let app = start(&pool).await;
    let ada = path(&create(&app, "Ada", "ada@example.com").await);
    create(&app, "Bob", "bob@example.com").await;
    for path in [ada.as_str(), "/users?limit=1", "/openapi.json", "/users?limit=x", "/users/x", "/nothing"] {
        rules::head_is_get_without_the_body(&app, path).await;
    }
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn an_unexpected_body_is_ignored(pool: PgPool) {
    let app = start(&pool).await;
    let ada = create(&app, "Ada", "ada@example.com").await;
    let with_body = |method, path: &str| app.request(method, path).json(&json!({"name": "Eve"}));
    assert_eq!(app.send(with_body(Method::GET, "/users")).await.rows(), slice::from_ref(&ada));
    assert_eq!(app.send(with_body(Method::GET, &path(&ada))).await.json(200), ada);
    assert_eq!(app.send(with_body(Method::DELETE, &path(&ada))).await.status, 204);
}
