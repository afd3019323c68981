//! `POST /auth/login`, and a service that is no issuer.

use reqwest::Method;
use serde_json::json;
use sqlx::PgPool;
use uuid::Uuid;

use crate::{
    issuer::{PASSWORD, URL, claims, start_issuer, tokens, with_form},
    start,
};

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn a_login_returns_tokens_with_the_prescribed_claims(pool: PgPool) {
    let issuer = start_issuer(&pool).await;
    let id = issuer.user("ada@example.com").await;
    let response = issuer.log_in("ADA@example.com", PASSWORD).await;
    let (access, refresh) = tokens(&response);
    let body = response.json(200);
    assert_eq!((&body["expires_in"], &body["scope"]), (&json!(600), &json!("reservations:write")));

    let claims = claims(&access);
    let mut names: Vec<_> = claims.as_object().expect("an object").keys().map(String::as_str).collect();
    names.sort_unstable();
    let expected = ["aud", "auth_time", "client_id", "exp", "iat", "iss", "jti", "roles", "scope", "sid", "sub"];
    assert_eq!(names, expected);
    assert_eq!(claims["iss"], URL);
    assert_eq!(claims["sub"], id.to_string());
    assert_eq!(claims["aud"], "hedgerow");
    assert_eq!(claims["roles"], json!(["user"]));
    let lifetime = claims["exp"].as_u64().expect("a number") - claims["iat"].as_u64().expect("a number");
    assert_eq!(lifetime, 600);
    assert!(refresh.starts_with("hrt_"));
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn a_wrong_password_and_an_unknown_email_look_alike(pool: PgPool) {
    let issuer = start_issuer(&pool).await;
    issuer.user("ada@example.com").await;
    let wrong = issuer.log_in("ada@example.com", "a small heron waits").await;
    let unknown = issuer.log_in("bob@example.com", PASSWORD).await;
    let (mut wrong, mut unknown) = (wrong, unknown);
    for response in [&mut wrong, &mut unknown] {
        assert_eq!(response.problem(401)["type"], "https://hedgerow.dev/problems/invalid-credentials");
        for header in ["date", "x-request-id"] {
            response.headers.remove(header);
        }
    }
    assert_eq!((wrong.text(), wrong.headers), (unknown.text(), unknown.headers));
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn a_user_without_a_password_cannot_log_in(pool: PgPool) {
    let issuer = start_issuer(&pool).await;
    let body = json!({"name": "Ada", "email": "ada@example.com"});
    issuer.send(Method::POST, "/users", &issuer.admin(), Some(&body)).await.json(201);
    issuer.log_in("ada@example.com", PASSWORD).await.problem(401);
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn a_malformed_login_is_refused_with_pointers(pool: PgPool) {
    let issuer = start_issuer(&pool).await;
    let too_long = "x".repeat(257);
    for (body, expected) in [
        (json!({"email": "ada@example.com"}), vec!["#/password"]),
        (json!({"email": "ada@example.com", "password": too_long}), vec!["#/password"]),
        (json!({"email": "ada@example.com", "password": 7}), vec!["#/password"]),
        (json!({"email": "ada"}), vec!["#/email", "#/password"]),
        (json!({"email": "ada@example.com", "password": PASSWORD, "admin": true}), vec!["#/admin"]),
    ] {
        let response = issuer.app.post("/auth/login", &body).await;
        assert_eq!(response.errors(), expected, "{body}");
        assert!(!response.text().contains(&too_long) && !response.text().contains(PASSWORD));
    }
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn logins_are_counted_by_outcome(pool: PgPool) {
    let issuer = start_issuer(&pool).await;
    issuer.user("ada@example.com").await;
    issuer.log_in("ada@example.com", PASSWORD).await.json(200);
    issuer.log_in("ada@example.com", "a small heron waits").await.problem(401);
    let metrics = issuer.app.admin("/metrics").await.text();
    for line in [
        r#"auth_logins_total{outcome="success"} 1"#,
        r#"auth_logins_total{outcome="invalid_credentials"} 1"#,
        r#"auth_logins_total{outcome="limited"} 0"#,
        "auth_password_queue 0",
    ] {
        assert!(metrics.contains(&format!("\n{line}\n")), "{line} in {metrics}");
    }
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn without_settings_nothing_is_issued(pool: PgPool) {
    let app = start(&pool).await;
    let login = json!({"email": "ada@example.com", "password": PASSWORD});
    let no_issuer = "https://hedgerow.dev/problems/no-issuer";
    assert_eq!(app.post("/auth/login", &login).await.problem(404)["type"], no_issuer);
    let form = with_form(app.request(Method::POST, "/oauth2/token"), &[("grant_type", "refresh_token")]);
    assert_eq!(app.send(form).await.problem(404)["type"], no_issuer);
    for path in ["/.well-known/jwks.json", "/.well-known/openid-configuration", "/auth/revoked"] {
        assert_eq!(app.get(path).await.problem(404)["type"], no_issuer, "{path}");
    }
    let path = format!("/users/{}/password", Uuid::now_v7());
    let set = app.request(Method::PUT, &path).json(&json!({"new": PASSWORD}));
    assert_eq!(app.send(set).await.problem(404)["type"], no_issuer);
}
