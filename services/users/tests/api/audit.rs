//! The audit log of a process, and the secrets that are in no line of it.

use std::{collections::BTreeSet, fs};

use identity::sign::{SigningKey, key_set};
use reqwest::{Client, Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use sqlx::PgPool;
use tempfile::TempDir;
use test_support::{
    app::database_url,
    process::{Process, Program, TIMEOUT, eventually},
};

use crate::issuer::{PASSWORD, admin_token, issuers, with_form};

const ADDRESS: &str = "203.0.113.1";
const NEW: &str = "a small heron waits";
const WRONG: &str = "a wrong heron waits";

/// A running process and what it needs.
struct Users {
    process: Process,
    client: Client,
    root: SigningKey,
    folder: TempDir,
}

fn program(pool: &PgPool, folder: &TempDir, kek: u8) -> Program {
    let path = folder.path().join("kek");
    fs::write(&path, [kek; 32]).expect("written");
    Program::new(env!("CARGO_BIN_EXE_users"))
        .variable("DATABASE_URL", database_url(&pool.connect_options()))
        .variable("AUTH", "required")
        .variable("AUTH_ISSUERS", issuers(folder.path()).to_string())
        .variable("AUTH_ISSUER_URL", crate::issuer::URL)
        .variable("AUTH_KEK_FILE", path)
}

impl Users {
    async fn start(pool: &PgPool) -> Self {
        let (root, folder) = (SigningKey::generate().expect("a key"), TempDir::new().expect("a folder"));
        fs::write(folder.path().join("root.json"), key_set([root.jwk()]).to_string()).expect("written");
        let process = program(pool, &folder, 7).serve().await;
        let users = Self { process, client: Client::new(), root, folder };
        let keys = eventually("the keys are published", TIMEOUT, async || {
            let response = users.client.get(users.process.url("/.well-known/jwks.json")).send().await.ok()?;
            if response.status() == StatusCode::OK { response.text().await.ok() } else { None }
        })
        .await;
        fs::write(users.folder.path().join("new.json"), keys).expect("written");
        fs::rename(users.folder.path().join("new.json"), users.folder.path().join("keys.json")).expect("renamed");
        users
    }

    fn request(&self, method: Method, path: &str, token: &str) -> RequestBuilder {
        let request = self.client.request(method, self.process.url(path)).header("x-forwarded-for", ADDRESS);
        if token.is_empty() { request } else { request.bearer_auth(token) }
    }

    /// Sends a request. Returns the body, if there is one.
    async fn send(&self, request: RequestBuilder, expected: u16) -> Value {
        let response = request.send().await.expect("a response");
        let (status, body) = (response.status(), response.text().await.expect("a body"));
        assert_eq!(status, expected, "{body}");
        serde_json::from_str(&body).unwrap_or_default()
    }

    async fn log_in(&self, email: &str, password: &str, expected: u16) -> Value {
        let body = json!({"email": email, "password": password});
        self.send(self.request(Method::POST, "/auth/login", "").json(&body), expected).await
    }

    async fn refresh(&self, token: &str, expected: u16) -> Value {
        let form = [("grant_type", "refresh_token"), ("refresh_token", token)];
        self.send(with_form(self.request(Method::POST, "/oauth2/token", ""), &form), expected).await
    }

    /// The lines of the audit log: event, subject, client, address and outcome.
    fn audit(&self) -> BTreeSet<[String; 5]> {
        let lines = self.process.log().into_iter().filter(|line| line["target"] == "audit");
        lines.map(|line| FIELDS.map(|field| line[field].as_str().unwrap_or_default().to_owned())).collect()
    }
}

const FIELDS: [&str; 5] = ["event", "subject", "client", "address", "outcome"];

fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn each_login_refusal_and_change_is_a_line_without_secrets(pool: PgPool) {
    let users = Users::start(&pool).await;
    let admin = admin_token(&users.root);
    let new = json!({"name": "Ada", "email": "ada@example.com"});
    let user = users.send(users.request(Method::POST, "/users", &admin).json(&new), 201).await;
    let id = text(&user["id"]);
    let password = users.request(Method::PUT, &format!("/users/{id}/password"), &admin);
    users.send(password.json(&json!({"new": PASSWORD})), 204).await;
    let roles = users.request(Method::PUT, &format!("/users/{id}/roles"), &admin);
    users.send(roles.json(&json!({"roles": ["admin"]})), 204).await;

    let first = users.log_in("ada@example.com", PASSWORD, 200).await;
    users.log_in("ada@example.com", WRONG, 401).await;
    for _ in 0..10 {
        users.log_in("bob@example.com", WRONG, 401).await;
    }
    users.log_in("bob@example.com", WRONG, 429).await;
    let access = text(&first["access_token"]).to_owned();
    eventually("the token is accepted", TIMEOUT, async || {
        let response = users.request(Method::GET, "/auth/me", &access).send().await.expect("a response");
        (response.status() == StatusCode::OK).then_some(())
    })
    .await;

    let change = async |current: &str, expected| {
        let body = json!({"current": current, "new": NEW});
        users.send(users.request(Method::PUT, "/auth/password", &access).json(&body), expected).await;
    };
    change(WRONG, 401).await;
    change(PASSWORD, 204).await;

    let body = json!({"name": "warehouse", "scopes": ["users:read"]});
    let client = users.send(users.request(Method::POST, "/auth/clients", &access).json(&body), 201).await;
    let (client_id, secret) = (text(&client["client_id"]), text(&client["client_secret"]));
    let mut machine = Value::Null;
    for (secret, expected) in [(WRONG, 401), (secret, 200)] {
        let form = [("grant_type", "client_credentials"), ("client_id", client_id), ("client_secret", secret)];
        machine = users.send(with_form(users.request(Method::POST, "/oauth2/token", ""), &form), expected).await;
    }
    let machine = text(&machine["access_token"]);
    users.send(users.request(Method::GET, "/auth/clients", machine), 403).await;
    let path = format!("/auth/clients/{client_id}");
    users.send(users.request(Method::DELETE, &path, &access), 204).await;

    let second = users.refresh(text(&first["refresh_token"]), 200).await;
    let third = users.refresh(text(&second["refresh_token"]), 200).await;
    users.refresh("unknown", 400).await;
    users.refresh(text(&first["refresh_token"]), 400).await;
    let last = users.log_in("ada@example.com", NEW, 200).await;
    let revoke = users.request(Method::POST, "/oauth2/revoke", "");
    users.send(with_form(revoke, &[("token", text(&last["refresh_token"]))]), 200).await;

    let expected: BTreeSet<[String; 5]> = [
        ["key_made", "", "", "", "success"],
        ["key_in_use", "", "", "", "success"],
        ["password_set", "root", "", ADDRESS, "success"],
        ["roles_set", "root", "", ADDRESS, "success"],
        ["login", id, "hedgerow", ADDRESS, "success"],
        ["login", id, "hedgerow", ADDRESS, "invalid_credentials"],
        ["login", "", "hedgerow", ADDRESS, "invalid_credentials"],
        ["login", "", "hedgerow", ADDRESS, "limited"],
        ["password_check", id, "hedgerow", ADDRESS, "invalid_credentials"],
        ["password_changed", id, "hedgerow", ADDRESS, "success"],
        ["client_created", id, "hedgerow", ADDRESS, "success"],
        ["client_credentials", client_id, client_id, ADDRESS, "invalid_credentials"],
        ["client_credentials", client_id, client_id, ADDRESS, "success"],
        ["refusal", client_id, client_id, ADDRESS, "forbidden"],
        ["client_deleted", id, "hedgerow", ADDRESS, "success"],
        ["refresh", id, "hedgerow", ADDRESS, "success"],
        ["refresh", "", "hedgerow", ADDRESS, "invalid_credentials"],
        ["refresh", id, "hedgerow", ADDRESS, "reused"],
        ["session_ended", id, "hedgerow", ADDRESS, "success"],
    ]
    .map(|line| line.map(str::to_owned))
    .into();
    // While the verifier does not know the new key, it refuses the first tokens.
    let audit = eventually("the last line", TIMEOUT, async || {
        let mut audit = users.audit();
        audit.retain(|line| line[0] != "refusal" || line[4] == "forbidden");
        audit.iter().any(|line| line[0] == "session_ended").then_some(audit)
    })
    .await;
    assert_eq!(audit, expected);

    let log: Vec<String> = users.process.log().iter().map(Value::to_string).collect();
    let tokens = [&first, &second, &third, &last].map(|all| [text(&all["access_token"]), text(&all["refresh_token"])]);
    let secrets = [PASSWORD, NEW, WRONG, secret, machine, &admin];
    for secret in tokens.as_flattened().iter().copied().chain(secrets).chain(["$argon2id$"]) {
        assert!(!log.iter().any(|line| line.contains(secret)), "{secret} is in the log");
    }
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn a_wrong_key_encryption_key_is_named_in_the_log(pool: PgPool) {
    let users = Users::start(&pool).await;
    // It would be time for a new key, too.
    let process = program(&pool, &users.folder, 8).variable("AUTH_KEY_ROTATION", "0s").serve().await;
    let line = eventually("a line about the key", TIMEOUT, async || {
        process.log().into_iter().find(|line| line["message"] == "cannot use the keys of the issuer")
    })
    .await;
    let error = text(&line["error"]);
    assert_eq!(line["level"], "ERROR");
    assert!(error.contains("AUTH_KEK_FILE is not the one") && error.contains("no new keys are made"), "{error}");
    let keys: i64 = sqlx::query_scalar("SELECT count(*) FROM signing_key").fetch_one(&pool).await.expect("a count");
    assert_eq!(keys, 1);
}
