//! The users API over HTTP.

mod create;
mod list;
mod user;
mod wishlist;

use utoipa_axum::{router::OpenApiRouter, routes};

use crate::state::Users;

/// The routes with their OpenAPI documentation.
pub(crate) fn api() -> OpenApiRouter<Users> {
    OpenApiRouter::default()
        .routes(routes!(create::create, list::list))
        .routes(routes!(user::get, user::patch, user::delete))
        .routes(routes!(wishlist::get))
        .routes(routes!(wishlist::put, wishlist::delete))
}
