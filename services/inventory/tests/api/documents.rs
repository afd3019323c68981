//! `/openapi.json` and `/docs`.

use std::collections::BTreeSet;

use sqlx::PgPool;

use crate::start;

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn the_document_lists_every_operation(pool: PgPool) {
    let app = start(&pool).await;
    let document = app.get("/openapi.json").await.json(200);
    assert_eq!(document["info"]["title"], "inventory");
    let mut operations = BTreeSet::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("operations") {
            operations.insert(format!("{method} {path} {}", operation["operationId"].as_str().unwrap_or("none")));
        }
    }
    let expected = [
        "get /inventory listStock",
        "get /inventory/{product_id} getStock",
        "get /inventory/{product_id}/movements listMovements",
        "patch /inventory/{product_id} adjustStock",
        "post /inventory/{product_id} setStock",
    ];
    assert_eq!(operations, expected.map(str::to_owned).into());
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn the_docs_page_and_all_of_its_assets_load(pool: PgPool) {
    let app = start(&pool).await;
    let page = app.get("/docs/").await;
    assert_eq!(page.status, 200);
    assert!(page.header("content-type").is_some_and(|media_type| media_type.starts_with("text/html")));
    let page = page.text();
    let assets: Vec<_> = page.split(['"', '\'']).filter(|text| text.starts_with("./")).collect();
    assert!(assets.len() >= 3, "scripts and styles: {assets:?}");
    for asset in assets {
        assert_eq!(app.get(&format!("/docs/{}", &asset[2..])).await.status, 200, "{asset}");
    }
}
