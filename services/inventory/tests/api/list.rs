//! `GET /inventory`: order and paging.

use std::collections::HashMap;

use serde_json::{Value, json};
use sqlx::PgPool;
use test_support::app::{App, join_all};

use crate::{set, start};

fn ids(rows: &[Value]) -> Vec<&str> {
    rows.iter().map(|row| row["product_id"].as_str().expect("an id")).collect()
}

/// Sets this many products, starting with `p000`.
async fn set_many(app: &App, count: usize) {
    for number in 0..count {
        set(app, &format!("p{number:03}"), 1).await.json(201);
    }
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn products_are_sorted_by_the_bytes_of_their_ids(pool: PgPool) {
    let app = start(&pool).await;
    let mut products = [
        "b", "a", "B", "A", "Z", "z", "_", "-", "10", "9", "é", "e", "f", "E", "ß", "李", "🦔", "\u{ffee}", "a b",
        "ab", "a-b", "%", "~",
    ];
    for product in products {
        let path = format!("/inventory/{}", product.replace('%', "%25"));
        app.post(&path, &json!({"stock": 1})).await.json(201);
    }
    products.sort_unstable();
    for limit in [1, 2, 5, 200] {
        let walked = app.walk(&format!("/inventory?limit={limit}")).await.concat();
        assert_eq!(ids(&walked), products, "limit {limit}");
    }
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn there_is_a_next_link_only_if_a_row_follows(pool: PgPool) {
    let app = start(&pool).await;
    set_many(&app, 6).await;
    for (limit, pages) in [(1, 6), (2, 3), (4, 2), (5, 2), (6, 1), (7, 1)] {
        let walked = app.walk(&format!("/inventory?limit={limit}")).await;
        assert_eq!((walked.len(), walked.concat().len()), (pages, 6), "limit {limit}");
    }
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_page_has_50_rows_by_default_and_at_most_200(pool: PgPool) {
    let app = start(&pool).await;
    let insert = "INSERT INTO stock (product_id, version) SELECT 'p' || n, 1 FROM generate_series(1, 251) AS n";
    sqlx::query(insert).execute(&pool).await.expect("inserted");
    let sizes = async |path: &str| app.walk(path).await.iter().map(Vec::len).collect::<Vec<_>>();
    assert_eq!(sizes("/inventory").await, [50, 50, 50, 50, 50, 1]);
    assert_eq!(sizes("/inventory?limit=200").await, [200, 51]);
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn after_accepts_the_id_of_an_unknown_product(pool: PgPool) {
    let app = start(&pool).await;
    for product in ["a", "c", "e&f"] {
        set(&app, product, 1).await.json(201);
    }
    let cases = [("A", 3), ("a", 2), ("b", 2), ("c", 1), ("e", 1), ("e%26f", 0), ("z", 0), ("%F0%9F%A6%94", 0)];
    for (after, rows) in cases {
        assert_eq!(app.get(&format!("/inventory?after={after}")).await.rows().len(), rows, "{after}");
    }
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn the_next_link_keeps_the_limit(pool: PgPool) {
    let app = start(&pool).await;
    for product in ["a", "b&c", "d"] {
        set(&app, product, 1).await.json(201);
    }
    let link = app.get("/inventory?after=a&limit=1").await.next().expect("a row follows");
    assert_eq!(link, "/inventory?limit=1&after=b%26c");
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn paging_returns_each_product_once_during_changes(pool: PgPool) {
    let app = start(&pool).await;
    set_many(&app, 40).await;
    let mut seen: HashMap<String, usize> = HashMap::new();
    let mut next = Some("/inventory?limit=3".to_owned());
    for number in 0.. {
        let Some(path) = next else { break };
        // Products before, between and after the existing ones, and an existing one.
        let product = number * 7 % 40;
        let others = [format!("a{number}"), format!("p{product:03}x"), format!("z{number}"), format!("p{product:03}")];
        let changes = join_all(others.iter().map(|other| set(&app, other, number)));
        let (page, changes) = tokio::join!(app.get(&path), changes);
        assert!(changes.iter().all(|change| change.status == 201));
        for id in ids(&page.rows()) {
            *seen.entry(id.to_owned()).or_default() += 1;
        }
        next = page.next();
    }
    assert!(seen.values().all(|times| *times == 1), "{seen:?}");
    assert!((0..40).all(|number| seen.contains_key(&format!("p{number:03}"))));
}
