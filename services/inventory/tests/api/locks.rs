//! Locks. All transactions lock in the same order, so that they cannot deadlock. Deadlocks are retried, so other tests
//! would not notice them. A row that somebody has locked for long holds up only the requests that need it.

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, PgPool, Postgres, Transaction};
use test_support::{
    app::{App, Response, join_all},
    process::{TIMEOUT, eventually},
};

use crate::{
    adjust, audit, counters,
    held_up::{close_gate, hold_up, in_flight, waits_for_a_lock},
    no_deadlock,
    reservations::{end, location, reserve},
    set, start, start_two,
};

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn products_are_locked_in_the_order_of_their_ids(pool: PgPool) {
    let app = start(&pool).await;
    // Stored in a different order, too.
    for product in ["d", "b", "a", "c"] {
        set(&app, product, 50).await.json(201);
    }
    for products in [["a", "b", "c", "d"], ["d", "c", "b", "a"], ["c", "a", "d", "b"]] {
        let items = products.map(|product| (product, 1));
        let free = eventually("the transaction waits with its locks", TIMEOUT, async || {
            let held_up = hold_up(&pool, "c").await;
            let check = async {
                waits_for_a_lock(&pool).await;
                let free =
                    sqlx::query_scalar("SELECT product_id FROM stock ORDER BY product_id FOR UPDATE SKIP LOCKED");
                let free: Vec<String> = free.fetch_all(&pool).await.expect("products");
                held_up.rollback().await.expect("unlocked");
                free
            };
            let (held, free) = tokio::join!(reserve(&app, &items), check);
            held.json(201);
            // After its lock timeout the writer waits for the locked product only.
            (free != ["a", "b", "d"]).then_some(free)
        })
        .await;
        assert_eq!(free, ["d"], "only products up to the locked one are locked");
    }
    audit(&pool).await;
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn keys_are_claimed_in_the_order_of_their_hashes(pool: PgPool) {
    let app = start(&pool).await;
    set(&app, "gate", 5).await.json(201);
    let mut keys: Vec<(Vec<u8>, String)> = Vec::new();
    for number in 0..6 {
        adjust_once(&app, &number.to_string(), "p", 1).await.json(200);
        let known: Vec<_> = keys.iter().map(|(id, _)| id.clone()).collect();
        let id = sqlx::query_scalar("SELECT id FROM idempotency WHERE id <> ALL ($1)").bind(known).fetch_one(&pool);
        keys.push((id.await.expect("the new row"), number.to_string()));
    }
    keys.sort();
    // The rows still exist, and can be claimed again.
    sqlx::query("UPDATE idempotency SET answer = NULL").execute(&pool).await.expect("cleared");

    let gate = close_gate(&pool, "gate").await;
    let mut held_up = pool.begin().await.expect("a transaction");
    let lock = sqlx::query("SELECT FROM idempotency WHERE id = $1 FOR UPDATE").bind(&keys[3].0);
    lock.execute(&mut *held_up).await.expect("locked");
    let together = async {
        waits_for_a_lock(&pool).await;
        join_all(keys.iter().rev().map(|(_, key)| adjust_once(&app, key, "p", 1))).await
    };
    let check = async {
        in_flight(&app, 1 + keys.len()).await;
        gate.rollback().await.expect("unlocked");
        // The batch claims its keys until it has to wait for the locked one.
        eventually("only keys up to the locked one are claimed", TIMEOUT, async || {
            let free = sqlx::query_scalar("SELECT id FROM idempotency ORDER BY id FOR UPDATE SKIP LOCKED");
            let free: Vec<Vec<u8>> = free.fetch_all(&pool).await.expect("keys");
            (free == [keys[4].0.clone(), keys[5].0.clone()]).then_some(())
        })
        .await;
        held_up.rollback().await.expect("unlocked");
    };
    let (_, responses, ()) = tokio::join!(adjust(&app, "gate", 1), together, check);
    for response in responses {
        response.json(200);
    }
    audit(&pool).await;
}

/// Adjusts the quantity on hand with an idempotency key.
async fn adjust_once(app: &App, key: &str, product: &str, delta: i64) -> Response {
    let request = app.request(Method::PATCH, &format!("/inventory/{product}")).header("idempotency-key", key);
    app.send(request.json(&json!({"delta": delta}))).await
}

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

/// Every transaction holds its locks for longer than another one waits for them.
#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn slow_replicas_take_turns_at_the_same_products(pool: PgPool) {
    let apps = start_two(&pool).await;
    for product in ["a", "b"] {
        set(&apps[0], product, 100).await.json(201);
    }
    let slow = "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN PERFORM pg_sleep(0.2); RETURN NULL; END $$;
         CREATE TRIGGER slow AFTER INSERT ON movement EXECUTE FUNCTION slow()";
    sqlx::raw_sql(slow).execute(&pool).await.expect("a trigger");
    let clients = apps.iter().flat_map(|app| {
        (0..4).map(move |client| async move {
            for _ in 0..4 {
                let held = if client % 2 == 0 {
                    reserve(app, &[("a", 1)]).await
                } else {
                    reserve(app, &[("a", 1), ("b", 1)]).await
                };
                held.json(201);
            }
        })
    });
    join_all(clients).await;
    assert_eq!(counters(&apps[0], "a").await, (68, 100, 32));
    assert_eq!(counters(&apps[0], "b").await, (84, 100, 16));
    audit(&pool).await;
    no_deadlock(&pool, apps).await;
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_lock_timeout_is_503_and_named_as_one(pool: PgPool) {
    let app = start(&pool).await;
    set(&app, "p", 5).await.json(201);
    let held_up = hold_up(&pool, "p").await;
    let requests = tokio::join!(adjust(&app, "p", 1), adjust_once(&app, "k", "p", 1), reserve(&app, &[("p", 1)]));
    for response in [requests.0, requests.1, requests.2] {
        let problem: Value = response.problem(503);
        assert_eq!(problem["detail"], "the data is locked by another transaction; try again in a moment");
        assert_eq!((&problem["type"], response.header("x-outcome")), (&json!("about:blank"), None));
        assert!(response.header("retry-after").is_some());
    }
    held_up.rollback().await.expect("unlocked");
    adjust(&app, "p", 1).await.json(200);
    adjust_once(&app, "k", "p", 1).await.json(200);
    assert_eq!(counters(&app, "p").await, (7, 7, 0), "what failed had no effect");
}
