//! The inventory API over HTTP.

mod access;
mod list;
mod movements;
mod product;
mod reservations;

use utoipa_axum::{router::OpenApiRouter, routes};

use crate::engine::Inventory;

/// The routes with their OpenAPI documentation.
pub(crate) fn api() -> OpenApiRouter<Inventory> {
    OpenApiRouter::default()
        .routes(routes!(list::list))
        .routes(routes!(product::get, product::put, product::set, product::adjust))
        .routes(routes!(movements::list))
        .routes(routes!(reservations::create))
        .routes(routes!(reservations::get))
        .routes(routes!(reservations::commit))
        .routes(routes!(reservations::release))
}
