//! Compares the decision with a simple model that processes requests one at a time, on plain maps, with a clock of
//! whole seconds. However requests are batched, the outcomes equal the model's and the ledger adds up.

use std::collections::BTreeMap;

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
    reservations: BTreeMap<ReservationId, Reservation>,
    /// In order of creation.
    ids: Vec<ReservationId>,
    /// The lines that count as reserved.
    lines: BTreeMap<(ReservationId, ProductId), (i64, DateTime<Utc>)>,
    ledger: Vec<NewMovement>,
}

impl Tables {
    /// The rows that a transaction reads once it has locked all products.
    fn read(&self) -> LockedRows {
        let mut overdue: Vec<_> = self.lines.iter().filter(|(_, (_, expires_at))| *expires_at <= self.now).collect();
        overdue.sort_by_key(|((id, product), (_, expires_at))| (*expires_at, *id, product.clone()));
        let overdue = overdue.into_iter().map(|((id, product), (quantity, _))| OverdueLine {
            reservation_id: *id,
            product_id: product.clone(),
            quantity: *quantity,
            is_first: self.reservations[id].items.as_slice()[0].product_id == *product,
        });
        let overdue: Vec<_> = overdue.collect();
        let due = self.products.iter().filter(|(_, product)| product.next_expiry.is_some_and(|next| next <= self.now));
        let due: Vec<_> = due.map(|(id, _)| id).collect();
        assert!(overdue.iter().all(|line| due.contains(&&line.product_id)), "next_expiry misses no overdue line");
        let locked = |reservation: &Reservation| {
            let mut items = reservation.items.as_slice().iter();
            let all_lines_live = items.all(|item| self.lines.contains_key(&(reservation.id, item.product_id.clone())));
            (reservation.id, LockedReservation { reservation: reservation.clone(), all_lines_live })
        };
        LockedRows {
            now: self.now,
            products: self.products.clone(),
            overdue,
            reservations: self.reservations.values().map(locked).collect(),
            records: HashMap::new(),
        }
    }

    fn write(&mut self, changeset: Changeset, outcomes: &[Result<Outcome, Refusal>]) {
        for (id, product) in changeset.products {
            self.products.insert(id, ProductRow { changed: false, ..product });
        }
        let new = outcomes.iter().filter_map(|outcome| match outcome {
            Ok(Outcome::Reservation(reservation)) if reservation.state == ReservationState::Held => Some(reservation),
            _ => None,
        });
        for (reservation, hold) in new.zip(&changeset.holds) {
            assert_eq!((reservation.id, reservation.expires_at), (hold.id, hold.expires_at));
            self.ids.push(hold.id);
            for item in reservation.items.as_slice() {
                self.lines.insert((hold.id, item.product_id.clone()), (item.quantity, hold.expires_at));
            }
            self.reservations.insert(hold.id, reservation.clone());
        }
        for line in changeset.closed_lines {
            assert!(self.lines.remove(&line).is_some(), "a line is closed only once");
        }
        for (id, state) in changeset.ended {
            let reservation = self.reservations.get_mut(&id).expect("the reservation exists");
            assert_eq!(reservation.state, ReservationState::Held, "a reservation ends only once");
            reservation.state = state;
        }
        self.ledger.extend(changeset.movements);
    }

    /// Asserts that counters, lines and ledger agree.
    fn check(&self) {
        for (id, ProductRow { counters, .. }) in &self.products {
            assert!(0 <= counters.reserved && counters.reserved <= counters.on_hand);
            let lines = self.lines.iter().filter(|((_, product), _)| product == id);
            assert_eq!(lines.map(|(_, (quantity, _))| quantity).sum::<i64>(), counters.reserved);
            let ledger: Vec<_> = self.ledger.iter().filter(|movement| movement.product_id == *id).collect();
            assert_eq!(ledger.iter().map(|movement| movement.on_hand_delta).sum::<i64>(), counters.on_hand);
            assert_eq!(ledger.iter().map(|movement| movement.reserved_delta).sum::<i64>(), counters.reserved);
            assert!((1..).zip(&ledger).all(|(version, movement)| movement.after.version == version), "no gap");
            assert_eq!(ledger.last().map_or(0, |movement| movement.after.version), counters.version);
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
        let (mut model, mut tables) = (Model::default(), Tables::default());
        for (seconds, mut steps) in batches {
            model.advance(seconds);
            tables.now += TimeDelta::seconds(seconds);
            // A client learns a reservation's id from the response, so it cannot end it in the same batch.
            steps.retain(|step| !matches!(step, Step::Transition(number, _) if *number >= tables.ids.len()));
            let calls: Vec<_> = steps.iter().map(|step| tables.call(step)).collect();
            let (outcomes, changeset) = decide(&calls, tables.read());
            for (step, outcome) in steps.iter().zip(&outcomes) {
                prop_assert_eq!(model.step(step), outcome.is_ok(), "{:?}: {:?}", step, outcome);
            }
            tables.write(changeset, &outcomes);
            tables.check();
            for (number, product) in PRODUCTS.iter().enumerate() {
                let counters = tables.products.get(&super::product(product)).copied().unwrap_or_default().counters;
                prop_assert_eq!(model.on_hand.get(&number).copied().unwrap_or(0), counters.on_hand);
                prop_assert_eq!(model.reserved(number), counters.reserved);
            }
            for (id, (_, _, state)) in tables.ids.iter().zip(&model.holds) {
                prop_assert_eq!(tables.reservations[id].state, *state);
            }
        }
    }
}
