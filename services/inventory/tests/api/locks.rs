//! Locks. All transactions lock in the same order, so that they cannot deadlock. Deadlocks are retried, so other tests
//! would not notice them.

mod one_product;
mod other_products;

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;
use test_support::{
    app::{App, Response, join_all},
    process::{TIMEOUT, eventually},
};

use crate::{
    adjust, audit, counters,
    held_up::{close_gate, hold_up, in_flight, waits_for_a_lock},
    no_deadlock,
    reservations::reserve,
    set, start, start_two,
};

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn products_are_locked_in_the_order_of_their_ids(pool: PgPool) {
    let app = start(&pool).await;
    // Stored in a different order, too.
    for product in ["d", "b", "a", "c"] {
        set(&app, product, 50).await.json(201);
    }
    for products in [["a", "b", "c", "d"], ["d", "c", "b", "a"], ["c", "a", "d", "b"]] {
        let items = products.map(|product| (product, 1));
        let free = eventually("the transaction waits with its locks", TIMEOUT, async || {
            let held_up = hold_up(&pool, "c").await;
            let check = async {
                waits_for_a_lock(&pool).await;
                let free =
                    sqlx::query_scalar("SELECT product_id FROM stock ORDER BY product_id FOR UPDATE SKIP LOCKED");
                let free: Vec<String> = free.fetch_all(&pool).await.expect("products");
                held_up.rollback().await.expect("unlocked");
                free
            };
            let (held, free) = tokio::join!(reserve(&app, &items), check);
            held.json(201);
            // After its lock timeout the writer waits for the locked product only.
            (free != ["a", "b", "d"]).then_some(free)
        })
        .await;
        assert_eq!(free, ["d"], "only products up to the locked one are locked");
    }
    audit(&pool).await;
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn keys_are_claimed_in_the_order_of_their_hashes(pool: PgPool) {
    let app = start(&pool).await;
    set(&app, "gate", 5).await.json(201);
    let mut keys: Vec<(Vec<u8>, String)> = Vec::new();
    for number in 0..6 {
        adjust_once(&app, &number.to_string(), "p", 1).await.json(200);
        let known: Vec<_> = keys.iter().map(|(id, _)| id.clone()).collect();
        let id = sqlx::query_scalar("SELECT id FROM idempotency WHERE id <> ALL ($1)").bind(known).fetch_one(&pool);
        keys.push((id.await.expect("the new row"), number.to_string()));
    }
    keys.sort();
    // The rows still exist, and can be claimed again.
    sqlx::query("UPDATE idempotency SET answer = NULL").execute(&pool).await.expect("cleared");

    let gate = close_gate(&pool, "gate").await;
    let mut held_up = pool.begin().await.expect("a transaction");
    let lock = sqlx::query("SELECT FROM idempotency WHERE id = $1 FOR UPDATE").bind(&keys[3].0);
    lock.execute(&mut *held_up).await.expect("locked");
    let together = async {
        waits_for_a_lock(&pool).await;
        join_all(keys.iter().rev().map(|(_, key)| adjust_once(&app, key, "p", 1))).await
    };
    let check = async {
        in_flight(&app, 1 + keys.len()).await;
        gate.rollback().await.expect("unlocked");
        // The batch claims its keys until it has to wait for the locked one.
        eventually("only keys up to the locked one are claimed", TIMEOUT, async || {
            let free = sqlx::query_scalar("SELECT id FROM idempotency ORDER BY id FOR UPDATE SKIP LOCKED");
            let free: Vec<Vec<u8>> = free.fetch_all(&pool).await.expect("keys");
            (free == [keys[4].0.clone(), keys[5].0.clone()]).then_some(())
        })
        .await;
        held_up.rollback().await.expect("unlocked");
    };
    let (_, responses, ()) = tokio::join!(adjust(&app, "gate", 1), together, check);
    for response in responses {
        response.json(200);
    }
    audit(&pool).await;
}

/// Adjusts the quantity on hand with an idempotency key.
async fn adjust_once(app: &App, key: &str, product: &str, delta: i64) -> Response {
    let request = app.request(Method::PATCH, &format!("/inventory/{product}")).header("idempotency-key", key);
    app.send(request.json(&json!({"delta": delta}))).await
}

/// Every transaction holds its locks for longer than another one waits for them.
#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn slow_replicas_take_turns_at_the_same_products(pool: PgPool) {
    let apps = start_two(&pool).await;
    for product in ["a", "b"] {
        set(&apps[0], product, 100).await.json(201);
    }
    let slow = "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN PERFORM pg_sleep(0.2); RETURN NULL; END $$;
         CREATE TRIGGER slow AFTER INSERT ON movement EXECUTE FUNCTION slow()";
    sqlx::raw_sql(slow).execute(&pool).await.expect("a trigger");
    let clients = apps.iter().flat_map(|app| {
        (0..4).map(move |client| async move {
            for _ in 0..4 {
                let held = if client % 2 == 0 {
                    reserve(app, &[("a", 1)]).await
                } else {
                    reserve(app, &[("a", 1), ("b", 1)]).await
                };
                held.json(201);
            }
        })
    });
    join_all(clients).await;
    assert_eq!(counters(&apps[0], "a").await, (68, 100, 32));
    assert_eq!(counters(&apps[0], "b").await, (84, 100, 16));
    audit(&pool).await;
    no_deadlock(&pool, apps).await;
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_lock_timeout_is_503_and_named_as_one(pool: PgPool) {
    let app = start(&pool).await;
    set(&app, "p", 5).await.json(201);
    let held_up = hold_up(&pool, "p").await;
    let requests = tokio::join!(adjust(&app, "p", 1), adjust_once(&app, "k", "p", 1), reserve(&app, &[("p", 1)]));
    for response in [requests.0, requests.1, requests.2] {
        let problem: Value = response.problem(503);
        assert_eq!(problem["detail"], "the data is locked by another transaction; try again in a moment");
        assert_eq!((&problem["type"], response.header("x-outcome")), (&json!("about:blank"), None));
        assert!(response.header("retry-after").is_some());
    }
    held_up.rollback().await.expect("unlocked");
    adjust(&app, "p", 1).await.json(200);
    adjust_once(&app, "k", "p", 1).await.json(200);
    assert_eq!(counters(&app, "p").await, (7, 7, 0), "what failed had no effect");
}
