//! Inventory: the stock of products, the ledger of its changes, and reservations.

mod engine;
mod error;
mod grpc;
mod model;
mod routes;
mod store;

use chassis::{Service, grpc::Grpc};
use sqlx::migrate::Migrator;

use engine::Inventory;
pub use model::Retention;

/// The migrations of the inventory database.
pub static MIGRATIONS: Migrator = sqlx::migrate!("../../migrations/inventory");

/// The inventory service.
pub const SERVICE: Service<Inventory, Retention> = Service {
    name: "inventory",
    about: "Inventory: the stock of products, the ledger of its changes, and reservations",
    version: env!("CARGO_PKG_VERSION"),
    migrations: &MIGRATIONS,
    api: routes::api,
    grpc: Some(Grpc { routes: grpc::routes, descriptors: contracts::DESCRIPTORS }),
    peers: &[],
    state: |context| Inventory::new(context),
};
