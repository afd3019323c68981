//! Requests for a product that somebody has locked.

use sqlx::PgPool;
use test_support::{
    app::Response,
    process::{TIMEOUT, eventually},
};

use super::adjust_once;
use crate::{
    adjust, audit, counters,
    held_up::{hold_up, in_flight, waits_for_a_lock},
    reservations::reserve,
    set, start,
};

/// The first request waits for the locked product, the second one arrives when the first has been set aside.
#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn requests_for_a_locked_product_keep_their_order(pool: PgPool) {
    let app = start(&pool).await;
    for round in 0..5 {
        let last = format!("last{round}");
        set(&app, &last, 1).await.json(201);
        let lock = hold_up(&pool, &last).await;
        let items = [(last.as_str(), 1)];
        let second = async {
            waits_for_a_lock(&pool).await;
            adjust(&app, "other", 1).await.json(200);
            reserve(&app, &items).await
        };
        let unlock = async {
            in_flight(&app, 2).await;
            adjust(&app, "other", 1).await.json(200);
            lock.rollback().await.expect("unlocked");
        };
        let (first, second, ()) = tokio::join!(reserve(&app, &items), second, unlock);
        first.json(201);
        second.problem(409);
    }
    audit(&pool).await;
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_client_that_leaves_while_its_product_is_locked_gets_nothing_done(pool: PgPool) {
    let app = start(&pool).await;
    set(&app, "p", 5).await.json(201);
    let lock = hold_up(&pool, "p").await;
    let set_aside = async {
        waits_for_a_lock(&pool).await;
        adjust(&app, "other", 1).await.json(200);
    };
    tokio::select! {
        response = adjust(&app, "p", 1) => panic!("{response:?}"),
        () = set_aside => {}
    }
    in_flight(&app, 0).await;
    lock.rollback().await.expect("unlocked");
    adjust(&app, "p", 10).await.json(200);
    assert_eq!(counters(&app, "p").await, (15, 15, 0), "nothing else was done");
    audit(&pool).await;
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_stored_response_is_sent_although_its_product_is_locked(pool: PgPool) {
    let app = start(&pool).await;
    let first = adjust_once(&app, "k", "p", 5).await.json(200);
    let lock = hold_up(&pool, "p").await;
    let repeat = async {
        waits_for_a_lock(&pool).await;
        adjust(&app, "other", 1).await.json(200);
        let repeated = adjust_once(&app, "k", "p", 5).await.json(200);
        in_flight(&app, 1).await;
        lock.rollback().await.expect("unlocked");
        repeated
    };
    let (waiting, repeated) = tokio::join!(adjust(&app, "p", 1), repeat);
    waiting.json(200);
    assert_eq!(repeated, first);
    assert_eq!(counters(&app, "p").await, (6, 6, 0));
}

/// The statement that is waiting for a lock: its session, and when it began.
async fn waiting_statement(pool: &PgPool) -> Option<(i32, String)> {
    let waiting = "SELECT pid, query_start::text FROM pg_stat_activity
                   WHERE datname = current_database() AND wait_event_type = 'Lock'";
    sqlx::query_as(waiting).fetch_optional(pool).await.expect("the sessions")
}

/// Waits until a statement is waiting for a lock, and returns it with the products that its session has not locked.
async fn waiting_with_free_products(pool: &PgPool) -> ((i32, String), Vec<String>) {
    eventually("the writer waits for a lock", TIMEOUT, async || {
        let waiting = waiting_statement(pool).await?;
        let free = sqlx::query_scalar("SELECT product_id FROM stock ORDER BY product_id FOR UPDATE SKIP LOCKED");
        let free: Vec<String> = free.fetch_all(pool).await.expect("products");
        // It has not stopped waiting meanwhile.
        (waiting_statement(pool).await.as_ref() == Some(&waiting)).then_some((waiting, free))
    })
    .await
}

/// Sends a request again until it is not refused because of a lock.
async fn until_unlocked(send: impl AsyncFn() -> Response) -> Response {
    loop {
        let response = send().await;
        if response.status != 503 {
            return response;
        }
    }
}

/// Both products of a basket are locked. One is soon free, the other one stays locked for longer than requests wait.
#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_basket_that_waits_for_a_product_holds_no_other(pool: PgPool) {
    let app = &start(&pool).await;
    for product in ["a", "m"] {
        set(app, product, 5).await.json(201);
    }
    let (soon, late) = (hold_up(&pool, "a").await, hold_up(&pool, "m").await);
    let mut basket = Box::pin(reserve(app, &[("a", 1), ("m", 1)]));
    let waits = async {
        waits_for_a_lock(&pool).await;
        adjust(app, "other", 1).await.json(200);
        soon.rollback().await.expect("unlocked");
        eventually("the basket waits for one product only", TIMEOUT, async || {
            let (_, free) = waiting_with_free_products(&pool).await;
            free.contains(&"a".to_owned()).then_some(())
        })
        .await;
    };
    tokio::select! {
        response = &mut basket => panic!("{response:?}"),
        () = waits => {}
    }
    // Another one arrives later and waits for the product, too. So from now on there is always one that does.
    let basket = async {
        let response = basket.await;
        if response.status == 503 {
            return until_unlocked(async || reserve(app, &[("a", 1), ("m", 1)]).await).await;
        }
        response
    };
    let others = async {
        let again = hold_up(&pool, "a").await;
        let unlock = async {
            in_flight(app, 3).await;
            waits_for_a_lock(&pool).await;
            again.rollback().await.expect("unlocked");
        };
        let (adjusted, ()) = tokio::join!(adjust(app, "a", 1), unlock);
        adjusted.json(200);
        let mut seen = Vec::new();
        while seen.len() < 3 {
            let (statement, free) = waiting_with_free_products(&pool).await;
            assert!(free.contains(&"a".to_owned()), "wait {}: only {free:?} are free", seen.len());
            if !seen.contains(&statement) {
                seen.push(statement);
            }
            adjust(app, "a", 1).await.json(200);
        }
        late.rollback().await.expect("unlocked");
    };
    let one = until_unlocked(async || adjust(app, "m", 1).await);
    let (held, adjusted, ()) = tokio::join!(basket, one, others);
    held.json(201);
    adjusted.json(200);
    assert_eq!(counters(app, "m").await, (5, 6, 1));
    audit(&pool).await;
}
