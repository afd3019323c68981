//! Refresh tokens, and the sessions that they belong to.

use std::collections::HashSet;

use reqwest::Method;
use serde_json::json;
use sqlx::PgPool;
use test_support::app::join_all;
use uuid::Uuid;

use crate::{
    issuer::{PASSWORD, assert_oauth_error, claims, start_issuer, tokens, with_form},
    locks::waits,
};

/// Moves the last use of all sessions into the past.
async fn age(pool: &PgPool, seconds: i32) {
    let age = "UPDATE session SET used_at = used_at - $1 * interval '1 s'";
    sqlx::query(age).bind(seconds).execute(pool).await.expect("changed");
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn a_refresh_returns_the_next_token_of_the_session(pool: PgPool) {
    let issuer = start_issuer(&pool).await;
    issuer.user("ada@example.com").await;
    let (access, refresh) = tokens(&issuer.log_in("ada@example.com", PASSWORD).await);
    let (new_access, new_refresh) = tokens(&issuer.refresh(&refresh).await);
    assert_ne!(refresh, new_refresh);
    let (before, after) = (claims(&access), claims(&new_access));
    for name in ["sub", "sid", "auth_time", "scope", "roles"] {
        assert_eq!(before[name], after[name], "{name}");
    }
    assert_ne!(before["jti"], after["jti"]);
    tokens(&issuer.refresh(&new_refresh).await);
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn a_token_used_twice_within_10_s_has_one_successor(pool: PgPool) {
    let issuer = start_issuer(&pool).await;
    issuer.user("ada@example.com").await;
    let (_, first) = tokens(&issuer.log_in("ada@example.com", PASSWORD).await);
    let (_, second) = tokens(&issuer.refresh(&first).await);
    let (_, again) = tokens(&issuer.refresh(&first).await);
    assert_eq!(second, again);
    // Both tabs go on.
    let (_, third) = tokens(&issuer.refresh(&second).await);
    assert_eq!(tokens(&issuer.refresh(&again).await).1, third);
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn a_token_used_50_times_at_once_has_one_successor(pool: PgPool) {
    let issuer = start_issuer(&pool).await;
    issuer.user("ada@example.com").await;
    let (_, first) = tokens(&issuer.log_in("ada@example.com", PASSWORD).await);
    let responses = join_all((0..50).map(|_| issuer.refresh(&first))).await;
    let successors: HashSet<String> = responses.iter().map(|response| tokens(response).1).collect();
    assert_eq!(successors.len(), 1);
    let counter: i64 = sqlx::query_scalar("SELECT counter FROM session").fetch_one(&pool).await.expect("a session");
    assert_eq!(counter, 1);
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn a_token_used_again_after_11_s_ends_the_session(pool: PgPool) {
    let issuer = start_issuer(&pool).await;
    issuer.user("ada@example.com").await;
    let (_, first) = tokens(&issuer.log_in("ada@example.com", PASSWORD).await);
    let (_, second) = tokens(&issuer.refresh(&first).await);
    age(&pool, 11).await;
    assert_oauth_error(&issuer.refresh(&first).await, 400, "invalid_grant");
    assert_oauth_error(&issuer.refresh(&second).await, 400, "invalid_grant");
    let metrics = issuer.app.admin("/metrics").await.text();
    assert!(metrics.contains("\nauth_logins_total{outcome=\"reused\"} 1\n"));
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn an_older_token_ends_the_session_at_once(pool: PgPool) {
    let issuer = start_issuer(&pool).await;
    issuer.user("ada@example.com").await;
    let (_, first) = tokens(&issuer.log_in("ada@example.com", PASSWORD).await);
    let (_, second) = tokens(&issuer.refresh(&first).await);
    let (_, third) = tokens(&issuer.refresh(&second).await);
    assert_oauth_error(&issuer.refresh(&first).await, 400, "invalid_grant");
    assert_oauth_error(&issuer.refresh(&third).await, 400, "invalid_grant");
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn a_token_with_another_mac_is_refused_and_changes_nothing(pool: PgPool) {
    let issuer = start_issuer(&pool).await;
    issuer.user("ada@example.com").await;
    let (_, refresh) = tokens(&issuer.log_in("ada@example.com", PASSWORD).await);
    let last = if refresh.ends_with('A') { "B" } else { "A" };
    let (changed, other) = (format!("{}{last}", &refresh[..refresh.len() - 1]), refresh.replace("hrt_", "hrt-"));
    for bad in [changed.as_str(), &other, "hrt_", "x", &refresh[..refresh.len() - 2]] {
        assert_oauth_error(&issuer.refresh(bad).await, 400, "invalid_grant");
    }
    tokens(&issuer.refresh(&refresh).await);
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn sessions_expire_when_idle_and_after_90_days(pool: PgPool) {
    let issuer = start_issuer(&pool).await;
    issuer.user("ada@example.com").await;
    let (_, idle) = tokens(&issuer.log_in("ada@example.com", PASSWORD).await);
    age(&pool, 13 * 86_400).await;
    let (_, idle) = tokens(&issuer.refresh(&idle).await);
    age(&pool, 14 * 86_400 + 1).await;
    assert_oauth_error(&issuer.refresh(&idle).await, 400, "invalid_grant");

    let (_, old) = tokens(&issuer.log_in("ada@example.com", PASSWORD).await);
    let lifetime = "SELECT bool_and(expires_at = created_at + interval '90 days') FROM session";
    assert!(sqlx::query_scalar::<_, bool>(lifetime).fetch_one(&pool).await.expect("a session"));
    sqlx::query("UPDATE session SET expires_at = now()").execute(&pool).await.expect("changed");
    assert_oauth_error(&issuer.refresh(&old).await, 400, "invalid_grant");
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn the_session_of_a_deleted_user_ends(pool: PgPool) {
    let issuer = start_issuer(&pool).await;
    let id = issuer.user("ada@example.com").await;
    let (access, refresh) = issuer.tokens("ada@example.com").await;
    let deleted = issuer.send(Method::DELETE, &format!("/users/{id}"), &access, None).await;
    assert_eq!(deleted.status, 204, "{}", deleted.text());
    assert_oauth_error(&issuer.refresh(&refresh).await, 400, "invalid_grant");
    let problem = issuer.send(Method::GET, "/auth/sessions", &access, None).await.problem(401);
    assert_eq!(
        (&problem["type"], &problem["reason"]),
        (&json!("https://hedgerow.dev/problems/invalid-token"), &json!("revoked"))
    );
    let revoked = issuer.send(Method::GET, "/auth/revoked", &issuer.admin(), None).await.json(200);
    assert_eq!(revoked["sessions"], json!([claims(&access)["sid"]]));
    issuer.log_in("ada@example.com", PASSWORD).await.problem(401);
}

/// The access token of a login that ends while the user is being deleted must be on the list, too.
#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn a_session_that_starts_while_its_user_is_deleted_ends(pool: PgPool) {
    let issuer = start_issuer(&pool).await;
    let id = issuer.user("ada@example.com").await;
    let mut login = pool.begin().await.expect("a transaction");
    sqlx::query("SELECT FROM credential FOR SHARE").execute(&mut *login).await.expect("locked");
    let session = Uuid::now_v7();
    sqlx::query("INSERT INTO session (id, user_id, expires_at, agent) VALUES ($1, $2, now() + interval '1 h', '')")
        .bind(session)
        .bind(id)
        .execute(&mut *login)
        .await
        .expect("inserted");
    let (admin, path) = (issuer.admin(), format!("/users/{id}"));
    let deleted = issuer.send(Method::DELETE, &path, &admin, None);
    let logged_in = async {
        waits(&pool, "%DELETE FROM users%").await;
        login.commit().await.expect("committed");
    };
    let (deleted, ()) = tokio::join!(deleted, logged_in);
    assert_eq!(deleted.status, 204);
    let revoked = issuer.send(Method::GET, "/auth/revoked", &admin, None).await.json(200);
    assert_eq!(revoked["sessions"], json!([session]));
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn a_user_lists_and_ends_its_own_sessions(pool: PgPool) {
    let issuer = start_issuer(&pool).await;
    issuer.user("ada@example.com").await;
    issuer.user("bob@example.com").await;
    let (bob, _) = issuer.tokens("bob@example.com").await;
    let (_, other) = tokens(&issuer.log_in_from("203.0.113.1", "ada@example.com", PASSWORD).await);
    let (ada, refresh) = issuer.tokens("ada@example.com").await;

    let sessions = issuer.send(Method::GET, "/auth/sessions", &ada, None).await.rows();
    assert_eq!(sessions.len(), 2);
    let current: Vec<_> = sessions.iter().map(|session| session["is_current"].as_bool()).collect();
    assert_eq!(current, [Some(false), Some(true)]);
    assert_eq!((&sessions[0]["address"], &sessions[1]["address"]), (&json!("203.0.113.1"), &json!(null)));
    assert_eq!(sessions[1]["id"], claims(&ada)["sid"]);

    let path = format!("/auth/sessions/{}", sessions[0]["id"].as_str().expect("an id"));
    issuer.send(Method::DELETE, &path, &bob, None).await.problem(404);
    assert_eq!(issuer.send(Method::DELETE, &path, &ada, None).await.status, 204);
    issuer.send(Method::DELETE, &path, &ada, None).await.problem(404);
    assert_oauth_error(&issuer.refresh(&other).await, 400, "invalid_grant");
    tokens(&issuer.refresh(&refresh).await);
    assert_eq!(issuer.send(Method::GET, "/auth/sessions", &ada, None).await.rows().len(), 1);
    for path in ["/auth/sessions/x".to_owned(), format!("/auth/sessions/{}", Uuid::now_v7())] {
        issuer.send(Method::DELETE, &path, &ada, None).await.problem(404);
    }
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn a_revoked_token_ends_its_session(pool: PgPool) {
    let issuer = start_issuer(&pool).await;
    issuer.user("ada@example.com").await;
    let (access, refresh) = tokens(&issuer.log_in("ada@example.com", PASSWORD).await);
    let revoke = async |token: &str| {
        let request = issuer.app.request(Method::POST, "/oauth2/revoke");
        issuer.app.send(with_form(request, &[("token", token)])).await
    };
    assert_eq!(revoke("unknown").await.status, 200);
    assert_oauth_error(&revoke(&access).await, 400, "unsupported_token_type");
    assert_oauth_error(&revoke("").await, 400, "invalid_request");
    assert_eq!(revoke(&refresh).await.status, 200);
    assert_oauth_error(&issuer.refresh(&refresh).await, 400, "invalid_grant");
    assert_eq!(revoke(&refresh).await.status, 200);
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn a_refresh_can_narrow_the_scopes_but_not_widen_them(pool: PgPool) {
    let issuer = start_issuer(&pool).await;
    let id = issuer.user("ada@example.com").await;
    let path = format!("/users/{id}/roles");
    issuer.send(Method::PUT, &path, &issuer.admin(), Some(&json!({"roles": ["admin"]}))).await;
    let (_, refresh) = tokens(&issuer.log_in("ada@example.com", PASSWORD).await);
    let narrow = async |scope: &str| {
        let form = [("grant_type", "refresh_token"), ("refresh_token", &refresh), ("scope", scope)];
        issuer.token_form(&form).await
    };
    let (access, _) = tokens(&narrow("users:read").await);
    assert_eq!((&claims(&access)["scope"], claims(&access).get("roles")), (&json!("users:read"), None));
    assert_oauth_error(&narrow("users:read orders:write").await, 400, "invalid_scope");
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn a_scope_that_is_refused_does_not_cost_the_token(pool: PgPool) {
    let issuer = start_issuer(&pool).await;
    issuer.user("ada@example.com").await;
    let (_, refresh) = tokens(&issuer.log_in("ada@example.com", PASSWORD).await);
    for scope in ["users:write", " ", "reservations:write users:read"] {
        let form = [("grant_type", "refresh_token"), ("refresh_token", &refresh), ("scope", scope)];
        assert_oauth_error(&issuer.token_form(&form).await, 400, "invalid_scope");
    }
    age(&pool, 11).await;
    tokens(&issuer.refresh(&refresh).await);
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn malformed_token_requests_get_the_prescribed_errors(pool: PgPool) {
    let issuer = start_issuer(&pool).await;
    for (form, status, error) in [
        (&[][..], 400, "invalid_request"),
        (&[("grant_type", "refresh_token")], 400, "invalid_request"),
        (&[("grant_type", "password"), ("username", "ada")], 400, "unsupported_grant_type"),
        (&[("grant_type", "refresh_token"), ("grant_type", "refresh_token")], 400, "invalid_request"),
        (&[("grant_type", "client_credentials")], 401, "invalid_client"),
        (&[("grant_type", "refresh_token"), ("refresh_token", "x"), ("client_id", "other")], 401, "invalid_client"),
    ] {
        assert_oauth_error(&issuer.token_form(form).await, status, error);
    }
    let json = issuer.app.post("/oauth2/token", &json!({"grant_type": "refresh_token"})).await;
    assert_oauth_error(&json, 400, "invalid_request");
    let large = "x".repeat(20_000);
    assert_oauth_error(&issuer.refresh(&large).await, 400, "invalid_request");
}
