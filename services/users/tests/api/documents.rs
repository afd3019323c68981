//! `/openapi.json` and `/docs`.

use std::collections::BTreeSet;

use serde_json::Value;
use sqlx::PgPool;

use crate::start;

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn the_document_lists_every_operation(pool: PgPool) {
    let app = start(&pool).await;
    let document = app.get("/openapi.json").await.json(200);
    assert!(document["openapi"].as_str().is_some_and(|version| version.starts_with("3.")));
    let mut operations = BTreeSet::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("operations") {
            let id = operation["operationId"].as_str().unwrap_or("none");
            operations.insert(format!("{method} {path} {id}"));
            assert!(operation["responses"].as_object().is_some_and(|responses| !responses.is_empty()));
        }
    }
    let expected = [
        "delete /users/{id} deleteUser",
        "get /users listUsers",
        "get /users/{id} getUser",
        "patch /users/{id} patchUser",
        "post /users createUser",
    ];
    assert_eq!(operations, expected.map(str::to_owned).into());
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn the_documents_references_all_lead_somewhere(pool: PgPool) {
    fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(members) => {
                found.extend(members.get("$ref").and_then(Value::as_str));
                members.values().for_each(|member| references(member, found));
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            _ => {}
        }
    }
    let app = start(&pool).await;
    let document = app.get("/openapi.json").await.json(200);
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(!found.is_empty());
    for reference in found {
        assert!(document.pointer(reference.trim_start_matches('#')).is_some(), "{reference}");
    }
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn the_docs_page_and_all_of_its_assets_load(pool: PgPool) {
    let app = start(&pool).await;
    let page = app.get("/docs/").await;
    assert_eq!(page.status, 200);
    assert!(page.header("content-type").is_some_and(|media_type| media_type.starts_with("text/html")));
    let page = page.text();
    let assets: Vec<_> = page.split(['"', '\'']).filter(|text| text.starts_with("./")).collect();
    assert!(assets.len() >= 3, "scripts and styles: {assets:?}");
    for asset in assets {
        let answer = app.get(&format!("/docs/{}", &asset[2..])).await;
        assert_eq!(answer.status, 200, "{asset}");
        assert!(!answer.body.is_empty(), "{asset}");
    }
    assert!(!page.contains("//unpkg") && !page.contains("https://cdn"), "nothing comes from elsewhere");
    assert!(app.get("/docs/swagger-initializer.js").await.text().contains("/openapi.json"));
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn the_root_and_docs_lead_to_the_page(pool: PgPool) {
    let app = start(&pool).await;
    for path in ["/", "/docs"] {
        let answer = app.get(path).await;
        assert!((300..400).contains(&answer.status), "{path}: {}", answer.status);
        assert_eq!(answer.header("location"), Some("/docs/"), "{path}");
    }
}
