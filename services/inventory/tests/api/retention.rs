//! What is deleted after a while: reservations, and old movements, for which an opening movement stands.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use chrono::{TimeDelta, Utc};
use inventory::Retention;
use rand::seq::SliceRandom;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;
use test_support::{
    app::{App, Response, join_all},
    process::{TIMEOUT, eventually},
};
use uuid::{Builder, Uuid};

use crate::{
    adjust, audit, counters, ledger,
    reservations::{end, location, reserve},
    set, start,
};

const DAY: Duration = Duration::from_hours(24);

/// Starts an instance that keeps movements for this long.
async fn start_keeping(pool: &PgPool, ledgers: Duration) -> App {
    let settings = Retention { ledgers: Some(ledgers), ..Retention::default() };
    App::start_with_settings(&inventory::SERVICE, &pool.connect_options(), settings).await
}

/// Makes the movements of all products up to this number 40 days older.
async fn age(pool: &PgPool, version: i64) {
    let age = "UPDATE movement SET at = at - interval '40 days' WHERE version <= $1";
    sqlx::query(age).bind(version).execute(pool).await.expect("aged");
}

/// Waits until this many movements are left.
async fn pruned(pool: &PgPool, expected: i64) {
    eventually("old movements are deleted", TIMEOUT, async || {
        (count(pool, "movement").await == expected).then_some(())
    })
    .await;
}

async fn count(pool: &PgPool, table: &'static str) -> i64 {
    let count = if table == "movement" { "SELECT count(*) FROM movement" } else { "SELECT count(*) FROM reservation" };
    sqlx::query_scalar(count).fetch_one(pool).await.expect("a count")
}

fn versions(movements: &[Value]) -> Vec<i64> {
    movements.iter().map(|movement| movement["version"].as_i64().expect("a number")).collect()
}

/// The id of a reservation that was made at this time.
fn id_at(age: TimeDelta) -> Uuid {
    let millis = (Utc::now() - age).timestamp_millis().try_into().expect("a time");
    let random = Uuid::new_v4().as_bytes()[6..].try_into().expect("10 bytes");
    Builder::from_unix_timestamp_millis(millis, &random).into_uuid()
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn reservations_are_deleted_after_their_retention(pool: PgPool) {
    let insert = "INSERT INTO reservation (id, state, created_at, expires_at, product_ids, quantities)
                  VALUES ($1, $2, clock_timestamp() - $3, clock_timestamp() - $3 + $4, '{a}', '{1}')";
    let add = async |days: i64, state: &str, ttl_days: i64| {
        let (age, ttl) = (TimeDelta::days(days), TimeDelta::days(ttl_days));
        let add = sqlx::query(insert).bind(id_at(age)).bind(state).bind(age).bind(ttl);
        add.execute(&pool).await.expect("added");
    };
    for days in [11, 9] {
        for state in ["held", "committed", "released", "void"] {
            add(days, state, 1).await;
        }
    }
    // No request can hold for so long. If one did, its stock would still be held.
    add(12, "held", 20).await;
    let settings = Retention { reservations: 10 * DAY, ledgers: None };
    let _app = App::start_with_settings(&inventory::SERVICE, &pool.connect_options(), settings).await;
    let left = "SELECT array_agg(extract(day FROM clock_timestamp() - created_at)::int || ' ' || state ORDER BY 1)
                FROM (SELECT created_at, state FROM reservation ORDER BY created_at, state) AS reservation";
    let expected = ["12 held", "9 committed", "9 held", "9 released", "9 void"];
    eventually("old reservations are deleted", TIMEOUT, async || {
        (count(&pool, "reservation").await == 5).then_some(())
    })
    .await;
    let mut left: Vec<String> = sqlx::query_scalar(left).fetch_one(&pool).await.expect("reservations");
    left.sort();
    assert_eq!(left, expected);
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn an_opening_movement_stands_for_old_ones(pool: PgPool) {
    let app = start(&pool).await;
    set(&app, "p", 10).await.json(201);
    set(&app, "new", 1).await.json(201);
    app.patch("/inventory/p", &json!({"delta": -3, "reason": "damaged"})).await.json(200);
    reserve(&app, &[("p", 2)]).await.json(201);
    let held = location(&reserve(&app, &[("p", 1)]).await);
    sqlx::query("UPDATE movement SET at = at - interval '40 days' WHERE product_id = 'p'")
        .execute(&pool)
        .await
        .expect("aged");
    end(&app, &held, "release").await.json(200);
    let before = ledger(&app, "p").await;
    let read = app.get("/inventory/p").await;
    let _pruner = start_keeping(&pool, 35 * DAY).await;
    pruned(&pool, 3).await;

    let after = ledger(&app, "p").await;
    let opening = json!({
        "product_id": "p", "version": 4, "kind": "opening", "on_hand_delta": 7, "reserved_delta": 3, "on_hand": 7, "reserved": 3,
        "reason": null, "reservation_id": null, "holds": null, "expired_until": null, "at": before[3]["at"],
    });
    assert_eq!(after, [opening, before[4].clone()]);
    assert_eq!(app.get("/inventory/p").await.etag(), read.etag());
    assert_eq!(adjust(&app, "p", 1).await.etag(), "\"6\"", "the numbers go on");
    assert_eq!(counters(&app, "p").await, (6, 8, 2));
    assert_eq!(ledger(&app, "new").await[0]["kind"], "set");
    audit(&pool).await;
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_later_opening_replaces_the_first_one(pool: PgPool) {
    let app = start(&pool).await;
    for number in 1..=6 {
        set(&app, "p", number).await;
    }
    for (version, left) in [(1, 6), (3, 4), (6, 1)] {
        sqlx::query("UPDATE movement SET at = now() - interval '40 days' WHERE version <= $1")
            .bind(version)
            .execute(&pool)
            .await
            .expect("aged");
        let _pruner = start_keeping(&pool, 35 * DAY).await;
        eventually("there is an opening movement", TIMEOUT, async || {
            let ledger = ledger(&app, "p").await;
            (ledger[0]["kind"] == "opening" && ledger[0]["version"] == version).then_some(())
        })
        .await;
        assert_eq!(versions(&ledger(&app, "p").await), (version..=6).collect::<Vec<_>>());
        pruned(&pool, left).await;
        audit(&pool).await;
    }
    assert_eq!(set(&app, "p", 7).await.etag(), "\"7\"");
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn ledgers_are_kept_by_default(pool: PgPool) {
    let app = start(&pool).await;
    for number in 1..=3 {
        set(&app, "p", number).await;
    }
    let held = location(&reserve(&app, &[("p", 1)]).await);
    end(&app, &held, "release").await.json(200);
    age(&pool, 9).await;
    sqlx::query("UPDATE reservation SET id = $1, created_at = created_at - interval '40 days'")
        .bind(id_at(TimeDelta::days(40)))
        .execute(&pool)
        .await
        .expect("aged");
    eventually("pruned", TIMEOUT, async || (count(&pool, "reservation").await == 0).then_some(())).await;
    assert_eq!(versions(&ledger(&app, "p").await), [1, 2, 3, 4, 5]);
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn pages_of_movements_end_with_the_opening(pool: PgPool) {
    let app = start(&pool).await;
    for number in 1..=9 {
        set(&app, "p", number).await;
    }
    // A client is in the middle of the ledger while it is pruned.
    let first = app.get("/inventory/p/movements?limit=2").await;
    age(&pool, 5).await;
    let _pruner = start_keeping(&pool, 35 * DAY).await;
    pruned(&pool, 5).await;
    let rest = app.walk(&first.next().expect("more")).await.concat();
    assert_eq!((versions(&first.rows()), versions(&rest)), (vec![9, 8], vec![7, 6, 5]));
    assert_eq!(rest[2]["kind"], "opening");
    for (limit, pages) in [(1, 5), (2, 3), (4, 2), (5, 1), (200, 1)] {
        let walked = app.walk(&format!("/inventory/p/movements?limit={limit}")).await;
        assert_eq!((walked.len(), versions(&walked.concat())), (pages, vec![9, 8, 7, 6, 5]), "limit {limit}");
    }
    for after in [1, 3, 5] {
        let response = app.get(&format!("/inventory/p/movements?after={after}")).await;
        assert_eq!((response.rows().len(), response.next()), (0, None), "after {after}");
    }
}

/// Instances that keep movements for a moment prune all the time, while others change the same products.
#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn sums_agree_while_ledgers_are_pruned_and_changed(pool: PgPool) {
    const PRODUCTS: i64 = 5;
    let app = start(&pool).await;
    let _pruners = join_all([0; 2].map(|_| start_keeping(&pool, Duration::from_millis(20)))).await;
    for number in 0..PRODUCTS {
        set(&app, &format!("p{number}"), 1_000_000).await.json(201);
    }
    let agree = "SELECT count(*), bool_and((stock.on_hand, stock.reserved, version) = (ledger.on_hand, ledger.reserved, newest)),
                        min(opening)
                 FROM stock JOIN (
                     SELECT product_id, sum(on_hand_delta) AS on_hand, sum(reserved_delta) AS reserved,
                            max(version) AS newest, max(version) FILTER (WHERE kind = 'opening') AS opening
                     FROM movement GROUP BY product_id
                 ) AS ledger USING (product_id)";
    let check = async || -> Option<i64> {
        let sums = sqlx::query_as(agree).fetch_one(&pool).await;
        let (products, agree, opening): (i64, bool, Option<i64>) = sums.expect("sums");
        assert_eq!((products, agree), (PRODUCTS, true));
        opening
    };
    let started = Instant::now();
    let mut openings = BTreeSet::new();
    // Until all products were pruned some times, in the middle of changes.
    while openings.len() < 4 && started.elapsed() < TIMEOUT {
        let change = join_all((0..PRODUCTS).map(async |number| {
            let product = format!("p{number}");
            adjust(&app, &product, -1).await.json(200);
            let held = location(&reserve(&app, &[(product.as_str(), 1), ("p0", 1)]).await);
            end(&app, &held, if number % 2 == 0 { "commit" } else { "release" }).await.json(200);
        }));
        let (_, opening) = tokio::join!(change, check());
        openings.extend(opening);
    }
    assert_eq!(openings.len(), 4, "openings of the product that was pruned least");
    pruned(&pool, PRODUCTS).await;
    check().await;
    audit(&pool).await;
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn an_opening_says_until_when_holds_had_expired(pool: PgPool) {
    let app = start(&pool).await;
    set(&app, "p", 10).await.json(201);
    let hold = async || {
        let body = json!({"items": [{"product_id": "p", "quantity": 1}], "ttl_seconds": 1});
        app.post("/reservations", &body).await.json(201);
        eventually("the hold has expired", TIMEOUT, async || (counters(&app, "p").await.2 == 0).then_some(())).await;
        set(&app, "p", 10).await.json(201);
    };
    hold().await;
    let before = ledger(&app, "p").await;
    assert_eq!((&before[2]["kind"], before.len()), (&json!("expire"), 4));
    age(&pool, 4).await;
    let _pruner = start_keeping(&pool, 35 * DAY).await;
    pruned(&pool, 1).await;
    hold().await;
    let after = ledger(&app, "p").await;
    assert_eq!((&after[0]["kind"], &after[2]["kind"]), (&json!("opening"), &json!("expire")));
    assert_eq!(after[0]["expired_until"], before[2]["expired_until"]);
    audit(&pool).await;
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn pruning_a_ledger_waits_for_no_product(pool: PgPool) {
    let app = start(&pool).await;
    for number in 1..=3 {
        set(&app, "p", number).await;
    }
    age(&pool, 2).await;
    let mut other = pool.begin().await.expect("a transaction");
    sqlx::query("SELECT FROM stock FOR UPDATE").execute(&mut *other).await.expect("locked");
    let _pruner = start_keeping(&pool, 35 * DAY).await;
    pruned(&pool, 2).await;
    other.rollback().await.expect("unlocked");
    audit(&pool).await;
}

/// More products than a step looks at, and more movements of one of them than a step deletes.
#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn all_ledgers_are_pruned_in_steps(pool: PgPool) {
    let insert = "WITH product AS (
             INSERT INTO stock (product_id, on_hand, version)
             SELECT 'p' || n, 5, CASE n WHEN 1100 THEN 3001 ELSE 3 END FROM generate_series(1, 1200) AS n
             RETURNING product_id, on_hand, version
         )
         INSERT INTO movement (product_id, version, kind, on_hand_delta, reserved_delta, on_hand, reserved, at)
         SELECT product_id, n, 'set', CASE n WHEN 1 THEN 5 ELSE 0 END, 0, 5, 0,
                now() - CASE n WHEN version THEN 0 ELSE 40 END * interval '1 day'
         FROM product, generate_series(1, version) AS n";
    sqlx::query(insert).execute(&pool).await.expect("inserted");
    let _pruner = start_keeping(&pool, 35 * DAY).await;
    pruned(&pool, 2 * 1200).await;
    audit(&pool).await;
}

/// Sends an adjustment with a key.
async fn repeat(app: &App, path: &str, body: &Value) -> Response {
    let method = if path == "/reservations" { Method::POST } else { Method::PATCH };
    app.send(app.request(method, path).header("idempotency-key", "k").json(body)).await
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_repeated_request_gets_its_response_after_pruning(pool: PgPool) {
    let app = start(&pool).await;
    set(&app, "p", 10).await.json(201);
    let requests = [
        ("/inventory/p", json!({"delta": -3})),
        ("/reservations", json!({"items": [{"product_id": "p", "quantity": 2}]})),
    ];
    let first = [repeat(&app, requests[0].0, &requests[0].1).await, repeat(&app, requests[1].0, &requests[1].1).await];
    let held = location(&first[1]);
    end(&app, &held, "commit").await.json(200);
    set(&app, "p", 20).await.json(201);
    age(&pool, 4).await;
    let settings = Retention { reservations: Duration::from_millis(1), ledgers: Some(35 * DAY) };
    let pruner = App::start_with_settings(&inventory::SERVICE, &pool.connect_options(), settings).await;
    pruned(&pool, 2).await;
    eventually("the reservation is deleted", TIMEOUT, async || (count(&pool, "reservation").await == 0).then_some(()))
        .await;
    drop(pruner);
    app.get(&held).await.problem(404);
    for ((path, body), first) in requests.iter().zip(&first) {
        let again = repeat(&app, path, body).await;
        assert_eq!((again.status, again.text(), again.etag()), (first.status, first.text(), first.etag()), "{path}");
    }
    assert_eq!((versions(&ledger(&app, "p").await), counters(&app, "p").await), (vec![4, 5], (20, 20, 0)));
}

/// While a transaction with an old snapshot is open, as that of `pg_dump`, the index entries of deleted rows stay. Each
/// step must start after them.
#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn pruning_passes_deleted_reservations_once(pool: PgPool) {
    const COUNT: i64 = 20_000;
    let insert = "INSERT INTO reservation (id, state, created_at, expires_at, product_ids, quantities)
         SELECT (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '70008000000000000000')::uuid,
                'released', at, at, '{p}', '{1}'
         FROM (SELECT now() - interval '40 days' + n * interval '1 ms' AS at FROM generate_series(1, $1) AS n) AS made";
    sqlx::query(insert).bind(COUNT).execute(&pool).await.expect("inserted");
    let mut old = pool.begin().await.expect("a transaction");
    sqlx::query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ").execute(&mut *old).await.expect("set");
    sqlx::query("SELECT FROM stock").execute(&mut *old).await.expect("a snapshot");
    let app = start(&pool).await;
    eventually("old reservations are deleted", TIMEOUT, async || {
        (count(&pool, "reservation").await == 0).then_some(())
    })
    .await;
    // Postgres has counted everything once the connections are closed.
    drop(app);
    let passed = "SELECT idx_tup_read FROM pg_stat_user_indexes WHERE indexrelname = 'reservation_pkey'";
    let passed = eventually("the statistics are complete", TIMEOUT, async || {
        let passed: i64 = sqlx::query_scalar(passed).fetch_one(&pool).await.expect("a count");
        (passed >= 2 * COUNT).then_some(passed)
    })
    .await;
    // Each row is passed twice, to find and to delete it, and once more by a step that starts over. If each step passed
    // all rows that were deleted before, it would be 11 times.
    assert!(passed < 5 * COUNT, "{passed} entries passed for {COUNT} rows");
    old.rollback().await.expect("closed");
}

/// Postgres then writes no entry to an index, and reuses the space of the old version without a vacuum.
#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn updates_stay_on_their_pages(pool: PgPool) {
    const PRODUCTS: usize = 300;
    let insert = "WITH product AS (
             INSERT INTO stock (product_id, on_hand, version) SELECT 'p' || n, 1000, 1 FROM generate_series(1, $1) AS n
             RETURNING product_id, on_hand, version
         )
         INSERT INTO movement (product_id, version, kind, on_hand_delta, reserved_delta, on_hand, reserved)
         SELECT product_id, version, 'set', on_hand, 0, on_hand, 0 FROM product";
    sqlx::query(insert).bind(i32::try_from(PRODUCTS).expect("few")).execute(&pool).await.expect("inserted");
    let app = start(&pool).await;
    let reserved = (0..2 * PRODUCTS).map(async |number| {
        // Some of them expire in the same second.
        let product = format!("p{}", 1 + number % PRODUCTS);
        location(&reserve(&app, &[(product.as_str(), 1)]).await)
    });
    let mut held = join_all(reserved).await;
    held.shuffle(&mut rand::rng());
    for (number, held) in held.chunks(4).enumerate() {
        let verb = if number % 2 == 0 { "commit" } else { "release" };
        let ended = join_all(held.iter().map(|held| end(&app, held, verb))).await;
        assert!(ended.iter().all(|response| response.status == 200));
    }
    audit(&pool).await;
    drop(app);
    let updates = "SELECT relname::text, n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables
                   WHERE relname IN ('expiry', 'reservation', 'stock') ORDER BY relname";
    let updates: Vec<(String, i64, i64)> = eventually("the statistics are complete", TIMEOUT, async || {
        let updates: Vec<(String, i64, i64)> = sqlx::query_as(updates).fetch_all(&pool).await.expect("counts");
        let updated = updates.iter().map(|(_, updates, _)| updates).min().expect("tables");
        (*updated >= i64::try_from(PRODUCTS).expect("few")).then_some(updates)
    })
    .await;
    for (table, updates, on_page) in updates {
        assert!(10 * on_page >= 9 * updates, "{table}: {on_page} of {updates}");
    }
}
