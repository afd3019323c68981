//! `POST /reservations`: valid and invalid bodies.

use serde_json::{Value, json};
use sqlx::PgPool;

use crate::{set, start};

fn item(product: &str) -> Value {
    json!({"product_id": product, "quantity": 1})
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn an_invalid_body_is_422_with_pointers(pool: PgPool) {
    let app = start(&pool).await;
    set(&app, "a", 1000).await.json(201);
    let cases = [
        (json!({}), vec!["#/items"]),
        (json!([]), vec!["#"]),
        (json!({"items": null}), vec!["#/items"]),
        (json!({"items": {}}), vec!["#/items"]),
        (json!({"items": []}), vec!["#/items"]),
        (json!({"items": vec![item("a"); 101]}), vec!["#/items"]),
        (json!({"items": ["a"]}), vec!["#/items/0"]),
        (json!({"items": [item("a"), {}]}), vec!["#/items/1/product_id", "#/items/1/quantity"]),
        (json!({"items": [{"product_id": "a/b", "quantity": 0}]}), vec!["#/items/0/product_id", "#/items/0/quantity"]),
        (json!({"items": [{"product_id": "a", "quantity": 1.5}]}), vec!["#/items/0/quantity"]),
        (json!({"items": [{"product_id": "a", "quantity": 9_007_199_254_740_992_i64}]}), vec!["#/items/0/quantity"]),
        (json!({"items": [{"product_id": "a", "quantity": 1, "price": 1}]}), vec!["#/items/0/price"]),
        (json!({"items": [item("a")], "ttl_seconds": 0}), vec!["#/ttl_seconds"]),
        (json!({"items": [item("a")], "ttl_seconds": 86_401}), vec!["#/ttl_seconds"]),
        (json!({"items": [item("a")], "ttl_seconds": null}), vec!["#/ttl_seconds"]),
        (json!({"items": [item("a")], "ttl": 1}), vec!["#/ttl"]),
    ];
    for (body, pointers) in cases {
        let response = app.post("/reservations", &body).await;
        assert_eq!(response.status, 422, "{body}");
        let mut found = response.errors();
        found.sort();
        assert_eq!(found, pointers, "{body}");
    }
    let count: i64 = sqlx::query_scalar("SELECT count(*) FROM reservation").fetch_one(&pool).await.expect("a count");
    assert_eq!(count, 0);
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn up_to_100_items_are_reserved_for_1_s_to_a_day(pool: PgPool) {
    let app = start(&pool).await;
    set(&app, "a", 1000).await.json(201);
    let body = json!({"items": vec![item("a"); 100], "ttl_seconds": 86_400.0});
    assert_eq!(
        app.post("/reservations", &body).await.json(201)["items"],
        json!([{"product_id": "a", "quantity": 100}])
    );
    app.post("/reservations", &json!({"items": [item("a")], "ttl_seconds": 1})).await.json(201);
}
