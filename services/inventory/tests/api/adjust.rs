//! `PATCH /inventory/{product_id}`.

use reqwest::Method;
use serde_json::json;
use sqlx::PgPool;
use test_support::app::join_all;

use crate::{MOST, adjust, counts, ledger, set, start, stock};

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_delta_is_added_to_the_stock_or_to_zero(pool: PgPool) {
    let app = start(&pool).await;
    for (delta, after) in [(5, 5), (-3, 2), (0, 2), (-2, 0), (1, 1)] {
        let response = adjust(&app, "p", delta).await;
        let expected = json!({"product_id": "p", "stock": after, "on_hand": after, "reserved": 0});
        assert_eq!(response.json(200), expected, "{delta}");
        let found = app.get("/inventory/p").await;
        assert_eq!((found.json(200), found.etag()), (expected, response.etag()));
    }
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_delta_is_json_and_not_a_merge_patch(pool: PgPool) {
    let app = start(&pool).await;
    for (number, media_type) in (1..).zip(["application/json", "application/json; charset=utf-8"]) {
        let request = app.request(Method::PATCH, "/inventory/p").header("content-type", media_type);
        assert_eq!(app.send(request.body(r#"{"delta": 1.0}"#)).await.json(200)["stock"], number, "{media_type}");
    }
    let request = app.request(Method::PATCH, "/inventory/p").header("content-type", "application/merge-patch+json");
    app.send(request.body(r#"{"delta": 1}"#)).await.problem(415);
    assert_eq!(stock(&app, "p").await, 2);
    let document = app.get("/openapi.json").await.json(200);
    let content = &document["paths"]["/inventory/{product_id}"]["patch"]["requestBody"]["content"];
    assert_eq!(content.as_object().expect("media types").keys().collect::<Vec<_>>(), ["application/json"]);
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_result_below_zero_is_409_and_changes_nothing(pool: PgPool) {
    let app = start(&pool).await;
    set(&app, "p", 5).await.json(201);
    let before = app.get("/inventory/p").await;
    for (product, delta) in [("p", -6), ("p", -MOST), ("new", -1), ("new", -MOST)] {
        let problem = adjust(&app, product, delta).await.problem(409);
        assert_eq!(problem["type"], "https://hedgerow.dev/problems/insufficient-stock");
    }
    let after = app.get("/inventory/p").await;
    assert_eq!((after.json(200), after.etag()), (before.json(200), before.etag()));
    assert_eq!(counts(&pool).await, (1, 1), "no movement and no new product");
    assert_eq!(app.get("/inventory").await.rows(), [before.json(200)]);
    assert_eq!(ledger(&app, "new").await, [json!(null); 0]);

    assert_eq!(adjust(&app, "new", 2).await.json(200)["stock"], 2);
    assert_eq!(ledger(&app, "new").await[0]["version"], 1, "refusals do not count as movements");
    assert_eq!(adjust(&app, "p", -5).await.json(200)["stock"], 0, "zero is allowed");
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_refused_change_does_not_create_the_product(pool: PgPool) {
    let app = start(&pool).await;
    let products = ["a", "b", "c", "d"];
    let responses = join_all((0..40).map(|number| {
        // All are refused except those to c.
        let product = products[number % products.len()];
        adjust(&app, product, if product == "c" { 1 } else { -1 })
    }));
    for (number, response) in responses.await.iter().enumerate() {
        assert_eq!(response.status, if products[number % products.len()] == "c" { 200 } else { 409 });
    }
    let known: Vec<String> = sqlx::query_scalar("SELECT product_id FROM stock").fetch_all(&pool).await.expect("rows");
    assert_eq!(known, ["c"]);
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_result_above_2_to_the_53_minus_1_is_422(pool: PgPool) {
    let app = start(&pool).await;
    set(&app, "p", MOST - 1).await.json(201);
    for delta in [2, MOST] {
        assert_eq!(adjust(&app, "p", delta).await.errors(), ["#/delta"]);
    }
    assert_eq!(stock(&app, "p").await, MOST - 1);
    assert_eq!(counts(&pool).await, (1, 1));
    assert_eq!(adjust(&app, "p", 1).await.json(200)["stock"], MOST);
    assert_eq!(adjust(&app, "p", -MOST).await.json(200)["stock"], 0);
    assert_eq!(adjust(&app, "p", MOST).await.json(200)["stock"], MOST);
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_delta_that_is_not_a_whole_number_is_422(pool: PgPool) {
    let app = start(&pool).await;
    let refused = [
        "0.5",
        "-1.5",
        "9007199254740992",
        "-9007199254740992",
        "9223372036854775808",
        "-9223372036854775809",
        "1e300",
        "-1e300",
        "\"1\"",
        "null",
        "false",
        "[1]",
        "{}",
    ];
    for text in refused {
        let request = app.request(Method::PATCH, "/inventory/p").header("content-type", "application/json");
        let response = app.send(request.body(format!(r#"{{"delta": {text}}}"#))).await;
        assert_eq!(response.status, 422, "{text}");
        assert_eq!(response.errors(), ["#/delta"], "{text}");
    }
    assert_eq!(app.patch("/inventory/p", &json!({})).await.errors(), ["#/delta"]);
    assert_eq!(app.patch("/inventory/p", &json!({"reason": "x"})).await.errors(), ["#/delta"]);
    assert_eq!(counts(&pool).await, (0, 0));
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_reason_of_up_to_200_characters_is_in_the_ledger(pool: PgPool) {
    let app = start(&pool).await;
    let longest = "é".repeat(200);
    let reasons = ["damaged", "", " ", "a\nb\t\u{1}\u{85}", "🦔", &longest];
    for reason in reasons {
        app.patch("/inventory/p", &json!({"delta": 1, "reason": reason})).await.json(200);
    }
    adjust(&app, "p", 1).await.json(200);
    let mut stored: Vec<_> = ledger(&app, "p").await.iter().map(|movement| movement["reason"].clone()).collect();
    assert_eq!(stored.pop(), Some(json!(null)), "without a reason");
    assert_eq!(stored, reasons.map(|reason| json!(reason)));

    let refused =
        [json!("é".repeat(201)), json!("a".repeat(10_000)), json!("a\0"), json!(null), json!(1), json!(["x"])];
    for reason in refused {
        let response = app.patch("/inventory/p", &json!({"delta": 1, "reason": reason})).await;
        assert_eq!(response.errors(), ["#/reason"], "{reason}");
    }
    assert_eq!(counts(&pool).await, (1, 7));
}
