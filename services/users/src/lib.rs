//! Users: who they are and how to reach them.

mod creator;
mod error;
mod model;
mod routes;
mod store;

use std::sync::Arc;

use chassis::{Database, Service, batch::Batcher};
use sqlx::migrate::Migrator;

use creator::Creator;

/// The schema of the users database.
pub static MIGRATIONS: Migrator = sqlx::migrate!("../../migrations/users");

/// New users that may wait, and the most in one batch.
const QUEUE: usize = 4096;
const LARGEST_BATCH: usize = 512;

/// What the handlers share.
#[derive(Clone)]
pub struct Users {
    database: Database,
    creations: Arc<Batcher<Creator>>,
}

/// The users service.
pub const SERVICE: Service<Users> = Service {
    name: "users",
    about: "Users: create, read, change, delete and list them",
    version: env!("CARGO_PKG_VERSION"),
    migrations: &MIGRATIONS,
    api: routes::api,
    state: |context| Users {
        database: context.database.clone(),
        creations: Arc::new(Batcher::spawn(Creator::new(&context.database), QUEUE, LARGEST_BATCH)),
    },
};
