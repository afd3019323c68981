//! The users API.

mod create;
mod list;
mod user;
mod wishlist;

use utoipa_axum::{router::OpenApiRouter, routes};

use crate::Users;

/// The routes and their documentation.
pub(crate) fn api() -> OpenApiRouter<Users> {
    OpenApiRouter::default()
        .routes(routes!(create::create, list::list))
        .routes(routes!(user::get, user::patch, user::delete))
        .routes(routes!(wishlist::get))
        .routes(routes!(wishlist::put, wishlist::delete))
}
