//! Several inventories, some of which fail.

use std::time::Duration;

use sqlx::PgPool;
use test_support::{
    app::join_all,
    port::Port,
    process::{TIMEOUT, eventually},
};
use tokio::{net::TcpListener, task::spawn_blocking, time::timeout};

use crate::{
    Users,
    fake::{Behavior, Fake},
};

/// How long a call waits for one inventory while there is another: half of its deadline.
const HALF: Duration = Duration::from_millis(150);

/// Waits until all inventories receive calls.
async fn all_are_used(users: &Users, inventories: &[&Fake]) {
    let before: Vec<usize> = inventories.iter().map(|inventory| inventory.calls()).collect();
    eventually("all receive calls", TIMEOUT, async || {
        users.has_stock().await;
        inventories.iter().zip(&before).all(|(inventory, before)| inventory.calls() > *before).then_some(())
    })
    .await;
}

/// Counts the responses without stock. A pause of the machine may cause one, however the inventories behave.
async fn without_stock(users: &Users, responses: usize) -> usize {
    let mut missing = 0;
    for _ in 0..responses {
        missing += usize::from(!users.has_stock().await);
    }
    missing
}

/// Asserts that all responses have stock while the first inventory misbehaves, and that it receives at most two calls
/// before it is ejected.
async fn causes_no_failure(users: &Users, [first, second]: [&Fake; 2], behavior: Behavior, responses: usize) {
    all_are_used(users, &[first, second]).await;
    eventually("no response without stock", TIMEOUT, async || {
        first.behave(behavior);
        let before = first.calls();
        let without_stock = without_stock(users, responses).await;
        assert!(first.calls() - before <= 2, "{} calls", first.calls() - before);
        if without_stock > 0 {
            first.behave(Behavior::Working);
            all_are_used(users, &[first, second]).await;
            return None;
        }
        Some(())
    })
    .await;
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn calls_are_spread_evenly(pool: PgPool) {
    let inventories = [Fake::start().await, Fake::start().await, Fake::start().await];
    let users = Users::start(&pool, &inventories.each_ref().map(|inventory| inventory.address)).await;
    all_are_used(&users, &inventories.each_ref()).await;
    // An inventory that does not respond during a pause of the machine is ejected for a while.
    eventually("calls are spread evenly", TIMEOUT, async || {
        let before = inventories.each_ref().map(Fake::calls);
        for _ in 0..60 {
            join_all((0..5).map(|_| users.wishlist())).await;
        }
        let mut shares = inventories.iter().zip(before).map(|(inventory, before)| inventory.calls() - before);
        shares.all(|share| (80..=120).contains(&share)).then_some(())
    })
    .await;
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn addresses_that_never_worked_receive_no_calls(pool: PgPool) {
    let inventory = Fake::start().await;
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let dead = Port::free();
    let addresses = [dead.address, silent.local_addr().expect("an address"), inventory.address];
    let users = Users::start(&pool, &addresses).await;
    for _ in 0..50 {
        users.eventually_has_stock().await;
    }
    // A retry would mean that a broken address received a call.
    assert!(!users.metrics().await.contains("\ngrpc_client_retries_total{"));
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn an_inventory_that_dies_causes_no_failure(pool: PgPool) {
    let (port, second) = (Port::free(), Fake::start().await);
    let users = Users::start(&pool, &[port.address, second.address]).await;
    // A pause of the machine may cause a failure too; then try again.
    eventually("an inventory dies without a failure", TIMEOUT, async || {
        let first = Fake::start_at(port.clone()).await;
        all_are_used(&users, &[&first, &second]).await;
        let (mut dying, mut death) = (Some(first), None);
        let mut missing = 0;
        for round in 0..40 {
            let requests = join_all((0..4).map(|_| users.has_stock()));
            let die = async {
                if round == 10
                    && let Some(dying) = dying.take()
                {
                    // It dies with calls in flight, which continue while the test waits for its end.
                    let before = dying.calls();
                    dying.behave(Behavior::Slow);
                    let asked = async || (dying.calls() > before).then_some(());
                    let _ = timeout(HALF, eventually("it receives a call", TIMEOUT, asked)).await;
                    death = Some(spawn_blocking(|| drop(dying)));
                }
            };
            let (results, ()) = tokio::join!(requests, die);
            missing += results.into_iter().filter(|has_stock| !has_stock).count();
        }
        death.expect("it was killed").await.expect("no panic");
        (missing == 0).then_some(())
    })
    .await;
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn an_inventory_that_hangs_is_ejected_at_once(pool: PgPool) {
    let [first, second] = [Fake::start().await, Fake::start().await];
    let users = Users::start(&pool, &[first.address, second.address]).await;
    causes_no_failure(&users, [&first, &second], Behavior::Frozen, 40).await;
    assert!(users.metrics().await.contains("\ngrpc_client_retries_total{method=\"BatchGetStock\""));
    first.behave(Behavior::Working);
    all_are_used(&users, &[&first, &second]).await;
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn an_unavailable_status_is_retried_on_another_address(pool: PgPool) {
    let [first, second] = [Fake::start().await, Fake::start().await];
    let users = Users::start(&pool, &[first.address, second.address]).await;
    all_are_used(&users, &[&first, &second]).await;
    eventually("each call is retried on the other address", TIMEOUT, async || {
        first.behave(Behavior::Unavailable);
        if without_stock(&users, 8).await > 0 {
            // Successful calls refill the retry budget.
            first.behave(Behavior::Working);
            without_stock(&users, 40).await;
            return None;
        }
        Some(())
    })
    .await;
    second.behave(Behavior::Unavailable);
    let before = first.calls() + second.calls();
    assert!(!users.has_stock().await);
    assert!(first.calls() + second.calls() <= before + 2, "at most two tries");
}

/// It responds faster than the others, so it would receive more calls than they do.
#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn an_inventory_that_fails_fast_is_ejected_at_once(pool: PgPool) {
    let [first, second] = [Fake::start().await, Fake::start().await];
    let users = Users::start(&pool, &[first.address, second.address]).await;
    // More responses than the retry budget allows retries.
    causes_no_failure(&users, [&first, &second], Behavior::Failing, 100).await;
    first.behave(Behavior::Working);
    all_are_used(&users, &[&first, &second]).await;
}
