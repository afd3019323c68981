//! `GET`, `PUT` and `POST /inventory/{product_id}`.

use reqwest::Method;
use serde_json::json;
use sqlx::PgPool;

use crate::{MOST, adjust, counts, set, start, stock};

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn an_unknown_product_has_zero_stock(pool: PgPool) {
    let app = start(&pool).await;
    let response = app.get("/inventory/product_123").await;
    let zero = json!({"product_id": "product_123", "stock": 0, "on_hand": 0, "reserved": 0});
    assert_eq!(response.json(200), zero);
    assert_eq!(app.get("/inventory").await.rows(), [json!(null); 0], "reading does not create the product");
    assert_eq!(counts(&pool).await, (0, 0));
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn setting_stock_returns_the_stock_that_is_read_back(pool: PgPool) {
    let app = start(&pool).await;
    let expected = |stock: i64| json!({"product_id": "p", "stock": stock, "on_hand": stock, "reserved": 0});
    for number in [42, 7, 0, 0, 1, MOST, 42] {
        let response = set(&app, "p", number).await;
        assert_eq!(response.json(201), expected(number));
        let found = app.get("/inventory/p").await;
        assert_eq!((found.json(200), found.etag()), (expected(number), response.etag()));
        assert_eq!(app.get("/inventory").await.rows(), [expected(number)]);
    }
    assert_eq!(stock(&app, "q").await, 0, "other products are unchanged");
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn put_is_201_for_a_new_product_and_200_for_a_known_one(pool: PgPool) {
    let app = start(&pool).await;
    let put =
        async |stock: i64| app.send(app.request(Method::PUT, "/inventory/p").json(&json!({"stock": stock}))).await;
    app.get("/inventory/p").await.json(200);
    for (number, status) in [(42, 201), (7, 200), (7, 200), (0, 200)] {
        let response = put(number).await;
        let expected = json!({"product_id": "p", "stock": number, "on_hand": number, "reserved": 0});
        assert_eq!(response.json(status), expected);
        assert_eq!(app.get("/inventory/p").await.etag(), response.etag());
    }
    set(&app, "p", 5).await.json(201);
    app.post("/reservations", &json!({"items": [{"product_id": "p", "quantity": 3}]})).await.json(201);
    assert_eq!(put(2).await.problem(409)["type"], "https://hedgerow.dev/problems/insufficient-stock");
    assert_eq!(put(-1).await.errors(), ["#/stock"]);
    let kinds: Vec<_> = crate::ledger(&app, "p").await.iter().map(|movement| movement["kind"].clone()).collect();
    assert_eq!(kinds, ["set", "set", "set", "set", "set", "hold"]);
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn each_change_has_its_own_etag(pool: PgPool) {
    let app = start(&pool).await;
    let mut tags = vec![app.get("/inventory/p").await.etag()];
    for delta in [1, 1, -1] {
        tags.push(adjust(&app, "p", delta).await.etag());
        tags.push(set(&app, "p", 5).await.etag());
    }
    assert!(tags.iter().all(|tag| tag.starts_with('"') && tag.ends_with('"')), "{tags:?}");
    tags.sort();
    tags.dedup();
    assert_eq!(tags.len(), 7);
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn stock_is_a_whole_number_from_0_to_2_to_the_53_minus_1(pool: PgPool) {
    let app = start(&pool).await;
    let numbers = [("0", 0), ("-0", 0), ("-0.0", 0), ("42.0", 42), ("4.2e1", 42), ("9007199254740991", MOST)];
    for (text, number) in numbers {
        let request = app.request(Method::POST, "/inventory/p").header("content-type", "application/json");
        let response = app.send(request.body(format!(r#"{{"stock": {text}}}"#))).await;
        assert_eq!(response.json(201)["stock"], number, "{text}");
        assert!(
            response.text().contains(&format!("\"stock\":{number},")),
            "no exponent and no fraction: {}",
            response.text()
        );
    }
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn any_other_stock_is_422_and_changes_nothing(pool: PgPool) {
    let app = start(&pool).await;
    set(&app, "p", 5).await.json(201);
    let refused = [
        "-1",
        "-9007199254740991",
        "1.5",
        "0.1",
        "9007199254740992",
        "9007199254740993",
        "9223372036854775807",
        "9223372036854775808",
        "18446744073709551615",
        "18446744073709551616",
        "-9223372036854775809",
        "1e300",
        "-1e300",
        "\"5\"",
        "\"\"",
        "null",
        "true",
        "[]",
        "[5]",
        "{}",
    ];
    for text in refused {
        for product in ["p", "new"] {
            let request = app.request(Method::POST, &format!("/inventory/{product}"));
            let request = request.header("content-type", "application/json");
            let response = app.send(request.body(format!(r#"{{"stock": {text}}}"#))).await;
            assert_eq!(response.status, 422, "{text}");
            assert_eq!(response.errors(), ["#/stock"], "{text}");
        }
    }
    assert_eq!(app.post("/inventory/p", &json!({})).await.errors(), ["#/stock"]);
    assert_eq!(stock(&app, "p").await, 5);
    assert_eq!(counts(&pool).await, (1, 1));
}
