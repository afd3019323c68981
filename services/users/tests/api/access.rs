//! Who may do what with users and wishlists.

use std::collections::BTreeSet;

use identity::Mode;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;
use test_support::app::Response;

use crate::issuer::{Issuer, start_issuer, start_issuer_in};

async fn send(issuer: &Issuer, method: &str, path: &str, token: Option<&str>, body: Option<&Value>) -> Response {
    let mut request = issuer.app.request(method.parse().expect("a method"), path);
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    if let Some(body) = body {
        request = request.json(body);
    }
    issuer.app.send(request).await
}

/// The documentation.
const API: &str = include_str!("../../../../docs/api.md");

/// The columns. The user is the one in the path.
const CALLERS: [&str; 6] = ["no token", "the user", "another user", "an admin", "`users:read`", "`users:write`"];

/// The column of the user.
const USER: usize = 1;
/// The column of another user.
const OTHER: usize = 2;
/// The column of what a request without a token may do in mode `open`.
const ADMIN: usize = 3;

/// The operations, and the status for each caller. The user is deleted last.
const TABLE: [(&str, &str, [u16; CALLERS.len()]); 10] = [
    ("GET", "/users", [401, 403, 403, 200, 200, 403]),
    ("POST", "/users", [401, 403, 403, 201, 403, 201]),
    ("GET", "/users/{id}", [401, 200, 404, 200, 200, 404]),
    ("PATCH", "/users/{id}", [401, 200, 404, 200, 404, 200]),
    ("GET", "/users/{id}/wishlist", [401, 200, 404, 200, 200, 404]),
    ("PUT", "/users/{id}/wishlist/{product_id}", [401, 204, 404, 204, 404, 204]),
    ("DELETE", "/users/{id}/wishlist/{product_id}", [401, 204, 404, 204, 404, 204]),
    ("PUT", "/users/{id}/roles", [401, 403, 403, 204, 403, 403]),
    ("PUT", "/users/{id}/password", [401, 403, 403, 204, 403, 403]),
    ("DELETE", "/users/{id}", [401, 204, 404, 204, 404, 204]),
];

#[test]
fn the_documentation_has_the_same_table() {
    let section = API.split("\n## ").find(|section| section.starts_with("Who may do what\n")).expect("the section");
    let users = section.split("\n### ").find(|part| part.starts_with("Users\n")).expect("the table");
    let rows = TABLE.map(|(method, path, statuses)| {
        let statuses = statuses.map(|status| status.to_string()).join(" | ");
        format!("| `{method} {path}` | {statuses} |")
    });
    let header = format!("| operation | {} |", CALLERS.join(" | "));
    let documented: Vec<_> = users.lines().filter(|line| line.starts_with("| ")).collect();
    assert_eq!(documented, [[header].as_slice(), &rows].concat());
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn the_table_has_every_operation_on_users(pool: PgPool) {
    let document: Value = start_issuer(&pool).await.app.get("/openapi.json").await.json(200);
    let paths = document["paths"].as_object().expect("paths").iter().filter(|(path, _)| path.starts_with("/users"));
    let documented: BTreeSet<_> = paths
        .flat_map(|(path, item)| {
            let methods = item.as_object().expect("operations").keys();
            methods.map(move |method| (method.to_uppercase(), path.clone()))
        })
        .collect();
    assert_eq!(documented, TABLE.map(|(method, path, _)| (method.to_owned(), path.to_owned())).into());
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn the_table_holds_where_tokens_are_required(pool: PgPool) {
    walk(&pool, Mode::Required).await;
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn the_table_holds_where_tokens_are_optional(pool: PgPool) {
    walk(&pool, Mode::Open).await;
}

async fn walk(pool: &PgPool, mode: Mode) {
    let issuer = start_issuer_in(pool, mode).await;
    let id = issuer.user("ada@example.com").await;
    issuer.user("bob@example.com").await;
    let (ada, _) = issuer.tokens("ada@example.com").await;
    let (bob, _) = issuer.tokens("bob@example.com").await;
    let admin = issuer.admin();
    let reader = issuer.foreign_token(&json!({"scope": "users:read"}));
    let writer = issuer.foreign_token(&json!({"scope": "users:write"}));
    // A subject of another issuer that is also the id of one of our users.
    let impostor = issuer.foreign_token(&json!({"sub": id, "sid": uuid::Uuid::now_v7()}));
    let callers =
        [(0, None), (2, Some(&bob)), (2, Some(&impostor)), (3, Some(&admin)), (4, Some(&reader)), (5, Some(&writer))];
    let callers = callers.into_iter().chain([(USER, Some(&ada))]);

    for (method, path, statuses) in TABLE {
        for (number, (column, caller)) in callers.clone().enumerate() {
            let email = format!("{number}@example.org");
            let body = match (method, path) {
                ("POST", _) => Some(json!({"name": "Eve", "email": email})),
                ("PATCH", _) => Some(json!({"name": "Ada L."})),
                (_, "/users/{id}/roles") => Some(json!({"roles": []})),
                (_, "/users/{id}/password") => Some(json!({"new": "correct horse battery"})),
                _ => None,
            };
            let target = match (method, path) {
                ("DELETE", "/users/{id}") if ![USER, OTHER].contains(&column) => {
                    issuer.user(&format!("x{email}")).await
                }
                _ => id,
            };
            let path = path.replace("{id}", &target.to_string()).replace("{product_id}", "p");
            let caller = caller.map(String::as_str);
            let case = format!("{method} {path}: {} ({mode:?})", CALLERS[column]);
            let expected = statuses[if mode == Mode::Open && caller.is_none() { ADMIN } else { column }];
            if method == "GET" {
                let response = send(&issuer, "HEAD", &path, caller, None).await;
                assert_eq!(response.status, expected, "HEAD, {case}");
            }
            let response = send(&issuer, method, &path, caller, body.as_ref()).await;
            assert_eq!(response.status, expected, "{case}: {}", response.text());
        }
    }
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn a_caller_is_refused_before_the_request_is_looked_at(pool: PgPool) {
    let issuer = start_issuer(&pool).await;
    let id = issuer.user("ada@example.com").await;
    let stranger = issuer.foreign_token(&json!({"scope": "inventory:write"}));
    for (method, path, status) in [
        ("GET", "/users?limit=x", 403),
        ("POST", "/users", 403),
        ("GET", "/users/x", 404),
        ("PATCH", "/users/x", 404),
        ("PATCH", "/users/{id}", 404),
        ("PUT", "/users/{id}/wishlist/a%2Fb", 404),
        ("DELETE", "/users/{id}/wishlist/a%2Fb", 404),
        ("PUT", "/users/{id}/password", 403),
        ("PUT", "/users/x/roles", 403),
        ("POST", "/auth/clients", 403),
        ("GET", "/auth/clients?limit=x", 403),
        ("DELETE", "/auth/clients/x", 403),
        ("GET", "/auth/sessions?limit=x", 403),
        ("DELETE", "/auth/sessions/x", 403),
        ("PUT", "/auth/password", 403),
    ] {
        let (path, body) = (path.replace("{id}", &id.to_string()), (method != "GET").then(|| json!({"unknown": 1})));
        let anonymous = send(&issuer, method, &path, None, body.as_ref()).await;
        assert_eq!(anonymous.status, 401, "{method} {path}: {}", anonymous.text());
        assert_eq!(anonymous.header("www-authenticate"), Some("Bearer"));
        let response = send(&issuer, method, &path, Some(&stranger), body.as_ref()).await;
        assert_eq!(response.status, status, "{method} {path}: {}", response.text());
    }
}

/// A change of one's email says whether somebody else has the new one.
#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn a_user_cannot_find_out_who_has_an_account(pool: PgPool) {
    let issuer = start_issuer(&pool).await;
    let id = issuer.user("ada@example.com").await;
    issuer.user("bob@example.com").await;
    let (ada, _) = issuer.tokens("ada@example.com").await;
    let path = format!("/users/{id}");
    let change = async |token: &str, email: &str| {
        issuer.send(Method::PATCH, &path, token, Some(&json!({"name": "Ada", "email": email}))).await
    };
    for _ in 0..10 {
        // Not a question.
        change(&ada, "ADA@example.com").await.json(200);
        change(&ada, "bob@example.com").await.problem(409);
    }
    let refused = change(&ada, "bob@example.com").await;
    assert_eq!(refused.problem(429)["type"], "https://hedgerow.dev/problems/too-many-attempts");
    let wait: u64 = refused.header("retry-after").expect("a time").parse().expect("seconds");
    assert!((1..=3601).contains(&wait), "{wait}");
    change(&ada, "nobody@example.com").await.problem(429);
    change(&ada, "ada@example.com").await.json(200);
    change(&issuer.admin(), "nobody@example.com").await.json(200);
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn the_caller_is_shown_as_the_token_says(pool: PgPool) {
    let issuer = start_issuer(&pool).await;
    let id = issuer.user("ada@example.com").await;
    let (ada, _) = issuer.tokens("ada@example.com").await;
    let me = issuer.send(Method::GET, "/auth/me", &ada, None).await.json(200);
    assert_eq!((&me["sub"], &me["client_id"]), (&json!(id), &json!("hedgerow")));
    assert_eq!((&me["roles"], &me["scopes"]), (&json!(["user"]), &json!(["reservations:write"])));
    issuer.app.get("/auth/me").await.problem(401);
    // Nobody else has sessions or a password here.
    let admin = issuer.admin();
    issuer.send(Method::GET, "/auth/me", &admin, None).await.json(200);
    issuer.send(Method::GET, "/auth/sessions", &admin, None).await.problem(403);
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn public_operations_do_not_look_at_tokens(pool: PgPool) {
    let issuer = start_issuer(&pool).await;
    let paths =
        ["/.well-known/jwks.json", "/.well-known/openid-configuration", "/.well-known/oauth-authorization-server"];
    for path in paths {
        issuer.app.get(path).await.json(200);
        issuer.send(Method::GET, path, "garbage", None).await.json(200);
    }
    issuer.send(Method::GET, "/users", "garbage", None).await.problem(401);
}
