//! The users API over a real socket and a real database, one module for each topic.

mod access;
mod attempts;
mod audit;
mod bodies;
mod callers;
mod clients;
mod conditional;
mod create;
mod documents;
mod email;
mod idempotency;
mod ids;
mod issuer;
mod keys;
mod list;
mod locks;
mod login;
mod observed;
mod outage;
mod panics;
mod parameters;
mod passwords;
mod patch;
mod plans;
mod refresh;
mod revoked;
mod roles;
mod wire;
mod wishlist;

use serde_json::{Value, json};
use sqlx::PgPool;
use test_support::app::App;

/// Starts the service on the test's database.
async fn start(pool: &PgPool) -> App {
    App::start(&users::SERVICE, &pool.connect_options()).await
}

/// Creates a user.
async fn create(app: &App, name: &str, email: &str) -> Value {
    app.post("/users", &json!({"name": name, "email": email})).await.json(201)
}

/// The path of a user.
fn path(user: &Value) -> String {
    format!("/users/{}", id(user))
}

/// The id of a user.
fn id(user: &Value) -> &str {
    user["id"].as_str().expect("an id")
}

/// The number of users.
async fn count(pool: &PgPool) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM users").fetch_one(pool).await.expect("a count")
}
