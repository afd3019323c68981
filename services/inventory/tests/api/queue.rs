//! What waits while a batch is under way.

use contracts::inventory::v1::BatchGetStockRequest;
use sqlx::{PgPool, Postgres, Transaction};
use test_harness::{
    app::{App, join_all},
    process::{PATIENCE, eventually},
};

use crate::{
    adjust, audit, counters,
    expiry::waits_for_a_lock,
    grpc::client,
    reservations::{end, location, reserve},
    set, start,
};

/// Holds up whatever batch touches this product.
pub async fn hold_up(pool: &PgPool, product: &str) -> Transaction<'static, Postgres> {
    let mut lock = pool.begin().await.expect("a transaction");
    let locked =
        sqlx::query("SELECT FROM stock WHERE product_id = $1 FOR UPDATE").bind(product).execute(&mut *lock).await;
    assert_eq!(locked.expect("locked").rows_affected(), 1);
    lock
}

/// Waits until so many requests are being handled.
pub async fn in_flight(app: &App, count: usize) {
    gauge(app, "http_requests_in_flight", count).await;
}

/// Waits until so many gRPC calls are being handled.
async fn calls_in_flight(app: &App, count: usize) {
    gauge(app, "grpc_server_requests_in_flight", count).await;
}

async fn gauge(app: &App, name: &str, count: usize) {
    let line = format!("\n{name} {count}\n");
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

/// They want three times as many products as reads may wait: each call counts once.
#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn calls_for_many_products_leave_room_in_the_queue(pool: PgPool) {
    const CALLS: usize = 64;
    let app = start(&pool).await;
    set(&app, "p7", 5).await.json(201);
    let mut lock = pool.begin().await.expect("a transaction");
    sqlx::query("LOCK TABLE stock").execute(&mut *lock).await.expect("locked");
    let client = client(&app).await;
    let product_ids: Vec<String> = (0..200).map(|number| format!("p{number}")).collect();
    let calls = (0..CALLS).map(|_| {
        let (mut client, product_ids) = (client.clone(), product_ids.clone());
        async move { client.batch_get_stock(BatchGetStockRequest { product_ids }).await }
    });
    let read = async {
        calls_in_flight(&app, CALLS).await;
        app.get("/inventory/p7").await
    };
    let open = async {
        calls_in_flight(&app, CALLS).await;
        in_flight(&app, 1).await;
        lock.rollback().await.expect("unlocked");
    };
    let (calls, read, ()) = tokio::join!(join_all(calls), read, open);
    assert_eq!(read.json(200)["stock"], 5);
    for call in calls {
        let stocks = call.expect("an answer").into_inner().stocks;
        assert!(stocks.iter().map(|stock| &stock.product_id).eq(&product_ids), "in their order");
        assert!((0..).zip(&stocks).all(|(number, stock)| stock.stock == if number == 7 { 5 } else { 0 }));
    }
}
