//! Query strings, paths and methods that are refused.

use reqwest::Method;
use serde_json::json;
use sqlx::PgPool;
use test_support::rules;

use crate::{counts, set, start};

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_parameter_that_breaks_a_rule_is_422_by_its_name(pool: PgPool) {
    let app = start(&pool).await;
    let long = "a".repeat(10_000);
    let limits = ["0", "201", "-1", "1.5", "x", "", "%00", "99999999999999999999", &long];
    for path in ["/inventory", "/inventory/p/movements"] {
        for limit in limits {
            let answer = app.get(&format!("{path}?limit={limit}")).await;
            assert_eq!(answer.status, 422, "{path} {limit}");
            assert_eq!(answer.faults(), ["limit"], "{path} {limit}");
        }
    }
    let too_long = "a".repeat(129);
    let products = ["", ".", "..", "a/b", "a%2Fb", "%00", "a%0A", "%C2%85", &too_long, &long];
    let numbers = ["", "x", "1.5", "1e3", "%00", "0x1", "%201", &long];
    let cases = products.map(|after| ("/inventory", after)).into_iter();
    for (path, after) in cases.chain(numbers.map(|after| ("/inventory/p/movements", after))) {
        let answer = app.get(&format!("{path}?after={after}")).await;
        assert_eq!(answer.status, 422, "{path} {after}");
        assert_eq!(answer.faults(), ["after"], "{path} {after}");
    }
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_parameter_that_comes_twice_is_422_by_its_name(pool: PgPool) {
    let app = start(&pool).await;
    for path in ["/inventory", "/inventory/p/movements"] {
        for name in ["limit", "after"] {
            assert_eq!(app.get(&format!("{path}?{name}=1&{name}=1")).await.faults(), [name]);
        }
    }
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_query_of_bad_escapes_or_no_utf_8_is_400(pool: PgPool) {
    let app = start(&pool).await;
    for path in ["/inventory", "/inventory/p/movements"] {
        for query in ["limit=%FF", "after=%C3%28", "%FF=1", "x=%ED%A0%80", "limit=%zz", "after=100%", "%", "x=%2"] {
            app.get(&format!("{path}?{query}")).await.problem(400);
        }
    }
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn unknown_parameters_and_odd_queries_are_ignored(pool: PgPool) {
    let app = start(&pool).await;
    set(&app, "p", 1).await.json(201);
    for query in ["", "x=1&x=2", "&&", "=", "x=%00", "limit=1&"] {
        for path in ["/inventory", "/inventory/p/movements"] {
            assert_eq!(app.get(&format!("{path}?{query}")).await.rows().len(), 1, "{path}?{query}");
        }
        assert_eq!(app.get(&format!("/inventory/p?{query}")).await.json(200)["stock"], 1, "{query}");
    }
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn an_unknown_path_is_404(pool: PgPool) {
    let app = start(&pool).await;
    for path in ["/nothing", "//inventory", "/Inventory", "/inventory%2Fp", "/inventory/p/x", "/%FF", "/%00", "/users"]
    {
        for method in [Method::GET, Method::POST, Method::PATCH, Method::DELETE] {
            let answer = app.send(app.request(method.clone(), path).json(&json!({"stock": 1}))).await;
            assert_eq!(answer.status, 404, "{method} {path}");
            answer.problem(404);
        }
    }
    assert_eq!(counts(&pool).await, (0, 0));
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_method_that_a_path_does_not_take_is_405_with_those_it_takes(pool: PgPool) {
    let app = start(&pool).await;
    let cases = [
        ("/inventory", vec!["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "FOO"], "GET,HEAD"),
        ("/inventory/p", vec!["PUT", "DELETE", "OPTIONS", "TRACE", "FOO"], "GET,HEAD,PATCH,POST"),
        ("/inventory/p/movements", vec!["POST", "PUT", "PATCH", "DELETE"], "GET,HEAD"),
    ];
    for (path, methods, allowed) in cases {
        rules::refuses_methods(&app, path, &methods, allowed).await;
    }
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn head_answers_as_get_without_the_body(pool: PgPool) {
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
