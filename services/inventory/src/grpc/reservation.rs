//! `Reserve`, `Commit` and `Release`.

use chassis::{FieldError, Problem};
use contracts::inventory::v1::{self as api, reservation::State};
use prost_types::Timestamp;
use serde::{
    Deserialize,
    de::value::{Error as Fault, I64Deserializer},
};

use crate::{
    engine::Inventory,
    error::Error,
    model::{
        Amount, Ending, IdempotencyKey, Item, Items, NewReservation, NotAnId, ProductId, Refusal, Reservation,
        ReservationState, TimeToLive,
    },
};

pub(super) async fn reserve(inventory: &Inventory, request: api::ReserveRequest) -> Result<api::Reservation, Problem> {
    let mut faults = Vec::new();
    let items = items(request.items, &mut faults);
    let ttl =
        request.ttl_seconds.map_or(Some(TimeToLive::default()), |seconds| number(seconds, "/ttl_seconds", &mut faults));
    let key = Some(request.idempotency_key).filter(|key| !key.is_empty());
    let key = key.map(|key| IdempotencyKey::try_from(key.as_bytes())).transpose();
    let key = key.map_err(|fault| faults.push(FieldError::at("/idempotency_key", fault)));
    let (Some(items), Some(ttl), Ok(key)) = (items, ttl, key) else {
        return Err(Problem::invalid(faults));
    };
    let reservation = inventory.reserve(NewReservation { items, ttl }, key.as_ref()).await?;
    Ok(answer(&reservation))
}

pub(super) async fn end(inventory: &Inventory, id: &str, ending: Ending) -> Result<api::Reservation, Problem> {
    let id = id.parse().map_err(|NotAnId| Error::from(Refusal::NoSuchReservation))?;
    let reservation = inventory.end(id, ending).await?;
    Ok(answer(&reservation))
}

/// Reads all items, and notes every fault of them.
fn items(given: Vec<api::Item>, faults: &mut Vec<FieldError>) -> Option<Items> {
    let before = faults.len();
    let mut items = Vec::with_capacity(given.len());
    for (index, item) in given.into_iter().enumerate() {
        let place = format!("/items/{index}");
        let product_id = ProductId::try_from(item.product_id)
            .map_err(|fault| faults.push(FieldError::at(&format!("{place}/product_id"), fault)));
        let quantity = number(item.quantity, &format!("{place}/quantity"), faults);
        if let (Ok(product_id), Some(Amount(quantity))) = (product_id, quantity) {
            items.push(Item { product_id, quantity });
        }
    }
    if faults.len() > before {
        return None;
    }
    Items::merge(items).map_err(|fault| faults.push(FieldError::at("/items", fault))).ok()
}

/// A number within the bounds of its type, as it is read from JSON.
fn number<'de, T: Deserialize<'de>>(number: i64, place: &str, faults: &mut Vec<FieldError>) -> Option<T> {
    let read = T::deserialize(I64Deserializer::<Fault>::new(number));
    read.map_err(|fault| faults.push(FieldError::at(place, fault.to_string()))).ok()
}

fn answer(reservation: &Reservation) -> api::Reservation {
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
