//! `GET` and `POST /inventory/{product_id}`: what is on hand.

use reqwest::Method;
use serde_json::json;
use sqlx::PgPool;

use crate::{MOST, adjust, counts, set, start, stock};

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn an_unknown_product_has_none(pool: PgPool) {
    let app = start(&pool).await;
    let answer = app.get("/inventory/product_123").await;
    let none = json!({"product_id": "product_123", "stock": 0, "on_hand": 0, "reserved": 0});
    assert_eq!(answer.json(200), none);
    assert_eq!(app.get("/inventory").await.rows(), [json!(null); 0], "to read is not to know");
    assert_eq!(counts(&pool).await, (0, 0));
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn what_is_set_is_answered_and_read_back(pool: PgPool) {
    let app = start(&pool).await;
    let expected = |stock: i64| json!({"product_id": "p", "stock": stock, "on_hand": stock, "reserved": 0});
    for number in [42, 7, 0, 0, 1, MOST, 42] {
        let answer = set(&app, "p", number).await;
        assert_eq!(answer.json(201), expected(number));
        let found = app.get("/inventory/p").await;
        assert_eq!((found.json(200), found.etag()), (expected(number), answer.etag()));
        assert_eq!(app.get("/inventory").await.rows(), [expected(number)]);
    }
    assert_eq!(stock(&app, "q").await, 0, "another product is untouched");
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn each_change_has_an_etag_of_its_own(pool: PgPool) {
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
async fn whole_numbers_from_0_to_2_to_the_53rd_less_1_are_taken(pool: PgPool) {
    let app = start(&pool).await;
    let numbers = [("0", 0), ("-0", 0), ("-0.0", 0), ("42.0", 42), ("4.2e1", 42), ("9007199254740991", MOST)];
    for (text, number) in numbers {
        let request = app.request(Method::POST, "/inventory/p").header("content-type", "application/json");
        let answer = app.send(request.body(format!(r#"{{"stock": {text}}}"#))).await;
        assert_eq!(answer.json(201)["stock"], number, "{text}");
        assert!(answer.text().contains(&format!("\"stock\":{number},")), "no exponent, no fraction: {}", answer.text());
    }
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn every_other_stock_is_422_and_nothing_is_changed(pool: PgPool) {
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
            let answer = app.send(request.body(format!(r#"{{"stock": {text}}}"#))).await;
            assert_eq!(answer.status, 422, "{text}");
            assert_eq!(answer.faults(), ["#/stock"], "{text}");
        }
    }
    assert_eq!(app.post("/inventory/p", &json!({})).await.faults(), ["#/stock"]);
    assert_eq!(stock(&app, "p").await, 5);
    assert_eq!(counts(&pool).await, (1, 1));
}
