//! Holds that are not committed in time.

use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use sqlx::PgPool;
use test_support::{
    app::{App, join_all},
    process::{TIMEOUT, eventually},
};

use crate::{
    adjust, audit, counters,
    held_up::{close_gate, waits_for_a_lock},
    ledger,
    reservations::{end, location, reserve},
    set, start,
};

/// Makes all holds expire, by moving all times into the past.
pub async fn expire(pool: &PgPool) {
    let expire = "WITH bucket AS (UPDATE expiry SET expires_at = expires_at - interval '1 day'),
             product AS (UPDATE stock SET next_expiry = next_expiry - interval '1 day', settled_until = settled_until - interval '1 day'),
             entry AS (UPDATE movement SET expired_until = expired_until - interval '1 day')
         UPDATE reservation SET expires_at = expires_at - interval '1 day'";
    sqlx::query(expire).execute(pool).await.expect("expired");
}

/// Waits until the sweeper has settled all holds, and deleted what it no longer needs.
pub async fn swept(pool: &PgPool) {
    eventually("all holds are settled", TIMEOUT, async || {
        let left: i64 = sqlx::query_scalar("SELECT count(*) FROM expiry").fetch_one(pool).await.expect("a count");
        (left == 0).then_some(())
    })
    .await;
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn expired_stock_is_available_to_reads_and_writes_at_once(pool: PgPool) {
    let app = start(&pool).await;
    set(&app, "a", 5).await.json(201);
    reserve(&app, &[("a", 5)]).await.json(201);
    reserve(&app, &[("a", 1)]).await.problem(409);
    expire(&pool).await;
    let read = app.get("/inventory/a").await;
    assert_eq!(read.json(200), json!({"product_id": "a", "stock": 5, "on_hand": 5, "reserved": 0}));
    assert_eq!(app.get("/inventory").await.rows(), [read.json(200)]);
    reserve(&app, &[("a", 5)]).await.json(201);
    let ledger = ledger(&app, "a").await;
    let kinds: Vec<_> = ledger.iter().map(|movement| movement["kind"].as_str().expect("a kind")).collect();
    assert_eq!(kinds, ["set", "hold", "expire", "hold"]);
    assert_eq!((&ledger[2]["reservation_id"], &ledger[2]["holds"]), (&json!(null), &json!(1)));
    assert!(ledger[2]["expired_until"].is_string());
    assert_eq!(read.etag(), "\"3.1\"", "two changes and one expired hold");
    audit(&pool).await;
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn an_expired_hold_can_be_released_but_not_committed(pool: PgPool) {
    let app = start(&pool).await;
    set(&app, "a", 5).await.json(201);
    set(&app, "b", 5).await.json(201);
    let [committed, released, read] =
        join_all([0; 3].map(|_| reserve(&app, &[("a", 1), ("b", 1)]))).await.try_into().expect("three");
    expire(&pool).await;
    let problem = end(&app, &location(&committed), "commit").await.problem(409);
    assert_eq!(problem["state"], "expired");
    assert_eq!(end(&app, &location(&released), "release").await.json(200)["state"], "expired");
    assert_eq!(app.get(&location(&read)).await.json(200)["state"], "expired");
    assert_eq!((counters(&app, "a").await, counters(&app, "b").await), ((5, 5, 0), (5, 5, 0)));
    swept(&pool).await;
    audit(&pool).await;
}

/// However many holds expire, a request that finds them reads a sum and writes one movement.
#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn many_expired_holds_are_one_movement(pool: PgPool) {
    let app = start(&pool).await;
    set(&app, "a", 4500).await.json(201);
    holds(&pool, "a", 4500).await;
    audit(&pool).await;
    expire(&pool).await;
    let read = app.get("/inventory/a").await;
    assert_eq!((counters(&app, "a").await, read.etag()), ((4500, 4500, 0), "\"9001.4500\"".into()));
    reserve(&app, &[("a", 4500)]).await.json(201);
    audit(&pool).await;
    let ledger: Vec<(i64, i64, i64)> = sqlx::query_as(
        "SELECT version, reserved_delta, holds FROM movement WHERE product_id = 'a' AND kind = 'expire'",
    )
    .fetch_all(&pool)
    .await
    .expect("the ledger");
    assert_eq!(ledger, [(9001, -4500, 4500)]);
}

/// Inserts a number of holds of one piece of a product, which expire at different times.
pub async fn holds(pool: &PgPool, product: &str, count: i64) {
    let insert = "WITH hold AS (
             SELECT gen_random_uuid() AS id, n, date_trunc('second', clock_timestamp()) + (10 + n % 1000) * interval '1 s' AS at
             FROM generate_series(1, $2) AS n
         ), held AS (
             INSERT INTO reservation (id, state, expires_at, product_ids, quantities)
             SELECT id, 'held', at, ARRAY[$1], ARRAY[1] FROM hold
         ), bucket AS (
             INSERT INTO expiry (product_id, expires_at, quantity, holds)
             SELECT $1, at, count(*), count(*) FROM hold GROUP BY at
         ), entry AS (
             INSERT INTO movement (product_id, version, kind, on_hand_delta, reserved_delta, on_hand, reserved, reservation_id)
             SELECT product_id, version + n, 'hold', 0, 1, on_hand, reserved + n, id FROM hold, stock WHERE product_id = $1
         )
         UPDATE stock SET reserved = reserved + $2, version = version + $2, next_expiry = (SELECT min(at) FROM hold)
         WHERE product_id = $1";
    sqlx::query(insert).bind(product).bind(count).execute(pool).await.expect("inserted");
}

/// After waiting for a row lock, Postgres shows a statement the current version of that row, but all other rows as of
/// the statement's start. Holds settled in the meantime must not be settled twice.
#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn holds_settled_while_a_writer_waits_are_settled_once(pool: PgPool) {
    let app = start(&pool).await;
    set(&app, "a", 5).await.json(201);
    reserve(&app, &[("a", 2)]).await.json(201);
    // It expires at another second.
    let items = json!([{"product_id": "a", "quantity": 2}]);
    app.post("/reservations", &json!({"items": items, "ttl_seconds": 800})).await.json(201);
    expire(&pool).await;
    let mut other = pool.begin().await.expect("a transaction");
    sqlx::query("SELECT FROM stock FOR UPDATE").execute(&mut *other).await.expect("locked");
    let settle = async {
        waits_for_a_lock(&pool).await;
        // Only one of the two, as if the other expired a moment later.
        let settle = "WITH first AS (SELECT min(expires_at) AS at, max(expires_at) AS next FROM expiry),
             product AS (UPDATE stock SET reserved = 2, version = 4, expired = 1, next_expiry = next, settled_until = at FROM first)
             INSERT INTO movement (product_id, version, kind, on_hand_delta, reserved_delta, on_hand, reserved, holds, expired_until)
             SELECT 'a', 4, 'expire', 0, -2, 5, 2, 1, at FROM first";
        sqlx::query(settle).execute(&mut *other).await.expect("settled");
        other.commit().await.expect("committed");
    };
    let (response, ()) = tokio::join!(reserve(&app, &[("a", 5)]), settle);
    response.json(201);
    audit(&pool).await;
    assert_eq!(counters(&app, "a").await, (0, 5, 5));
}

/// After waiting for the row lock, the statement must check the current stock.
#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_hold_that_waits_is_decided_by_the_stock_left_afterwards(pool: PgPool) {
    for (taken, expected) in [(2, 201), (3, 409)] {
        let app = start(&pool).await;
        let product = format!("p{taken}");
        set(&app, &product, 5).await.json(201);
        let mut other = pool.begin().await.expect("a transaction");
        let take = "WITH product AS (
                 UPDATE stock SET on_hand = on_hand - $2, version = 2 WHERE product_id = $1 RETURNING on_hand
             ) INSERT INTO movement (product_id, version, kind, on_hand_delta, reserved_delta, on_hand, reserved)
             SELECT $1, 2, 'adjust', -$2, 0, on_hand, 0 FROM product";
        sqlx::query(take).bind(&product).bind(taken).execute(&mut *other).await.expect("taken");
        let finish = async {
            waits_for_a_lock(&pool).await;
            other.commit().await.expect("committed");
        };
        let items = [(product.as_str(), 3)];
        let (response, ()) = tokio::join!(reserve(&app, &items), finish);
        assert_eq!(response.status, expected);
        audit(&pool).await;
    }
}

/// Another replica can believe the time to be later. What it took for expired stays so, and new holds expire later.
#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn time_never_goes_back_for_a_product(pool: PgPool) {
    let app = start(&pool).await;
    set(&app, "a", 5).await.json(201);
    set(&app, "b", 5).await.json(201);
    let held = location(&reserve(&app, &[("a", 1), ("b", 1)]).await);
    // Of the two products only the second one is settled.
    let settle = "WITH product AS (
             UPDATE stock SET settled_until = date_trunc('second', clock_timestamp() + interval '1 day'), version = 3, expired = 1, reserved = 0, next_expiry = NULL
             WHERE product_id = 'b' RETURNING settled_until)
         INSERT INTO movement (product_id, version, kind, on_hand_delta, reserved_delta, on_hand, reserved, holds, expired_until)
         SELECT 'b', 3, 'expire', 0, -1, 5, 0, 1, settled_until FROM product";
    sqlx::query(settle).execute(&pool).await.expect("settled");
    assert_eq!(end(&app, &held, "commit").await.problem(409)["state"], "expired");
    assert_eq!(app.get(&held).await.json(200)["state"], "expired");
    for items in [vec![("b", 1)], vec![("a", 1), ("b", 1)]] {
        let new = location(&reserve(&app, &items).await);
        assert_eq!(app.get(&new).await.json(200)["state"], "held");
        end(&app, &new, "commit").await.json(200);
    }
    audit(&pool).await;
    // The other product is not settled ahead, so that it keeps the holds of others, and this one, until their time.
    assert_eq!((counters(&app, "a").await, counters(&app, "b").await), ((3, 4, 1), (3, 3, 0)));
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_hold_that_expires_while_its_commit_waits_is_not_committed(pool: PgPool) {
    let app = start(&pool).await;
    set(&app, "a", 5).await.json(201);
    let items = json!([{"product_id": "a", "quantity": 2}]);
    let path = location(&app.post("/reservations", &json!({"items": items, "ttl_seconds": 1})).await);
    let mut other = pool.begin().await.expect("a transaction");
    sqlx::query("SELECT FROM stock FOR UPDATE").execute(&mut *other).await.expect("locked");
    let wait = async {
        waits_for_a_lock(&pool).await;
        eventually("the hold is overdue", Duration::from_secs(5), async || {
            let is_overdue: bool =
                sqlx::query_scalar("SELECT bool_and(expires_at <= clock_timestamp()) FROM reservation")
                    .fetch_one(&pool)
                    .await
                    .expect("a time");
            is_overdue.then_some(())
        })
        .await;
        other.rollback().await.expect("unlocked");
    };
    let (response, ()) = tokio::join!(end(&app, &path, "commit"), wait);
    assert_eq!(response.problem(409)["state"], "expired");
    assert_eq!(counters(&app, "a").await, (5, 5, 0));
    audit(&pool).await;
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_reservation_committed_in_time_is_not_read_as_expired(pool: PgPool) {
    let app: App = start(&pool).await;
    set(&app, "a", 5).await.json(201);
    let path = location(&reserve(&app, &[("a", 2)]).await);
    // Another instance commits it in time, but its COMMIT takes long.
    let mut other = pool.begin().await.expect("a transaction");
    let commit = "WITH product AS (UPDATE stock SET on_hand = 3, reserved = 0, version = 3, next_expiry = NULL),
             bucket AS (UPDATE expiry SET quantity = 0, holds = 0),
             ended AS (UPDATE reservation SET state = 'committed' RETURNING id)
         INSERT INTO movement (product_id, version, kind, on_hand_delta, reserved_delta, on_hand, reserved, reservation_id)
         SELECT 'a', 3, 'commit', -2, -2, 3, 0, id FROM ended";
    expire(&pool).await;
    sqlx::query("SELECT FROM stock FOR UPDATE").execute(&mut *other).await.expect("locked");
    sqlx::query(commit).execute(&mut *other).await.expect("written");
    let finish = async {
        waits_for_a_lock(&pool).await;
        other.commit().await.expect("committed");
    };
    let (read, ()) = tokio::join!(app.get(&path), finish);
    assert_eq!(read.json(200)["state"], "committed");
    audit(&pool).await;
}

/// A commit is decided just before the hold expires, and ends after that. Until then, readers find that the hold has
/// expired. That must not be the version that the commit leads to.
///
/// The commit waits for the gate after it has been decided. A lock on the reservation would not do: the writer waits for
/// it for a moment only, and then decides anew. The hold expires because its time is moved, not because time passes.
#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_commit_and_the_expiry_before_it_have_different_etags(pool: PgPool) {
    let app = start(&pool).await;
    set(&app, "gate", 10).await.json(201);
    let path = location(&reserve(&app, &[("gate", 3)]).await);
    // It is a lower bound for the expiry. It cannot be moved while the commit holds the product.
    let bound = "UPDATE stock SET next_expiry = next_expiry - interval '1 day'";
    sqlx::query(bound).execute(&pool).await.expect("changed");
    let gate = close_gate(&pool, "gate").await;
    let read = async {
        waits_for_a_lock(&pool).await;
        sqlx::query("UPDATE expiry SET expires_at = expires_at - interval '1 day'")
            .execute(&pool)
            .await
            .expect("expired");
        let read = app.get("/inventory/gate").await;
        sqlx::query("UPDATE expiry SET expires_at = expires_at + interval '1 day'")
            .execute(&pool)
            .await
            .expect("as it was");
        gate.rollback().await.expect("opened");
        read
    };
    let (committed, read) = tokio::join!(end(&app, &path, "commit"), read);
    assert_eq!(committed.json(200)["state"], "committed");
    assert_eq!(
        read.json(200),
        json!({"product_id": "gate", "stock": 10, "on_hand": 10, "reserved": 0}),
        "it has expired"
    );
    let after = app.get("/inventory/gate").await;
    assert_eq!(after.json(200), json!({"product_id": "gate", "stock": 7, "on_hand": 7, "reserved": 0}));
    assert_ne!(read.etag(), after.etag());
    let change = app.request(Method::PUT, "/inventory/gate").header("if-match", read.etag());
    app.send(change.json(&json!({"stock": 10}))).await.problem(412);
    audit(&pool).await;
}

/// The clock of the database was ahead when one product was settled. The holds of other products are not concerned,
/// also if their requests are in one batch.
#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_product_settled_ahead_does_not_expire_holds_of_others(pool: PgPool) {
    let app = start(&pool).await;
    for product in ["ahead", "other"] {
        set(&app, product, 5).await.json(201);
    }
    let held = location(&reserve(&app, &[("other", 1)]).await);
    let ahead = "UPDATE stock SET settled_until = date_trunc('second', clock_timestamp() + interval '1 hour')
                 WHERE product_id = 'ahead'";
    sqlx::query(ahead).execute(&pool).await.expect("settled");
    let adjusted = (0..100).map(|number| adjust(&app, ["ahead", "other"][number % 2], 1));
    for response in join_all(adjusted).await {
        response.json(200);
    }
    assert_eq!(app.get(&held).await.json(200)["state"], "held");
    end(&app, &held, "commit").await.json(200);
    assert_eq!(counters(&app, "other").await, (54, 54, 0));
    audit(&pool).await;
}
