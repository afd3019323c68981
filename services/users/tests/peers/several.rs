//! Several inventories, some of which are not well.

use std::time::Duration;

use sqlx::PgPool;
use test_support::{
    app::join_all,
    port::Port,
    process::{PATIENCE, eventually},
};
use tokio::{net::TcpListener, task::spawn_blocking, time::timeout};

use crate::{
    Users,
    fake::{Fake, Manner},
};

/// How long a call waits for one inventory while there is another: half its time.
const HALF: Duration = Duration::from_millis(150);

/// Waits until each of them is asked.
async fn all_are_used(users: &Users, inventories: &[&Fake]) {
    let before: Vec<usize> = inventories.iter().map(|inventory| inventory.calls()).collect();
    eventually("all are asked", PATIENCE, async || {
        users.shows_stock().await;
        inventories.iter().zip(&before).all(|(inventory, before)| inventory.calls() > *before).then_some(())
    })
    .await;
}

/// How many of so many answers show no stock: a pause of the machine for as long as one may take costs one, whatever
/// inventories do.
async fn without_stock(users: &Users, answers: usize) -> usize {
    let mut missing = 0;
    for _ in 0..answers {
        missing += usize::from(!users.shows_stock().await);
    }
    missing
}

/// Waits until all of so many answers show stock while the first behaves like that. It is asked twice at most: until it
/// is found out.
async fn costs_nothing(users: &Users, [first, second]: [&Fake; 2], manner: Manner, answers: usize) {
    all_are_used(users, &[first, second]).await;
    eventually("it costs no answer", PATIENCE, async || {
        first.behave(manner);
        let before = first.calls();
        let without_stock = without_stock(users, answers).await;
        assert!(first.calls() - before <= 2, "{} calls", first.calls() - before);
        if without_stock > 0 {
            first.behave(Manner::Sound);
            all_are_used(users, &[first, second]).await;
            return None;
        }
        Some(())
    })
    .await;
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn each_has_its_share(pool: PgPool) {
    let inventories = [Fake::start().await, Fake::start().await, Fake::start().await];
    let users = Users::start(&pool, &inventories.each_ref().map(|inventory| inventory.address)).await;
    all_are_used(&users, &inventories.each_ref()).await;
    // One that a pause of the machine keeps from answering is left for a while.
    eventually("each has its share", PATIENCE, async || {
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
async fn those_that_were_never_of_use_are_not_asked(pool: PgPool) {
    let inventory = Fake::start().await;
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let dead = Port::free();
    let addresses = [dead.address, silent.local_addr().expect("an address"), inventory.address];
    let users = Users::start(&pool, &addresses).await;
    for _ in 0..50 {
        users.eventually_shows_stock().await;
    }
    // Whoever was asked in vain, another was asked for.
    assert!(!users.metrics().await.contains("\ngrpc_client_retries_total{"));
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn one_that_dies_costs_no_answer(pool: PgPool) {
    let (port, second) = (Port::free(), Fake::start().await);
    let users = Users::start(&pool, &[port.address, second.address]).await;
    // A pause of the machine for as long as an answer may take costs one too: then another one dies.
    eventually("one dies and costs no answer", PATIENCE, async || {
        let first = Fake::start_at(port.clone()).await;
        all_are_used(&users, &[&first, &second]).await;
        let (mut dying, mut death) = (Some(first), None);
        let mut missing = 0;
        for round in 0..40 {
            let asked = join_all((0..4).map(|_| users.shows_stock()));
            let die = async {
                if round == 10
                    && let Some(dying) = dying.take()
                {
                    // With calls that it has not answered. While its end is waited for, they go on.
                    let before = dying.calls();
                    dying.behave(Manner::Slow);
                    let asked = async || (dying.calls() > before).then_some(());
                    let _ = timeout(HALF, eventually("it is asked", PATIENCE, asked)).await;
                    death = Some(spawn_blocking(|| drop(dying)));
                }
            };
            let (shown, ()) = tokio::join!(asked, die);
            missing += shown.into_iter().filter(|shown| !shown).count();
        }
        death.expect("it died").await.expect("no panic");
        (missing == 0).then_some(())
    })
    .await;
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn one_that_falls_silent_costs_no_answer_and_is_left_at_once(pool: PgPool) {
    let [first, second] = [Fake::start().await, Fake::start().await];
    let users = Users::start(&pool, &[first.address, second.address]).await;
    costs_nothing(&users, [&first, &second], Manner::Frozen, 40).await;
    assert!(users.metrics().await.contains("\ngrpc_client_retries_total{method=\"BatchGetStock\""));
    first.behave(Manner::Sound);
    all_are_used(&users, &[&first, &second]).await;
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn where_one_cannot_tell_another_is_asked(pool: PgPool) {
    let [first, second] = [Fake::start().await, Fake::start().await];
    let users = Users::start(&pool, &[first.address, second.address]).await;
    all_are_used(&users, &[&first, &second]).await;
    eventually("another is asked each time", PATIENCE, async || {
        first.behave(Manner::Unavailable);
        if without_stock(&users, 8).await > 0 {
            // With what these bring, others may be asked again.
            first.behave(Manner::Sound);
            without_stock(&users, 40).await;
            return None;
        }
        Some(())
    })
    .await;
    second.behave(Manner::Unavailable);
    let before = first.calls() + second.calls();
    assert!(!users.shows_stock().await);
    assert!(first.calls() + second.calls() <= before + 2, "asked twice at most");
}

/// It answers faster than those that work, and so would be asked more than they are.
#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn one_that_becomes_unwell_is_left_at_once(pool: PgPool) {
    let [first, second] = [Fake::start().await, Fake::start().await];
    let users = Users::start(&pool, &[first.address, second.address]).await;
    // More answers than there are repetitions for.
    costs_nothing(&users, [&first, &second], Manner::Unwell, 100).await;
    first.behave(Manner::Sound);
    all_are_used(&users, &[&first, &second]).await;
}
