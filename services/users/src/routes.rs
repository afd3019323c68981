//! The users API over HTTP.

mod auth;
mod create;
mod list;
mod oauth2;
mod user;
mod user_access;
mod well_known;
mod wishlist;

use utoipa_axum::{router::OpenApiRouter, routes};

use self::{
    auth::{clients, login, me, password, revoked, sessions},
    oauth2::{revoke, token},
};
use crate::state::Users;

/// The routes with their OpenAPI documentation.
pub(crate) fn api() -> OpenApiRouter<Users> {
    OpenApiRouter::default()
        .routes(routes!(create::create, list::list))
        .routes(routes!(user::get, user::patch, user::delete))
        .routes(routes!(wishlist::get))
        .routes(routes!(wishlist::put, wishlist::delete))
        .merge(issuer())
}

/// The routes of the issuer. Without its settings, they respond with 404.
fn issuer() -> OpenApiRouter<Users> {
    OpenApiRouter::default()
        .routes(routes!(login::login))
        .routes(routes!(token::token))
        .routes(routes!(revoke::revoke))
        .routes(routes!(me::me))
        .routes(routes!(sessions::list))
        .routes(routes!(sessions::end))
        .routes(routes!(revoked::list))
        .routes(routes!(password::change))
        .routes(routes!(clients::create, clients::list))
        .routes(routes!(clients::delete))
        .routes(routes!(user_access::set_password))
        .routes(routes!(user_access::set_roles))
        .routes(routes!(well_known::openid_configuration))
        .routes(routes!(well_known::authorization_server))
        .routes(routes!(well_known::jwks))
}
