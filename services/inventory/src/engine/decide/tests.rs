//! Rules of the decision, one by one. `model.rs` compares it with a simple model.

mod model;

use chrono::TimeDelta;

use super::*;
use crate::{
    engine::idempotency::Claim,
    model::{Delta, Ending, IdempotencyKey, Item, Items, NewReservation, Quantity, Shortage, TimeToLive},
};

fn product(name: &str) -> ProductId {
    ProductId::try_from(name.to_owned()).expect("valid")
}

fn set(name: &str, quantity: i64) -> Command {
    Command::Change(Change { product_id: product(name), action: Action::Set(Quantity(quantity)) })
}

fn adjust(name: &str, delta: i64) -> Command {
    Command::Change(Change { product_id: product(name), action: Action::Adjust(Delta(delta), None) })
}

fn items(items: &[(&str, i64)]) -> Items {
    let items = items.iter().map(|(name, quantity)| Item { product_id: product(name), quantity: *quantity });
    Items::merge(items.collect()).expect("items")
}

fn reserve(wanted: &[(&str, i64)]) -> Command {
    Command::Reserve(ReservationId::new(), NewReservation { items: items(wanted), ttl: TimeToLive(10) })
}

fn plain(command: Command) -> Request {
    Request { command, claim: None }
}

fn keyed(command: Command, key: &str) -> Request {
    let key = IdempotencyKey::try_from(key.as_bytes()).expect("valid");
    let claim = Claim::new(&command, &key);
    assert!(claim.is_some());
    Request { command, claim }
}

fn locked(products: &[(&str, i64, i64)]) -> Locked {
    let products = products.iter().map(|(name, on_hand, reserved)| {
        let counters = Counters { on_hand: *on_hand, reserved: *reserved, version: 7 };
        (product(name), Product { counters, ..Product::default() })
    });
    Locked { now: DateTime::UNIX_EPOCH, products: products.collect(), ..Locked::default() }
}

/// A reservation of these items that is held until so many seconds from now.
fn held(wanted: &[(&str, i64)], seconds: i64) -> (ReservationId, Known) {
    let id = ReservationId::new();
    let expires_at = DateTime::UNIX_EPOCH + TimeDelta::seconds(seconds);
    let reservation = Reservation { id, state: ReservationState::Held, items: items(wanted), expires_at };
    (id, Known { reservation, is_whole: true })
}

/// What can be had, or why not.
fn stocks(decided: &[Decided]) -> Vec<Result<i64, Refusal>> {
    let stock = |decided: &Decided| match decided.clone()? {
        Done::Stock(stock) => Ok(stock.stock),
        other => panic!("{other:?}"),
    };
    decided.iter().map(stock).collect()
}

fn states(decided: &[Decided]) -> Vec<Result<ReservationState, Refusal>> {
    let state = |decided: &Decided| match decided.clone()? {
        Done::Reservation(reservation) => Ok(reservation.state),
        other => panic!("{other:?}"),
    };
    decided.iter().map(state).collect()
}

fn after(writes: &Writes, name: &str) -> Counters {
    writes.products.iter().find(|(id, _)| *id == product(name)).expect("it was changed").1.counters
}

#[test]
fn each_change_sees_those_before_it() {
    let requests = [set("p", 5), adjust("p", -3), adjust("p", -3), adjust("p", 1)].map(plain);
    let (answers, writes) = decide(&requests, Locked::default());
    let refusal = Refusal::InsufficientStock { left: -1, reserved: 0 };
    assert_eq!(stocks(&answers), [Ok(5), Ok(2), Err(refusal), Ok(3)]);
    assert_eq!(writes.entries.iter().map(|entry| entry.after.version).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(writes.entries.iter().map(|entry| entry.on_hand_delta).sum::<i64>(), after(&writes, "p").on_hand);
}

#[test]
fn nothing_falls_under_what_is_reserved() {
    let requests = [set("p", 3), adjust("p", -7), adjust("p", -6)].map(plain);
    let (answers, writes) = decide(&requests, locked(&[("p", 10, 4)]));
    let refusal = Refusal::InsufficientStock { left: 3, reserved: 4 };
    assert_eq!(stocks(&answers), [Err(refusal.clone()), Err(refusal), Ok(0)]);
    assert_eq!(after(&writes, "p"), Counters { on_hand: 4, reserved: 4, version: 8 });
}

#[test]
fn nothing_grows_beyond_what_json_carries() {
    let requests = [adjust("p", 1), adjust("p", 1), adjust("p", MAX_QUANTITY)].map(plain);
    let (answers, _) = decide(&requests, locked(&[("p", MAX_QUANTITY - 1, 0)]));
    assert_eq!(stocks(&answers), [Ok(MAX_QUANTITY), Err(Refusal::TooLarge), Err(Refusal::TooLarge)]);
}

#[test]
fn of_several_items_all_are_held_or_none_and_those_that_want_are_named() {
    let requests = [reserve(&[("a", 1), ("b", 9), ("c", 1)]), reserve(&[("a", 2), ("b", 3)])].map(plain);
    let (answers, writes) = decide(&requests, locked(&[("a", 2, 0), ("b", 5, 2)]));
    let shortage = |name, quantity, stock| Shortage { product_id: product(name), quantity, stock };
    let shortages = vec![shortage("b", 9, 3), shortage("c", 1, 0)];
    assert_eq!(states(&answers), [Err(Refusal::Shortage(shortages)), Ok(ReservationState::Held)]);
    assert_eq!((after(&writes, "a").reserved, after(&writes, "b").reserved), (2, 5));
    assert_eq!((writes.entries.len(), writes.holds.len()), (2, 1));
}

#[test]
fn who_arrives_first_gets_the_last_one() {
    let requests = [reserve(&[("a", 1)]), reserve(&[("a", 1)]), adjust("a", 1), reserve(&[("a", 1)])].map(plain);
    let (answers, _) = decide(&requests, locked(&[("a", 1, 0)]));
    assert_eq!(answers.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true, true]);
}

#[test]
fn expired_holds_are_free_before_anything_is_decided() {
    let (id, _) = held(&[("a", 3)], -1);
    let overdue = OverdueLine { reservation_id: id, product_id: product("a"), quantity: 3, is_first: true };
    let locked = Locked { overdue: vec![overdue], ..locked(&[("a", 3, 3)]) };
    let (answers, writes) = decide(&[plain(reserve(&[("a", 3)]))], locked);
    assert_eq!(states(&answers), [Ok(ReservationState::Held)]);
    assert_eq!(writes.entries.iter().map(|entry| entry.kind).collect::<Vec<_>>(), ["expire", "hold"]);
    assert_eq!(writes.ended, [(id, ReservationState::Expired)]);
    assert_eq!(writes.closed, [(id, product("a"))]);
}

#[test]
fn a_hold_ends_once() {
    let (id, known) = held(&[("a", 3)], 1);
    for (first, second, state) in [
        (Ending::Commit, Ending::Release, ReservationState::Committed),
        (Ending::Release, Ending::Commit, ReservationState::Released),
    ] {
        let locked = Locked { reservations: [(id, known.clone())].into(), ..locked(&[("a", 5, 3)]) };
        let requests = [first, first, second].map(|ending| plain(Command::End(id, ending)));
        let (answers, writes) = decide(&requests, locked);
        assert_eq!(states(&answers), [Ok(state), Ok(state), Err(Refusal::WrongState(state))]);
        assert_eq!((writes.ended.as_slice(), writes.entries.len()), ([(id, state)].as_slice(), 1));
        let on_hand = if first == Ending::Commit { 2 } else { 5 };
        assert_eq!(after(&writes, "a"), Counters { on_hand, reserved: 0, version: 8 });
    }
}

#[test]
fn a_hold_whose_time_is_up_cannot_be_committed_and_may_be_released() {
    let (id, known) = held(&[("a", 3), ("b", 1)], 0);
    let (other, mut half) = held(&[("a", 3), ("b", 1)], 1);
    // Its other line was settled by a clock that was ahead.
    half.is_whole = false;
    let reservations = HashMap::from([(id, known), (other, half)]);
    let locked = Locked { reservations, ..locked(&[("a", 9, 6), ("b", 9, 1)]) };
    let requests =
        [id, other].map(|id| [Ending::Commit, Ending::Release].map(|ending| plain(Command::End(id, ending))));
    let (answers, writes) = decide(requests.concat().as_slice(), locked);
    let refusal = Refusal::WrongState(ReservationState::Expired);
    let expected = [Err(refusal.clone()), Ok(ReservationState::Expired), Err(refusal), Ok(ReservationState::Expired)];
    assert_eq!(states(&answers), expected);
    assert!(writes.is_empty(), "settling is what gives it back: {writes:?}");
}

#[test]
fn twins_in_one_batch_get_one_answer_and_another_request_under_their_key_none() {
    let twin = reserve(&[("a", 2)]);
    let other = reserve(&[("a", 1)]);
    let requests = [keyed(twin.clone(), "k"), keyed(twin, "k"), keyed(other.clone(), "k"), keyed(other, "l")];
    let (answers, writes) = decide(&requests, locked(&[("a", 3, 0)]));
    assert_eq!(answers[0], answers[1]);
    assert_eq!(answers[2], Err(Refusal::KeyReused));
    assert!(answers[3].is_ok());
    assert_eq!((after(&writes, "a").reserved, writes.records.len(), writes.holds.len()), (3, 2, 2));
}

#[test]
fn a_shortage_is_kept_and_what_is_invalid_is_not() {
    let short = keyed(reserve(&[("a", 2)]), "short");
    let large = keyed(adjust("a", MAX_QUANTITY), "large");
    let requests = [short.clone(), large.clone(), plain(adjust("a", -1)), plain(adjust("a", 5)), short, large];
    let (answers, writes) = decide(&requests, locked(&[("a", 1, 0)]));
    assert_eq!(answers[0], answers[4], "though there is enough by now");
    assert_eq!((&answers[1], &answers[5]), (&Err(Refusal::TooLarge), &Err(Refusal::TooLarge)));
    assert_eq!(writes.records.len(), 1);
}
