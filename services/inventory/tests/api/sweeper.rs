//! The sweeper settles what expired and nobody asks for.

use serde_json::json;
use sqlx::PgPool;
use test_support::{
    app::join_all,
    process::{TIMEOUT, eventually},
};

use crate::{
    audit,
    expiry::{expire, holds, swept},
    reservations::reserve,
    set, start,
};

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn the_sweepers_of_all_instances_settle_a_hold_once(pool: PgPool) {
    let apps = join_all((0..3).map(|_| start(&pool))).await;
    let app = &apps[0];
    set(app, "a", 50).await.json(201);
    set(app, "b", 50).await.json(201);
    let items = json!([{"product_id": "a", "quantity": 1}, {"product_id": "b", "quantity": 1}]);
    let body = json!({"items": items, "ttl_seconds": 1});
    for round in 1..=2 {
        let holds = (0..50).map(|_| app.post("/reservations", &body));
        assert!(join_all(holds).await.iter().all(|response| response.status == 201));
        swept(&pool).await;
        let expired: i64 = sqlx::query_scalar("SELECT sum(holds)::bigint FROM movement WHERE kind = 'expire'")
            .fetch_one(&pool)
            .await
            .expect("a sum");
        assert_eq!(expired, 100 * round, "each hold is settled once");
        audit(&pool).await;
    }
}

/// A counter that was corrected by hand and is wrong now: the product cannot be settled.
#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_product_that_cannot_be_settled_holds_up_no_other(pool: PgPool) {
    let app = start(&pool).await;
    for product in ["a", "b", "c"] {
        set(&app, product, 5).await.json(201);
        reserve(&app, &[(product, 1)]).await.json(201);
    }
    sqlx::query("UPDATE stock SET reserved = 0 WHERE product_id = 'b'").execute(&pool).await.expect("corrected");
    let response =
        "INSERT INTO idempotency (id, fingerprint, expires_at) VALUES ('', '', clock_timestamp() - interval '1 s')";
    sqlx::query(response).execute(&pool).await.expect("inserted");
    expire(&pool).await;
    swept_except(&pool, "b").await;
    eventually("the response is deleted", TIMEOUT, async || {
        let left: i64 = sqlx::query_scalar("SELECT count(*) FROM idempotency").fetch_one(&pool).await.expect("a count");
        (left == 0).then_some(())
    })
    .await;
}

/// A sum that cannot be: it is the smallest integer, which has no negative.
#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn the_sweeper_goes_on_after_a_panic(pool: PgPool) {
    let app = start(&pool).await;
    for product in ["a", "b", "c"] {
        set(&app, product, 5).await.json(201);
        reserve(&app, &[(product, 1)]).await.json(201);
    }
    let sum = "UPDATE expiry SET quantity = -9223372036854775808 WHERE product_id = 'b'";
    sqlx::query(sum).execute(&pool).await.expect("changed");
    expire(&pool).await;
    swept_except(&pool, "b").await;
}

/// Waits until the sweeper has settled all holds except those of a product.
async fn swept_except(pool: &PgPool, product: &str) {
    let left = "SELECT array_agg(DISTINCT product_id) FROM expiry";
    eventually("the other holds are settled", TIMEOUT, async || {
        let left: Vec<String> = sqlx::query_scalar(left).fetch_one(pool).await.expect("products");
        (left == [product]).then_some(())
    })
    .await;
}

/// A hundred thousand holds have expired. Requests for other products do not notice; one for such a product settles
/// what it needs, and the sweeper settles the rest.
#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_backlog_of_expired_holds_holds_up_no_request(pool: PgPool) {
    const PRODUCTS: i64 = 100;
    let app = start(&pool).await;
    set(&app, "other", 1000).await.json(201);
    for number in 0..PRODUCTS {
        let product = format!("p{number}");
        set(&app, &product, 1000).await.json(201);
        holds(&pool, &product, 1000).await;
    }
    expire(&pool).await;
    let busy = async {
        for _ in 0..300 {
            reserve(&app, &[("other", 1)]).await.json(201);
        }
        for number in (0..PRODUCTS).rev() {
            reserve(&app, &[(format!("p{number}").as_str(), 1000)]).await.json(201);
        }
    };
    busy.await;
    let left = "SELECT count(*) FROM expiry WHERE expires_at < clock_timestamp()";
    eventually("the backlog is gone", TIMEOUT, async || {
        let left: i64 = sqlx::query_scalar(left).fetch_one(&pool).await.expect("a count");
        (left == 0).then_some(())
    })
    .await;
    let movements: Vec<(i64, i64)> =
        sqlx::query_as("SELECT count(*), sum(holds)::bigint FROM movement WHERE kind = 'expire'")
            .fetch_all(&pool)
            .await
            .expect("sums");
    assert_eq!(movements, [(PRODUCTS, 1000 * PRODUCTS)], "one movement for each product");
    audit(&pool).await;
}
