//! What waits while a batch is under way.

use sqlx::{PgPool, Postgres, Transaction};
use test_harness::{
    app::App,
    process::{PATIENCE, eventually},
};

use crate::{
    adjust, audit, counters,
    expiry::waits_for_a_lock,
    reservations::{end, location, reserve},
    set, start,
};

/// Holds up whatever batch touches this product.
async fn hold_up(pool: &PgPool, product: &str) -> Transaction<'static, Postgres> {
    let mut lock = pool.begin().await.expect("a transaction");
    let locked =
        sqlx::query("SELECT FROM stock WHERE product_id = $1 FOR UPDATE").bind(product).execute(&mut *lock).await;
    assert_eq!(locked.expect("locked").rows_affected(), 1);
    lock
}

/// Waits until so many requests are being handled.
async fn in_flight(app: &App, count: usize) {
    let line = format!("\nhttp_requests_in_flight {count}\n");
    eventually("requests are in flight", PATIENCE, async || {
        app.admin("/metrics").await.text().contains(&line).then_some(())
    })
    .await;
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_statement_that_fails_hurts_only_its_cause(pool: PgPool) {
    let app = start(&pool).await;
    for product in ["gate", "good", "bad"] {
        set(&app, product, 5).await.json(201);
    }
    let held = location(&reserve(&app, &[("good", 1)]).await);
    let refuse = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN RAISE check_violation; END $$;
         CREATE TRIGGER refuse BEFORE INSERT ON movement FOR EACH ROW WHEN (NEW.product_id = 'bad') EXECUTE FUNCTION refuse()";
    sqlx::raw_sql(refuse).execute(&pool).await.expect("a trigger");

    let gate = hold_up(&pool, "gate").await;
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

/// The second asks for a product that is locked and for one that is free, of which the third wants the same last piece.
#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn who_arrives_first_is_served_first_though_others_could_be_served_sooner(pool: PgPool) {
    let app = start(&pool).await;
    set(&app, "gate", 5).await.json(201);
    set(&app, "last", 1).await.json(201);
    let gate = hold_up(&pool, "gate").await;
    let second = async {
        waits_for_a_lock(&pool).await;
        reserve(&app, &[("last", 1), ("gate", 1)]).await
    };
    let third = async {
        in_flight(&app, 2).await;
        reserve(&app, &[("last", 1)]).await
    };
    let open = async {
        in_flight(&app, 3).await;
        gate.rollback().await.expect("unlocked");
    };
    let (first, second, third, ()) = tokio::join!(adjust(&app, "gate", 1), second, third, open);
    first.json(200);
    second.json(201);
    third.problem(409);
    audit(&pool).await;
}
