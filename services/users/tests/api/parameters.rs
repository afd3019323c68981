//! Query strings, paths and methods that are refused.

use std::slice;

use reqwest::Method;
use serde_json::json;
use sqlx::PgPool;
use test_support::rules;

use crate::{create, path, start};

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn a_parameter_that_breaks_a_rule_is_422_by_its_name(pool: PgPool) {
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
        let answer = app.get(&format!("/users?{name}={value}")).await;
        assert_eq!(answer.status, 422, "{name}={value}");
        assert_eq!(answer.faults(), [name], "{name}={value}");
    }
    assert_eq!(app.get("/users?limit").await.faults(), ["limit"]);
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn a_parameter_that_comes_twice_is_422_by_its_name(pool: PgPool) {
    let app = start(&pool).await;
    let uuid = "0190d9a4-1f5e-7c3a-8a5e-0123456789ab";
    for (name, value) in [("limit", "1"), ("after", uuid), ("email", "ada@example.com")] {
        assert_eq!(app.get(&format!("/users?{name}={value}&{name}={value}")).await.faults(), [name]);
    }
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn a_query_of_bad_escapes_or_no_utf_8_is_400(pool: PgPool) {
    let app = start(&pool).await;
    for query in ["limit=%FF", "%FF=1", "after=%C3%28", "x=%ED%A0%80", "limit=%zz", "email=100%", "%", "x=%2"] {
        app.get(&format!("/users?{query}")).await.problem(400);
    }
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn unknown_parameters_and_odd_queries_are_ignored(pool: PgPool) {
    let app = start(&pool).await;
    let ada = create(&app, "Ada", "ada@example.com").await;
    for query in ["", "x=1", "x=1&x=2", "&&", "=", "=1", "Limit=0", "a=b=c", "x=%00", "limit=1&"] {
        assert_eq!(app.get(&format!("/users?{query}")).await.rows(), slice::from_ref(&ada), "{query}");
    }
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn an_unknown_path_is_404(pool: PgPool) {
    let app = start(&pool).await;
    for path in ["/nothing", "/user", "/users/", "//users", "/Users", "/users%2F", "/%FF", "/%00", "/%zz", "/metrics"] {
        for method in [Method::GET, Method::POST, Method::PATCH, Method::DELETE, Method::PUT] {
            let answer = app.send(app.request(method.clone(), path)).await;
            assert_eq!(answer.status, 404, "{method} {path}");
            assert_eq!(answer.problem(404)["type"], "about:blank");
        }
    }
    app.get(&format!("/{}", "a".repeat(10_000))).await.problem(404);
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn a_method_that_a_path_does_not_take_is_405_with_those_it_takes(pool: PgPool) {
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
async fn head_answers_as_get_without_the_body(pool: PgPool) {
    let app = start(&pool).await;
    let ada = path(&create(&app, "Ada", "ada@example.com").await);
    create(&app, "Bob", "bob@example.com").await;
    for path in [ada.as_str(), "/users?limit=1", "/openapi.json", "/users?limit=x", "/users/x", "/nothing"] {
        rules::head_is_get_without_the_body(&app, path).await;
    }
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn a_body_where_none_is_asked_for_does_no_harm(pool: PgPool) {
    let app = start(&pool).await;
    let ada = create(&app, "Ada", "ada@example.com").await;
    let with_body = |method, path: &str| app.request(method, path).json(&json!({"name": "Eve"}));
    assert_eq!(app.send(with_body(Method::GET, "/users")).await.rows(), slice::from_ref(&ada));
    assert_eq!(app.send(with_body(Method::GET, &path(&ada))).await.json(200), ada);
    assert_eq!(app.send(with_body(Method::DELETE, &path(&ada))).await.status, 204);
}
