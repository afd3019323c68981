//! Passwords: which ones are accepted, and what a change ends.

use reqwest::Method;
use serde_json::json;
use sqlx::PgPool;
use uuid::Uuid;

use crate::{
    issuer::{PASSWORD, assert_oauth_error, start_issuer, tokens},
    locks::waits,
};

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn a_password_is_set_by_administrators_only(pool: PgPool) {
    let issuer = start_issuer(&pool).await;
    let id = issuer.user("ada@example.com").await;
    let (ada, _) = issuer.tokens("ada@example.com").await;
    let (path, body) = (format!("/users/{id}/password"), json!({"new": PASSWORD}));
    issuer.send(Method::PUT, &path, &ada, Some(&body)).await.problem(403);
    let anonymous = issuer.app.request(Method::PUT, &path).json(&body);
    issuer.app.send(anonymous).await.problem(401);
    let unknown = format!("/users/{}/password", Uuid::now_v7());
    issuer.send(Method::PUT, &unknown, &issuer.admin(), Some(&body)).await.problem(404);
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn weak_short_and_long_passwords_are_refused(pool: PgPool) {
    let issuer = start_issuer(&pool).await;
    let id = issuer.user("ada.lovelace@example.com").await;
    let path = format!("/users/{id}/password");
    for bad in [
        json!({}),
        json!({"new": ""}),
        json!({"new": "x y z x y z x "}),
        json!({"new": "ab".repeat(128) + "c"}),
        json!({"new": "PasswordPassword"}),
        json!({"new": "ada.lovelace@EXAMPLE.com"}),
    ] {
        let response = issuer.send(Method::PUT, &path, &issuer.admin(), Some(&bad)).await;
        assert_eq!(response.errors(), ["#/new"], "{bad}");
    }
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn composed_and_decomposed_forms_log_in(pool: PgPool) {
    let issuer = start_issuer(&pool).await;
    let id = issuer.user("ada@example.com").await;
    let (composed, decomposed) = ("café du coin vert", "cafe\u{301} du coin vert");
    for (set, enter) in [(composed, decomposed), (decomposed, composed)] {
        issuer.set_password(id, set).await;
        tokens(&issuer.log_in("ada@example.com", enter).await);
    }
    // Nothing else is equated.
    for wrong in [" café du coin vert", "cafe du coin vert", "Café du coin vert", "café du coin vert\u{200b}"] {
        issuer.log_in("ada@example.com", wrong).await.problem(401);
    }
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn a_change_ends_all_other_sessions(pool: PgPool) {
    let issuer = start_issuer(&pool).await;
    issuer.user("ada@example.com").await;
    let (_, other) = tokens(&issuer.log_in("ada@example.com", PASSWORD).await);
    let (ada, refresh) = issuer.tokens("ada@example.com").await;
    let new = "a small heron waits";
    let change = async |current: &str, new: &str| {
        issuer.send(Method::PUT, "/auth/password", &ada, Some(&json!({"current": current, "new": new}))).await
    };
    assert_eq!(
        change("a wrong heron waits", new).await.problem(401)["type"],
        "https://hedgerow.dev/problems/invalid-credentials"
    );
    assert_eq!(change(PASSWORD, "short").await.errors(), ["#/new"]);
    assert_eq!(change(PASSWORD, new).await.status, 204);
    assert_oauth_error(&issuer.refresh(&other).await, 400, "invalid_grant");
    tokens(&issuer.refresh(&refresh).await);
    issuer.log_in("ada@example.com", PASSWORD).await.problem(401);
    tokens(&issuer.log_in("ada@example.com", new).await);
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn a_password_set_by_an_administrator_ends_all_sessions(pool: PgPool) {
    let issuer = start_issuer(&pool).await;
    let id = issuer.user("ada@example.com").await;
    let (access, refresh) = issuer.tokens("ada@example.com").await;
    issuer.set_password(id, "a small heron waits").await;
    assert_oauth_error(&issuer.refresh(&refresh).await, 400, "invalid_grant");
    let body = json!({"current": "a small heron waits", "new": PASSWORD});
    issuer.send(Method::PUT, "/auth/password", &access, Some(&body)).await.problem(401);
}

/// Whoever knows the old password must not undo what an administrator does meanwhile.
#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn a_change_does_not_replace_a_password_that_was_set_meanwhile(pool: PgPool) {
    let issuer = start_issuer(&pool).await;
    let id = issuer.user("ada@example.com").await;
    let (access, _) = issuer.tokens("ada@example.com").await;
    let mut set = pool.begin().await.expect("a transaction");
    sqlx::query("SELECT FROM users FOR UPDATE").execute(&mut *set).await.expect("locked");
    let body = json!({"current": PASSWORD, "new": "a small heron waits"});
    let change = issuer.send(Method::PUT, "/auth/password", &access, Some(&body));
    let set = async {
        waits(&pool, "%INTO credential%").await;
        let sql = "UPDATE credential SET phc = $2, changed_at = now() WHERE user_id = $1";
        let new = outdated_hash("a third heron waits");
        sqlx::query(sql).bind(id).bind(new).execute(&mut *set).await.expect("set");
        set.commit().await.expect("committed");
    };
    let (change, ()) = tokio::join!(change, set);
    assert_eq!(change.problem(401)["type"], "https://hedgerow.dev/problems/invalid-credentials");
    issuer.log_in("ada@example.com", "a small heron waits").await.problem(401);
    tokens(&issuer.log_in("ada@example.com", "a third heron waits").await);
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn an_outdated_hash_is_replaced_at_the_next_login(pool: PgPool) {
    let issuer = start_issuer(&pool).await;
    let id = issuer.user("ada@example.com").await;
    // Of `a tall heron waits`, with 8 KiB and one pass.
    let outdated = outdated_hash(PASSWORD);
    sqlx::query("UPDATE credential SET phc = $1").bind(&outdated).execute(&pool).await.expect("changed");
    issuer.log_in("ada@example.com", "a small heron waits").await.problem(401);
    let (_, refresh) = tokens(&issuer.log_in("ada@example.com", PASSWORD).await);
    let phc: String = sqlx::query_scalar("SELECT phc FROM credential WHERE user_id = $1")
        .bind(id)
        .fetch_one(&pool)
        .await
        .expect("a hash");
    assert!(phc.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{phc}");
    tokens(&issuer.log_in("ada@example.com", PASSWORD).await);
    tokens(&issuer.refresh(&refresh).await);
}

fn outdated_hash(password: &str) -> String {
    use argon2::{Algorithm, Argon2, Params, PasswordHasher, Version};
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::new(8, 1, 1, None).expect("valid"));
    argon2.hash_password(password.as_bytes()).expect("a hash").to_string()
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn a_stored_hash_that_is_too_expensive_is_not_computed(pool: PgPool) {
    let issuer = start_issuer(&pool).await;
    issuer.user("ada@example.com").await;
    let expensive = "UPDATE credential SET phc = replace(phc, 'm=19456', 'm=4194304')";
    sqlx::query(expensive).execute(&pool).await.expect("changed");
    issuer.log_in("ada@example.com", PASSWORD).await.problem(401);
}
