//! Batches that change many products: they share no large transaction.

use sqlx::PgPool;
use test_support::app::join_all;

use crate::{
    adjust, audit, counters,
    held_up::{close_gate, in_flight, waits_for_a_lock},
    reservations::{end, location, reserve},
    set, start,
};

/// Makes statements that append more than 2,000 movements fail.
async fn limit_movements(pool: &PgPool) {
    let limit = "CREATE FUNCTION limit_rows() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN IF (SELECT count(*) FROM added) > 2000 THEN RAISE 'too many'; END IF; RETURN NULL; END $$;
         CREATE TRIGGER limit_rows AFTER INSERT ON movement REFERENCING NEW TABLE AS added EXECUTE FUNCTION limit_rows()";
    sqlx::raw_sql(limit).execute(pool).await.expect("a trigger");
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn ends_of_large_reservations_share_no_large_transaction(pool: PgPool) {
    const RESERVATIONS: usize = 25;
    let app = start(&pool).await;
    set(&app, "gate", 5).await.json(201);
    let products: Vec<String> = (0..100).map(|number| format!("p{number}")).collect();
    let items: Vec<(&str, i64)> = products.iter().map(|product| (product.as_str(), 1)).collect();
    for product in &products {
        set(&app, product, 100).await.json(201);
    }
    let mut held = Vec::new();
    for _ in 0..RESERVATIONS {
        held.push(location(&reserve(&app, &items).await));
    }
    limit_movements(&pool).await;
    let gate = close_gate(&pool, "gate").await;
    let ends = async {
        waits_for_a_lock(&pool).await;
        join_all(held.iter().map(|held| end(&app, held, "commit"))).await
    };
    let open = async {
        in_flight(&app, 1 + RESERVATIONS).await;
        gate.rollback().await.expect("unlocked");
    };
    let (first, ends, ()) = tokio::join!(adjust(&app, "gate", 1), ends, open);
    first.json(200);
    for response in ends {
        assert_eq!(response.json(200)["state"], "committed");
    }
    assert_eq!(counters(&app, "p7").await, (75, 75, 0));
    audit(&pool).await;
}

/// The reservations fill a transaction. The batch has another one, which takes longer.
#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_reply_does_not_wait_for_the_rest_of_the_batch(pool: PgPool) {
    const RESERVATIONS: usize = 20;
    let app = start(&pool).await;
    let products: Vec<String> = (0..100).map(|number| format!("p{number}")).collect();
    for product in products.iter().map(String::as_str).chain(["gate1", "gate2"]) {
        set(&app, product, 100).await.json(201);
    }
    let items: Vec<(&str, i64)> = products.iter().map(|product| (product.as_str(), 1)).collect();
    let (first_gate, second_gate) = (close_gate(&pool, "gate1").await, close_gate(&pool, "gate2").await);
    let reserve_all = async {
        waits_for_a_lock(&pool).await;
        let reserved = join_all((0..RESERVATIONS).map(|_| reserve(&app, &items))).await;
        // The other transaction has not ended.
        second_gate.rollback().await.expect("unlocked");
        reserved
    };
    let last = async {
        in_flight(&app, 1 + RESERVATIONS).await;
        adjust(&app, "gate2", 1).await
    };
    let open = async {
        in_flight(&app, 2 + RESERVATIONS).await;
        first_gate.rollback().await.expect("unlocked");
    };
    let (first, reserved, last, ()) = tokio::join!(adjust(&app, "gate1", 1), reserve_all, last, open);
    for response in reserved {
        response.json(201);
    }
    assert_eq!([first.status, last.status], [200, 200]);
    audit(&pool).await;
}
