//! Ledgers that are not kept for ever: an opening movement stands for the old ones.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use chrono::TimeDelta;
use inventory::Retention;
use serde_json::json;
use sqlx::PgPool;
use test_support::{
    app::{App, join_all},
    process::{TIMEOUT, eventually},
};

use crate::{
    adjust, audit, counters, ledger,
    reservations::{end, location, reserve},
    retention::{DAY, age, count, id_at, pruned, versions},
    set, start,
};

/// Starts an instance that keeps movements for this long.
async fn start_keeping(pool: &PgPool, ledgers: Duration) -> App {
    let settings = Retention { ledgers: Some(ledgers), ..Retention::default() };
    App::start_with_settings(&inventory::SERVICE, &pool.connect_options(), settings).await
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
/// Its movements cannot be deleted, as if their page were damaged.
#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_ledger_that_cannot_be_pruned_stops_nothing_else(pool: PgPool) {
    let app = start(&pool).await;
    for product in ["a", "bad", "c"] {
        set(&app, product, 10).await.json(201);
        adjust(&app, product, 1).await.json(200);
        adjust(&app, product, 1).await.json(200);
    }
    age(&pool, 3).await;
    let old = "INSERT INTO reservation (id, state, created_at, expires_at, product_ids, quantities)
               VALUES ($1, 'released', now() - interval '40 days', now() - interval '40 days', '{a}', '{1}')";
    sqlx::query(old).bind(id_at(TimeDelta::days(40))).execute(&pool).await.expect("inserted");
    let damage =
        "CREATE FUNCTION damaged() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE SQLSTATE 'XX001'; END $$;
         CREATE TRIGGER damaged BEFORE DELETE ON movement FOR EACH ROW WHEN (OLD.product_id = 'bad')
             EXECUTE FUNCTION damaged()";
    sqlx::raw_sql(damage).execute(&pool).await.expect("a trigger");
    let _pruner = start_keeping(&pool, 35 * DAY).await;
    pruned(&pool, 1 + 3 + 1).await;
    eventually("the reservation is deleted", TIMEOUT, async || (count(&pool, "reservation").await == 0).then_some(()))
        .await;
}

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
