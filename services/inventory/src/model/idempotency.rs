//! Idempotency keys: a request with a key takes effect once, and repetitions get the first response.

use chrono::{DateTime, Utc};
use contracts::{ProductId, ResourceId as ReservationId};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{
    movement::Reason,
    number::Delta,
    refusal::{Refusal, Shortage},
    reservation::{Item, Items, NewReservation, Reservation, ReservationState},
    stock::{Counters, Stock, Version},
};

/// A client's name for a request: 1 to 255 visible ASCII characters, used verbatim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IdempotencyKey(String);

impl IdempotencyKey {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<&[u8]> for IdempotencyKey {
    type Error = &'static str;

    fn try_from(text: &[u8]) -> Result<Self, Self::Error> {
        if !(1..=255).contains(&text.len()) || !text.iter().all(u8::is_ascii_graphic) {
            return Err("must be 1 to 255 visible ASCII characters");
        }
        Ok(Self(String::from_utf8_lossy(text).into_owned()))
    }
}

/// How long a key is kept after its first request, in hours.
pub(crate) const RETENTION_HOURS: i32 = 24;

/// A SHA-256 digest.
pub(crate) type Digest = [u8; 32];

/// A request's claim to its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Claim {
    /// Identifies the client, the operation and the key.
    pub(crate) id: Digest,
    /// Identifies the content of the request as parsed: repetitions have the same fingerprint.
    pub(crate) fingerprint: Digest,
}

impl Claim {
    /// The claim of a request to reserve stock.
    pub(crate) fn for_reservation(new: &NewReservation, key: &IdempotencyKey) -> Self {
        let ttl = new.ttl.0.to_le_bytes();
        let items: Vec<_> =
            new.items.as_slice().iter().map(|item| (&item.product_id, item.quantity.to_le_bytes())).collect();
        let parts = items.iter().flat_map(|(product, quantity)| [product.as_str().as_bytes(), quantity.as_slice()]);
        Self::new("POST", "/reservations", key, digest([ttl.as_slice()].into_iter().chain(parts)))
    }

    /// The claim of a request to adjust stock.
    pub(crate) fn for_adjustment(
        product_id: &ProductId,
        delta: Delta,
        reason: Option<&Reason>,
        key: &IdempotencyKey,
    ) -> Self {
        let delta = delta.0.to_le_bytes();
        let reason = reason.map(|reason| reason.as_str().as_bytes());
        let fingerprint = digest([delta.as_slice()].into_iter().chain(reason));
        Self::new("PATCH", &format!("/inventory/{}", product_id.as_str()), key, fingerprint)
    }

    /// Method and path name the operation, whichever protocol the request arrived over.
    fn new(method: &str, path: &str, key: &IdempotencyKey, fingerprint: Digest) -> Self {
        // There is no authentication yet, so all clients are the same subject.
        let subject = "";
        Self { id: digest([subject, method, path, key.as_str()].map(str::as_bytes)), fingerprint }
    }
}

/// Hashes a list of parts. Each part is preceded by its length, so different lists are different inputs of the hash.
fn digest<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Digest {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

/// A stored response and the fingerprint of its request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IdempotencyRecord {
    pub(crate) fingerprint: Digest,
    pub(crate) response: StoredResponse,
}

impl IdempotencyRecord {
    /// The record of a result; `None` if repetitions should be decided afresh.
    pub(crate) fn new<T: Replayable>(claim: &Claim, result: &Result<T, Refusal>) -> Option<Self> {
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
                | Refusal::KeyReused,
            ) => return None,
        };
        Some(Self { fingerprint: claim.fingerprint, response })
    }

    /// The stored result, for a repetition of its request. Any other request gets [`Refusal::KeyReused`].
    pub(crate) fn replay<T: Replayable>(&self, claim: &Claim) -> Result<T, Refusal> {
        if self.fingerprint != claim.fingerprint {
            return Err(Refusal::KeyReused);
        }
        match self.response.clone() {
            StoredResponse::InsufficientStock { left, reserved } => Err(Refusal::InsufficientStock { left, reserved }),
            StoredResponse::Shortage(shortages) => Err(Refusal::Shortage(shortages)),
            reply => T::from_stored(reply).ok_or(Refusal::KeyReused),
        }
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
        let Self { id, state, items, expires_at } = self;
        let items = items.as_slice().to_vec();
        StoredResponse::Reservation { id: *id, state: *state, items, expires_at: *expires_at }
    }

    fn from_stored(stored: StoredResponse) -> Option<Self> {
        let StoredResponse::Reservation { id, state, items, expires_at } = stored else { return None };
        Some(Self { id, state, items: Items::stored(items), expires_at })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::number::TimeToLive;

    fn key(text: &str) -> IdempotencyKey {
        IdempotencyKey::try_from(text.as_bytes()).expect("a valid key")
    }

    fn product(name: &str) -> ProductId {
        ProductId::try_from(name.to_owned()).expect("a valid id")
    }

    fn adjustment(name: &str, delta: i64, reason: Option<&str>, key_text: &str) -> Claim {
        let reason = reason.map(|reason| Reason::try_from(reason.to_owned()).expect("a valid reason"));
        Claim::for_adjustment(&product(name), Delta(delta), reason.as_ref(), &key(key_text))
    }

    fn reservation(items: &[(&str, i64)], ttl: i64) -> Claim {
        let items = items.iter().map(|(name, quantity)| Item { product_id: product(name), quantity: *quantity });
        let items = Items::merge(items.collect()).expect("valid items");
        Claim::for_reservation(&NewReservation { items, ttl: TimeToLive(ttl) }, &key("k"))
    }

    #[test]
    fn a_key_is_1_to_255_visible_ascii_characters() {
        for good in ["1", "\"quoted\"", "~!", &"x".repeat(255)] {
            assert!(IdempotencyKey::try_from(good.as_bytes()).is_ok(), "{good:?}");
        }
        for bad in ["", " ", "a b", "\t", "\u{7f}", "é", &"x".repeat(256)] {
            assert!(IdempotencyKey::try_from(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_key_verbatim_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let is_valid = (1..=255).contains(&bytes.len()) && bytes.iter().all(|byte| (b'!'..=b'~').contains(byte));
            match IdempotencyKey::try_from(bytes.as_slice()) {
                Ok(key) => prop_assert!(is_valid && key.as_str().as_bytes() == bytes),
                Err(_) => prop_assert!(!is_valid),
            }
        }

        #[test]
        fn visible_ascii_is_a_key_verbatim(text in "[!-~]{1,255}") {
            let key = key(&text);
            prop_assert_eq!(key.as_str(), text);
        }

        #[test]
        fn different_keys_have_different_ids(one in "[!-~]{1,20}", other in "[!-~]{1,20}") {
            let [first, second] = [&one, &other].map(|key| adjustment("a", 1, None, key));
            prop_assert_eq!(first.id == second.id, one == other);
        }
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
    fn a_response_of_another_kind_is_not_replayed() {
        let claim = adjustment("a", 1, None, "k");
        let stock =
            Stock::new(product("a"), Counters { on_hand: 1, reserved: 0, version: Version { number: 4, expired: 2 } });
        let record = IdempotencyRecord::new(&claim, &Ok(stock.clone())).expect("a stored response");
        assert_eq!(record.replay(&claim), Ok(stock));
        assert_eq!(record.replay::<Reservation>(&claim), Err(Refusal::KeyReused));
    }
}
