//! Refused query strings, paths and methods.

use reqwest::Method;
use serde_json::json;
use sqlx::PgPool;
use test_support::rules;

use crate::{counts, set, start};

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn an_invalid_parameter_is_422_and_named(pool: PgPool) {
    let app = start(&pool).await;
    let long = "a".repeat(10_000);
    let limits = ["0", "201", "-1", "1.5", "x", "", "%00", "99999999999999999999", &long];
    for path in ["/inventory", "/inventory/p/movements"] {
        for limit in limits {
            let response = app.get(&format!("{path}?limit={limit}")).await;
            assert_eq!(response.status, 422, "{path} {limit}");
            assert_eq!(response.errors(), ["limit"], "{path} {limit}");
        }
    }
    let too_long = "a".repeat(129);
    let products = ["", ".", "..", "a/b", "a%2Fb", "%00", "a%0A", "%C2%85", &too_long, &long];
    let numbers = ["", "x", "1.5", "1e3", "%00", "0x1", "%201", &long];
    let cases = products.map(|after| ("/inventory", after)).into_iter();
    for (path, after) in cases.chain(numbers.map(|after| ("/inventory/p/movements", after))) {
        let response = app.get(&format!("{path}?after={after}")).await;
        assert_eq!(response.status, 422, "{path} {after}");
        assert_eq!(response.errors(), ["after"], "{path} {after}");
    }
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_repeated_parameter_is_422_and_named(pool: PgPool) {
    let app = start(&pool).await;
    for path in ["/inventory", "/inventory/p/movements"] {
        for name in ["limit", "after"] {
            assert_eq!(app.get(&format!("{path}?{name}=1&{name}=1")).await.errors(), [name]);
        }
    }
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_malformed_query_string_is_400(pool: PgPool) {
    let app = start(&pool).await;
    for path in ["/inventory", "/inventory/p/movements"] {
        for query in ["limit=%FF", "after=%C3%28", "%FF=1", "x=%ED%A0%80", "limit=%zz", "after=100%", "%", "x=%2"] {
            app.get(&format!("{path}?{query}")).await.problem(400);
        }
    }
    app.get("/inventory/p?%zz").await.problem(400);
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn an_unknown_parameter_is_422_and_named(pool: PgPool) {
    let app = start(&pool).await;
    let problem = app.get("/inventory?limt=5").await.problem(422);
    let error = json!({"parameter": "limt", "detail": "unknown parameter; known parameters: limit, after"});
    assert_eq!(
        (&problem["type"], &problem["errors"]),
        (&json!("https://hedgerow.dev/problems/invalid-request"), &json!([error]))
    );
    for path in ["/inventory", "/inventory/p", "/inventory/p/movements"] {
        let queries =
            [("x=1&y=2&x=3", vec!["x", "y"]), ("=", vec![""]), ("x=%00", vec!["x"]), ("Limit=1", vec!["Limit"])];
        for (query, names) in queries {
            assert_eq!(app.get(&format!("{path}?{query}")).await.errors(), names, "{path}?{query}");
        }
    }
    let body = json!({"items": [{"product_id": "p", "quantity": 1}]});
    assert_eq!(app.post("/reservations?ttl_seconds=1", &body).await.errors(), ["ttl_seconds"]);
    assert_eq!(app.patch("/inventory/p?dry_run=true", &json!({"delta": 1})).await.errors(), ["dry_run"]);
    rules::head_is_get_without_the_body(&app, "/inventory?limt=5").await;
    assert_eq!(counts(&pool).await, (0, 0));
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn an_empty_query_string_is_accepted(pool: PgPool) {
    let app = start(&pool).await;
    set(&app, "p", 1).await.json(201);
    for query in ["", "&&"] {
        for path in ["/inventory", "/inventory/p/movements"] {
            assert_eq!(app.get(&format!("{path}?{query}")).await.rows().len(), 1, "{path}?{query}");
        }
        assert_eq!(app.get(&format!("/inventory/p?{query}")).await.json(200)["stock"], 1, "{query}");
    }
    assert_eq!(app.get("/inventory?limit=1&").await.rows().len(), 1);
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_trailing_slash_is_404_with_a_hint(pool: PgPool) {
    let app = start(&pool).await;
    for path in ["/inventory/", "/inventory/p/", "/reservations/"] {
        let detail = app.get(path).await.problem(404)["detail"].clone();
        assert_eq!(detail, "no such path; try it without the trailing slash", "{path}");
    }
    assert_eq!(app.get("/nothing").await.problem(404)["detail"], "no such path");
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn an_unknown_path_is_404(pool: PgPool) {
    let app = start(&pool).await;
    for path in ["/nothing", "//inventory", "/Inventory", "/inventory%2Fp", "/inventory/p/x", "/%FF", "/%00", "/users"]
    {
        for method in [Method::GET, Method::POST, Method::PATCH, Method::DELETE] {
            let response = app.send(app.request(method.clone(), path).json(&json!({"stock": 1}))).await;
            assert_eq!(response.status, 404, "{method} {path}");
            response.problem(404);
        }
    }
    assert_eq!(counts(&pool).await, (0, 0));
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_method_that_is_not_allowed_is_405_with_allow(pool: PgPool) {
    let app = start(&pool).await;
    let cases = [
        ("/inventory", vec!["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "FOO"], "GET,HEAD"),
        ("/inventory/p", vec!["DELETE", "OPTIONS", "TRACE", "FOO"], "GET,HEAD,PATCH,POST,PUT"),
        ("/inventory/p/movements", vec!["POST", "PUT", "PATCH", "DELETE"], "GET,HEAD"),
    ];
    for (path, methods, allowed) in cases {
        rules::refuses_methods(&app, path, &methods, allowed).await;
    }
    let problem = app.delete("/inventory").await.problem(405);
    assert_eq!(problem["detail"], "method not allowed; see the Allow header");
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn head_is_get_without_the_body(pool: PgPool) {
    let app = start(&pool).await;
    for product in ["p", "q"] {
        set(&app, product, 1).await.json(201);
    }
    set(&app, "p", 2).await.json(201);
    for path in
        ["/inventory/p", "/inventory?limit=1", "/inventory/p/movements?limit=1", "/inventory?limit=x", "/nothing"]
    {
        rules::head_is_get_without_the_body(&app, path).await;
    }
    assert_eq!(counts(&pool).await, (2, 3));
}
