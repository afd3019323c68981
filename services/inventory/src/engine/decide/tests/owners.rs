//! Reservations are ended by their owners only.

use super::*;

fn transition(id: ReservationId, actor: &Actor, transition: Transition, claim: Option<Claim>) -> Request {
    let (actor, preconditions, reply) = (actor.clone(), Preconditions::default(), Reply::channel().0);
    Request::Transition { id, actor, transition, preconditions, claim, reply }
}

fn decide_for(requests: Vec<Request>, rows: LockedRows) -> (Vec<Result<ReservationState, Refusal>>, Changeset) {
    let mut requests = requests;
    let changeset = super::super::decide(&mut requests, rows);
    (states(&requests.into_iter().map(outcome).collect::<Vec<_>>()), changeset)
}

#[test]
fn one_batch_ends_the_reservations_of_their_owners() {
    let [ada, bob] = ["ada", "bob"].map(Actor::user);
    let own = |(id, reservation), actor: &Actor| (id, Reservation { subject: actor.subject.clone(), ..reservation });
    let (of_ada, of_bob) = (own(held(&[("a", 3)], 1), &ada), own(held(&[("a", 2)], 1), &bob));
    let (first, second) = (of_ada.0, of_bob.0);
    let locked = LockedRows { reservations: [of_ada, of_bob].into(), ..locked(&[("a", 9, 5)]) };
    let key = IdempotencyKey::try_from(b"k".as_slice()).expect("a valid key");
    let claim = Some(claim_transition(first, Transition::Release, &key));
    let requests = vec![
        transition(first, &bob, Transition::Commit, None),
        transition(first, &Actor::user(""), Transition::Commit, None),
        transition(first, &bob, Transition::Release, claim),
        transition(first, &ada, Transition::Commit, None),
        transition(first, &bob, Transition::Commit, None),
        transition(second, &bob, Transition::Release, None),
    ];
    let (states, changeset) = decide_for(requests, locked);
    let unknown = || Err(Refusal::NoSuchReservation);
    let committed = Ok(ReservationState::Committed);
    assert_eq!(
        states,
        [unknown(), unknown(), unknown(), committed, unknown(), Ok(ReservationState::Released)],
        "to others it does not exist, before and after its end"
    );
    assert_eq!(changeset.ended, [(first, ReservationState::Committed), (second, ReservationState::Released)]);
    assert_eq!(changeset.responses, [], "the key of the refused request is free");
}

#[test]
fn a_new_reservation_belongs_to_whoever_made_it() {
    let actor = Actor::user("ada");
    let new = NewReservation { items: items(&[("a", 1)]), ttl: TimeToLive(10) };
    let id = ReservationId::generate();
    let make = Request::Reserve { id, actor: actor.clone(), new, claim: None, reply: Reply::channel().0 };
    let (states, changeset) = decide_for(vec![make], locked(&[("a", 9, 0)]));
    assert_eq!(states, [Ok(ReservationState::Held)]);
    assert_eq!(changeset.holds[0].subject, actor.subject);
}
