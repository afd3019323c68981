//! The decision against a model that is too simple to be wrong: each request alone, on plain maps, by a clock of whole
//! seconds. Whatever is cut into batches in whatever way, the answers are the model's, and the ledger adds up.

use std::collections::BTreeMap;

use proptest::{collection::vec, prelude::*};

use super::*;

const PRODUCTS: [&str; 3] = ["a", "b", "c"];

/// What a client does; reservations are named by their number in order of creation.
#[derive(Debug, Clone)]
enum Step {
    Set(usize, i64),
    Adjust(usize, i64),
    Reserve(Vec<(usize, i64)>, i64),
    End(usize, Ending),
}

fn step() -> impl Strategy<Value = Step> {
    let product = 0..PRODUCTS.len();
    prop_oneof![
        1 => (product.clone(), 0..12_i64).prop_map(|(product, quantity)| Step::Set(product, quantity)),
        2 => (product.clone(), -6..8_i64).prop_map(|(product, delta)| Step::Adjust(product, delta)),
        5 => (vec((product, 1..5_i64), 1..4), 1..5_i64).prop_map(|(items, ttl)| Step::Reserve(items, ttl)),
        2 => (0..30_usize).prop_map(|number| Step::End(number, Ending::Commit)),
        2 => (0..30_usize).prop_map(|number| Step::End(number, Ending::Release)),
    ]
}

/// Batches, each so many seconds after the one before.
fn batches() -> impl Strategy<Value = Vec<(i64, Vec<Step>)>> {
    vec((0..3_i64, vec(step(), 0..6)), 1..12)
}

/// The model: what is on hand, and the holds.
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

    /// Whether the step is done.
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
            Step::End(number, ending) => {
                let Some((items, _, state)) = self.holds.get_mut(*number) else { return false };
                match (*state, ending) {
                    (ReservationState::Held, Ending::Commit) => {
                        *state = ReservationState::Committed;
                        for (product, quantity) in items {
                            *self.on_hand.entry(*product).or_default() -= *quantity;
                        }
                        true
                    }
                    (ReservationState::Held, Ending::Release) => {
                        *state = ReservationState::Released;
                        true
                    }
                    (ReservationState::Committed, ending) => *ending == Ending::Commit,
                    (_, ending) => *ending == Ending::Release,
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

/// Tables, as the database keeps them between batches.
#[derive(Default)]
struct Tables {
    now: DateTime<Utc>,
    products: HashMap<ProductId, Product>,
    reservations: BTreeMap<ReservationId, Reservation>,
    /// In order of creation.
    ids: Vec<ReservationId>,
    /// Those that count as reserved.
    lines: BTreeMap<(ReservationId, ProductId), (i64, DateTime<Utc>)>,
    ledger: Vec<Entry>,
}

impl Tables {
    /// What a transaction reads that has locked all products.
    fn read(&self) -> Locked {
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
        assert!(overdue.iter().all(|line| due.contains(&&line.product_id)), "the bound lets none be overlooked");
        let known = |reservation: &Reservation| {
            let is_whole = reservation.items.as_slice().iter();
            let is_whole =
                is_whole.clone().all(|item| self.lines.contains_key(&(reservation.id, item.product_id.clone())));
            (reservation.id, Known { reservation: reservation.clone(), is_whole })
        };
        Locked {
            now: self.now,
            products: self.products.clone(),
            overdue,
            reservations: self.reservations.values().map(known).collect(),
            records: HashMap::new(),
        }
    }

    fn write(&mut self, writes: Writes, answers: &[Decided]) {
        for (id, product) in writes.products {
            self.products.insert(id, Product { changed: false, ..product });
        }
        let new = answers.iter().filter_map(|answer| match answer {
            Ok(Done::Reservation(reservation)) if reservation.state == ReservationState::Held => Some(reservation),
            _ => None,
        });
        for (reservation, hold) in new.zip(&writes.holds) {
            assert_eq!((reservation.id, reservation.expires_at), (hold.id, hold.expires_at));
            self.ids.push(hold.id);
            for item in reservation.items.as_slice() {
                self.lines.insert((hold.id, item.product_id.clone()), (item.quantity, hold.expires_at));
            }
            self.reservations.insert(hold.id, reservation.clone());
        }
        for line in writes.closed {
            assert!(self.lines.remove(&line).is_some(), "no line is closed twice");
        }
        for (id, state) in writes.ended {
            let reservation = self.reservations.get_mut(&id).expect("it is there");
            assert_eq!(reservation.state, ReservationState::Held, "no reservation ends twice");
            reservation.state = state;
        }
        self.ledger.extend(writes.entries);
    }

    /// Counters, lines and ledger agree.
    fn check(&self) {
        for (id, Product { counters, .. }) in &self.products {
            assert!(0 <= counters.reserved && counters.reserved <= counters.on_hand);
            let lines = self.lines.iter().filter(|((_, product), _)| product == id);
            assert_eq!(lines.map(|(_, (quantity, _))| quantity).sum::<i64>(), counters.reserved);
            let ledger: Vec<_> = self.ledger.iter().filter(|entry| entry.product_id == *id).collect();
            assert_eq!(ledger.iter().map(|entry| entry.on_hand_delta).sum::<i64>(), counters.on_hand);
            assert_eq!(ledger.iter().map(|entry| entry.reserved_delta).sum::<i64>(), counters.reserved);
            assert!((1..).zip(&ledger).all(|(version, entry)| entry.after.version == version), "without a gap");
            assert_eq!(ledger.last().map_or(0, |entry| entry.after.version), counters.version);
        }
    }

    fn request(&self, step: &Step) -> Request {
        plain(match step {
            Step::Set(product, quantity) => set(PRODUCTS[*product], *quantity),
            Step::Adjust(product, delta) => adjust(PRODUCTS[*product], *delta),
            Step::Reserve(wanted, ttl) => {
                let wanted: Vec<_> = wanted.iter().map(|(product, quantity)| (PRODUCTS[*product], *quantity)).collect();
                let new = NewReservation { items: items(&wanted), ttl: TimeToLive(*ttl) };
                Command::Reserve(ReservationId::new(), new)
            }
            Step::End(number, ending) => {
                Command::End(self.ids.get(*number).copied().unwrap_or_else(ReservationId::new), *ending)
            }
        })
    }
}

proptest! {
    #[test]
    fn any_batches_are_decided_as_the_model_does(batches in batches()) {
        let (mut model, mut tables) = (Model::default(), Tables::default());
        for (seconds, mut steps) in batches {
            model.advance(seconds);
            tables.now += TimeDelta::seconds(seconds);
            // A client learns a reservation's id from its answer: it cannot end it in the same batch.
            steps.retain(|step| !matches!(step, Step::End(number, _) if *number >= tables.ids.len()));
            let requests: Vec<_> = steps.iter().map(|step| tables.request(step)).collect();
            let (answers, writes) = decide(&requests, tables.read());
            for (step, answer) in steps.iter().zip(&answers) {
                prop_assert_eq!(model.step(step), answer.is_ok(), "{:?}: {:?}", step, answer);
            }
            tables.write(writes, &answers);
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
