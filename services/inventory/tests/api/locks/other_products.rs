//! A row that somebody has locked for long holds up only the requests that need it.

use sqlx::{AssertSqlSafe, PgPool, Postgres, Transaction};
use test_support::app::{App, Response, join_all};

use super::adjust_once;
use crate::{
    adjust, audit, counters,
    held_up::{close_gate, hold_up, in_flight, waits_for_a_lock},
    reservations::{end, location, reserve},
    set, start,
};

/// Starts a transaction that somebody leaves open for long, such as one in psql.
async fn lock(pool: &PgPool, sql: &str) -> Transaction<'static, Postgres> {
    let mut lock = pool.begin().await.expect("a transaction");
    let locked = sqlx::query(AssertSqlSafe(sql.to_owned())).execute(&mut *lock).await.expect("locked");
    assert_ne!(locked.rows_affected(), 0, "{sql}");
    lock
}

/// Fifty products, of which some exist. Some sort before "m", some after it.
fn others() -> Vec<String> {
    (0..25).flat_map(|number| [format!("a{number}"), format!("z{number}")]).collect()
}

/// Starts the service with 5 of "m" and of half of the other products.
async fn start_with_stock(pool: &PgPool) -> App {
    let app = start(pool).await;
    set(&app, "m", 5).await.json(201);
    for product in others().iter().step_by(2) {
        set(&app, product, 5).await.json(201);
    }
    app
}

/// Adds two to each of the other products, and one to every second one.
async fn change_others(app: &App) {
    let others = others();
    let changes = others.iter().enumerate().map(|(number, product)| async move {
        if number % 2 == 0 {
            tokio::join!(adjust(app, product, 1), adjust(app, product, 2))
        } else {
            tokio::join!(adjust(app, product, 1), adjust_once(app, product, product, 1))
        }
    });
    for (one, two) in join_all(changes).await {
        assert_eq!([one.status, two.status], [200, 200], "{} {}", one.text(), two.text());
    }
}

/// Makes requests that wait for a lock, in a batch with requests for the other products. Only when these are done is
/// the lock released. Returns the responses of those that waited.
async fn hold_up_only(
    app: &App,
    pool: &PgPool,
    lock: Transaction<'_, Postgres>,
    waiting: Vec<impl Future<Output = Response>>,
) -> Vec<Response> {
    let count = waiting.len();
    let gate = close_gate(pool, "gate").await;
    let together = async {
        waits_for_a_lock(pool).await;
        tokio::join!(join_all(waiting), async {
            change_others(app).await;
            in_flight(app, count).await;
            lock.rollback().await.expect("unlocked");
        })
    };
    let open = async {
        in_flight(app, 1 + count + 2 * others().len()).await;
        gate.rollback().await.expect("opened");
    };
    let (first, (responses, ()), ()) = tokio::join!(adjust(app, "gate", 1), together, open);
    first.json(200);
    for (number, product) in others().iter().enumerate() {
        let expected = if number % 2 == 0 { 8 } else { 2 };
        assert_eq!(counters(app, product).await.1, expected, "{product}");
    }
    audit(pool).await;
    responses
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_locked_product_holds_up_only_its_own_requests(pool: PgPool) {
    let app = &start_with_stock(&pool).await;
    set(app, "n", 5).await.json(201);
    let held = &location(&reserve(app, &[("m", 1), ("n", 1)]).await);
    let lock = hold_up(&pool, "m").await;
    let waiting = (0..5).map(|number| async move {
        match number {
            0 => adjust(app, "m", 1).await,
            1 => reserve(app, &[("m", 1)]).await,
            2 => reserve(app, &[("a0", 1), ("m", 1)]).await,
            3 => end(app, held, "commit").await,
            _ => adjust_once(app, "k", "m", 1).await,
        }
    });
    let responses = hold_up_only(app, &pool, lock, waiting.collect()).await;
    assert_eq!(responses.iter().map(|response| response.status).collect::<Vec<_>>(), [200, 201, 201, 200, 200]);
    assert_eq!(counters(app, "m").await, (4, 6, 2));
    assert_eq!(counters(app, "a0").await, (7, 8, 1));
    adjust_once(app, "k", "m", 1).await.json(200);
    assert_eq!(counters(app, "m").await, (4, 6, 2), "the key was used");
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_locked_reservation_holds_up_only_its_own_requests(pool: PgPool) {
    let app = &start_with_stock(&pool).await;
    let locked = &location(&reserve(app, &[("m", 1)]).await);
    let id = locked.strip_prefix("/reservations/").expect("an id");
    let lock = lock(&pool, &format!("SELECT FROM reservation WHERE id = '{id}' FOR UPDATE")).await;
    let waiting = ["commit", "commit"].map(|verb| end(app, locked, verb)).into();
    let responses = hold_up_only(app, &pool, lock, waiting).await;
    assert_eq!(responses.iter().map(|response| response.status).collect::<Vec<_>>(), [200, 200]);
    assert_eq!(counters(app, "m").await, (4, 4, 0));
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_locked_expiry_holds_up_only_its_own_requests(pool: PgPool) {
    let app = &start_with_stock(&pool).await;
    let locked = &location(&reserve(app, &[("m", 1)]).await);
    let lock = lock(&pool, "SELECT FROM expiry FOR UPDATE").await;
    let responses = hold_up_only(app, &pool, lock, vec![end(app, locked, "release")]).await;
    assert_eq!(responses[0].json(200)["state"], "released");
    assert_eq!(counters(app, "m").await, (5, 5, 0));
}

/// Makes two requests with the same key while somebody claims it.
async fn claimed(pool: &PgPool, free: &'static str, claim: &str) {
    let app = &start_with_stock(pool).await;
    adjust_once(app, "k", "m", 1).await.json(200);
    let id: String = sqlx::query_scalar("SELECT id::text FROM idempotency").fetch_one(pool).await.expect("a key");
    sqlx::query(free).execute(pool).await.expect("a free key");
    let lock = lock(pool, &claim.replace("$1", &format!("'{id}'"))).await;
    let waiting = vec![adjust_once(app, "k", "m", 1), adjust_once(app, "k", "m", 1)];
    let responses = hold_up_only(app, pool, lock, waiting).await;
    assert_eq!(responses[0].json(200), responses[1].json(200));
    assert_eq!(counters(app, "m").await, (7, 7, 0));
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_claimed_key_holds_up_only_its_own_requests(pool: PgPool) {
    claimed(&pool, "DELETE FROM idempotency", "INSERT INTO idempotency VALUES ($1, '', NULL, now())").await;
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_locked_key_holds_up_only_its_own_requests(pool: PgPool) {
    let free = "UPDATE idempotency SET answer = NULL";
    claimed(&pool, free, "SELECT FROM idempotency WHERE id = $1 FOR UPDATE").await;
}

/// More keys than the search for them finds in its time.
#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn many_claimed_keys_hold_up_only_their_own_requests(pool: PgPool) {
    const KEYS: usize = 60;
    let app = &start_with_stock(&pool).await;
    for key in 0..KEYS {
        adjust_once(app, &key.to_string(), "m", 1).await.json(200);
    }
    sqlx::query("UPDATE idempotency SET answer = NULL").execute(&pool).await.expect("free keys");
    let lock = lock(&pool, "SELECT FROM idempotency FOR UPDATE").await;
    let gate = close_gate(&pool, "gate").await;
    let others = async {
        waits_for_a_lock(&pool).await;
        let waiting = (0..KEYS).map(|key| async move { adjust_once(app, &key.to_string(), "m", 1).await });
        let others = others();
        let free = others.iter().map(|product| async move {
            let response = adjust(app, product, 1).await;
            response.json(200);
        });
        tokio::join!(join_all(waiting), async {
            join_all(free).await;
            in_flight(app, KEYS).await;
            lock.rollback().await.expect("unlocked");
        })
    };
    let open = async {
        in_flight(app, 1 + KEYS + 50).await;
        gate.rollback().await.expect("opened");
    };
    let (first, (responses, ()), ()) = tokio::join!(adjust(app, "gate", 1), others, open);
    first.json(200);
    for response in responses {
        response.json(200);
    }
    assert_eq!(counters(app, "m").await.1, 5 + 2 * 60);
    audit(&pool).await;
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_product_being_inserted_holds_up_only_its_own_requests(pool: PgPool) {
    let app = &start_with_stock(&pool).await;
    let lock = lock(&pool, "INSERT INTO stock (product_id) VALUES ('new')").await;
    let responses = hold_up_only(app, &pool, lock, vec![adjust(app, "new", 1), adjust(app, "new", 1)]).await;
    assert_eq!(responses.iter().map(|response| response.status).collect::<Vec<_>>(), [200, 200]);
    assert_eq!(counters(app, "new").await, (2, 2, 0));
}
