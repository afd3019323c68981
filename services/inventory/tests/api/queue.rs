//! Requests that wait while a batch is running.

use std::time::Instant;

use bytes::Bytes;
use contracts::inventory::v1::BatchGetStockRequest;
use http_body_util::Full;
use hyper::{Request, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use sqlx::PgPool;
use test_support::{
    app::{App, join_all},
    process::{TIMEOUT, eventually},
    raw::Raw,
};
use tokio::net::TcpStream;

use crate::{
    adjust, audit, counters,
    grpc::{self, client},
    held_up::{LOCK_TIMEOUT, calls_in_flight, close_gate, hold_up, in_flight, waits_for_a_lock},
    reservations::{end, location, reserve},
    set, start,
};

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

/// The client leaves while the row is being inserted.
#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn an_abandoned_put_of_a_new_product_leaves_no_row(pool: PgPool) {
    let app = start(&pool).await;
    let gate = close_gate(&pool, "gate").await;
    let trigger = "CREATE TRIGGER wait BEFORE INSERT ON stock FOR EACH ROW WHEN (NEW.product_id = 'gate')
         EXECUTE FUNCTION wait()";
    sqlx::query(trigger).execute(&pool).await.expect("a trigger");
    tokio::select! {
        response = set(&app, "gate", 5) => panic!("{response:?}"),
        () = waits_for_a_lock(&pool) => {}
    }
    in_flight(&app, 0).await;
    gate.rollback().await.expect("opened");
    // Decided afterwards.
    adjust(&app, "other", 1).await.json(200);
    let rows: Vec<String> =
        sqlx::query_scalar("SELECT product_id FROM stock").fetch_all(&pool).await.expect("the products");
    assert_eq!(rows, ["other"]);
    audit(&pool).await;
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
