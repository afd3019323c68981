//! Product ids: a path segment of 1 to 128 characters.

use reqwest::Method;
use serde_json::json;
use sqlx::PgPool;
use test_support::app::{App, Response};

use crate::{counts, start};

/// Sends a request with this exact path, which an HTTP client library would normalize.
async fn raw(app: &App, method: &str, path: &str, body: &str) -> Response {
    let head = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n");
    app.raw(format!("{head}content-length: {}\r\nconnection: close\r\n\r\n{body}", body.len()).as_bytes()).await
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn any_text_of_1_to_128_characters_is_a_product_id(pool: PgPool) {
    let app = start(&pool).await;
    let longest = ("é".repeat(128), "%C3%A9".repeat(128));
    let named = [
        ("product_123", "product_123"),
        ("a b", "a%20b"),
        ("a+b", "a+b"),
        ("100%", "100%25"),
        ("%2F", "%252F"),
        ("...", "..."),
        (".a", ".a"),
        ("a.", "a."),
        ("?", "%3F"),
        ("#", "%23"),
        ("\"'\\<>", "%22%27%5C%3C%3E"),
        (";=&:@$,!*()", ";=&:@$,!*()"),
        ("李", "%E6%9D%8E"),
        ("👩‍💻", "%F0%9F%91%A9%E2%80%8D%F0%9F%92%BB"),
        ("e\u{301}", "e%CC%81"),
        ("é", "%C3%A9"),
        ("\u{a0}", "%C2%A0"),
        ("\u{200b}", "%E2%80%8B"),
        ("\u{10ffff}", "%F4%8F%BF%BF"),
        ("movements", "movements"),
        ("null", "null"),
        ("{product_id}", "%7Bproduct_id%7D"),
        ("'; DROP TABLE stock; --", "%27%3B%20DROP%20TABLE%20stock%3B%20--"),
        (&longest.0, &longest.1),
    ];
    for (number, (product, encoded)) in (1..).zip(named) {
        let path = format!("/inventory/{encoded}");
        let body = json!({"stock": number}).to_string();
        let response = raw(&app, "POST", &path, &body).await;
        let expected = json!({"product_id": product, "stock": number, "on_hand": number, "reserved": 0});
        assert_eq!(response.json(201), expected, "{product}");
        assert_eq!(raw(&app, "GET", &path, "").await.json(200), expected, "{product}");
        let ledger = raw(&app, "GET", &format!("{path}/movements"), "").await.rows();
        assert_eq!((ledger.len(), &ledger[0]["product_id"]), (1, &json!(product)));
    }
    assert_eq!(counts(&pool).await, (24, 24), "each id is a different product");
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn an_invalid_id_is_422_in_every_operation(pool: PgPool) {
    let app = start(&pool).await;
    let mut refused: Vec<String> = [
        ".", "..", "%2e", "%2E%2e", ".%2E", "a%2Fb", "%2F", "%2f..%2f", "%00", "a%00b", "a%00", "%0A", "a%0D%0Ab",
        "%1B", "%7F", "%C2%80", "%C2%85", "a%C2%9Fb",
    ]
    .map(str::to_owned)
    .into();
    refused.extend(["a".repeat(129), "%C3%A9".repeat(129), "a".repeat(10_000)]);
    let set = r#"{"stock": 1}"#;
    let operations = [
        ("GET", "", ""),
        ("PUT", "", set),
        ("POST", "", set),
        ("PATCH", "", r#"{"delta": 1}"#),
        ("GET", "/movements", ""),
    ];
    for id in refused {
        for (method, rest, body) in operations {
            let response = raw(&app, method, &format!("/inventory/{id}{rest}"), body).await;
            assert_eq!(response.status, 422, "{method} {id}{rest}: {}", response.text());
            assert_eq!(response.errors(), ["product_id"], "{method} {id}{rest}");
        }
    }
    assert_eq!(counts(&pool).await, (0, 0));
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_path_with_an_extra_slash_is_404(pool: PgPool) {
    let app = start(&pool).await;
    for path in ["/inventory/", "//inventory", "/inventory/a/", "/inventory/a/b", "/inventory/a/movements/"] {
        for (method, body) in [("GET", ""), ("POST", r#"{"stock": 1}"#), ("PATCH", r#"{"delta": 1}"#)] {
            raw(&app, method, path, body).await.problem(404);
        }
    }
    assert_eq!(raw(&app, "GET", "/inventory//movements", "").await.errors(), ["product_id"]);
    assert_eq!(counts(&pool).await, (0, 0));
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn an_id_that_is_not_utf_8_is_400(pool: PgPool) {
    let app = start(&pool).await;
    for id in ["%FF", "a%C3", "%C3%28", "%ED%A0%80", "%F4%90%80%80", "%C0%AE"] {
        app.get(&format!("/inventory/{id}")).await.problem(400);
        app.get(&format!("/inventory/{id}/movements")).await.problem(400);
        app.post(&format!("/inventory/{id}"), &json!({"stock": 1})).await.problem(400);
        app.patch(&format!("/inventory/{id}"), &json!({"delta": 1})).await.problem(400);
    }
    assert_eq!(counts(&pool).await, (0, 0));
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn an_invalid_percent_escape_is_400(pool: PgPool) {
    let app = start(&pool).await;
    for id in ["%", "%z", "%zz", "100%", "%2", "%%", "%u00e9"] {
        app.send(app.request(Method::GET, &format!("/inventory/{id}"))).await.problem(400);
    }
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn raw_and_encoded_utf_8_name_the_same_product(pool: PgPool) {
    let app = start(&pool).await;
    for stock in [1, 2] {
        app.post("/inventory/%C3%A9", &json!({"stock": stock})).await.json(201);
    }
    assert_eq!(raw(&app, "GET", "/inventory/é", "").await.json(200)["stock"], 2);
    let page = raw(&app, "GET", "/inventory/é/movements?limit=1", "").await;
    assert_eq!(page.rows()[0]["version"], 2);
    let next = page.headers.get("link").expect("a row follows").as_bytes().to_vec();
    let next = String::from_utf8(next).expect("UTF-8");
    let path = next.trim_start_matches('<').split('>').next().expect("a path");
    assert_eq!(raw(&app, "GET", path, "").await.rows()[0]["version"], 1, "{next}");
}
