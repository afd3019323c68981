//! Compares the decision with a simple model that processes requests one at a time, on plain maps, with a clock of
//! whole seconds. However requests are batched, the outcomes equal the model's and the ledger adds up.

use std::collections::{BTreeMap, BTreeSet};

use proptest::{collection::vec, prelude::*};

use super::*;

const PRODUCTS: [&str; 3] = ["a", "b", "c"];

/// A client's step. Reservations are identified by their order of creation.
#[derive(Debug, Clone)]
enum Step {
    Set(usize, i64),
    Adjust(usize, i64),
    Reserve(Vec<(usize, i64)>, i64),
    Transition(usize, Transition),
}

fn step() -> impl Strategy<Value = Step> {
    let product = 0..PRODUCTS.len();
    prop_oneof![
        1 => (product.clone(), 0..12_i64).prop_map(|(product, quantity)| Step::Set(product, quantity)),
        2 => (product.clone(), -6..8_i64).prop_map(|(product, delta)| Step::Adjust(product, delta)),
        5 => (vec((product, 1..5_i64), 1..4), 1..5_i64).prop_map(|(items, ttl)| Step::Reserve(items, ttl)),
        2 => (0..30_usize).prop_map(|number| Step::Transition(number, Transition::Commit)),
        2 => (0..30_usize).prop_map(|number| Step::Transition(number, Transition::Release)),
    ]
}

/// Batches, each with the number of seconds since the previous one.
fn batches() -> impl Strategy<Value = Vec<(i64, Vec<Step>)>> {
    vec((0..3_i64, vec(step(), 0..6)), 1..12)
}

/// The model: quantities on hand, and holds with their expiry.
#[derive(Default)]
struct Model {
    now: i64,
    on_hand: BTreeMap<usize, i64>,
    holds: Vec<(BTreeMap<usize, i64>, i64, ReservationState)>,
}

impl Model {
    fn reserved(&self, product: usize) -> i64 {
        let held = self.holds.iter().filter(|(_, _, state)| *state == ReservationState::Held);
        held.filter_map(|(items, _, _)| items.get(&product)).sum()
    }

    fn advance(&mut self, seconds: i64) {
        self.now += seconds;
        for (_, expires_at, state) in &mut self.holds {
            if *state == ReservationState::Held && *expires_at <= self.now {
                *state = ReservationState::Expired;
            }
        }
    }

    /// Performs a step; returns whether it succeeded.
    fn step(&mut self, step: &Step) -> bool {
        match step {
            Step::Set(product, quantity) => self.put(*product, *quantity),
            Step::Adjust(product, delta) => self.put(*product, self.on_hand.get(product).copied().unwrap_or(0) + delta),
            Step::Reserve(items, ttl) => {
                let mut sums = BTreeMap::new();
                for (product, quantity) in items {
                    *sums.entry(*product).or_insert(0) += quantity;
                }
                let stock = |product| self.on_hand.get(product).copied().unwrap_or(0) - self.reserved(*product);
                let is_enough = sums.iter().all(|(product, quantity)| *quantity <= stock(product));
                if is_enough {
                    self.holds.push((sums, self.now + ttl, ReservationState::Held));
                }
                is_enough
            }
            Step::Transition(number, transition) => {
                let Some((items, _, state)) = self.holds.get_mut(*number) else { return false };
                match (*state, transition) {
                    (ReservationState::Held, Transition::Commit) => {
                        *state = ReservationState::Committed;
                        for (product, quantity) in items {
                            *self.on_hand.entry(*product).or_default() -= *quantity;
                        }
                        true
                    }
                    (ReservationState::Held, Transition::Release) => {
                        *state = ReservationState::Released;
                        true
                    }
                    (ReservationState::Committed, transition) => *transition == Transition::Commit,
                    (_, transition) => *transition == Transition::Release,
                }
            }
        }
    }

    fn put(&mut self, product: usize, on_hand: i64) -> bool {
        let is_allowed = on_hand >= self.reserved(product);
        if is_allowed {
            self.on_hand.insert(product, on_hand);
        }
        is_allowed
    }
}

/// The database's tables between batches.
#[derive(Default)]
struct Tables {
    now: DateTime<Utc>,
    products: HashMap<ProductId, ProductRow>,
    /// As stored: expired ones are held.
    reservations: BTreeMap<ReservationId, Reservation>,
    /// In order of creation.
    ids: Vec<ReservationId>,
    expiries: BTreeMap<(ProductId, DateTime<Utc>), ExpiryChange>,
    ledger: Vec<NewMovement>,
}

impl Tables {
    /// What a product's holds that expire within this period add up to.
    fn expiring(&self, id: &ProductId, after: DateTime<Utc>, until: DateTime<Utc>) -> ExpiryChange {
        let within = self.expiries.iter().filter(|((product, at), _)| product == id && *at > after && *at <= until);
        within.fold(ExpiryChange::default(), |sum, (_, expiry)| ExpiryChange {
            quantity: sum.quantity + expiry.quantity,
            holds: sum.holds + expiry.holds,
        })
    }

    /// The rows that a transaction reads once it has locked these products.
    fn read(&self, ids: &BTreeSet<ProductId>) -> LockedRows {
        let locked =
            self.products.iter().filter(|(id, _)| ids.contains(*id)).map(|(id, product)| (id.clone(), *product));
        let products: HashMap<_, _> = locked.collect();
        let is_due = |product: &ProductRow| product.next_expiry.is_some_and(|next| next <= self.now);
        let due = products.iter().filter(|(_, product)| is_due(product)).map(|(id, product)| {
            let ExpiryChange { quantity, holds } = self.expiring(id, product.settled_until, self.now);
            let later = self.expiries.keys().filter(|(product, at)| product == id && *at > self.now);
            let next_expiry = later.map(|(_, at)| *at).min();
            (id.clone(), DueExpiries { quantity, holds, next_expiry })
        });
        let due = due.collect();
        LockedRows {
            now: self.now,
            products,
            due,
            reservations: self.reservations.clone().into_iter().collect(),
            responses: HashMap::new(),
        }
    }

    /// The products that a step needs.
    fn products(&self, step: &Step) -> Vec<ProductId> {
        let items = |reservation: &Reservation| reservation.items.as_slice().to_vec();
        match step {
            Step::Set(number, _) | Step::Adjust(number, _) => vec![product(PRODUCTS[*number])],
            Step::Reserve(items, _) => items.iter().map(|(number, _)| product(PRODUCTS[*number])).collect(),
            Step::Transition(number, _) => {
                let reservation = self.ids.get(*number).map(|id| &self.reservations[id]);
                reservation.map(items).unwrap_or_default().into_iter().map(|item| item.product_id).collect()
            }
        }
    }

    fn write(&mut self, changeset: Changeset) {
        for (id, product) in changeset.products {
            self.products.insert(id, ProductRow { changed: false, ..product });
        }
        for reservation in changeset.holds {
            self.ids.push(reservation.id);
            self.reservations.insert(reservation.id, reservation);
        }
        for (key, change) in changeset.expiries {
            let expiry = self.expiries.entry(key).or_default();
            expiry.quantity += change.quantity;
            expiry.holds += change.holds;
        }
        for (id, state) in changeset.ended {
            let reservation = self.reservations.get_mut(&id).expect("the reservation exists");
            assert_eq!(reservation.state, ReservationState::Held, "a reservation ends only once");
            reservation.state = state;
        }
        self.ledger.extend(changeset.movements);
    }

    /// A product's counters as a reader sees them at a time.
    fn counters(&self, id: &ProductId, now: DateTime<Utc>) -> Counters {
        let Some(product) = self.products.get(id) else { return Counters::default() };
        let due = self.expiring(id, product.settled_until, now);
        let Counters { on_hand, reserved, version: Version { number, expired } } = product.counters;
        let version = version(number + due.holds, expired + due.holds);
        Counters { on_hand, reserved: reserved - due.quantity, version }
    }

    /// Records what readers see of the current state, at any time: they may read it until a transaction that was
    /// decided before is committed, and clocks can be set back. Asserts that no version names two stocks.
    fn observe(&self, seen: &mut HashMap<(ProductId, String), Counters>) {
        for (id, seconds) in self.products.keys().flat_map(|id| (0..50).map(move |seconds| (id, seconds))) {
            let counters = self.counters(id, at(seconds));
            let first = *seen.entry((id.clone(), counters.version.to_string())).or_insert(counters);
            assert_eq!((first.on_hand, first.reserved), (counters.on_hand, counters.reserved), "{}", counters.version);
        }
    }

    /// The state that a reservation is in.
    fn state(&self, id: ReservationId) -> ReservationState {
        let reservation = &self.reservations[&id];
        let is_expired = reservation.state == ReservationState::Held && reservation.expires_at <= self.now;
        if is_expired { ReservationState::Expired } else { reservation.state }
    }

    /// What the held reservations of a product add up to, by when they expire.
    fn held(&self, id: &ProductId) -> BTreeMap<DateTime<Utc>, ExpiryChange> {
        let mut sums: BTreeMap<_, ExpiryChange> = BTreeMap::new();
        for reservation in self.reservations.values().filter(|one| one.state == ReservationState::Held) {
            for item in reservation.items.as_slice().iter().filter(|item| item.product_id == *id) {
                let sum = sums.entry(reservation.expires_at).or_default();
                sum.quantity += item.quantity;
                sum.holds += 1;
            }
        }
        sums
    }

    /// Asserts that counters, expiries, reservations and ledger agree.
    fn check(&self) {
        for (id, ProductRow { counters, next_expiry, settled_until, .. }) in &self.products {
            assert!(0 <= counters.reserved && counters.reserved <= counters.on_hand);
            let live = self.expiring(id, *settled_until, DateTime::<Utc>::MAX_UTC);
            assert_eq!(live.quantity, counters.reserved);
            let expiries = self.expiries.iter().filter(|((product, _), expiry)| product == id && expiry.holds != 0);
            let expiries: BTreeMap<_, _> = expiries.map(|((_, at), expiry)| (*at, *expiry)).collect();
            assert_eq!(expiries, self.held(id), "expiries are the sums of held reservations");
            let first = expiries.keys().find(|at| **at > *settled_until);
            assert!(
                first.is_none_or(|first| next_expiry.is_some_and(|next| next <= *first)),
                "next_expiry misses none"
            );

            let ledger: Vec<_> = self.ledger.iter().filter(|movement| movement.product_id == *id).collect();
            assert_eq!(ledger.iter().map(|movement| movement.on_hand_delta).sum::<i64>(), counters.on_hand);
            assert_eq!(ledger.iter().map(|movement| movement.reserved_delta).sum::<i64>(), counters.reserved);
            let (mut version, mut settled) = (version(0, 0), DateTime::UNIX_EPOCH);
            for movement in &ledger {
                version.number += 1;
                if let Cause::Expiry { holds, until } = movement.cause {
                    version.number += holds - 1;
                    version.expired += holds;
                    let expired = ExpiryChange { quantity: -movement.reserved_delta, holds };
                    assert_eq!(self.expiring(id, settled, until), expired, "each hold expires in one movement");
                    settled = until;
                }
                assert_eq!(movement.after.version, version);
            }
            assert_eq!(version, counters.version);
        }
    }

    fn call(&self, step: &Step) -> Call {
        plain(match step {
            Step::Set(product, quantity) => set(PRODUCTS[*product], *quantity),
            Step::Adjust(product, delta) => adjust(PRODUCTS[*product], *delta),
            Step::Reserve(list, ttl) => {
                let list: Vec<_> = list.iter().map(|(product, quantity)| (PRODUCTS[*product], *quantity)).collect();
                let new = NewReservation { items: items(&list), ttl: TimeToLive(*ttl) };
                Operation::Reserve(ReservationId::generate(), new)
            }
            Step::Transition(number, transition) => {
                let id = self.ids.get(*number).copied().unwrap_or_else(ReservationId::generate);
                Operation::Transition(id, *transition)
            }
        })
    }
}

proptest! {
    #[test]
    fn any_batching_gives_the_outcomes_of_the_model(batches in batches()) {
        let (mut model, mut tables, mut seen) = (Model::default(), Tables::default(), HashMap::new());
        for (seconds, mut steps) in batches {
            model.advance(seconds);
            tables.now += TimeDelta::seconds(seconds);
            // A client learns a reservation's id from the response, so it cannot end it in the same batch.
            steps.retain(|step| !matches!(step, Step::Transition(number, _) if *number >= tables.ids.len()));
            let calls: Vec<_> = steps.iter().map(|step| tables.call(step)).collect();
            let (_, settling) = decide(&[], tables.read(&PRODUCTS.map(product).into()));
            for (id, row) in settling.products {
                prop_assert_eq!(row.counters, tables.counters(&id, tables.now), "settling changes nothing for readers");
            }
            let ids = steps.iter().flat_map(|step| tables.products(step)).collect();
            let (outcomes, changeset) = decide(&calls, tables.read(&ids));
            for (step, outcome) in steps.iter().zip(&outcomes) {
                prop_assert_eq!(model.step(step), outcome.is_ok(), "{:?}: {:?}", step, outcome);
            }
            tables.write(changeset);
            tables.check();
            tables.observe(&mut seen);
            for (number, product) in PRODUCTS.iter().enumerate() {
                let counters = tables.counters(&super::product(product), tables.now);
                prop_assert_eq!(model.on_hand.get(&number).copied().unwrap_or(0), counters.on_hand);
                prop_assert_eq!(model.reserved(number), counters.reserved);
            }
            for (id, (_, _, state)) in tables.ids.iter().zip(&model.holds) {
                prop_assert_eq!(tables.state(*id), *state);
            }
        }
    }
}
