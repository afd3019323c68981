//! Who may call the operations. A caller is refused before the rest of the request is looked at.

use axum::extract::FromRequestParts;
use chassis::{Identity, Problem};
use http::request::Parts;

use crate::model::{Actor, RESERVATIONS_WRITE, STOCK_WRITE};

/// Extracts nothing: a caller who may change stock.
pub(super) struct StockWriter;

/// Extracts a caller who may make and end reservations.
pub(super) struct Reserver(pub(super) Actor);

/// Extracts a caller who may read reservations.
pub(super) struct ReservationReader(pub(super) Actor);

impl<S: Send + Sync> FromRequestParts<S> for StockWriter {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Identity::of(&parts.extensions).require_scope(STOCK_WRITE)?;
        Ok(Self)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Reserver {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let identity = Identity::of(&parts.extensions);
        identity.require_scope(RESERVATIONS_WRITE)?;
        Ok(Self(Actor::from(&identity)))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for ReservationReader {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let identity = Identity::of(&parts.extensions);
        identity.require_token()?;
        Ok(Self(Actor::from(&identity)))
    }
}
