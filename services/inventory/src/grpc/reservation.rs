//! `Reserve`, `Commit` and `Release`.

use chassis::{FieldError, Identity, Preconditions, Problem, idempotency::IdempotencyKey};
use contracts::inventory::v1::{self as api, reservation::State};
use prost_types::Timestamp;
use serde::{
    Deserialize,
    de::value::{Error as ValueError, I64Deserializer},
};

use crate::{
    engine::Inventory,
    error::Error,
    model::{
        Amount, InvalidId, Item, Items, NewReservation, ProductId, Refusal, Reservation, ReservationState, TimeToLive,
        Transition,
    },
};

pub(super) async fn reserve(
    inventory: &Inventory,
    identity: &Identity,
    request: api::ReserveRequest,
) -> Result<api::Reservation, Problem> {
    let mut errors = Vec::new();
    let items = items(request.items, &mut errors);
    let ttl =
        request.ttl_seconds.map_or(Some(TimeToLive::default()), |seconds| number(seconds, "/ttl_seconds", &mut errors));
    let key = Some(request.idempotency_key).filter(|key| !key.is_empty());
    let key = key.map(|key| IdempotencyKey::parse(key.as_bytes(), identity)).transpose();
    let key = key.map_err(|detail| errors.push(FieldError::at("/idempotency_key", detail)));
    let (Some(items), Some(ttl), Ok(key)) = (items, ttl, key) else {
        return Err(Problem::invalid(errors));
    };
    let reservation = inventory.reserve(identity.into(), NewReservation { items, ttl }, key.as_ref()).await?;
    Ok(message(&reservation))
}

pub(super) async fn transition(
    inventory: &Inventory,
    identity: &Identity,
    id: &str,
    transition: Transition,
) -> Result<api::Reservation, Problem> {
    let id = id.parse().map_err(|InvalidId| Error::from(Refusal::NoSuchReservation))?;
    let reservation = inventory.transition(identity.into(), id, transition, Preconditions::default(), None).await?;
    Ok(message(&reservation))
}

/// Parses all items and collects every error.
fn items(given: Vec<api::Item>, errors: &mut Vec<FieldError>) -> Option<Items> {
    let before = errors.len();
    if given.len() > Items::MAX {
        errors.push(FieldError::at("/items", Items::WRONG_COUNT));
        return None;
    }
    let mut items = Vec::with_capacity(given.len());
    for (index, item) in given.into_iter().enumerate() {
        let pointer = format!("/items/{index}");
        let product_id = ProductId::try_from(item.product_id)
            .map_err(|detail| errors.push(FieldError::at(&format!("{pointer}/product_id"), detail)));
        let quantity = number(item.quantity, &format!("{pointer}/quantity"), errors);
        if let (Ok(product_id), Some(Amount(quantity))) = (product_id, quantity) {
            items.push(Item { product_id, quantity });
        }
    }
    if errors.len() > before {
        return None;
    }
    Items::merge(items).map_err(|detail| errors.push(FieldError::at("/items", detail))).ok()
}

/// Parses a number with the bounds of its type, as the HTTP API does.
fn number<'de, T: Deserialize<'de>>(number: i64, pointer: &str, errors: &mut Vec<FieldError>) -> Option<T> {
    let parsed = T::deserialize(I64Deserializer::<ValueError>::new(number));
    parsed.map_err(|error| errors.push(FieldError::at(pointer, error.to_string()))).ok()
}

fn message(reservation: &Reservation) -> api::Reservation {
    let state = match reservation.state {
        ReservationState::Held => State::Held,
        ReservationState::Committed => State::Committed,
        ReservationState::Released => State::Released,
        ReservationState::Expired => State::Expired,
    };
    let item = |item: &Item| api::Item { product_id: item.product_id.as_str().to_owned(), quantity: item.quantity };
    let at = reservation.expires_at;
    api::Reservation {
        id: reservation.id.to_string(),
        state: state.into(),
        items: reservation.items.as_slice().iter().map(item).collect(),
        expires_at: Some(Timestamp {
            seconds: at.timestamp(),
            nanos: at.timestamp_subsec_nanos().try_into().unwrap_or_default(),
        }),
    }
}
