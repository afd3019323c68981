//! Users and their wishlists.

mod access;
mod audit;
mod client_address;
mod error;
mod inventory;
mod issuer;
mod model;
mod password;
mod prune;
mod routes;
mod settings;
mod state;
mod store;
mod user_writer;

use chassis::Service;
use sqlx::migrate::Migrator;

pub use settings::{IssuerArgs, Kek, Lifetimes};
use state::Users;

/// The migrations of the users database.
pub static MIGRATIONS: Migrator = sqlx::migrate!("../../migrations/users");

/// The users service.
pub const SERVICE: Service<Users, IssuerArgs> = Service {
    name: "users",
    about: "Users: create, get, update, delete and list users, and their wishlists",
    version: env!("CARGO_PKG_VERSION"),
    migrations: &MIGRATIONS,
    api: routes::api,
    grpc: None,
    peers: &[inventory::INVENTORY],
    state: |context| Users::new(context),
};
