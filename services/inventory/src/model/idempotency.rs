//! Idempotency keys: what the requests of inventory claim, and which responses are stored.

use std::sync::Arc;

use chassis::idempotency::{Claim, IdempotencyKey, KeyReused, Stored};
use chrono::{DateTime, Utc};
use contracts::{ProductId, ResourceId as ReservationId};
use http::Method;
use serde::{Deserialize, Serialize};

use super::{
    movement::Reason,
    number::{Delta, Quantity},
    refusal::{Refusal, Shortage},
    reservation::{Item, Items, NewReservation, Reservation, ReservationState, Transition},
    stock::{Counters, Stock, Version},
};

/// The claim of a request to set stock. `PUT` and `POST` are two operations.
pub(crate) fn claim_set(method: &Method, product_id: &ProductId, quantity: Quantity, key: &IdempotencyKey) -> Claim {
    Claim::new(key, method, &stock_path(product_id), [quantity.0.to_le_bytes()])
}

/// The claim of a request to adjust stock.
pub(crate) fn claim_adjustment(
    product_id: &ProductId,
    delta: Delta,
    reason: Option<&Reason>,
    key: &IdempotencyKey,
) -> Claim {
    let delta = delta.0.to_le_bytes();
    let reason = reason.map(|reason| reason.as_str().as_bytes());
    Claim::new(key, &Method::PATCH, &stock_path(product_id), [delta.as_slice()].into_iter().chain(reason))
}

/// The claim of a request to reserve stock.
pub(crate) fn claim_reservation(new: &NewReservation, key: &IdempotencyKey) -> Claim {
    let ttl = new.ttl.0.to_le_bytes();
    let items: Vec<_> =
        new.items.as_slice().iter().map(|item| (&item.product_id, item.quantity.to_le_bytes())).collect();
    let parts = items.iter().flat_map(|(product, quantity)| [product.as_str().as_bytes(), quantity.as_slice()]);
    Claim::new(key, &Method::POST, "/reservations", [ttl.as_slice()].into_iter().chain(parts))
}

/// The claim of a request to commit or release a reservation.
pub(crate) fn claim_transition(id: ReservationId, transition: Transition, key: &IdempotencyKey) -> Claim {
    let action = match transition {
        Transition::Commit => "commit",
        Transition::Release => "release",
    };
    Claim::new(key, &Method::POST, &format!("/reservations/{id}/{action}"), [""; 0])
}

fn stock_path(product_id: &ProductId) -> String {
    format!("/inventory/{}", product_id.as_str())
}

/// Returns what is stored for a result; `None` if repetitions should be decided afresh.
pub(crate) fn to_stored<T: Replayable>(claim: &Claim, result: &Result<T, Refusal>) -> Option<Stored<StoredResponse>> {
    let response = match result {
        Ok(reply) => reply.to_stored(),
        Err(Refusal::InsufficientStock { left, reserved }) => {
            StoredResponse::InsufficientStock { left: *left, reserved: *reserved }
        }
        Err(Refusal::Shortage(shortages)) => StoredResponse::Shortage(shortages.clone()),
        Err(
            Refusal::TooLarge
            | Refusal::PreconditionFailed
            | Refusal::NoSuchReservation
            | Refusal::WrongState(_)
            | Refusal::KeyReused(_),
        ) => return None,
    };
    Some(Stored { claim: claim.clone(), response })
}

/// Returns the stored result, for a repetition of its request. Any other request gets [`Refusal::KeyReused`].
pub(crate) fn replay<T: Replayable>(stored: Stored<StoredResponse>, claim: &Claim) -> Result<T, Refusal> {
    match stored.replay(claim)? {
        StoredResponse::InsufficientStock { left, reserved } => Err(Refusal::InsufficientStock { left, reserved }),
        StoredResponse::Shortage(shortages) => Err(Refusal::Shortage(shortages)),
        reply => T::from_stored(reply).ok_or(Refusal::KeyReused(KeyReused)),
    }
}

/// A response as it is stored. Other versions of the service read it too: additions must be optional.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum StoredResponse {
    Stock {
        product_id: ProductId,
        on_hand: i64,
        reserved: i64,
        version: i64,
        #[serde(default)]
        expired: i64,
    },
    Reservation {
        id: ReservationId,
        state: ReservationState,
        items: Vec<Item>,
        expires_at: DateTime<Utc>,
    },
    InsufficientStock {
        left: i64,
        reserved: i64,
    },
    Shortage(Vec<Shortage>),
}

/// A reply that can be stored and sent again.
pub(crate) trait Replayable: Sized {
    fn to_stored(&self) -> StoredResponse;

    /// Returns `None` if another kind of reply was stored.
    fn from_stored(stored: StoredResponse) -> Option<Self>;
}

impl Replayable for Stock {
    fn to_stored(&self) -> StoredResponse {
        let Self { product_id, on_hand, reserved, version: Version { number, expired }, .. } = self.clone();
        StoredResponse::Stock { product_id, on_hand, reserved, version: number, expired }
    }

    fn from_stored(stored: StoredResponse) -> Option<Self> {
        let StoredResponse::Stock { product_id, on_hand, reserved, version, expired } = stored else { return None };
        let version = Version { number: version, expired };
        Some(Self::new(product_id, Counters { on_hand, reserved, version }))
    }
}

impl Replayable for Reservation {
    fn to_stored(&self) -> StoredResponse {
        let Self { id, state, items, expires_at, subject: _ } = self;
        let items = items.as_slice().to_vec();
        StoredResponse::Reservation { id: *id, state: *state, items, expires_at: *expires_at }
    }

    fn from_stored(stored: StoredResponse) -> Option<Self> {
        let StoredResponse::Reservation { id, state, items, expires_at } = stored else { return None };
        Some(Self { id, subject: Arc::default(), state, items: Items::stored(items), expires_at })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::number::TimeToLive;

    fn key(text: &str) -> IdempotencyKey {
        IdempotencyKey::try_from(text.as_bytes()).expect("a valid key")
    }

    fn product(name: &str) -> ProductId {
        ProductId::try_from(name.to_owned()).expect("a valid id")
    }

    fn set(method: &Method, name: &str, quantity: i64) -> Claim {
        claim_set(method, &product(name), Quantity(quantity), &key("k"))
    }

    fn adjustment(name: &str, delta: i64, reason: Option<&str>, key_text: &str) -> Claim {
        let reason = reason.map(|reason| Reason::try_from(reason.to_owned()).expect("a valid reason"));
        claim_adjustment(&product(name), Delta(delta), reason.as_ref(), &key(key_text))
    }

    fn reservation(items: &[(&str, i64)], ttl: i64) -> Claim {
        let items = items.iter().map(|(name, quantity)| Item { product_id: product(name), quantity: *quantity });
        let items = Items::merge(items.collect()).expect("valid items");
        claim_reservation(&NewReservation { items, ttl: TimeToLive(ttl) }, &key("k"))
    }

    #[test]
    fn the_order_of_items_does_not_matter_to_a_claim() {
        let claim = reservation(&[("a", 1), ("b", 2)], 900);
        assert_eq!(claim, reservation(&[("b", 1), ("a", 1), ("b", 1)], 900));
    }

    #[test]
    fn requests_differ_by_fingerprint_and_operations_by_id() {
        let claims = [
            reservation(&[("a", 1)], 900),
            reservation(&[("a", 2)], 900),
            reservation(&[("a", 1)], 901),
            reservation(&[("b", 1)], 900),
            reservation(&[("a", 1), ("b", 1)], 900),
            adjustment("a", 1, None, "k"),
            adjustment("a", 2, None, "k"),
            adjustment("a", 1, Some(""), "k"),
        ];
        for (number, claim) in claims.iter().enumerate() {
            assert!(claims[..number].iter().all(|other| other.fingerprint != claim.fingerprint), "{number}");
        }
        assert_eq!(claims[0].id, claims[4].id);
        assert_ne!(claims[0].id, claims[5].id);
        assert_ne!(claims[5].id, adjustment("b", 1, None, "k").id);
        assert_ne!(claims[5].id, adjustment("a", 1, None, "K").id);
    }

    #[test]
    fn set_adjust_commit_and_release_are_operations_of_their_own() {
        let (one, other) = (ReservationId::generate(), ReservationId::generate());
        let ids = [
            set(&Method::PUT, "a", 1).id,
            set(&Method::POST, "a", 1).id,
            set(&Method::PUT, "b", 1).id,
            adjustment("a", 1, None, "k").id,
            claim_transition(one, Transition::Commit, &key("k")).id,
            claim_transition(one, Transition::Release, &key("k")).id,
            claim_transition(other, Transition::Commit, &key("k")).id,
        ];
        for (number, id) in ids.iter().enumerate() {
            assert!(!ids[..number].contains(id), "{number}");
        }
        assert_ne!(set(&Method::PUT, "a", 1).fingerprint, set(&Method::PUT, "a", 2).fingerprint);
    }

    #[test]
    fn a_response_of_another_kind_is_not_replayed() {
        let claim = adjustment("a", 1, None, "k");
        let stock =
            Stock::new(product("a"), Counters { on_hand: 1, reserved: 0, version: Version { number: 4, expired: 2 } });
        let stored = to_stored(&claim, &Ok(stock.clone())).expect("a stored response");
        assert_eq!(replay(stored.clone(), &claim), Ok(stock));
        assert_eq!(replay::<Reservation>(stored, &claim), Err(Refusal::KeyReused(KeyReused)));
    }
}
