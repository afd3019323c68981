//! Holds that are not committed in time.

use std::time::Duration;

use serde_json::json;
use sqlx::PgPool;
use test_support::{
    app::{App, join_all},
    process::{TIMEOUT, eventually},
};

use crate::{
    audit, counters, ledger,
    reservations::{end, location, reserve},
    set, start,
};

/// Makes all holds overdue now.
async fn expire(pool: &PgPool) {
    let expire =
        "WITH line AS (UPDATE reservation_line SET expires_at = statement_timestamp() - interval '1 s' WHERE live),
                       product AS (UPDATE stock SET next_expiry = statement_timestamp() - interval '1 s' WHERE reserved > 0)
                  UPDATE reservation SET expires_at = statement_timestamp() - interval '1 s' WHERE state = 'held'";
    sqlx::query(expire).execute(pool).await.expect("expired");
}

/// Waits until the sweeper has settled all lines.
async fn swept(pool: &PgPool) {
    eventually("all lines are settled", TIMEOUT, async || {
        let live: i64 = sqlx::query_scalar("SELECT count(*) FROM reservation_line WHERE live")
            .fetch_one(pool)
            .await
            .expect("a count");
        (live == 0).then_some(())
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
    assert_eq!(ledger[2]["reservation_id"], ledger[1]["reservation_id"]);
    assert_eq!(read.etag(), "\"3\"", "the ETag after settling the hold");
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

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn the_sweepers_of_all_instances_settle_a_hold_once(pool: PgPool) {
    let apps = join_all((0..3).map(|_| start(&pool))).await;
    let app = &apps[0];
    set(app, "a", 50).await.json(201);
    set(app, "b", 50).await.json(201);
    let items = json!([{"product_id": "a", "quantity": 1}, {"product_id": "b", "quantity": 1}]);
    let body = json!({"items": items, "ttl_seconds": 1});
    let mut early_before = 0;
    for round in 1..=3 {
        let holds = (0..50).map(|_| app.post("/reservations", &body));
        assert!(join_all(holds).await.iter().all(|response| response.status == 201));
        swept(&pool).await;
        let (expired, early): (i64, i64) = sqlx::query_as(
            "SELECT count(*), count(*) FILTER (WHERE at < expires_at)
             FROM movement JOIN reservation ON id = reservation_id WHERE kind = 'expire'",
        )
        .fetch_one(&pool)
        .await
        .expect("counts");
        assert_eq!(expired, 100 * round, "each line is settled once");
        audit(&pool).await;
        // No hold ends early, unless a message to the database was delayed; then another round follows.
        if early == early_before {
            return;
        }
        early_before = early;
    }
    panic!("holds expired early in each round: {early_before} of 300 lines");
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn many_overdue_holds_are_settled_in_several_transactions(pool: PgPool) {
    let app = start(&pool).await;
    set(&app, "a", 4500).await.json(201);
    let insert = "WITH hold AS (SELECT gen_random_uuid() AS id, clock_timestamp() + interval '1 h' AS at FROM generate_series(1, 4500)),
             held AS (INSERT INTO reservation (id, state, expires_at) SELECT id, 'held', at FROM hold),
             line AS (INSERT INTO reservation_line (reservation_id, product_id, quantity, expires_at) SELECT id, 'a', 1, at FROM hold),
             entry AS (INSERT INTO movement (product_id, version, kind, on_hand_delta, reserved_delta, on_hand, reserved, reservation_id)
                       SELECT 'a', n + 1, 'hold', 0, 1, 4500, n, id FROM (SELECT id, row_number() OVER () AS n FROM hold) AS numbered)
         UPDATE stock SET reserved = 4500, version = 4501, next_expiry = clock_timestamp() + interval '1 h'";
    sqlx::query(insert).execute(&pool).await.expect("inserted");
    audit(&pool).await;
    expire(&pool).await;
    reserve(&app, &[("a", 4500)]).await.json(201);
    audit(&pool).await;
}

/// After waiting for a row lock, Postgres shows a statement the current version of that row, but all other rows as of
/// the statement's start. Lines settled in the meantime must not be settled twice.
#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn lines_settled_while_a_writer_waits_are_settled_once(pool: PgPool) {
    let app = start(&pool).await;
    set(&app, "a", 5).await.json(201);
    reserve(&app, &[("a", 2)]).await.json(201);
    reserve(&app, &[("a", 2)]).await.json(201);
    let mut other = pool.begin().await.expect("a transaction");
    sqlx::query("SELECT FROM stock FOR UPDATE").execute(&mut *other).await.expect("locked");
    sqlx::query("UPDATE reservation_line SET expires_at = now()").execute(&mut *other).await.expect("overdue");
    sqlx::query("UPDATE reservation SET expires_at = now()").execute(&mut *other).await.expect("overdue");
    let settle = async {
        waits_for_a_lock(&pool).await;
        // Only one of the two lines, as if the other expired a moment later.
        let settle = "WITH line AS (
                 UPDATE reservation_line SET live = false
                 WHERE reservation_id = (SELECT min(reservation_id::text)::uuid FROM reservation_line) RETURNING reservation_id
             ), ended AS (UPDATE reservation SET state = 'expired' WHERE id = (SELECT reservation_id FROM line)),
             product AS (UPDATE stock SET reserved = 2, version = 4, next_expiry = clock_timestamp())
             INSERT INTO movement (product_id, version, kind, on_hand_delta, reserved_delta, on_hand, reserved, reservation_id)
             SELECT 'a', 4, 'expire', 0, -2, 5, 2, reservation_id FROM line";
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

/// Waits until a statement is waiting for a lock.
pub async fn waits_for_a_lock(pool: &PgPool) {
    let waiting =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    eventually("a statement is waiting for a lock", TIMEOUT, async || {
        let waiting: i64 = sqlx::query_scalar(waiting).fetch_one(pool).await.expect("a count");
        (waiting > 0).then_some(())
    })
    .await;
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
             line AS (UPDATE reservation_line SET live = false RETURNING reservation_id),
             ended AS (UPDATE reservation SET state = 'committed')
         INSERT INTO movement (product_id, version, kind, on_hand_delta, reserved_delta, on_hand, reserved, reservation_id)
         SELECT 'a', 3, 'commit', -2, -2, 3, 0, reservation_id FROM line";
    sqlx::query("SELECT FROM stock FOR UPDATE").execute(&mut *other).await.expect("locked");
    sqlx::query("UPDATE reservation SET expires_at = created_at").execute(&pool).await.expect("the hold is overdue");
    sqlx::query("UPDATE reservation_line SET expires_at = (SELECT created_at FROM reservation)")
        .execute(&pool)
        .await
        .expect("the hold is overdue");
    sqlx::query(commit).execute(&mut *other).await.expect("written");
    let finish = async {
        waits_for_a_lock(&pool).await;
        other.commit().await.expect("committed");
    };
    let (read, ()) = tokio::join!(app.get(&path), finish);
    assert_eq!(read.json(200)["state"], "committed");
    audit(&pool).await;
}
