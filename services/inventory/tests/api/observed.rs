//! Request ids, metrics and probes.

use reqwest::Method;
use sqlx::PgPool;
use test_support::rules;
use uuid::Uuid;

use crate::{adjust, set, start};

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_valid_request_id_is_echoed_and_others_are_replaced(pool: PgPool) {
    let app = start(&pool).await;
    let with_id = async |path: &str, id: &[u8]| {
        let request = app.request(Method::GET, path).header("x-request-id", id);
        app.send(request).await.header("x-request-id").expect("an id").to_owned()
    };
    for path in ["/inventory/p", "/inventory?limit=x", "/inventory/a%00", "/nothing"] {
        assert_eq!(with_id(path, b"order-42").await, "order-42", "{path}");
        for id in [&b""[..], b"a b", "é".as_bytes(), "x".repeat(129).as_bytes()] {
            assert!(with_id(path, id).await.parse::<Uuid>().is_ok(), "{path}");
        }
    }
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn requests_are_counted_by_route_not_by_id(pool: PgPool) {
    let app = start(&pool).await;
    set(&app, "product-4711", 1).await.json(201);
    adjust(&app, "product-4711", 1).await.json(200);
    adjust(&app, "product-4711", -3).await.problem(409);
    for path in ["/inventory", "/inventory/product-4711", "/inventory/product-4711/movements", "/product-4711"] {
        app.get(path).await;
    }
    let text = app.admin("/metrics").await.text();
    for series in [
        r#"{method="POST",route="/inventory/{product_id}",status="201"}"#,
        r#"{method="PATCH",route="/inventory/{product_id}",status="200"}"#,
        r#"{method="PATCH",route="/inventory/{product_id}",status="409"}"#,
        r#"{method="GET",route="/inventory/{product_id}",status="200"}"#,
        r#"{method="GET",route="/inventory/{product_id}/movements",status="200"}"#,
        r#"{method="GET",route="/inventory",status="200"}"#,
        r#"{method="GET",route="unmatched",status="404"}"#,
    ] {
        assert!(text.contains(&format!("\nhttp_requests_total{series} 1\n")), "{series} in {text}");
    }
    assert!(!text.contains("product-4711"), "{text}");
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn the_probes_report_live_and_ready(pool: PgPool) {
    let app = start(&pool).await;
    rules::probes_say_that_it_lives_and_is_ready(&app, "/inventory").await;
}
