//! Requests that need rows which other transactions have locked. They are set aside, so that they do not hold up
//! others.

use std::{
    collections::{BTreeSet, HashMap},
    mem,
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
    /// Whether it is known that this request waits, and not only that one of several does.
    pub(super) is_cause: bool,
    /// What the request fails with if it waits in vain.
    pub(super) failure: Arc<DatabaseError>,
}

impl Locked {
    /// Whether it is known which products the request waits for.
    pub(super) fn waits_for_products(&self) -> bool {
        !self.request.waits_for().is_empty()
    }
}

/// How a transaction runs that leaves out the requests for locked products instead of waiting.
pub(super) struct SkipLocked {
    /// The lock timeout that made this necessary.
    pub(super) failure: Arc<DatabaseError>,
    /// Products to lock first. These are waited for, in order, while no other product is locked.
    pub(super) wait_for: BTreeSet<ProductId>,
    /// The one that the transaction is waiting for.
    pub(super) waits_for: Option<ProductId>,
    /// Products that are locked, or that requests wait for which were set aside before.
    pub(super) unavailable: BTreeSet<ProductId>,
    /// The requests that are left out.
    pub(super) locked: Vec<Locked>,
}

impl SkipLocked {
    pub(super) fn new(failure: Arc<DatabaseError>) -> Self {
        Self { failure, wait_for: BTreeSet::new(), waits_for: None, unavailable: BTreeSet::new(), locked: Vec::new() }
    }

    /// Stops waiting for products. The one that was waited for is locked; its requests must not keep the others of their
    /// products locked while they wait for it. Returns `false` if there were none to wait for.
    pub(super) fn stop_waiting(&mut self) -> bool {
        let wait_for = mem::take(&mut self.wait_for);
        let waited = !wait_for.is_empty();
        self.unavailable.extend(self.waits_for.take().map_or(wait_for, |product| BTreeSet::from([product])));
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
            self.set_aside(request, &[], None);
        }
    }

    /// Moves the requests out of the batch that need a product which is unavailable, or which this transaction has found
    /// to be locked.
    pub(super) fn take(
        &mut self,
        batch: &mut Vec<Request>,
        found: BTreeSet<ProductId>,
        products_of: &HashMap<Uuid, Vec<ProductId>>,
    ) {
        let lacks = |request: &mut Request| {
            let mut needed = request.product_ids().chain(reserved(request, products_of));
            needed.any(|product| self.unavailable.contains(product) || found.contains(product))
        };
        let taken: Vec<Request> = batch.extract_if(.., lacks).collect();
        for request in taken {
            let reserved = reserved(&request, products_of);
            self.set_aside(request, reserved, Some(&found));
        }
        self.unavailable.extend(found);
    }

    /// Sets a request aside that waits for something unknown, or is one of several of which one does.
    pub(super) fn set_aside_unknown(&mut self, mut request: Request, is_cause: bool) {
        request.set_waits_for(BTreeSet::new());
        self.locked.push(Locked { request, is_cause, failure: self.failure.clone() });
    }

    /// Sets a request aside. Nobody else gets a product that it waits for, so it waits for as few as possible: for those
    /// that it has waited for if they are still locked, else for those that are known to be unavailable, else for those
    /// that were found to be locked. It also waits for those that it has waited for and obtained, to have all at once.
    fn set_aside(&mut self, mut request: Request, reserved: &[ProductId], found: Option<&BTreeSet<ProductId>>) {
        let (none, was_tried) = (BTreeSet::new(), found.is_some());
        let found = found.unwrap_or(&none);
        let needed: BTreeSet<ProductId> = request.product_ids().chain(reserved).cloned().collect();
        let before = request.waits_for();
        let choices = [
            &(before & &self.unavailable) | &(before & found),
            if was_tried { BTreeSet::new() } else { before.clone() },
            &needed & &self.unavailable,
            &needed & found,
        ];
        let mut products = choices.into_iter().find(|products| !products.is_empty()).unwrap_or_default();
        if before.is_superset(&self.wait_for) {
            products.extend(self.wait_for.iter().cloned());
        }
        request.set_waits_for(products);
        self.locked.push(Locked { request, is_cause: true, failure: self.failure.clone() });
    }
}

/// The products of the reservation that the request commits or releases.
fn reserved<'a>(request: &Request, products_of: &'a HashMap<Uuid, Vec<ProductId>>) -> &'a [ProductId] {
    reservation_id(request).and_then(|id| products_of.get(&id)).map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        engine::request::Reply,
        model::{Actor, Item, Items, NewReservation, ReservationId, TimeToLive},
    };

    fn products<const N: usize>(names: [&str; N]) -> BTreeSet<ProductId> {
        names.map(|name| ProductId::try_from(name.to_owned()).expect("a valid id")).into()
    }

    fn skip_locked() -> SkipLocked {
        SkipLocked::new(Arc::new(DatabaseError::Refused(sqlx::Error::PoolTimedOut)))
    }

    /// A request to reserve one of each product.
    fn basket<const N: usize>(names: [&str; N]) -> Request {
        let items = products(names).into_iter().map(|product_id| Item { product_id, quantity: 1 });
        let items = Items::merge(items.collect()).expect("valid items");
        let new = NewReservation { items, ttl: TimeToLive(60) };
        Request::Reserve {
            id: ReservationId::generate(),
            actor: Actor::default(),
            new,
            claim: None,
            reply: Reply::channel().0,
        }
    }

    /// What the requests wait for that were set aside.
    fn waits(skip_locked: &SkipLocked) -> Vec<BTreeSet<ProductId>> {
        skip_locked.locked.iter().map(|locked| locked.request.waits_for().clone()).collect()
    }

    #[test]
    fn a_request_waits_for_all_products_that_are_found_locked() {
        let (mut skip_locked, mut batch) = (skip_locked(), vec![basket(["a", "b", "c"]), basket(["d"])]);
        skip_locked.take(&mut batch, products(["a", "c"]), &HashMap::new());
        assert_eq!(batch.len(), 1);
        assert_eq!(waits(&skip_locked), [products(["a", "c"])]);
    }

    /// The first request has waited for the two products that were obtained, the second one has not.
    #[test]
    fn a_request_keeps_waiting_for_products_that_it_obtained() {
        let (mut skip_locked, mut one) = (skip_locked(), basket(["a", "b", "c"]));
        one.set_waits_for(products(["a", "b"]));
        skip_locked.wait_for = products(["a", "b"]);
        skip_locked.take(&mut vec![one, basket(["a", "c"])], products(["c"]), &HashMap::new());
        assert_eq!(waits(&skip_locked), [products(["a", "b", "c"]), products(["c"])]);
    }

    /// "m" is locked for long, "a" now and then.
    #[test]
    fn a_request_waits_for_no_more_while_its_product_is_locked() {
        let request = || {
            let mut request = basket(["a", "m"]);
            request.set_waits_for(products(["m"]));
            request
        };
        // Both are tried, and locked.
        let mut tried = skip_locked();
        tried.take(&mut vec![request()], products(["a", "m"]), &HashMap::new());
        assert_eq!(waits(&tried), [products(["m"])]);
        // Others have waited for "a", which is free now.
        let mut obtained = skip_locked();
        obtained.wait_for = products(["a"]);
        obtained.take(&mut vec![request()], products(["m"]), &HashMap::new());
        assert_eq!(waits(&obtained), [products(["m"])]);
        // It is not tried, because others wait for "a".
        let mut not_tried = skip_locked();
        not_tried.unavailable = products(["a"]);
        not_tried.take_known(&mut vec![request()]);
        assert_eq!(waits(&not_tried), [products(["m"])]);
    }

    /// "m" is locked for long, and "a" just now.
    #[test]
    fn a_request_for_a_known_locked_product_waits_for_nothing_else() {
        let mut skip_locked = skip_locked();
        skip_locked.unavailable = products(["m"]);
        let mut batch = vec![basket(["a", "m"]), basket(["a"]), basket(["b"])];
        skip_locked.take(&mut batch, products(["a"]), &HashMap::new());
        assert_eq!(batch.len(), 1);
        assert_eq!(waits(&skip_locked), [products(["m"]), products(["a"])]);
    }

    #[test]
    fn only_the_product_that_was_not_obtained_is_unavailable() {
        let mut skip_locked = skip_locked();
        skip_locked.wait_for = products(["a", "m", "z"]);
        skip_locked.waits_for = products(["m"]).pop_first();
        assert!(skip_locked.stop_waiting());
        assert_eq!(skip_locked.unavailable, products(["m"]));
        let (mut one, other) = (basket(["a", "m", "z"]), basket(["a"]));
        one.set_waits_for(products(["a", "m", "z"]));
        let mut batch = vec![one, other];
        skip_locked.take_known(&mut batch);
        assert_eq!(batch.len(), 1);
        assert_eq!(waits(&skip_locked), [products(["m"])]);
    }
}
