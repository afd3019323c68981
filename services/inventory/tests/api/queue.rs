//! Requests that wait while a batch is running.

use std::time::{Duration, Instant};

use bytes::Bytes;
use contracts::inventory::v1::BatchGetStockRequest;
use http_body_util::Full;
use hyper::{Request, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use sqlx::{AssertSqlSafe, PgPool, Postgres, Transaction};
use test_support::{
    app::{App, join_all},
    process::{TIMEOUT, eventually},
    raw::Raw,
};
use tokio::net::TcpStream;

use crate::{
    adjust, audit, counters,
    expiry::waits_for_a_lock,
    grpc::{self, client},
    reservations::{end, location, reserve},
    set, start,
};

/// Locks a product, which holds up every batch that changes it.
pub async fn hold_up(pool: &PgPool, product: &str) -> Transaction<'static, Postgres> {
    let mut lock = pool.begin().await.expect("a transaction");
    let locked =
        sqlx::query("SELECT FROM stock WHERE product_id = $1 FOR UPDATE").bind(product).execute(&mut *lock).await;
    assert_eq!(locked.expect("locked").rows_affected(), 1);
    lock
}

/// Holds up every transaction that changes the stock of this product, whose name starts with "gate", when it writes the
/// ledger. It waits for as long as it has to, unlike for the lock of a product.
pub async fn close_gate(pool: &PgPool, product: &str) -> Transaction<'static, Postgres> {
    let gate = "CREATE OR REPLACE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql SET lock_timeout = '1min' AS
             $$ BEGIN PERFORM pg_advisory_xact_lock_shared(hashtext(NEW.product_id)); RETURN NEW; END $$;
         CREATE OR REPLACE TRIGGER wait BEFORE INSERT ON movement FOR EACH ROW WHEN (NEW.product_id LIKE 'gate%')
             EXECUTE FUNCTION wait()";
    sqlx::raw_sql(gate).execute(pool).await.expect("a trigger");
    let mut gate = pool.begin().await.expect("a transaction");
    let close = sqlx::query("SELECT pg_advisory_xact_lock(hashtext($1))").bind(product);
    close.execute(&mut *gate).await.expect("closed");
    gate
}

/// How long the writer waits for the lock of a product. After that it does something else.
pub const LOCK_TIMEOUT: Duration = Duration::from_millis(150);

/// Waits until this many requests are in flight and queued: the response to a later request shows that they are.
pub async fn in_flight(app: &App, count: usize) {
    gauge(app, "http_requests_in_flight", count).await;
    app.get("/nothing").await.problem(404);
}

/// Waits until this many gRPC calls are in flight.
async fn calls_in_flight(app: &App, count: usize) {
    gauge(app, "grpc_server_requests_in_flight", count).await;
}

async fn gauge(app: &App, name: &str, count: usize) {
    let line = format!("\n{name} {count}\n");
    eventually("requests are in flight", TIMEOUT, async || {
        app.admin("/metrics").await.text().contains(&line).then_some(())
    })
    .await;
}

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

/// The second request needs a locked product and the last item of a free one, which the third request wants too.
#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn requests_are_decided_in_order_of_arrival(pool: PgPool) {
    let app = start(&pool).await;
    set(&app, "gate", 50).await.json(201);
    let mut rounds = 0;
    eventually("the product is unlocked before the writer stops to wait for it", TIMEOUT, async || {
        rounds += 1;
        let last = format!("last{rounds}");
        set(&app, &last, 1).await.json(201);
        let gate = hold_up(&pool, "gate").await;
        let started = Instant::now();
        let second = async {
            waits_for_a_lock(&pool).await;
            reserve(&app, &[(last.as_str(), 1), ("gate", 1)]).await
        };
        let third = async {
            in_flight(&app, 2).await;
            reserve(&app, &[(last.as_str(), 1)]).await
        };
        let open = async {
            in_flight(&app, 3).await;
            gate.rollback().await.expect("unlocked");
            started.elapsed() < LOCK_TIMEOUT
        };
        let (first, second, third, in_time) = tokio::join!(adjust(&app, "gate", 1), second, third, open);
        first.json(200);
        if in_time {
            second.json(201);
            third.problem(409);
        }
        in_time.then_some(())
    })
    .await;
    audit(&pool).await;
}

/// The calls ask for three times as many products as the queue is long, but each call counts once.
#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_call_for_many_products_counts_once_in_the_queue(pool: PgPool) {
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
        let stocks = call.expect("a response").into_inner().stocks;
        assert!(stocks.iter().map(|stock| &stock.product_id).eq(&product_ids), "in the order of the request");
        assert!((0..).zip(&stocks).all(|(number, stock)| stock.stock == if number == 7 { 5 } else { 0 }));
    }
}

/// Asserts that nothing of "p" was reserved. It had five items and was adjusted by one before; this adjusts it again.
async fn nothing_was_reserved(app: &App, pool: &PgPool) {
    // Decided after everything that was queued.
    adjust(app, "p", 1).await.json(200);
    assert_eq!(counters(app, "p").await, (7, 7, 0));
    let reservations = sqlx::query_scalar("SELECT count(*) FROM reservation").fetch_one(pool).await;
    assert_eq!(reservations.ok(), Some(0_i64));
    audit(pool).await;
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_call_whose_deadline_passes_in_the_queue_has_no_effect(pool: PgPool) {
    let app = start(&pool).await;
    set(&app, "p", 5).await.json(201);
    let held_up = hold_up(&pool, "p").await;
    let late = async {
        waits_for_a_lock(&pool).await;
        let path = format!("/{}/Reserve", grpc::SERVICE);
        let (headers, _) = grpc::raw_call(&app, &path, "100m", &grpc::reserve(&[("p", 1)], "")).await;
        assert_eq!(headers["grpc-status"], "4", "DEADLINE_EXCEEDED");
        held_up.rollback().await.expect("unlocked");
    };
    let (first, ()) = tokio::join!(adjust(&app, "p", 1), late);
    first.json(200);
    nothing_was_reserved(&app, &pool).await;
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_disconnected_clients_queued_request_has_no_effect(pool: PgPool) {
    let app = start(&pool).await;
    set(&app, "p", 5).await.json(201);
    let mut client = client(&app).await;
    let stream = TokioIo::new(TcpStream::connect(app.http).await.expect("it listens"));
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.expect("HTTP/2");
    tokio::spawn(connection);
    let held_up = hold_up(&pool, "p").await;
    let leave = async {
        waits_for_a_lock(&pool).await;
        tokio::select! {
            response = client.reserve(grpc::reserve(&[("p", 1)], "")) => panic!("{response:?}"),
            () = calls_in_flight(&app, 1) => {}
        }
        calls_in_flight(&app, 0).await;
        let request = Request::post("http://test/reservations").header("content-type", "application/json");
        let items = r#"{"items":[{"product_id":"p","quantity":1}]}"#;
        let request = request.body(Full::<Bytes>::from(items)).expect("a request");
        tokio::select! {
            response = sender.send_request(request) => panic!("{response:?}"),
            () = in_flight(&app, 2) => {}
        }
        in_flight(&app, 1).await;
        let mut one = Raw::connect(app.http).await.expect("it listens");
        let head = "POST /reservations HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\ncontent-length";
        one.send(format!("{head}: {}\r\n\r\n{items}", items.len())).await.expect("sent");
        in_flight(&app, 2).await;
        drop(one);
        in_flight(&app, 1).await;
        held_up.rollback().await.expect("unlocked");
    };
    let (first, ()) = tokio::join!(adjust(&app, "p", 1), leave);
    first.json(200);
    nothing_was_reserved(&app, &pool).await;
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_client_that_leaves_during_the_transaction_gets_nothing_done(pool: PgPool) {
    let app = start(&pool).await;
    set(&app, "p", 5).await.json(201);
    let held = location(&reserve(&app, &[("p", 1)]).await);
    for abandoned in [true, false] {
        let held_up = hold_up(&pool, "p").await;
        let transaction = async { tokio::join!(adjust(&app, "p", 1), end(&app, &held, "commit")) };
        if abandoned {
            tokio::select! {
                responses = transaction => panic!("{responses:?}"),
                () = async { waits_for_a_lock(&pool).await; in_flight(&app, 2).await; } => {}
            }
            in_flight(&app, 0).await;
            held_up.rollback().await.expect("unlocked");
            // Decided after what was abandoned.
            adjust(&app, "p", 10).await.json(200);
            assert_eq!(counters(&app, "p").await, (14, 15, 1), "nothing else was done");
        } else {
            drop(held_up);
            let (adjusted, committed) = transaction.await;
            assert_eq!([adjusted.status, committed.status], [200, 200]);
        }
    }
    audit(&pool).await;
}

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
