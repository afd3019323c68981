//! The rules of the decision, one by one. `model.rs` compares it with a simple model.

mod model;
mod owners;

use std::sync::Arc;

use chassis::idempotency::{IdempotencyKey, KeyReused};
use http::Method;

use super::*;
use crate::{
    engine::request::Reply,
    error::Error,
    model::{
        Delta, ExpiryChange, Items, Quantity, TimeToLive, Version, claim_adjustment, claim_reservation, claim_set,
        claim_transition,
    },
};

/// What a request asks for.
#[derive(Debug, Clone)]
enum Operation {
    Change(Change),
    Reserve(ReservationId, NewReservation),
    Transition(ReservationId, Transition),
}

/// The reply to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    Stock(Stock),
    Reservation(Reservation),
}

/// An operation and its idempotency key.
type Call = (Operation, Option<&'static str>);

fn plain(operation: Operation) -> Call {
    (operation, None)
}

fn keyed(operation: Operation, key: &'static str) -> Call {
    (operation, Some(key))
}

fn request((operation, key): &Call) -> Request {
    let key = key.map(|key| IdempotencyKey::try_from(key.as_bytes()).expect("a valid key"));
    match operation.clone() {
        Operation::Change(change) => {
            let claim = key.map(|key| match &change.action {
                Action::Adjust(delta, reason) => claim_adjustment(&change.product_id, *delta, reason.as_ref(), &key),
                Action::Set(quantity) => claim_set(&Method::PUT, &change.product_id, *quantity, &key),
            });
            Request::Change { change, preconditions: Preconditions::default(), claim, reply: Reply::channel().0 }
        }
        Operation::Reserve(id, new) => {
            let claim = key.map(|key| claim_reservation(&new, &key));
            Request::Reserve { id, actor: Actor::default(), new, claim, reply: Reply::channel().0 }
        }
        Operation::Transition(id, transition) => {
            let claim = key.map(|key| claim_transition(id, transition, &key));
            let (actor, preconditions) = (Actor::default(), Preconditions::default());
            Request::Transition { id, actor, transition, preconditions, claim, reply: Reply::channel().0 }
        }
    }
}

fn outcome(request: Request) -> Result<Outcome, Refusal> {
    let result = match request {
        Request::Change { reply, .. } => reply.into_result().map(|result| result.map(Outcome::Stock)),
        Request::Reserve { reply, .. } | Request::Transition { reply, .. } => {
            reply.into_result().map(|result| result.map(Outcome::Reservation))
        }
        Request::Settle { .. } => panic!("no test settles"),
    };
    result.expect("the request is decided").map_err(|error| match error {
        Error::Refused(refusal) => refusal,
        other => panic!("{other:?}"),
    })
}

/// Decides calls; returns their outcomes and the changeset.
fn decide(calls: &[Call], rows: LockedRows) -> (Vec<Result<Outcome, Refusal>>, Changeset) {
    let mut requests: Vec<_> = calls.iter().map(request).collect();
    let changeset = super::decide(&mut requests, rows);
    (requests.into_iter().map(outcome).collect(), changeset)
}

fn product(name: &str) -> ProductId {
    ProductId::try_from(name.to_owned()).expect("a valid id")
}

fn set(name: &str, quantity: i64) -> Operation {
    Operation::Change(Change { product_id: product(name), action: Action::Set(Quantity(quantity)) })
}

fn adjust(name: &str, delta: i64) -> Operation {
    Operation::Change(Change { product_id: product(name), action: Action::Adjust(Delta(delta), None) })
}

fn items(items: &[(&str, i64)]) -> Items {
    let items = items.iter().map(|(name, quantity)| Item { product_id: product(name), quantity: *quantity });
    Items::merge(items.collect()).expect("valid items")
}

fn reserve(list: &[(&str, i64)]) -> Operation {
    Operation::Reserve(ReservationId::generate(), NewReservation { items: items(list), ttl: TimeToLive(10) })
}

fn locked(products: &[(&str, i64, i64)]) -> LockedRows {
    let products = products.iter().map(|(name, on_hand, reserved)| {
        let counters = Counters { on_hand: *on_hand, reserved: *reserved, version: version(7, 0) };
        (product(name), ProductRow { counters, ..ProductRow::default() })
    });
    LockedRows { now: DateTime::UNIX_EPOCH, products: products.collect(), ..LockedRows::default() }
}

fn version(number: i64, expired: i64) -> Version {
    Version { number, expired }
}

/// A held reservation of these items that expires in this many seconds.
fn held(list: &[(&str, i64)], seconds: i64) -> (ReservationId, Reservation) {
    let id = ReservationId::generate();
    let (subject, items) = (Arc::default(), items(list));
    (id, Reservation { id, subject, state: ReservationState::Held, items, expires_at: at(seconds) })
}

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::seconds(seconds)
}

/// The available stock that each outcome reports.
fn stocks(outcomes: &[Result<Outcome, Refusal>]) -> Vec<Result<i64, Refusal>> {
    let stock = |outcome: &Result<Outcome, Refusal>| match outcome.clone()? {
        Outcome::Stock(stock) => Ok(stock.stock),
        other @ Outcome::Reservation(_) => panic!("{other:?}"),
    };
    outcomes.iter().map(stock).collect()
}

/// The state of the reservation that each outcome reports.
fn states(outcomes: &[Result<Outcome, Refusal>]) -> Vec<Result<ReservationState, Refusal>> {
    let state = |outcome: &Result<Outcome, Refusal>| match outcome.clone()? {
        Outcome::Reservation(reservation) => Ok(reservation.state),
        other @ Outcome::Stock(_) => panic!("{other:?}"),
    };
    outcomes.iter().map(state).collect()
}

fn after(changeset: &Changeset, name: &str) -> Counters {
    changeset.products.iter().find(|(id, _)| *id == product(name)).expect("the product was changed").1.counters
}

#[test]
fn each_change_sees_the_effects_of_earlier_ones() {
    let requests = [set("p", 5), adjust("p", -3), adjust("p", -3), adjust("p", 1)].map(plain);
    let (outcomes, changeset) = decide(&requests, LockedRows::default());
    let refusal = Refusal::InsufficientStock { left: -1, reserved: 0 };
    assert_eq!(stocks(&outcomes), [Ok(5), Ok(2), Err(refusal), Ok(3)]);
    assert_eq!(changeset.movements.iter().map(|movement| movement.after.version.number).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(
        changeset.movements.iter().map(|movement| movement.on_hand_delta).sum::<i64>(),
        after(&changeset, "p").on_hand
    );
}

#[test]
fn on_hand_never_falls_below_reserved() {
    let requests = [set("p", 3), adjust("p", -7), adjust("p", -6)].map(plain);
    let (outcomes, changeset) = decide(&requests, locked(&[("p", 10, 4)]));
    let refusal = Refusal::InsufficientStock { left: 3, reserved: 4 };
    assert_eq!(stocks(&outcomes), [Err(refusal.clone()), Err(refusal), Ok(0)]);
    assert_eq!(after(&changeset, "p"), Counters { on_hand: 4, reserved: 4, version: version(8, 0) });
}

#[test]
fn on_hand_never_exceeds_what_json_can_represent() {
    let requests = [adjust("p", 1), adjust("p", 1), adjust("p", MAX_QUANTITY)].map(plain);
    let (outcomes, _) = decide(&requests, locked(&[("p", MAX_QUANTITY - 1, 0)]));
    assert_eq!(stocks(&outcomes), [Ok(MAX_QUANTITY), Err(Refusal::TooLarge), Err(Refusal::TooLarge)]);
}

#[test]
fn all_items_are_reserved_or_none_and_shortages_are_listed() {
    let requests = [reserve(&[("a", 1), ("b", 9), ("c", 1)]), reserve(&[("a", 2), ("b", 3)])].map(plain);
    let (outcomes, changeset) = decide(&requests, locked(&[("a", 2, 0), ("b", 5, 2)]));
    let shortage = |name, quantity, stock| Shortage { product_id: product(name), quantity, stock };
    let shortages = vec![shortage("b", 9, 3), shortage("c", 1, 0)];
    assert_eq!(states(&outcomes), [Err(Refusal::Shortage(shortages)), Ok(ReservationState::Held)]);
    assert_eq!((after(&changeset, "a").reserved, after(&changeset, "b").reserved), (2, 5));
    assert_eq!((changeset.movements.len(), changeset.holds.len()), (2, 1));
}

#[test]
fn the_first_request_gets_the_last_item() {
    let requests = [reserve(&[("a", 1)]), reserve(&[("a", 1)]), adjust("a", 1), reserve(&[("a", 1)])].map(plain);
    let (outcomes, _) = decide(&requests, locked(&[("a", 1, 0)]));
    assert_eq!(outcomes.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true, true]);
}

#[test]
fn expired_holds_are_settled_before_anything_is_decided() {
    let due = DueExpiries { quantity: 3, holds: 2, next_expiry: Some(at(30)) };
    let now = at(5) + TimeDelta::milliseconds(1);
    let locked = LockedRows { now, due: [(product("a"), due)].into(), ..locked(&[("a", 5, 4)]) };
    let (outcomes, changeset) = decide(&[plain(reserve(&[("a", 4)]))], locked);
    assert_eq!(states(&outcomes), [Ok(ReservationState::Held)]);
    let [expire, hold] = changeset.movements.as_slice() else { panic!("{:?}", changeset.movements) };
    assert_eq!((expire.kind, expire.reserved_delta), ("expire", -3));
    assert_eq!(expire.cause, Cause::Expiry { holds: 2, until: at(5) });
    let versions = (expire.after.version, hold.after.version);
    assert_eq!((hold.kind, versions), ("hold", (version(9, 2), version(10, 2))), "a number for each hold");
    assert_eq!(changeset.ended, [], "no reservation is written");
    let (_, row) = &changeset.products[0];
    assert_eq!((row.settled_until, row.next_expiry), (at(5), Some(at(16))));
}

#[test]
fn holds_expire_at_the_end_of_a_second() {
    for (millisecond, second) in [(0, 10), (1, 11), (999, 11)] {
        let locked =
            LockedRows { now: at(0) + TimeDelta::milliseconds(millisecond), ..locked(&[("a", 9, 0), ("b", 9, 0)]) };
        let requests = [reserve(&[("a", 1), ("b", 2)]), reserve(&[("a", 3)])].map(plain);
        let (outcomes, changeset) = decide(&requests, locked);
        assert_eq!(states(&outcomes), [Ok(ReservationState::Held), Ok(ReservationState::Held)]);
        assert!(changeset.holds.iter().all(|hold| hold.expires_at == at(second)));
        let expected = [("a", 4, 2), ("b", 2, 1)]
            .map(|(name, quantity, holds)| ((product(name), at(second)), ExpiryChange { quantity, holds }));
        assert_eq!(changeset.expiries.into_iter().collect::<Vec<_>>(), expected);
    }
}

#[test]
fn a_hold_ends_only_once() {
    let (id, reservation) = held(&[("a", 3)], 1);
    for (first, second, state) in [
        (Transition::Commit, Transition::Release, ReservationState::Committed),
        (Transition::Release, Transition::Commit, ReservationState::Released),
    ] {
        let locked = LockedRows { reservations: [(id, reservation.clone())].into(), ..locked(&[("a", 5, 3)]) };
        let requests = [first, first, second].map(|transition| plain(Operation::Transition(id, transition)));
        let (outcomes, changeset) = decide(&requests, locked);
        assert_eq!(states(&outcomes), [Ok(state), Ok(state), Err(Refusal::WrongState(state))]);
        assert_eq!((changeset.ended.as_slice(), changeset.movements.len()), ([(id, state)].as_slice(), 1));
        let expected = [((product("a"), at(1)), ExpiryChange { quantity: -3, holds: -1 })];
        assert_eq!(changeset.expiries.clone().into_iter().collect::<Vec<_>>(), expected);
        let on_hand = if first == Transition::Commit { 2 } else { 5 };
        assert_eq!(after(&changeset, "a"), Counters { on_hand, reserved: 0, version: version(8, 0) });
    }
}

#[test]
fn an_expired_hold_can_be_released_but_not_committed() {
    let (id, reservation) = held(&[("a", 3), ("b", 1)], 0);
    let locked = LockedRows { reservations: [(id, reservation)].into(), ..locked(&[("a", 9, 6), ("b", 9, 1)]) };
    let requests = [Transition::Commit, Transition::Release].map(|end| plain(Operation::Transition(id, end)));
    let (outcomes, changeset) = decide(&requests, locked);
    let refusal = Refusal::WrongState(ReservationState::Expired);
    assert_eq!(states(&outcomes), [Err(refusal), Ok(ReservationState::Expired)]);
    assert!(changeset.is_empty(), "only settling returns the stock: {changeset:?}");
}

/// Another server may believe the time to be later, and settle a product up to then.
#[test]
fn a_product_settled_ahead_expires_no_holds_of_others() {
    let (id, of_both) = held(&[("a", 1), ("ahead", 1)], 60);
    let (other, of_one) = held(&[("a", 1)], 60);
    let due = DueExpiries { quantity: 1, holds: 1, next_expiry: Some(at(60)) };
    let mut locked = LockedRows {
        reservations: [(id, of_both), (other, of_one)].into(),
        due: [(product("a"), due)].into(),
        ..locked(&[("a", 9, 3), ("ahead", 9, 0)])
    };
    locked.products.get_mut(&product("ahead")).expect("the product").settled_until = at(3600);
    let commits = [id, other].map(|id| plain(Operation::Transition(id, Transition::Commit)));
    let reservations = [reserve(&[("a", 1)]), reserve(&[("a", 1), ("ahead", 1)])].map(plain);
    let (outcomes, changeset) = decide(&[commits, reservations].concat(), locked);
    let expected = [Err(Refusal::WrongState(ReservationState::Expired)), Ok(ReservationState::Committed)];
    assert_eq!(states(&outcomes[..2]), expected);
    let expiries: Vec<_> = changeset.holds.iter().map(|hold| hold.expires_at).collect();
    assert_eq!(expiries, [at(10), at(3601)], "a hold expires after what is settled of its own products");
    let settled =
        |name| changeset.products.iter().find(|(id, _)| *id == product(name)).expect("changed").1.settled_until;
    assert_eq!((settled("a"), settled("ahead")), (at(0), at(3600)));
}

#[test]
fn duplicates_in_a_batch_get_one_response() {
    let duplicate = reserve(&[("a", 2)]);
    let other = reserve(&[("a", 1)]);
    let requests = [keyed(duplicate.clone(), "k"), keyed(duplicate, "k"), keyed(other.clone(), "k"), keyed(other, "l")];
    let (outcomes, changeset) = decide(&requests, locked(&[("a", 3, 0)]));
    assert_eq!(outcomes[0], outcomes[1]);
    assert_eq!(outcomes[2], Err(Refusal::KeyReused(KeyReused)));
    assert!(outcomes[3].is_ok());
    assert_eq!((after(&changeset, "a").reserved, changeset.responses.len(), changeset.holds.len()), (3, 2, 2));
}

#[test]
fn a_shortage_is_stored_but_an_invalid_request_is_not() {
    let short = keyed(reserve(&[("a", 2)]), "short");
    let large = keyed(adjust("a", MAX_QUANTITY), "large");
    let requests = [short.clone(), large.clone(), plain(adjust("a", -1)), plain(adjust("a", 5)), short, large];
    let (outcomes, changeset) = decide(&requests, locked(&[("a", 1, 0)]));
    assert_eq!(outcomes[0], outcomes[4], "the stored response is sent although there is enough now");
    assert_eq!((&outcomes[1], &outcomes[5]), (&Err(Refusal::TooLarge), &Err(Refusal::TooLarge)));
    assert_eq!(changeset.responses.len(), 1);
}
