//! Requests that need rows which other transactions have locked. They are set aside, so that they do not hold up
//! others.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use chassis::database::DatabaseError;
use uuid::Uuid;

use super::request::{Request, reservation_id};
use crate::model::ProductId;

/// How long a transaction waits for each lock. Longer than other writers usually hold one: waiting in the queue for it
/// is the usual case. But somebody may hold it for long, and then the requests for other products must not wait.
pub(super) const LOCK_TIMEOUT: Duration = Duration::from_millis(150);

/// A request that was set aside.
pub(super) struct Locked {
    pub(super) request: Request,
    /// The products that it waits for. Empty if it waits for a row of another table, or for a new product.
    pub(super) products: BTreeSet<ProductId>,
    /// Whether it is known that this request waits, and not only that one of several does.
    pub(super) is_cause: bool,
    /// What the request fails with if it waits in vain.
    pub(super) failure: Arc<DatabaseError>,
}

/// How a transaction runs that leaves out the requests for locked products instead of waiting.
pub(super) struct SkipLocked {
    /// The lock timeout that made this necessary.
    pub(super) failure: Arc<DatabaseError>,
    /// Products to lock first. These are waited for, while no other product is locked.
    pub(super) wait_for: BTreeSet<ProductId>,
    /// Products that are locked, or that requests wait for which were set aside before.
    pub(super) unavailable: BTreeSet<ProductId>,
    /// The requests that are left out.
    pub(super) locked: Vec<Locked>,
}

impl SkipLocked {
    pub(super) fn new(failure: Arc<DatabaseError>) -> Self {
        Self { failure, wait_for: BTreeSet::new(), unavailable: BTreeSet::new(), locked: Vec::new() }
    }

    /// Stops waiting for products. Returns `false` if there were none to wait for.
    pub(super) fn stop_waiting(&mut self) -> bool {
        let waited = !self.wait_for.is_empty();
        self.unavailable.append(&mut self.wait_for);
        waited
    }

    /// Whether the request must be left out, as far as that is known without reading anything. A request with a key may
    /// have a stored response, and then needs no product.
    pub(super) fn leaves_out(&self, request: &Request) -> bool {
        request.claim().is_none() && request.product_ids().any(|product| self.unavailable.contains(product))
    }

    /// Moves the requests out of the batch that are known to be left out.
    pub(super) fn take_known(&mut self, batch: &mut Vec<Request>) {
        let known: Vec<Request> = batch.extract_if(.., |request| self.leaves_out(request)).collect();
        for request in known {
            self.set_aside(request, &[]);
        }
    }

    /// Moves the requests out of the batch that need a product which is unavailable.
    pub(super) fn take(
        &mut self,
        batch: &mut Vec<Request>,
        needs_products: impl Fn(&Request) -> bool,
        products_of: &HashMap<Uuid, Vec<ProductId>>,
    ) {
        let lacks = |request: &mut Request| {
            let mut needed = request.product_ids().chain(reserved(request, products_of));
            needs_products(request) && needed.any(|product| self.unavailable.contains(product))
        };
        let taken: Vec<Request> = batch.extract_if(.., lacks).collect();
        for request in taken {
            let reserved = reserved(&request, products_of);
            self.set_aside(request, reserved);
        }
    }

    /// Sets a request aside that waits for something unknown, or is one of several of which one does.
    pub(super) fn set_aside_unknown(&mut self, request: Request, is_cause: bool) {
        self.locked.push(Locked { request, products: BTreeSet::new(), is_cause, failure: self.failure.clone() });
    }

    /// Sets a request aside. From then on it also waits for those of its products that were waited for and obtained.
    fn set_aside(&mut self, request: Request, reserved: &[ProductId]) {
        let is_locked = |product: &&ProductId| self.unavailable.contains(*product) || self.wait_for.contains(*product);
        let products = request.product_ids().chain(reserved).filter(is_locked).cloned().collect();
        self.locked.push(Locked { request, products, is_cause: true, failure: self.failure.clone() });
    }
}

/// The products of the reservation that the request commits or releases.
fn reserved<'a>(request: &Request, products_of: &'a HashMap<Uuid, Vec<ProductId>>) -> &'a [ProductId] {
    reservation_id(request).and_then(|id| products_of.get(&id)).map_or(&[], Vec::as_slice)
}
