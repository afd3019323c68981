//! Requests that are answered once, however often they are made.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::request::{Command, Decided, Done};
use crate::model::{
    Action, Counters, IdempotencyKey, Item, Items, ProductId, Reason, Refusal, Reservation, ReservationId,
    ReservationState, Shortage, Stock,
};

/// A SHA-256.
pub(crate) type Digest = [u8; 32];

/// A key as it is claimed: by whom, for which operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) id: Digest,
    /// Of the request as it was understood: a repetition has the same.
    pub(crate) fingerprint: Digest,
}

impl Claim {
    /// Of a command that may have a key. Its operation is named by method and path, by whatever protocol it comes.
    pub(super) fn new(command: &Command, key: &IdempotencyKey) -> Option<Self> {
        // Until there is login everybody is the same subject.
        let subject = "";
        let (method, path) = match command {
            Command::Reserve(..) => ("POST", "/reservations".to_owned()),
            Command::Change(change) => ("PATCH", format!("/inventory/{}", change.product_id.as_str())),
            Command::End(..) | Command::Settle(_) => return None,
        };
        let id = digest([subject, method, &path, key.as_str()].map(str::as_bytes));
        Some(Self { id, fingerprint: fingerprint(command)? })
    }
}

fn fingerprint(command: &Command) -> Option<Digest> {
    match command {
        Command::Reserve(_, new) => {
            let ttl = new.ttl.0.to_le_bytes();
            let items = new.items.as_slice().iter().map(|item| (item.product_id.as_str(), item.quantity.to_le_bytes()));
            let items: Vec<_> = items.collect();
            let parts = items.iter().flat_map(|(product, quantity)| [product.as_bytes(), quantity.as_slice()]);
            Some(digest([ttl.as_slice()].into_iter().chain(parts)))
        }
        Command::Change(change) => match &change.action {
            Action::Set(_) => None,
            Action::Adjust(delta, None) => Some(digest([delta.0.to_le_bytes().as_slice()])),
            Action::Adjust(delta, Some(reason)) => {
                Some(digest([delta.0.to_le_bytes().as_slice(), Reason::as_str(reason).as_bytes()]))
            }
        },
        Command::End(..) | Command::Settle(_) => None,
    }
}

/// Of parts, each with its length before it: no two lists of parts are one text.
fn digest<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Digest {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

/// A kept answer, and to which request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) fingerprint: Digest,
    pub(crate) answer: Kept,
}

/// An answer as it is kept. Other versions of the service read it: it only ever gains what may be left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kept {
    /// Of a product.
    Stock { product_id: ProductId, on_hand: i64, reserved: i64, version: i64 },
    /// Of a reservation.
    Reservation { id: ReservationId, state: ReservationState, items: Vec<Item>, expires_at: DateTime<Utc> },
    /// 409: less would be on hand than is reserved.
    InsufficientStock { left: i64, reserved: i64 },
    /// 409: there is not enough.
    Shortage(Vec<Shortage>),
}

impl Kept {
    /// The answer to keep; `None` for one that a repetition is not bound to.
    pub(super) fn of(decided: &Decided) -> Option<Self> {
        match decided {
            Ok(Done::Stock(Stock { product_id, on_hand, reserved, version, .. })) => Some(Self::Stock {
                product_id: product_id.clone(),
                on_hand: *on_hand,
                reserved: *reserved,
                version: *version,
            }),
            Ok(Done::Reservation(Reservation { id, state, items, expires_at })) => Some(Self::Reservation {
                id: *id,
                state: *state,
                items: items.as_slice().to_vec(),
                expires_at: *expires_at,
            }),
            Err(Refusal::InsufficientStock { left, reserved }) => {
                Some(Self::InsufficientStock { left: *left, reserved: *reserved })
            }
            Err(Refusal::Shortage(shortages)) => Some(Self::Shortage(shortages.clone())),
            Ok(Done::Settled)
            | Err(Refusal::TooLarge | Refusal::NoSuchReservation | Refusal::WrongState(_) | Refusal::KeyReused) => None,
        }
    }
}

impl From<Kept> for Decided {
    fn from(kept: Kept) -> Self {
        match kept {
            Kept::Stock { product_id, on_hand, reserved, version } => {
                Ok(Done::Stock(Stock::new(product_id, Counters { on_hand, reserved, version })))
            }
            Kept::Reservation { id, state, items, expires_at } => {
                Ok(Done::Reservation(Reservation { id, state, items: Items::of_lines(items), expires_at }))
            }
            Kept::InsufficientStock { left, reserved } => Err(Refusal::InsufficientStock { left, reserved }),
            Kept::Shortage(shortages) => Err(Refusal::Shortage(shortages)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Change, Delta, NewReservation, TimeToLive};

    fn key(text: &str) -> IdempotencyKey {
        IdempotencyKey::try_from(text.as_bytes()).expect("valid")
    }

    fn adjust(product: &str, delta: i64, reason: Option<&str>) -> Command {
        let product_id = ProductId::try_from(product.to_owned()).expect("valid");
        let reason = reason.map(|reason| Reason::try_from(reason.to_owned()).expect("valid"));
        Command::Change(Change { product_id, action: Action::Adjust(Delta(delta), reason) })
    }

    fn reserve(items: &[(&str, i64)], ttl: i64) -> Command {
        let items = items.iter().map(|(product, quantity)| Item {
            product_id: ProductId::try_from((*product).to_owned()).expect("valid"),
            quantity: *quantity,
        });
        let items = Items::merge(items.collect()).expect("items");
        Command::Reserve(ReservationId::new(), NewReservation { items, ttl: TimeToLive(ttl) })
    }

    #[test]
    fn a_repetition_has_the_same_claim_in_whatever_order_its_items_are() {
        let one = Claim::new(&reserve(&[("a", 1), ("b", 2)], 900), &key("k"));
        assert_eq!(one, Claim::new(&reserve(&[("b", 1), ("a", 1), ("b", 1)], 900), &key("k")));
    }

    #[test]
    fn another_request_has_another_fingerprint_and_another_operation_another_id() {
        let requests = [
            reserve(&[("a", 1)], 900),
            reserve(&[("a", 2)], 900),
            reserve(&[("a", 1)], 901),
            reserve(&[("b", 1)], 900),
            reserve(&[("a", 1), ("b", 1)], 900),
            adjust("a", 1, None),
            adjust("a", 2, None),
            adjust("a", 1, Some("")),
        ];
        let claims: Vec<_> = requests.iter().map(|request| Claim::new(request, &key("k")).expect("a claim")).collect();
        for (number, claim) in claims.iter().enumerate() {
            assert!(claims[..number].iter().all(|other| other.fingerprint != claim.fingerprint), "{number}");
        }
        assert_eq!(claims[0].id, claims[4].id);
        assert_ne!(claims[0].id, claims[5].id);
        assert_ne!(claims[5].id, Claim::new(&adjust("b", 1, None), &key("k")).expect("a claim").id);
        assert_ne!(claims[5].id, Claim::new(&adjust("a", 1, None), &key("K")).expect("a claim").id);
    }
}
