//! Roles: when they take effect, and what ends with them.

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;
use test_support::app::Response;
use uuid::Uuid;

use crate::{
    issuer::{Issuer, PASSWORD, assert_oauth_error, claims, start_issuer, tokens},
    locks::waits,
};

/// Sets the roles of a user with a token.
async fn set(issuer: &Issuer, token: &str, id: Uuid, roles: Value) -> Response {
    issuer.send(Method::PUT, &format!("/users/{id}/roles"), token, Some(&json!({"roles": roles}))).await
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn a_new_role_takes_effect_at_the_next_refresh(pool: PgPool) {
    let issuer = start_issuer(&pool).await;
    let id = issuer.user("ada@example.com").await;
    let (_, refresh) = tokens(&issuer.log_in("ada@example.com", PASSWORD).await);
    let admin = issuer.admin();
    assert_eq!(set(&issuer, &admin, id, json!(["admin", "user"])).await.status, 204);
    let (access, _) = tokens(&issuer.refresh(&refresh).await);
    assert_eq!(claims(&access)["roles"], json!(["user", "admin"]));
    assert!(claims(&access)["scope"].as_str().expect("scopes").contains("users:write"));
    assert_eq!(set(&issuer, &admin, id, json!(["root"])).await.errors(), ["#/roles/0"]);
    set(&issuer, &admin, Uuid::now_v7(), json!([])).await.problem(404);
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn whoever_loses_a_role_loses_all_sessions(pool: PgPool) {
    let issuer = start_issuer(&pool).await;
    let id = issuer.user("ada@example.com").await;
    assert_eq!(set(&issuer, &issuer.admin(), id, json!(["admin"])).await.status, 204);
    let (access, refresh) = issuer.tokens("ada@example.com").await;
    // She keeps what she has.
    assert_eq!(set(&issuer, &access, id, json!(["admin"])).await.status, 204);
    assert_eq!(set(&issuer, &issuer.admin(), id, json!([])).await.status, 204);
    assert_oauth_error(&issuer.refresh(&refresh).await, 400, "invalid_grant");
    let revoked = issuer.send(Method::GET, "/auth/revoked", &issuer.admin(), None).await.json(200);
    assert_eq!(revoked["sessions"], json!([claims(&access)["sid"]]));
    let (access, _) = issuer.tokens("ada@example.com").await;
    assert_eq!(claims(&access)["roles"], json!(["user"]));
}

/// An access token says `admin` for ten minutes, whatever becomes of its user.
#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn the_token_of_a_former_admin_is_of_no_use_to_administer(pool: PgPool) {
    let issuer = start_issuer(&pool).await;
    let id = issuer.user("ada@example.com").await;
    let other = issuer.user("bob@example.com").await;
    let attacks = [
        (Method::PUT, format!("/users/{id}/roles"), Some(json!({"roles": ["admin"]}))),
        (Method::PUT, format!("/users/{other}/password"), Some(json!({"new": "a small heron waits"}))),
        (Method::POST, "/auth/clients".to_owned(), Some(json!({"name": "x", "scopes": ["users:write"]}))),
        (Method::GET, "/auth/clients".to_owned(), None),
        (Method::DELETE, format!("/auth/clients/{other}"), None),
        (Method::GET, "/auth/revoked".to_owned(), None),
    ];
    for end in ["a role", "a session", "the user"] {
        assert_eq!(set(&issuer, &issuer.admin(), id, json!(["admin"])).await.status, 204);
        let (access, _) = issuer.tokens("ada@example.com").await;
        issuer.send(Method::GET, "/auth/clients", &access, None).await.json(200);
        match end {
            "a role" => assert_eq!(set(&issuer, &issuer.admin(), id, json!([])).await.status, 204),
            "a session" => {
                let path = format!("/auth/sessions/{}", claims(&access)["sid"].as_str().expect("an id"));
                assert_eq!(issuer.send(Method::DELETE, &path, &access, None).await.status, 204);
            }
            _ => {
                let deleted = issuer.send(Method::DELETE, &format!("/users/{id}"), &issuer.admin(), None).await;
                assert_eq!(deleted.status, 204);
            }
        }
        for (method, path, body) in &attacks {
            let response = issuer.send(method.clone(), path, &access, body.as_ref()).await;
            assert_eq!(response.problem(401)["reason"], "revoked", "{method} {path} after the end of {end}");
        }
    }
    tokens(&issuer.log_in("bob@example.com", PASSWORD).await);
}

/// A login reads the roles, and then waits until its password is checked.
#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn a_login_that_has_begun_does_not_get_a_role_that_was_taken_away(pool: PgPool) {
    let issuer = start_issuer(&pool).await;
    let id = issuer.user("ada@example.com").await;
    let admin = issuer.admin();
    let (starts, takes) = ("%INTO session%", "%DELETE FROM role_grant%");
    for (first, second) in [(starts, takes), (takes, starts)] {
        assert_eq!(set(&issuer, &admin, id, json!(["admin"])).await.status, 204);
        // Both wait for this lock, and get it in the order in which they came.
        let mut lock = pool.begin().await.expect("a transaction");
        sqlx::query("SELECT FROM credential FOR UPDATE").execute(&mut *lock).await.expect("locked");
        let login = async {
            if first == takes {
                waits(&pool, takes).await;
            }
            issuer.log_in("ada@example.com", PASSWORD).await
        };
        let take = async {
            if first == starts {
                waits(&pool, starts).await;
            }
            set(&issuer, &admin, id, json!([])).await
        };
        let free = async {
            waits(&pool, first).await;
            waits(&pool, second).await;
            lock.rollback().await.expect("unlocked");
        };
        let (login, taken, ()) = tokio::join!(login, take, free);
        assert_eq!(taken.status, 204);
        if first == takes {
            login.problem(401);
        } else {
            assert_oauth_error(&issuer.refresh(&tokens(&login).1).await, 400, "invalid_grant");
        }
    }
}
