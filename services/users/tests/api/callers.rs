//! Who may do what with tokens, sessions and clients.

use std::collections::BTreeSet;

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::issuer::{Issuer, PASSWORD, claims, start_issuer, tokens};

/// The documentation.
const API: &str = include_str!("../../../../docs/api.md");

/// The columns. The admin is a user, too. A machine has credentials of its own, and a service the token of its pod.
const CALLERS: [&str; 5] = ["no token", "a user", "an admin", "a machine", "a service"];

/// The operations, and the status for each caller.
const TABLE: [(&str, &str, [u16; CALLERS.len()]); 8] = [
    ("GET", "/auth/me", [401, 200, 200, 200, 200]),
    ("GET", "/auth/sessions", [401, 200, 200, 403, 403]),
    ("DELETE", "/auth/sessions/{id}", [401, 204, 204, 403, 403]),
    ("PUT", "/auth/password", [401, 204, 204, 403, 403]),
    ("POST", "/auth/clients", [401, 403, 201, 403, 403]),
    ("GET", "/auth/clients", [401, 403, 200, 403, 403]),
    ("DELETE", "/auth/clients/{id}", [401, 403, 204, 403, 403]),
    ("GET", "/auth/revoked", [401, 403, 200, 403, 200]),
];

/// The operations that do not look at access tokens.
const PUBLIC: [(&str, &str); 6] = [
    ("POST", "/auth/login"),
    ("POST", "/oauth2/token"),
    ("POST", "/oauth2/revoke"),
    ("GET", "/.well-known/openid-configuration"),
    ("GET", "/.well-known/oauth-authorization-server"),
    ("GET", "/.well-known/jwks.json"),
];

#[test]
fn the_documentation_has_the_same_table() {
    let section = API.split("\n## ").find(|section| section.starts_with("Who may do what\n")).expect("the section");
    let tokens = section.split("\n### ").find(|part| part.starts_with("Tokens, sessions and clients\n"));
    let rows = TABLE.map(|(method, path, statuses)| {
        let statuses = statuses.map(|status| status.to_string()).join(" | ");
        format!("| `{method} {path}` | {statuses} |")
    });
    let header = format!("| operation | {} |", CALLERS.join(" | "));
    let documented: Vec<_> = tokens.expect("the table").lines().filter(|line| line.starts_with("| ")).collect();
    assert_eq!(documented, [[header].as_slice(), &rows].concat());
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn each_operation_is_in_the_table_or_public(pool: PgPool) {
    let document: Value = start_issuer(&pool).await.app.get("/openapi.json").await.json(200);
    let (mut public, mut others) = (BTreeSet::new(), BTreeSet::new());
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("operations") {
            let name = (method.to_uppercase(), path.clone());
            if operation["security"] == json!([{}]) {
                public.insert(name);
            } else if !path.starts_with("/users") {
                others.insert(name);
            }
        }
    }
    let owned = |(method, path): (&str, &str)| (method.to_owned(), path.to_owned());
    assert_eq!(others, TABLE.map(|(method, path, _)| owned((method, path))).into());
    assert_eq!(public, PUBLIC.map(owned).into());
}

/// Creates a client. Returns its id and an access token.
async fn client(issuer: &Issuer) -> (String, String) {
    let body = json!({"name": "warehouse", "scopes": ["inventory:write", "users:read", "users:write"]});
    let client = issuer.send(Method::POST, "/auth/clients", &issuer.admin(), Some(&body)).await.json(201);
    let text = |name: &str| client[name].as_str().expect("a text").to_owned();
    let (id, secret) = (text("client_id"), text("client_secret"));
    let form = [("grant_type", "client_credentials"), ("client_id", &*id), ("client_secret", &*secret)];
    let response = issuer.token_form(&form).await.json(200);
    (id, response["access_token"].as_str().expect("a token").to_owned())
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn each_caller_may_do_what_the_table_says(pool: PgPool) {
    let issuer = start_issuer(&pool).await;
    issuer.user("ada@example.com").await;
    let id = issuer.user("root@example.com").await;
    let (path, roles) = (format!("/users/{id}/roles"), json!({"roles": ["admin"]}));
    assert_eq!(issuer.send(Method::PUT, &path, &issuer.admin(), Some(&roles)).await.status, 204);
    let (ada, root) = (issuer.tokens("ada@example.com").await.0, issuer.tokens("root@example.com").await.0);
    let (machine, service) = (client(&issuer).await.1, issuer.gateway());
    let callers = [None, Some(&ada), Some(&root), Some(&machine), Some(&service)];
    for (method, path, statuses) in TABLE {
        for ((caller, token), expected) in CALLERS.iter().zip(callers).zip(statuses) {
            let target = match path {
                "/auth/sessions/{id}" => {
                    let email = if *caller == "an admin" { "root@example.com" } else { "ada@example.com" };
                    let (access, _) = tokens(&issuer.log_in(email, PASSWORD).await);
                    claims(&access)["sid"].as_str().expect("an id").to_owned()
                }
                "/auth/clients/{id}" => client(&issuer).await.0,
                _ => String::new(),
            };
            let body = match (method, path) {
                ("PUT", _) => Some(json!({"current": PASSWORD, "new": "a small heron waits"})),
                ("POST", _) => Some(json!({"name": "x", "scopes": []})),
                _ => None,
            };
            let request = issuer.app.request(method.parse().expect("a method"), &path.replace("{id}", &target));
            let request = token.into_iter().fold(request, RequestBuilder::bearer_auth);
            let request = body.iter().fold(request, RequestBuilder::json);
            let response = issuer.app.send(request).await;
            assert_eq!(response.status, expected, "{method} {path}: {caller}: {}", response.text());
        }
    }
}
