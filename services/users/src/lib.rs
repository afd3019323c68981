//! Users: who they are and how to reach them.

mod error;
mod model;
mod routes;
mod store;

use chassis::{Database, Service};
use sqlx::migrate::Migrator;

/// The schema of the users database.
pub static MIGRATIONS: Migrator = sqlx::migrate!("../../migrations/users");

/// The users service.
pub const SERVICE: Service<Database> = Service {
    name: "users",
    about: "Users: create, read, change, delete and list them",
    version: env!("CARGO_PKG_VERSION"),
    migrations: &MIGRATIONS,
    api: routes::api,
    state: |context| context.database.clone(),
};
