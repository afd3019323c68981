//! A service's own Postgres database: the pool, dedicated connections, migrations and health.

mod connector;
mod dedicated;
mod failure;
mod health;
pub(crate) mod migrations;
mod pool;
mod url;

pub use dedicated::DedicatedConnection;
pub use failure::{Failure, is_unavailable, lost_a_race, sql_state, with_timeout};
pub use pool::Database;
pub use url::DatabaseUrl;

pub(crate) use health::Health;
