//! The users API.

mod create;
mod list;
mod user;

use chassis::Database;
use utoipa_axum::{router::OpenApiRouter, routes};

/// The routes and their documentation.
pub(crate) fn api() -> OpenApiRouter<Database> {
    OpenApiRouter::default()
        .routes(routes!(create::create, list::list))
        .routes(routes!(user::get, user::patch, user::delete))
}
