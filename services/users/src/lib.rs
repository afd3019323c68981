//! Users: who they are, how to reach them and what they wish for.

mod creator;
mod error;
mod model;
mod routes;
mod stocks;
mod store;
mod wishlist;

use std::sync::Arc;

use chassis::{Database, Service, batch::Batcher};
use sqlx::migrate::Migrator;
use tokio::runtime::Handle;

use creator::Creator;
use stocks::{INVENTORY, Inventory};
use wishlist::{Wish, Wishlist};

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
    inventory: Inventory,
}

impl Users {
    /// A wishlist with the stock of its products, if inventory tells.
    async fn show(&self, wishes: Vec<Wish>) -> Wishlist {
        let stocks = self.inventory.stocks(wishes.iter().map(|wish| &wish.product_id)).await;
        Wishlist::new(wishes, stocks.as_ref())
    }
}

/// The users service.
pub const SERVICE: Service<Users> = Service {
    name: "users",
    about: "Users: create, read, change, delete and list them, and their wishlists",
    version: env!("CARGO_PKG_VERSION"),
    migrations: &MIGRATIONS,
    api: routes::api,
    grpc: None,
    peers: &[INVENTORY],
    state: |context| Users {
        database: context.database.clone(),
        creations: Arc::new(Batcher::spawn(&Handle::current(), Creator::new(&context.database), QUEUE, LARGEST_BATCH)),
        inventory: Inventory::new(context.peer(INVENTORY)),
    },
};
