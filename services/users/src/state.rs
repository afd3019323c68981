//! The state that the handlers share.

use std::sync::Arc;

use chassis::{Context, Database, batch::Batcher, idempotency};
use tokio::runtime::Handle;

use crate::{
    error::Error,
    inventory::{INVENTORY, Inventory},
    issuer::Issuer,
    model::{Stocks, Wish, Wishes, Wishlist},
    prune,
    settings::IssuerArgs,
    user_writer::{MAX_ROWS, UserWriter},
};

/// The maximum number of new users that wait.
const QUEUE: usize = 4096;

/// The state that the handlers share.
#[derive(Clone)]
pub struct Users {
    pub(crate) database: Database,
    pub(crate) writer: Arc<Batcher<UserWriter>>,
    inventory: Inventory,
    issuer: Option<Arc<Issuer>>,
}

impl Users {
    pub(crate) fn new(context: &Context<IssuerArgs>) -> Self {
        idempotency::prune_in_background(context);
        let issuer = Issuer::start(context);
        if issuer.is_some() {
            prune::prune_in_background(context);
        }
        let writer = UserWriter::new(&context.database);
        Self {
            database: context.database.clone(),
            writer: Arc::new(Batcher::spawn(&Handle::current(), writer, QUEUE, MAX_ROWS)),
            inventory: Inventory::new(context.peer(INVENTORY)),
            issuer,
        }
    }

    /// The issuer.
    ///
    /// # Errors
    /// Returns an error if the settings name none.
    pub(crate) fn issuer(&self) -> Result<&Issuer, Error> {
        self.issuer.as_deref().ok_or(Error::NoIssuer)
    }

    /// Adds the stock of its products to a wishlist, if inventory responds.
    pub(crate) async fn with_stocks(&self, wishes: Vec<Wish>) -> Wishlist {
        let stocks = self.inventory.stocks(wishes.iter().map(|wish| &wish.product_id)).await;
        Wishlist::new(wishes, stocks.as_ref())
    }

    /// Fetches the stock of the products on a new wishlist. Returns `None` if inventory does not respond.
    pub(crate) async fn stocks(&self, wishes: &Wishes) -> Option<Stocks> {
        self.inventory.stocks(wishes.product_ids().iter()).await
    }
}
