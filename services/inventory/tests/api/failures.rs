//! Changes that fail: others in their batch do not, and clients learn whether they took effect.

use std::time::Instant;

use reqwest::Method;
use serde_json::json;
use sqlx::{AssertSqlSafe, PgPool};
use test_support::{
    app::{App, Response},
    process::{TIMEOUT, eventually},
};

use crate::{
    adjust, audit, counters,
    held_up::{LOCK_TIMEOUT, close_gate, hold_up, in_flight, waits_for_a_lock},
    reservations::{end, location, reserve},
    set, start,
};

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_failing_change_does_not_fail_others_in_its_batch(pool: PgPool) {
    let app = start(&pool).await;
    for product in ["gate", "good", "bad"] {
        set(&app, product, 5).await.json(201);
    }
    let held = location(&reserve(&app, &[("good", 1)]).await);
    let refuse = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN RAISE check_violation; END $$;
         CREATE TRIGGER refuse BEFORE INSERT ON movement FOR EACH ROW WHEN (NEW.product_id = 'bad') EXECUTE FUNCTION refuse()";
    sqlx::raw_sql(refuse).execute(&pool).await.expect("a trigger");

    let gate = close_gate(&pool, "gate").await;
    let waiting = async {
        waits_for_a_lock(&pool).await;
        tokio::join!(
            reserve(&app, &[("good", 1)]),
            reserve(&app, &[("bad", 1), ("good", 1)]),
            adjust(&app, "good", 1),
            adjust(&app, "bad", 1),
            end(&app, &held, "commit"),
        )
    };
    let open = async {
        in_flight(&app, 6).await;
        gate.rollback().await.expect("unlocked");
    };
    let (first, (good, bad, adjusted, badly, ended), ()) = tokio::join!(adjust(&app, "gate", 1), waiting, open);
    assert_eq!([first.status, good.status, adjusted.status, ended.status], [200, 201, 200, 200]);
    assert_eq!([bad.status, badly.status], [500, 500]);
    assert_eq!(counters(&app, "good").await, (4, 5, 1));
    assert_eq!(counters(&app, "bad").await, (5, 5, 0));
    audit(&pool).await;
}

/// A timestamp that the driver cannot represent makes the writer panic when it reads the row of the product, before it
/// changes anything.
#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_panic_before_the_commit_is_a_plain_failure(pool: PgPool) {
    let app = start(&pool).await;
    for product in ["gate", "good", "bad"] {
        set(&app, product, 5).await.json(201);
    }
    let bad = "UPDATE stock SET settled_until = 'infinity' WHERE product_id = 'bad'";
    sqlx::query(bad).execute(&pool).await.expect("changed");
    let gate = close_gate(&pool, "gate").await;
    let waiting = async {
        waits_for_a_lock(&pool).await;
        tokio::join!(
            adjust(&app, "good", 1),
            adjust(&app, "bad", 1),
            reserve(&app, &[("bad", 1), ("good", 1)]),
            reserve(&app, &[("good", 1)]),
        )
    };
    let open = async {
        in_flight(&app, 5).await;
        gate.rollback().await.expect("unlocked");
    };
    let (first, (good, bad, held_badly, held), ()) = tokio::join!(adjust(&app, "gate", 1), waiting, open);
    for response in [bad, held_badly] {
        assert_eq!(response.problem(500)["type"], "about:blank");
        assert_eq!(response.header("x-outcome"), None);
    }
    assert_eq!([first.status, good.status, held.status], [200, 200, 201], "others in the batch");
    let left: (i64, i64) = sqlx::query_as("SELECT on_hand, reserved FROM stock WHERE product_id = 'bad'")
        .fetch_one(&pool)
        .await
        .expect("the product");
    assert_eq!(left, (5, 0));
    assert_eq!(counters(&app, "good").await, (5, 6, 1));
    audit(&pool).await;
}

/// A timestamp that the driver cannot represent makes the writer panic once it reads the reply of the statement, which
/// is its own transaction.
#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_panic_after_the_commit_is_an_unknown_outcome(pool: PgPool) {
    let name: String = sqlx::query_scalar("SELECT current_database()").fetch_one(&pool).await.expect("a name");
    let shadow = format!(
        "CREATE FUNCTION clock_timestamp() RETURNS timestamptz LANGUAGE sql AS $$ SELECT timestamptz 'infinity' $$;
         ALTER DATABASE \"{name}\" SET search_path = public, pg_catalog"
    );
    sqlx::raw_sql(AssertSqlSafe(shadow)).execute(&pool).await.expect("a function");
    let app = start(&pool).await;
    set(&app, "p", 5).await.json(201);
    let response = reserve(&app, &[("p", 1)]).await;
    assert_eq!(response.problem(503)["type"], "https://hedgerow.dev/problems/outcome-unknown");
    assert_eq!(response.header("x-outcome"), Some("unknown"));
    let reserved: i64 = sqlx::query_scalar("SELECT reserved FROM stock").fetch_one(&pool).await.expect("a number");
    assert_eq!(reserved, 1, "it took effect");
    adjust(&app, "q", 1).await.json(200);
}

/// The disk is full, as far as one product is concerned. Nobody can tell that it fails only one change.
#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_stored_refusal_does_not_fail_with_its_batch(pool: PgPool) {
    let app = start(&pool).await;
    for product in ["gate", "bad"] {
        set(&app, product, 5).await.json(201);
    }
    let refused_before = adjust_once(&app, "k", "p", -1).await.problem(409);
    let fail = "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN RAISE SQLSTATE '53100' USING MESSAGE = 'disk full'; END $$;
         CREATE TRIGGER fail BEFORE INSERT ON movement FOR EACH ROW WHEN (NEW.product_id = 'bad') EXECUTE FUNCTION fail()";
    sqlx::raw_sql(fail).execute(&pool).await.expect("a trigger");

    let gate = close_gate(&pool, "gate").await;
    let waiting = async {
        waits_for_a_lock(&pool).await;
        tokio::join!(adjust(&app, "bad", 1), adjust_once(&app, "k", "p", -1), adjust_once(&app, "k", "p", -2))
    };
    let open = async {
        in_flight(&app, 4).await;
        gate.rollback().await.expect("unlocked");
    };
    let (first, (bad, refused, reused), ()) = tokio::join!(adjust(&app, "gate", 1), waiting, open);
    first.json(200);
    bad.problem(503);
    assert_eq!(refused.problem(409), refused_before);
    reused.problem(422);
    audit(&pool).await;
}

/// Adjusts the quantity on hand with an idempotency key.
async fn adjust_once(app: &App, key: &str, product: &str, delta: i64) -> Response {
    let request = app.request(Method::PATCH, &format!("/inventory/{product}")).header("idempotency-key", key);
    app.send(request.json(&json!({"delta": delta}))).await
}

/// As when a statement waits for several locks and takes too long in all.
#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_cancelled_statement_has_no_effect(pool: PgPool) {
    let app = start(&pool).await;
    set(&app, "p", 5).await.json(201);
    for with_key in [false, true] {
        fail_transactions(&pool, "57014", 2).await;
        let adjusted = if with_key { adjust_once(&app, "k", "p", 1).await } else { adjust(&app, "p", 1).await };
        for response in [adjusted, reserve(&app, &[("p", 1)]).await] {
            assert_eq!(response.problem(503)["type"], "about:blank");
            assert_eq!(response.header("x-outcome"), None);
            assert!(response.header("retry-after").is_some());
        }
        assert_eq!(tries(&pool).await, 2, "nothing was tried again");
    }
    assert_eq!(counters(&app, "p").await, (5, 5, 0));
    adjust_once(&app, "k", "p", 1).await.json(200);
    audit(&pool).await;
}

/// Makes this many of the next transactions that write the ledger fail with a SQLSTATE.
async fn fail_transactions(pool: &PgPool, state: &str, count: usize) {
    let lose = format!(
        "CREATE SEQUENCE IF NOT EXISTS tries;
         SELECT setval('tries', 1, false);
         CREATE OR REPLACE FUNCTION lose() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN IF nextval('tries') <= {count} THEN RAISE SQLSTATE '{state}'; END IF; RETURN NULL; END $$;
         CREATE OR REPLACE TRIGGER lose BEFORE INSERT ON movement EXECUTE FUNCTION lose()"
    );
    sqlx::raw_sql(AssertSqlSafe(lose)).execute(pool).await.expect("a trigger");
}

async fn tries(pool: &PgPool) -> i64 {
    sqlx::query_scalar("SELECT last_value FROM tries").fetch_one(pool).await.expect("a number")
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn deadlocks_are_retried_three_times_and_changes_applied_once(pool: PgPool) {
    let app = start(&pool).await;
    set(&app, "p", 5).await.json(201);
    let (mut adjusted, mut reserved) = (0, 0);
    for state in ["40001", "40P01"] {
        // A batch, in a transaction.
        eventually("the product is unlocked before the writer stops to wait for it", TIMEOUT, async || {
            fail_transactions(&pool, state, 3).await;
            let held_up = hold_up(&pool, "p").await;
            let started = Instant::now();
            let joining = async {
                waits_for_a_lock(&pool).await;
                tokio::join!(adjust(&app, "p", 1), reserve(&app, &[("p", 1)]))
            };
            let open = async {
                in_flight(&app, 3).await;
                held_up.rollback().await.expect("unlocked");
                started.elapsed() < LOCK_TIMEOUT
            };
            let (first, (second, held), in_time) = tokio::join!(adjust(&app, "p", 1), joining, open);
            assert_eq!([first.status, second.status, held.status], [200, 200, 201]);
            (adjusted, reserved) = (adjusted + 2, reserved + 1);
            assert!(!in_time || tries(&pool).await == 4, "tries of one transaction");
            in_time.then_some(())
        })
        .await;
        // A single-statement hold.
        fail_transactions(&pool, state, 3).await;
        reserve(&app, &[("p", 1)]).await.json(201);
        reserved += 1;
        assert_eq!(tries(&pool).await, 4);
        let expected = (5 + adjusted - reserved, 5 + adjusted, reserved);
        assert_eq!(counters(&app, "p").await, expected);

        fail_transactions(&pool, state, 4).await;
        reserve(&app, &[("p", 1)]).await.problem(503);
        fail_transactions(&pool, state, 4).await;
        adjust(&app, "p", 1).await.problem(503);
        assert_eq!(counters(&app, "p").await, expected, "nothing was changed");
        audit(&pool).await;
    }
}
