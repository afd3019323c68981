//! All transactions lock in the same order, so that they cannot deadlock. Deadlocks are retried, so other tests would
//! not notice them.

use serde_json::json;
use sqlx::PgPool;
use test_support::app::join_all;

use crate::{
    adjust, audit,
    expiry::waits_for_a_lock,
    queue::{hold_up, in_flight},
    reservations::{end, location, reserve},
    set, start,
};

/// Somebody holds one row, in psql for example.
#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_locked_product_holds_up_only_its_own_requests(pool: PgPool) {
    const OTHERS: usize = 200;
    const WAITING: usize = 10;
    let app = start(&pool).await;
    // Some sort before the locked product, some after it.
    let products: Vec<String> =
        ["a", "p", "z"].iter().flat_map(|name| [format!("{name}0"), format!("{name}1")]).collect();
    for product in &products {
        set(&app, product, 1000).await.json(201);
    }
    set(&app, "locked", 1000).await.json(201);
    let held = location(&reserve(&app, &[("a0", 1)]).await);
    let lock = hold_up(&pool, "locked").await;
    let waiting = join_all((0..WAITING).map(|number| {
        let app = &app;
        async move {
            match number % 3 {
                0 => adjust(app, "locked", 1).await,
                1 => reserve(app, &[("locked", 1)]).await,
                _ => reserve(app, &[("a0", 1), ("locked", 1)]).await,
            }
        }
    }));
    let others = async {
        waits_for_a_lock(&pool).await;
        let others =
            join_all((0..OTHERS).map(|number| {
                let (app, product) = (&app, products[number % products.len()].as_str());
                async move {
                    if number % 2 == 0 { adjust(app, product, 1).await } else { reserve(app, &[(product, 1)]).await }
                }
            }));
        let (others, ended) = tokio::join!(others, end(&app, &held, "commit"));
        for response in others.into_iter().chain([ended]) {
            assert!(response.status < 300, "{}", response.text());
        }
        // Only now is the product unlocked.
        in_flight(&app, WAITING).await;
        lock.rollback().await.expect("unlocked");
    };
    let (waiting, ()) = tokio::join!(waiting, others);
    for response in waiting {
        assert!(response.status < 300, "{}", response.text());
    }
    audit(&pool).await;
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn products_are_locked_in_the_order_of_their_ids(pool: PgPool) {
    let app = start(&pool).await;
    // Stored in a different order, too.
    for product in ["d", "b", "a", "c"] {
        set(&app, product, 5).await.json(201);
    }
    for products in [["a", "b", "c", "d"], ["d", "c", "b", "a"], ["c", "a", "d", "b"]] {
        let items = products.map(|product| (product, 1));
        let held_up = hold_up(&pool, "c").await;
        let check = async {
            waits_for_a_lock(&pool).await;
            let free = sqlx::query_scalar("SELECT product_id FROM stock FOR UPDATE SKIP LOCKED");
            let free: Vec<String> = free.fetch_all(&pool).await.expect("products");
            held_up.rollback().await.expect("unlocked");
            free
        };
        let (held, free) = tokio::join!(reserve(&app, &items), check);
        held.json(201);
        assert_eq!(free, ["d"], "only products up to the locked one are locked");
    }
    audit(&pool).await;
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn keys_are_claimed_in_the_order_of_their_hashes(pool: PgPool) {
    let app = start(&pool).await;
    set(&app, "gate", 5).await.json(201);
    let keyed = |key: String| {
        let request = app.request(reqwest::Method::PATCH, "/inventory/p").header("idempotency-key", key);
        app.send(request.json(&json!({"delta": 1})))
    };
    let mut keys: Vec<(Vec<u8>, String)> = Vec::new();
    for number in 0..6 {
        keyed(number.to_string()).await.json(200);
        let known: Vec<_> = keys.iter().map(|(id, _)| id.clone()).collect();
        let id = sqlx::query_scalar("SELECT id FROM idempotency WHERE id <> ALL ($1)").bind(known).fetch_one(&pool);
        keys.push((id.await.expect("the new row"), number.to_string()));
    }
    keys.sort();
    // The rows still exist, and can be claimed again.
    sqlx::query("UPDATE idempotency SET answer = NULL").execute(&pool).await.expect("cleared");

    let gate = hold_up(&pool, "gate").await;
    let mut held_up = pool.begin().await.expect("a transaction");
    let lock = sqlx::query("SELECT FROM idempotency WHERE id = $1 FOR UPDATE").bind(&keys[3].0);
    lock.execute(&mut *held_up).await.expect("locked");
    let together = async {
        waits_for_a_lock(&pool).await;
        join_all(keys.iter().rev().map(|(_, key)| keyed(key.clone()))).await
    };
    let check = async {
        in_flight(&app, 1 + keys.len()).await;
        gate.rollback().await.expect("unlocked");
        in_flight(&app, keys.len()).await;
        waits_for_a_lock(&pool).await;
        let free = sqlx::query_scalar("SELECT id FROM idempotency ORDER BY id FOR UPDATE SKIP LOCKED");
        let free: Vec<Vec<u8>> = free.fetch_all(&pool).await.expect("keys");
        held_up.rollback().await.expect("unlocked");
        free
    };
    let (_, responses, free) = tokio::join!(adjust(&app, "gate", 1), together, check);
    for response in responses {
        response.json(200);
    }
    assert_eq!(free, [keys[4].0.clone(), keys[5].0.clone()], "only keys up to the locked one are claimed");
    audit(&pool).await;
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_lock_timeout_is_503_and_named_as_one(pool: PgPool) {
    let app = start(&pool).await;
    set(&app, "p", 5).await.json(201);
    let held_up = hold_up(&pool, "p").await;
    let problem = adjust(&app, "p", 1).await.problem(503);
    assert_eq!(problem["detail"], "the data is locked by another transaction; try again in a moment");
    held_up.rollback().await.expect("unlocked");
    adjust(&app, "p", 1).await.json(200);
}
