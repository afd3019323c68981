//! Reservations are deleted after a while, and rows are stored so that updates cost little.

use std::time::Duration;

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
    audit, counters, ledger,
    reservations::{end, location, reserve},
    set, start,
};

pub const DAY: Duration = Duration::from_hours(24);

/// Makes the movements of all products up to this number 40 days older.
pub async fn age(pool: &PgPool, version: i64) {
    let age = "UPDATE movement SET at = at - interval '40 days' WHERE version <= $1";
    sqlx::query(age).bind(version).execute(pool).await.expect("aged");
}

/// Waits until this many movements are left.
pub async fn pruned(pool: &PgPool, expected: i64) {
    eventually("old movements are deleted", TIMEOUT, async || {
        (count(pool, "movement").await == expected).then_some(())
    })
    .await;
}

pub async fn count(pool: &PgPool, table: &'static str) -> i64 {
    let count = if table == "movement" { "SELECT count(*) FROM movement" } else { "SELECT count(*) FROM reservation" };
    sqlx::query_scalar(count).fetch_one(pool).await.expect("a count")
}

pub fn versions(movements: &[Value]) -> Vec<i64> {
    movements.iter().map(|movement| movement["version"].as_i64().expect("a number")).collect()
}

/// The id of a reservation that was made at this time.
pub fn id_at(age: TimeDelta) -> Uuid {
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

/// Inserts an old reservation with this id.
async fn insert_old(pool: &PgPool, id: Uuid) {
    let old = "INSERT INTO reservation (id, state, created_at, expires_at, product_ids, quantities)
               VALUES ($1, 'released', now() - interval '40 days', now() - interval '40 days', '{p}', '{1}')";
    sqlx::query(old).bind(id).execute(pool).await.expect("inserted");
}

/// Every attempt to start with the oldest reservation again fails.
#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn pruning_goes_on_although_starting_over_fails(pool: PgPool) {
    let _app = start(&pool).await;
    insert_old(&pool, id_at(TimeDelta::days(50))).await;
    let left = async |expected| {
        eventually("reservations are deleted", TIMEOUT, async || {
            (count(&pool, "reservation").await == expected).then_some(())
        })
        .await;
    };
    left(0).await;
    let fail = "CREATE SEQUENCE tries;
         CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN PERFORM nextval('tries'); RAISE SQLSTATE 'XX001'; END $$;
         CREATE TRIGGER fail BEFORE DELETE ON reservation FOR EACH ROW
             WHEN (OLD.id < '00000000-0001-7000-8000-000000000000') EXECUTE FUNCTION fail()";
    sqlx::raw_sql(fail).execute(&pool).await.expect("a trigger");
    insert_old(&pool, Uuid::from_u128(1)).await;
    eventually("it has started over", TIMEOUT, async || {
        let called: bool = sqlx::query_scalar("SELECT is_called FROM tries").fetch_one(&pool).await.expect("a flag");
        called.then_some(())
    })
    .await;
    insert_old(&pool, id_at(TimeDelta::days(45))).await;
    left(1).await;
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
