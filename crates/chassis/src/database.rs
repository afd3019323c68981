//! A service's own Postgres database: the pool, dedicated connections, migrations and health.

mod connector;
mod dedicated;
mod error;
mod health;
pub(crate) mod migrations;
mod pool;
mod start_over;

pub use connector::SESSION;
pub use dedicated::DedicatedConnection;
pub use error::{
    DatabaseError, concerns_one_request, is_lock_timeout, is_serialization_failure, is_unavailable, sql_state,
    with_timeout,
};
pub use pool::Database;
pub use start_over::until_start_over;

pub(crate) use error::is_retried;
pub(crate) use health::Health;
