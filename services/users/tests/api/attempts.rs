//! The limits on attempts to guess passwords.

use reqwest::Method;
use serde_json::json;
use sqlx::PgPool;
use test_support::app::join_all;

use crate::{
    issuer::{Issuer, PASSWORD, start_issuer, tokens},
    locks::waits,
};

const WRONG: &str = "a small heron waits";

/// Sets the counts of one kind: `1` of a client, `2` of a client on an account, `3` of an account.
async fn set_counts(pool: &PgPool, kind: char, failures: i32) {
    let set = "UPDATE throttle SET failures = $2 WHERE get_byte(key, 0) = ascii($1)";
    let set = sqlx::query(set).bind(kind.to_string()).bind(failures).execute(pool).await.expect("changed");
    assert_eq!(set.rows_affected(), 1);
}

/// The number of responses with a status.
async fn guess(issuer: &Issuer, address: &str, email: &str, count: usize, status: u16) -> usize {
    let responses = join_all((0..count).map(|_| issuer.log_in_from(address, email, WRONG))).await;
    responses.iter().filter(|response| response.status == status).count()
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn parallel_guesses_cannot_pass_the_limit(pool: PgPool) {
    let issuer = start_issuer(&pool).await;
    issuer.user("ada@example.com").await;
    let responses = join_all((0..40).map(|_| issuer.log_in_from("203.0.113.1", "ada@example.com", WRONG))).await;
    let count = |status| responses.iter().filter(|response| response.status == status).count();
    assert_eq!((count(401), count(429)), (10, 30));
    let refused = responses.iter().find(|response| response.status == 429).expect("one");
    assert_eq!(refused.problem(429)["type"], "https://hedgerow.dev/problems/too-many-attempts");
    let wait: u64 = refused.header("retry-after").expect("a time").parse().expect("seconds");
    assert!((1..=900).contains(&wait), "{wait}");
    // Now even the right password is refused here, but not elsewhere.
    issuer.log_in_from("203.0.113.1", "ada@example.com", PASSWORD).await.problem(429);
    tokens(&issuer.log_in_from("203.0.113.2", "ada@example.com", PASSWORD).await);
    let metrics = issuer.app.admin("/metrics").await.text();
    assert!(metrics.contains("\nauth_logins_total{outcome=\"limited\"} 31\n"), "{metrics}");
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn unknown_emails_are_limited_alike(pool: PgPool) {
    let issuer = start_issuer(&pool).await;
    assert_eq!(guess(&issuer, "203.0.113.1", "bob@example.com", 15, 401).await, 10);
    issuer.log_in_from("203.0.113.1", "BOB@example.com", WRONG).await.problem(429);
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn a_network_is_a_64_bit_prefix(pool: PgPool) {
    let issuer = start_issuer(&pool).await;
    let guesses = join_all((0..15).map(|number| {
        let (issuer, address) = (&issuer, format!("2001:db8:1:2::{number:x}"));
        async move { issuer.log_in_from(&address, "ada@example.com", WRONG).await.status }
    }));
    assert_eq!(guesses.await.iter().filter(|status| **status == 401).count(), 10);
    issuer.log_in_from("2001:db8:1:3::1", "ada@example.com", WRONG).await.problem(401);
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn a_client_is_limited_over_all_accounts(pool: PgPool) {
    let issuer = start_issuer(&pool).await;
    assert_eq!(guess(&issuer, "203.0.113.1", "user@example.com", 1, 401).await, 1);
    set_counts(&pool, '1', 57).await;
    let guesses = join_all((0..7).map(|number| {
        let (issuer, email) = (&issuer, format!("user{number}@example.com"));
        async move { issuer.log_in_from("203.0.113.1", &email, WRONG).await.status }
    }));
    let statuses = guesses.await;
    let count = |status: u16| statuses.iter().filter(|other| **other == status).count();
    assert_eq!((count(401), count(429)), (3, 4), "{statuses:?}");
}

/// Whoever guesses from many networks must not lock the user out where the user is at home.
#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn nobody_can_lock_a_user_out(pool: PgPool) {
    let issuer = start_issuer(&pool).await;
    issuer.user("ada@example.com").await;
    let (_, refresh) = tokens(&issuer.log_in_from("198.51.100.7", "ada@example.com", PASSWORD).await);
    assert_eq!(guess(&issuer, "203.0.113.1", "ada@example.com", 1, 401).await, 1);
    set_counts(&pool, '3', 100).await;
    issuer.log_in_from("192.0.2.1", "ada@example.com", PASSWORD).await.problem(429);
    tokens(&issuer.log_in_from("198.51.100.7", "ada@example.com", PASSWORD).await);
    tokens(&issuer.refresh(&refresh).await);
    // The period ends, whatever the guesser does.
    sqlx::query("UPDATE throttle SET until = now()").execute(&pool).await.expect("changed");
    tokens(&issuer.log_in_from("192.0.2.1", "ada@example.com", PASSWORD).await);
}

/// Not only where the user is logged in: whoever has logged out must be able to come back.
#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn nobody_can_lock_out_a_user_who_has_logged_out(pool: PgPool) {
    let issuer = start_issuer(&pool).await;
    let id = issuer.user("ada@example.com").await;
    tokens(&issuer.log_in_from("198.51.100.7", "ada@example.com", PASSWORD).await);
    // It ends all sessions.
    issuer.set_password(id, "a third heron waits").await;
    assert_eq!(guess(&issuer, "203.0.113.1", "ada@example.com", 1, 401).await, 1);
    set_counts(&pool, '3', 100).await;
    issuer.log_in_from("192.0.2.1", "ada@example.com", "a third heron waits").await.problem(429);
    // The limit of one network still holds.
    assert_eq!(guess(&issuer, "198.51.100.7", "ada@example.com", 9, 401).await, 9);
    tokens(&issuer.log_in_from("198.51.100.7", "ada@example.com", "a third heron waits").await);
    assert_eq!(guess(&issuer, "198.51.100.7", "ada@example.com", 12, 429).await, 2);
}

/// Here somebody holds the counts of a client, as its own attempts do when there are many.
#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn attempts_over_the_limit_take_nothing_from_others(pool: PgPool) {
    let issuer = start_issuer(&pool).await;
    issuer.user("ada@example.com").await;
    assert_eq!(guess(&issuer, "203.0.113.1", "bob@example.com", 1, 401).await, 1);
    set_counts(&pool, '1', 60).await;
    assert_eq!(guess(&issuer, "203.0.113.1", "bob@example.com", 1, 429).await, 1);
    let mut lock = pool.begin().await.expect("a transaction");
    sqlx::query("SELECT FROM throttle FOR UPDATE").execute(&mut *lock).await.expect("locked");
    let guesses = guess(&issuer, "203.0.113.1", "ada@example.com", 200, 429);
    let login = issuer.log_in_from("198.51.100.7", "ada@example.com", PASSWORD);
    let (refused, login) = tokio::join!(guesses, login);
    assert_eq!(refused, 200);
    tokens(&login);
    lock.rollback().await.expect("unlocked");
    let failures: i32 =
        sqlx::query_scalar("SELECT max(failures) FROM throttle").fetch_one(&pool).await.expect("counts");
    assert_eq!(failures, 61);
}

/// Attempts that have not ended count, so a limit may be reached for a moment only.
#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn a_limit_is_not_reached_any_more_after_a_success(pool: PgPool) {
    let issuer = start_issuer(&pool).await;
    issuer.user("ada@example.com").await;
    let log_in = async |password| issuer.log_in_from("203.0.113.1", "ada@example.com", password).await;
    assert_eq!(guess(&issuer, "203.0.113.1", "ada@example.com", 9, 401).await, 9);
    let mut lock = pool.begin().await.expect("a transaction");
    sqlx::query("SELECT FROM credential FOR UPDATE").execute(&mut *lock).await.expect("locked");
    let refused = async {
        waits(&pool, "%INTO session%").await;
        log_in(PASSWORD).await.problem(429);
        lock.rollback().await.expect("unlocked");
    };
    let (tenth, ()) = tokio::join!(log_in(PASSWORD), refused);
    tokens(&tenth);
    tokens(&log_in(PASSWORD).await);
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn clients_whose_address_is_unknown_do_not_lock_out_each_other(pool: PgPool) {
    let issuer = start_issuer(&pool).await;
    issuer.user("ada@example.com").await;
    issuer.log_in("bob@example.com", WRONG).await.problem(401);
    set_counts(&pool, '1', 60).await;
    issuer.log_in("bob@example.com", WRONG).await.problem(429);
    tokens(&issuer.log_in("ada@example.com", PASSWORD).await);
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn successful_logins_do_not_count(pool: PgPool) {
    let issuer = start_issuer(&pool).await;
    issuer.user("ada@example.com").await;
    for _ in 0..7 {
        for _ in 0..3 {
            issuer.log_in_from("203.0.113.1", "ada@example.com", WRONG).await.problem(401);
        }
        tokens(&issuer.log_in_from("203.0.113.1", "ada@example.com", PASSWORD).await);
    }
    let totals: Vec<i32> =
        sqlx::query_scalar("SELECT failures FROM throttle ORDER BY key").fetch_all(&pool).await.expect("counts");
    assert_eq!(totals, [21, 0, 21], "of the client, of the client on the account, of the account");
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn the_current_password_cannot_be_guessed_with_a_token(pool: PgPool) {
    let issuer = start_issuer(&pool).await;
    issuer.user("ada@example.com").await;
    let (access, _) = issuer.tokens("ada@example.com").await;
    let body = json!({"current": WRONG, "new": "another heron waits"});
    let guesses = join_all((0..15).map(|_| issuer.send(Method::PUT, "/auth/password", &access, Some(&body)))).await;
    let count = |status| guesses.iter().filter(|response| response.status == status).count();
    assert_eq!((count(401), count(429)), (10, 5));
}
